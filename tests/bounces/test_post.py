"""From a message that came back to the row's history: by a token, by a Message-ID, and not by a forged one."""

from __future__ import annotations

import binascii
import contextlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from bounces.formats import FORMATS, GONE, block, complaint, dsn
from click.testing import CliRunner

from poller.bounces.post import Post
from poller.cli import main
from poller.log import get_logger
from poller.message.bounce_settings import BounceSettings, contradictions
from poller.message.draft import Draft
from poller.message.return_path import ReturnPaths
from poller.outbox.database import connect
from poller.outbox.find import _BY_KEY, by_message_id
from poller.outbox.tables import attempt, outbox, recipient, suppression
from poller.units import Misfit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

KEY = "0123456789abcdef" * 2
SETTINGS = BounceSettings(address="bounces+{token}@shop.example", key=KEY, suppress=("bounce", "complaint"))
ORDER = "<cafe0123@shop.example>"
NOW = datetime.now(UTC)


def sent(engine: Engine, *addresses: str, message_id: str = ORDER, **more: Any) -> int:
    """A row that the relay has accepted."""
    times = {"first_attempt_at": NOW, "claimed_at": NOW, "sent_at": NOW, "finished_at": NOW}
    row = {"recipients": ", ".join(addresses), "body_text": "x", "status": "sent", "message_id": message_id}
    with engine.begin() as connection:
        inserted = connection.execute(
            sa.insert(outbox).values(**row, **times, claim_seq=1, claimed_by="w1", attempts=1, **more)
        )
        assert inserted.inserted_primary_key is not None
        row_id = int(inserted.inserted_primary_key[0])
        for address in addresses if len(addresses) > 1 else ():
            line = {"outbox_id": row_id, "address": address, "status": "sent", "sent_at": NOW, "updated_at": NOW}
            connection.execute(sa.insert(recipient).values(line))
    return row_id


def post(engine: Engine, settings: BounceSettings = SETTINGS) -> Post:
    return Post(engine=engine, settings=settings, paths=ReturnPaths(settings), log=get_logger())


def token(row_id: int, message_id: str = ORDER, settings: BounceSettings = SETTINGS) -> str:
    return ReturnPaths(settings).token(Draft(id=row_id, message_id=message_id, date=NOW))


def returned(text: str, mark: str) -> bytes:
    """A message that came back to the address of a token; what is no token stands there as it is."""
    with contextlib.suppress(binascii.Error, ValueError):
        address = ReturnPaths(SETTINGS).address(mark) or ""
        mark = address.removeprefix("bounces+").partition("@")[0]
    return text.replace("{token}", mark).encode()


def history(engine: Engine) -> list[tuple[int, str | None, str, str | None]]:
    columns = (attempt.c.outbox_id, attempt.c.recipient, attempt.c.outcome, attempt.c.reply_status)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(attempt.c.id))]


def on_the_list(engine: Engine) -> list[tuple[str, str, str]]:
    columns = (suppression.c.address, suppression.c.list, suppression.c.source)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(*columns))]


def status(engine: Engine, row_id: int) -> str:
    with engine.connect() as connection:
        return str(connection.execute(sa.select(outbox.c.status).where(outbox.c.id == row_id)).scalar_one())


POSTFIX = FORMATS[0].text


def test_a_bounce_finds_its_row_by_the_token_and_leaves_its_status(engine: Engine) -> None:
    row_id = sent(engine, GONE)
    assert post(engine).take(returned(POSTFIX, token(row_id))) == "bounced"
    assert history(engine) == [(row_id, GONE, "bounced", "5.1.1")]
    assert (status(engine, row_id), on_the_list(engine)) == ("sent", [(GONE, "", "bounce")])


def test_the_same_news_is_written_once(engine: Engine) -> None:
    row_id = sent(engine, GONE)
    taking = post(engine)
    assert [taking.take(returned(POSTFIX, token(row_id))) for _ in range(3)] == ["bounced", "known", "known"]
    assert len(history(engine)) == 1


def test_an_envelope_id_tells_as_well(engine: Engine) -> None:
    row_id = sent(engine, GONE)
    text = dsn(block(GONE), per_message=f"Reporting-MTA: dns; mx\nOriginal-Envelope-Id: {token(row_id)}")
    assert post(engine).take(returned(text, "x").replace(b"bounces+x@", b"postmaster@")) == "bounced"
    assert history(engine) == [(row_id, GONE, "bounced", "5.1.1")]


@pytest.mark.parametrize("change", [str.upper, str.title, str.lower], ids=["upper", "title", "lower"])
def test_who_changes_the_case_of_an_address_spoils_no_token(engine: Engine, change: Callable[[str], str]) -> None:
    row_id = sent(engine, GONE)
    address = ReturnPaths(SETTINGS).address(token(row_id)) or ""
    text = POSTFIX.replace("bounces+{token}@shop.example", change(address))
    assert post(engine).take(text.encode()) == "bounced"


@pytest.mark.parametrize("name", ["<a\0b@shop.example>", "<\udcff@shop.example>", "<" + "x" * 240 + ">"], ids=repr)
def test_a_message_id_that_a_database_would_refuse_is_not_looked_for(engine: Engine, name: str) -> None:
    sent(engine, GONE)
    text = POSTFIX.replace("<cafe0123@shop.example>", name).encode("utf-8", "surrogateescape")
    assert post(engine, BounceSettings()).take(text) == "unmatched"


def test_what_the_database_refuses_stands_in_nobodys_way(database: DatabaseSettings, tmp_path: Path) -> None:
    engine = connect(database)
    first, second = sent(engine, GONE), sent(engine, GONE, message_id="<2@shop.example>")
    with engine.begin() as connection:
        for statement in refusing(engine, first):
            connection.exec_driver_sql(statement)
    for name in ("new", "cur", "tmp"):
        (tmp_path / "mail" / name).mkdir(parents=True)
    (tmp_path / "mail/new/1").write_bytes(returned(POSTFIX, token(first)))
    (tmp_path / "mail/new/2").write_bytes(returned(POSTFIX, token(second, "<2@shop.example>")))
    words = [*configured(database, tmp_path, f'mailbox = "maildir:{tmp_path}/mail"\n'), "--once"]
    result = CliRunner().invoke(main, words)
    assert result.output.splitlines()[-1] == "1 bounced, 1 refused"
    assert history(engine) == [(second, GONE, "bounced", "5.1.1")]
    engine.dispose()


def refusing(engine: Engine, row_id: int) -> list[str]:
    """A DBA's trigger that lets no history of one row in."""
    match engine.dialect.name:
        case "postgresql":
            body = f"BEGIN IF NEW.outbox_id = {row_id} THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END"
            return [
                f"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $${body}$$",
                "CREATE TRIGGER no BEFORE INSERT ON outbox_attempt FOR EACH ROW EXECUTE FUNCTION no()",
            ]
        case "sqlite":
            when = f"WHEN NEW.outbox_id = {row_id} BEGIN SELECT RAISE(ABORT, 'no'); END"
            return [f"CREATE TRIGGER no BEFORE INSERT ON outbox_attempt {when}"]
        case _:
            says = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'"
            when = f"IF NEW.outbox_id = {row_id} THEN {says}; END IF"
            return [f"CREATE TRIGGER no BEFORE INSERT ON outbox_attempt FOR EACH ROW {when}"]


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_message_id_is_looked_for_by_index(engine: Engine) -> None:
    sent(engine, GONE)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")  # a table of one row is scanned, whatever there is
        query = sa.text(f"EXPLAIN {_BY_KEY}").bindparams(words=[ORDER], addresses=[], most=50)
        plan = "\n".join(connection.execute(query).scalars())
        assert by_message_id(connection, [ORDER, "<x@y.z>"]) == 1
    assert "outbox_by_key" in plan
    assert "Seq Scan on outbox" not in plan


def test_of_several_recipients_the_one_that_it_is_about(engine: Engine) -> None:
    row_id = sent(engine, "a@there.example", GONE)
    assert post(engine).take(returned(POSTFIX, token(row_id))) == "bounced"
    assert history(engine) == [(row_id, GONE, "bounced", "5.1.1")]


def test_one_that_was_forwarded_is_the_only_recipient_of_its_row(engine: Engine) -> None:
    row_id = sent(engine, "Anna <anna@here.example>")
    assert post(engine).take(returned(POSTFIX, token(row_id))) == "bounced"
    assert history(engine) == [(row_id, "anna@here.example", "bounced", "5.1.1")]


def forged(row_id: int) -> dict[str, str]:
    good = token(row_id)
    other = replace(SETTINGS, key="another key of thirty-two letters")
    return {
        "changed": good[:20] + ("A" if good[20] != "A" else "B") + good[21:],
        "cut": good[:20],
        "of another key": token(row_id, settings=other),
        "of another row": token(row_id + 1),
        "of another message": token(row_id, message_id="<other@shop.example>"),
        "made up": "AAAAAAAA",
    }


@pytest.mark.parametrize("how", forged(1))
def test_a_forged_token_does_nothing(engine: Engine, how: str) -> None:
    row_id = sent(engine, GONE)
    word = post(engine).take(returned(POSTFIX, forged(row_id)[how]))
    assert word == ("unmatched" if how in {"of another row", "of another message"} else "forged")
    assert (history(engine), on_the_list(engine)) == ([], [])


def test_without_a_token_the_message_id_and_the_recipient_must_fit(engine: Engine) -> None:
    row_id = sent(engine, GONE)
    plain = BounceSettings(suppress=("bounce",))
    stranger = POSTFIX.replace(GONE, "boss@there.example")
    assert post(engine, plain).take(returned(stranger, "x")) == "unmatched"
    assert (history(engine), on_the_list(engine)) == ([], [])
    assert post(engine, plain).take(returned(POSTFIX, "x")) == "bounced"
    assert history(engine) == [(row_id, GONE, "bounced", "5.1.1")]


@pytest.mark.parametrize(
    ("code", "is_hard"),
    [("5.1.1", True), ("5.1.10", True), ("5.2.1", True), ("5.7.1", False), ("5.7.515", False), ("5.2.2", False)],
)
def test_only_who_is_not_there_is_suppressed_never_for_a_policy(engine: Engine, code: str, *, is_hard: bool) -> None:
    row_id = sent(engine, GONE)
    post(engine).take(returned(dsn(block(GONE, status=code)), token(row_id)))
    assert [address for address, *_ in on_the_list(engine)] == ([GONE] if is_hard else [])


def test_a_delay_suppresses_nobody(engine: Engine) -> None:
    row_id = sent(engine, GONE)
    assert post(engine).take(returned(dsn(block(GONE, "delayed", "4.4.7")), token(row_id))) == "delayed"
    assert (history(engine), on_the_list(engine)) == ([(row_id, GONE, "delayed", "4.4.7")], [])


def test_a_complaint_holds_for_the_list_that_it_is_about(engine: Engine) -> None:
    row_id = sent(engine, GONE, list="news")
    text = complaint(f"Feedback-Type: abuse\nVersion: 1\nOriginal-Rcpt-To: {GONE}")
    assert post(engine).take(returned(text, token(row_id))) == "complained"
    assert on_the_list(engine) == [(GONE, "news", "complaint")]


@pytest.mark.parametrize("name", ["vacation", "a person", "read receipt", "empty"])
def test_what_is_no_bounce_does_nothing(engine: Engine, name: str) -> None:
    row_id = sent(engine, GONE)
    (known,) = [known for known in FORMATS if known.name == name]
    assert post(engine).take(returned(known.text, token(row_id))) in {"auto_reply", "unknown"}
    assert (history(engine), on_the_list(engine)) == ([], [])


# ---- settings


@pytest.mark.parametrize("address", ["bounces@example.com", "{token}{token}@example.com", "b {token}@example.com"])
def test_a_return_path_without_its_one_token_is_refused(address: str) -> None:
    with pytest.raises(Misfit, match="once"):
        BounceSettings(address=address)


def test_a_return_path_that_would_be_too_long_is_refused() -> None:
    with pytest.raises(Misfit, match="11 characters"):
        BounceSettings(address="a-mailbox-for-bounces+{token}@example.com")
    paths = ReturnPaths(BounceSettings(address=f"{'b' * 11}{{token}}@example.com", key=KEY))
    address = paths.address(paths.token(Draft(id=2**63 - 1, message_id=ORDER, date=NOW))) or ""
    assert len(address.partition("@")[0]) == 64


def test_a_return_path_wants_a_key() -> None:
    (trouble,) = contradictions(BounceSettings(address="b+{token}@example.com"))
    assert "need a key" in trouble[1]


# ---- the command


def configured(database: DatabaseSettings, directory: Path, more: str) -> list[str]:
    text = f"[database]\nurl = {json.dumps(database.url)}\n[log]\nlevel = 'error'\n[bounces]\nkey = '{KEY}'\n{more}"
    (directory / "config.toml").write_text(text + 'address = "bounces+{token}@shop.example"\n')
    return ["--config", f"{directory}/config.toml", "bounces"]


def test_a_maildir_is_read_and_what_was_taken_is_seen(database: DatabaseSettings, tmp_path: Path) -> None:
    engine = connect(database)
    row_id = sent(engine, GONE)
    for name in ("new", "cur", "tmp"):
        (tmp_path / "mail" / name).mkdir(parents=True)
    (tmp_path / "mail/new/1.host").write_bytes(returned(POSTFIX, token(row_id)))
    (tmp_path / "mail/new/2.host").write_bytes(b"rubbish")
    words = [*configured(database, tmp_path, f'mailbox = "maildir:{tmp_path}/mail"\n'), "--once"]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, result.output) == (0, "1 bounced, 1 unknown\n")
    assert sorted(file.name for file in (tmp_path / "mail/cur").iterdir()) == ["1.host:2,S", "2.host:2,S"]
    assert history(engine) == [(row_id, GONE, "bounced", "5.1.1")]
    assert CliRunner().invoke(main, words).output == "nothing has come back\n"
    engine.dispose()


def test_an_mbox_loses_what_was_taken(database: DatabaseSettings, tmp_path: Path) -> None:
    engine = connect(database)
    row_id = sent(engine, GONE)
    envelope = b"From MAILER-DAEMON Sat Nov 28 00:00:00 2026\n"
    (tmp_path / "box").write_bytes(envelope + returned(POSTFIX, token(row_id)) + b"\n" + envelope + b"\nrubbish\n")
    result = CliRunner().invoke(main, [*configured(database, tmp_path, f'mailbox = "mbox:{tmp_path}/box"\n'), "--once"])
    assert (result.exit_code, result.output) == (0, "1 bounced, 1 unknown\n")
    assert (tmp_path / "box").read_bytes() == b""
    engine.dispose()


def test_one_comes_from_an_mtas_pipe(database: DatabaseSettings, tmp_path: Path) -> None:
    engine = connect(database)
    row_id = sent(engine, GONE)
    raw = io.BytesIO(returned(POSTFIX, token(row_id)))
    result = CliRunner().invoke(main, [*configured(database, tmp_path, ""), "-"], input=raw)
    assert (result.exit_code, result.output) == (0, "bounced\n")
    engine.dispose()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("", "there is no mailbox to read"),
        ('mailbox = "maildir:/nowhere"\n', "there is no directory new in it"),
        ('mailbox = "mbox:/nowhere"\n', "there is no such file"),
        ('mailbox = "imaps://me@127.0.0.1:9/INBOX"\npassword = "hunter2"\n', "refused"),
    ],
)
def test_a_mailbox_that_is_not_there_is_named(tmp_path: Path, more: str, words: str) -> None:
    text = f"[database]\nurl = 'sqlite:///{tmp_path}/outbox.db'\n[bounces]\n{more}"
    (tmp_path / "config.toml").write_text(text)
    assert CliRunner().invoke(main, ["--config", f"{tmp_path}/config.toml", "migrate"]).exit_code == 0
    result = CliRunner().invoke(main, ["--config", f"{tmp_path}/config.toml", "bounces", "--once"])
    assert (result.exit_code in {1, 2}, words in result.output, "hunter2" in result.output) == (True, True, False)
