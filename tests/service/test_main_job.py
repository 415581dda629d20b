"""The main job: a row goes in by the database's own client, a mail comes out of a real relay, the row is true."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import default
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from servers import postfix, sink
from servers.fault import Faults, FaultServer, Heard
from servers.postfix import Postfix
from servers.sink import Sink
from service.bench import WHATEVER_THE_DATABASE, books

from poller.outbox.database import transaction
from poller.outbox.enqueue import enqueue
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from service.bench import Bench

ROWS = int(os.environ.get("POLLER_TEST_ROWS", "500"))
"""Of the tests of volume: 10,000 for the published figures."""

needs_postfix = pytest.mark.skipif(bool(postfix.available()), reason=postfix.available() or "-")
needs_sink = pytest.mark.skipif(bool(sink.available()), reason=sink.available() or "-")

INSERT = "INSERT INTO outbox (recipients, subject, body_text) VALUES ('user@example.test', 'Hi', 'Hello from SQL')"


def client(bench: Bench, statement: str) -> list[str]:
    """The command line of the database's own client."""
    url = sa.make_url(bench.database.url)
    at = ["-h", url.host or "", "-P", str(url.port)]
    match url.get_backend_name():
        case "postgresql":
            return ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement, bench.database.url]
        case "sqlite":
            return ["sqlite3", "-bail", url.database or "", statement]
        case _:
            secret = [f"-p{url.password}"] if url.password else []
            return ["mariadb", *at, "-u", url.username or "", *secret, "-e", statement, url.database or ""]


@needs_postfix
def test_one_insert_by_the_databases_own_client_becomes_a_mail_and_a_true_row(bench: Bench) -> None:
    command = client(bench, INSERT)
    if shutil.which(command[0]) is None:
        pytest.skip(f"the client {command[0]} is not installed")
    with Postfix() as relay:
        subprocess.run(command, check=True, timeout=30)
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 0
        (row,) = bench.rows()
        mail = relay.wait_for(b"Hello from SQL")
        assert (row.status, row.reply_code, row.attempts, row.error) == ("sent", 250, 1, None)
        assert f"{row.queue_id}: message-id={row.message_id}" in relay.log_text()
    parsed = BytesParser(policy=default).parsebytes(mail)
    assert (parsed["Subject"], parsed["Message-ID"]) == ("Hi", row.message_id)
    assert parsed.get_content() == "Hello from SQL\n"


@needs_sink
def test_every_row_is_accepted_exactly_once_by_smtp_sink(bench: Bench) -> None:
    bench.insert(ROWS)
    with Sink(dump=True) as relay:
        assert bench.run(bench.configure(relay.host, relay.port, log={"level": "warning"}), "--once") == 0
        taken = Counter(
            str(BytesParser(policy=default).parsebytes(message, headersonly=True)["Message-ID"])
            for message in relay.messages()
        )
    rows = bench.rows()
    assert taken == Counter(row.message_id for row in rows)
    assert bench.statuses() == Counter(sent=ROWS)


def test_two_workers_share_the_rows_and_none_goes_twice(bench: Bench, kind: str) -> None:
    if kind == "sqlite":
        pytest.skip("SQLite carries one worker")
    bench.insert(ROWS * 2, recipients="now{n}@example.com")
    transaction(bench.engine, lambda c: c.execute(sa.text(_TOMORROW[kind].format(rows=ROWS * 20))))
    with FaultServer(Faults(reply_delay=0.001)) as relay:
        config = bench.configure(relay.host, relay.port, log={"level": "warning"}, poll={"batch_size": 20})
        bench.name = "w2"
        second = bench.configure(relay.host, relay.port, log={"level": "warning"}, poll={"batch_size": 20})
        with bench.running(config, "--once") as one, bench.running(second, "--once") as two:
            assert (one.wait(100), two.wait(100)) == (0, 0)
        found = books(bench, relay)
    assert (found.accepted, found.duplicates, found.lost) == (ROWS * 2, 0, 0)
    by_worker = Counter(row.claimed_by for row in bench.rows() if row.status == "sent")
    assert set(by_worker) == {"w1", "w2"}
    assert min(by_worker.values()) > ROWS * 2 // 10, by_worker


_TOMORROW = {
    "postgresql": """INSERT INTO outbox (recipients, body_text, priority, due_at)
        SELECT 'later' || n || '@example.com', '', 0, now() + interval '1 day' FROM generate_series(1, {rows}) AS n""",
    "mariadb": """INSERT INTO outbox (recipients, body_text, priority, due_at)
        SELECT CONCAT('later', seq, '@example.com'), '', 0, UTC_TIMESTAMP(6) + INTERVAL 1 DAY FROM seq_1_to_{rows}""",
}


@WHATEVER_THE_DATABASE
def test_three_recipients_each_have_their_own_end(bench: Bench) -> None:
    (row_id,) = bench.insert(recipients="good@example.com, bad@example.com", cc="slow@example.com")
    faults = Faults(refuse=frozenset({"bad@example.com"}), defer_first={"slow@example.com": 1})
    with FaultServer(faults) as relay:
        # A retry must not be due before the first run ends.
        config = bench.configure(relay.host, relay.port, retry={"first": "1h", "longest": "1h"})
        assert bench.run(config, "--once") == 0
        first = {address: one.status for address, one in bench.recipients(row_id).items()}
        assert first == {"good@example.com": "sent", "bad@example.com": "failed", "slow@example.com": "queued"}
        assert (bench.row(row_id).status, bench.row(row_id).attempts) == ("queued", 1)
        now_due = sa.update(outbox).values(due_at=datetime.now(UTC) - timedelta(minutes=1))
        transaction(bench.engine, lambda c: c.execute(now_due))
        bench.run(config, "--drain", "--for", "20s")
        envelopes = [message.recipients for message in relay.messages]
    assert envelopes == [("good@example.com",), ("slow@example.com",)]
    after = bench.recipients(row_id)
    assert {address: (one.status, one.attempts, one.reply_code) for address, one in after.items()} == {
        "good@example.com": ("sent", 1, 250),
        "bad@example.com": ("failed", 1, 550),
        "slow@example.com": ("sent", 2, 250),
    }
    row = bench.row(row_id)
    assert (row.status, row.attempts) == ("partial", 2)
    assert [note.outcome for note in bench.history(row_id)] == ["accepted", "failed", "deferred", "accepted"]


@WHATEVER_THE_DATABASE
def test_more_recipients_than_fit_one_transaction_go_on_at_once(bench: Bench) -> None:
    everyone = ", ".join(f"user{n}@example.com" for n in range(25))
    (row_id,) = bench.insert(recipients=everyone)
    with FaultServer(Faults(max_recipients=10)) as relay:
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 0
        sizes = [len(message.recipients) for message in relay.messages]
    assert sizes == [10, 10, 5]
    assert bench.row(row_id).status == "sent"


POISON: dict[str, dict[str, Any]] = {
    "recipients": {"recipients": "not an address"},
    "subject": {"subject": "Hello\r\nBcc: thief@example.com"},
    "sender": {"sender": "no-one"},
    "reply_to": {"reply_to": "a@b@c"},
    "envelope_from": {"envelope_from": "bad bounce@example.com"},
    "headers": {"headers": {"From": "thief@example.com"}},
    "template": {"template": "no-such-template", "body_text": None},
    "context": {"template": "hello", "context": {}, "body_text": None},
    "cc": {"cc": "a@example.com; b@example.com"},
    "message_id": {"message_id": "no brackets"},
    "relay": {"relay": "elsewhere"},
    "body_text": {"body_text": "x" * 3_000_000},
}


@WHATEVER_THE_DATABASE
def test_twelve_poison_rows_among_200_good_ones_fail_alone_with_their_reasons(bench: Bench) -> None:
    (bench.directory / "templates").mkdir()
    (bench.directory / "templates" / "hello.txt").write_text("Hello {{ name }}")
    good = bench.insert(100)
    bad = {column: bench.insert(**columns)[0] for column, columns in POISON.items()}
    good += bench.insert(100, recipients="more{n}@example.com")
    with FaultServer(Faults()) as relay:
        settings: dict[str, Any] = {"message": {"max_size": "1MB"}, "templates": {"directory": "templates"}}
        assert bench.run(bench.configure(relay.host, relay.port, **settings), "--drain", "--for", "60s") == 1
        assert len(relay.messages) == 200
    assert Counter(row.status for row in bench.rows(*good)) == Counter(sent=200)
    ended = {column: bench.row(row_id) for column, row_id in bad.items()}
    assert {column: (row.status, row.attempts) for column, row in ended.items()} == dict.fromkeys(POISON, ("failed", 0))
    named = {"context": "context", "body_text": "body"}
    missing = {c: row.error for c, row in ended.items() if not row.error.startswith(named.get(c, c))}
    assert missing == {}


@needs_postfix
@WHATEVER_THE_DATABASE
def test_attachments_and_an_inline_image_arrive_byte_for_byte_with_their_names(bench: Bench) -> None:
    files = [
        {"name": "請求書 2026年.pdf", "content": os.urandom(5000), "content_type": "application/pdf"},
        {"name": "🎉 party.txt", "content": "grüße\n".encode(), "content_type": "text/plain"},
        {"name": "plain.bin", "content": bytes(range(256)) * 10},
    ]
    image = {
        "name": "logo.png",
        "content": b"\x89PNG" + os.urandom(300),
        "content_type": "image/png",
        "content_id": "logo",
    }
    with Postfix() as relay, bench.engine.begin() as connection:
        enqueue(
            connection,
            recipients="山田太郎 <user@example.test>",
            subject="請求書 🎉",
            body_text="Guten Tag, Jürgen",
            body_html='<p>Guten Tag <img src="cid:logo"></p>',
            attachments=[*files, image],
        )
        connection.commit()
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 0
        mail = BytesParser(policy=default).parsebytes(relay.wait_for(b"multipart/mixed"))
    assert (mail["Subject"], mail["To"].addresses[0].display_name) == ("請求書 🎉", "山田太郎")
    got = {part.get_filename(): part.get_payload(decode=True) for part in mail.walk() if part.get_filename()}
    assert got == {file["name"]: file["content"] for file in (*files, image)}
    assert [part["Content-ID"] for part in mail.walk() if part["Content-ID"]] == ["<logo>"]
    assert mail.get_body(("plain",)).get_content() == "Guten Tag, Jürgen\n"


@WHATEVER_THE_DATABASE
def test_a_limit_of_recipients_that_is_told_at_the_end_of_data_is_learnt_and_gone_on_with_at_once(bench: Bench) -> None:
    """Amazon SES takes each recipient, and then refuses the message."""
    told = Counter[str]()

    def answer(heard: Heard) -> bytes | None:
        if heard.verb == "MAIL":
            told.clear()
        told[heard.verb] += 1
        many = heard.verb == "." and told["RCPT"] > 50
        return b"554 Transaction failed: Recipient count exceeds 50.\r\n" if many else None

    (row_id,) = bench.insert(recipients=", ".join(f"user{n}@example.com" for n in range(130)))
    with FaultServer(Faults(answer=answer)) as relay:
        config = bench.configure(relay.host, relay.port)
        assert bench.run(config, "--once") == 0
        assert [len(message.recipients) for message in relay.messages] == [50, 50, 30]
        assert bench.row(row_id).status == "sent"
        bench.insert(recipients=", ".join(f"user{n}@example.com" for n in range(60)))
        assert bench.run(config, "--once") == 0
        assert [len(message.recipients) for message in relay.messages[3:]] == [50, 10]
    assert [line["recipients"] for line in bench.log() if line["event"] == "relay.learnt"] == [50]
