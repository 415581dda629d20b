"""The tables: what the SQL files hold is what Python believes, and the database refuses what is not true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import STATUSES, by_hand, insert, recipients_of, row_of, row_with, status_of
from sqlalchemy.exc import DBAPIError

from poller.outbox.tables import attachment, metadata, outbox

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poller.outbox.store import Store

SQL = Path(__file__).parents[2] / "sql"
FILES = {folder: (SQL / folder / "0001_outbox.sql").read_text("utf-8") for folder in ("postgresql", "mysql", "sqlite")}
VIEWS = {
    "outbox_now",
    "outbox_stuck",
    "outbox_throttled",
    "outbox_failed_today",
    "outbox_batch_progress",
    "outbox_batches",
    "outbox_domains",
    "outbox_state",
    "outbox_unsubscribed",
    *(f"outbox_{name}" for name in ("rows", "files", "recipients", "attempts", "suppressions", "workers", "throttles")),
}
NOT_EVERYWHERE = re.compile(r"(claimed|first_attempt|sent|finished|updated)_at_is_a_time$")  # SQLite: times are text


FOR_AN_INDEX = ("outbox", "address")  # `poller find`; PostgreSQL has a function instead, which costs a drain less


def refused(engine: Engine, statement: str, **values: Any) -> str:
    """The database's words, in which the rule's name stands."""
    with pytest.raises(DBAPIError) as error:
        by_hand(engine, statement, **values)
    return str(error.value.orig)


# ---- the mirror


def _has_default(column: Any) -> bool:
    """SQLAlchemy overlooks a DEFAULT with quotes in its brackets, as MariaDB's for the writer has it."""
    return column["default"] is not None or column["name"] == "created_by"


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_the_columns_in_python_are_those_of_the_database_in_order(engine: Engine, table: sa.Table) -> None:
    there = [c for c in sa.inspect(engine).get_columns(table.name) if (table.name, c["name"]) != FOR_AN_INDEX]
    expected = [(c.name, bool(c.nullable), c.server_default is not None) for c in table.columns]
    keys = {c.name for c in table.primary_key} & {"id"}
    actual = [(c["name"], c["nullable"], c["name"] not in keys and (_has_default(c) or "computed" in c)) for c in there]
    assert expected == actual


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_keys_in_python_are_those_of_the_database(engine: Engine, table: sa.Table) -> None:
    look = sa.inspect(engine)
    foreign = {
        (tuple(k["constrained_columns"]), k["referred_table"], tuple(k["referred_columns"]))
        for k in look.get_foreign_keys(table.name)
    }
    expected = {((k.parent.name,), k.column.table.name, (k.column.name,)) for k in table.foreign_keys}
    assert expected == foreign
    primary = look.get_pk_constraint(table.name)["constrained_columns"]
    assert [c.name for c in table.primary_key] == primary
    unique = {tuple(u["column_names"]) for u in look.get_unique_constraints(table.name)}
    assert {(c.name,) for c in table.columns if c.unique} == unique


def test_domain_address_lane_and_flow_are_the_only_generated_columns(engine: Engine) -> None:
    look = sa.inspect(engine)
    generated = [(t, c["name"]) for t in metadata.tables for c in look.get_columns(t) if "computed" in c]
    expected = [("outbox", "domain"), FOR_AN_INDEX, ("outbox", "lane"), ("outbox", "flow")]
    assert generated == [one for one in expected if one != FOR_AN_INDEX or engine.dialect.name != "postgresql"]


def test_every_index_that_the_file_names_is_there(engine: Engine, kind: str) -> None:
    text = FILES["mysql" if kind == "mariadb" else kind]
    named = set(re.findall(r"\bINDEX (\w+)", text))
    look = sa.inspect(engine)
    there = {i["name"] for t in metadata.tables for i in look.get_indexes(t)}
    assert set() == named - there
    assert {"outbox_due", "outbox_held", "outbox_by_batch", "outbox_by_finish", "outbox_attachment_by_row"} <= named


def test_the_views_are_there_with_the_columns_of_the_other_dialects(engine: Engine) -> None:
    look = sa.inspect(engine)
    assert set(look.get_view_names()) == VIEWS
    columns = {view: [c["name"] for c in look.get_columns(view)] for view in VIEWS}
    assert columns["outbox_now"] == ["status", "messages", "due", "retrying", "next_due_at", "oldest_created_at"]
    assert columns["outbox_state"] == [
        *("id", "status", "domain", "batch", "dedupe_key", "priority", "due_at", "attempts", "doubts"),
        *("reply_code", "reply_status", "error", "created_at", "sent_at", "finished_at"),
    ]
    assert columns["outbox_domains"] == ["domain", "queued", "retrying", "sending", "sent", "failed", "in_doubt"]
    assert columns["outbox_batch_progress"] == [
        *("batch", "messages", "open", "sent", "not_sent", "held", "percent_done"),
        *("first_attempt_at", "last_finished_at"),
    ]
    assert columns["outbox_stuck"] == [
        *("id", "status", "domain", "batch", "due_at", "attempts", "doubts", "claimed_by", "claimed_at"),
        *("reply_code", "error", "why"),
    ]
    assert columns["outbox_failed_today"] == [
        *("id", "status", "address", "recipients", "domain", "batch", "attempts", "reply_code", "reply_status"),
        *("reply_text", "error", "finished_at"),
    ]


def test_the_three_files_have_the_same_constraints_in_the_same_order() -> None:
    names = {
        folder: [n for n in re.findall(r"CONSTRAINT (\w+) (?:CHECK|UNIQUE)", text) if not NOT_EVERYWHERE.search(n)]
        for folder, text in FILES.items()
    }
    assert names["postgresql"] == names["mysql"] == names["sqlite"]
    assert len(names["sqlite"]) > 20


def test_every_migration_ends_with_its_own_name() -> None:
    for path in SQL.glob("*/[0-9]*.sql"):
        last = path.read_text("utf-8").rstrip().splitlines()[-1]
        assert last.endswith(f"INTO outbox_meta (name, value) VALUES ('migration {path.stem}', 'by hand');")


# ---- what the database refuses

REFUSALS = {
    "status_is_known": "status = 'Queued'",
    "priority_is_0_to_9": "priority = 10",
    "has_a_recipient": "recipients = '  '",
    "has_a_body_or_template": "body_text = NULL",
    "body_or_template_not_both": "template = 'welcome'",
    "context_is_an_object": "context = '[1]'",
    "headers_is_an_object": "headers = '[\"X-A\"]'",
    "dedupe_key_is_not_empty": "dedupe_key = ''",
    "on_doubt_is_known": "on_doubt = 'ask'",
    "max_attempts_is_positive": "max_attempts = 0",
    "counts_are_not_negative": "attempts = -1",
    "sending_has_a_claim": "status = 'sending'",
    "sent_has_a_time": "status = 'sent'",
    "queued_is_unclaimed_and_unsent": "claimed_by = 'w9'",
    "open_is_unfinished": "finished_at = '2026-11-22 09:00:00'",
    "held_is_unsent": "status = 'cancelled', sent_at = '2026-11-22 09:00:00'",
}


@pytest.mark.parametrize(("rule", "change"), REFUSALS.items(), ids=REFUSALS)
def test_a_value_that_cannot_be_true_is_refused_by_the_name_of_its_rule(engine: Engine, rule: str, change: str) -> None:
    row_id = insert(engine)
    said = refused(engine, f"UPDATE outbox SET {change} WHERE id = {row_id}".replace(":", r"\:"))
    assert f"outbox_{rule}" in said
    assert status_of(engine, row_id) == "queued"


@pytest.mark.parametrize("wrong", ["'queued '", "' queued'", "'QUEUED'", "''", "'queued\t'"])
def test_a_status_is_compared_byte_by_byte(engine: Engine, wrong: str) -> None:
    refused(engine, f"INSERT INTO outbox (recipients, body_text, status) VALUES ('a@b.c', 'x', {wrong})")


REFUSED_WORDS = {
    ("sent", "queued"),
    ("sent", "paused"),
    ("sent", "cancelled"),
    ("partial", "queued"),
    ("partial", "paused"),
    ("partial", "cancelled"),
    ("failed", "queued"),
    ("failed", "paused"),
    ("expired", "queued"),
    ("expired", "paused"),
    ("suppressed", "queued"),
    ("suppressed", "paused"),
    ("cancelled", "queued"),
    ("cancelled", "paused"),
    ("sending", "queued"),
}
"""What is over stays over, and a row on the wire does not go back by a word alone."""


@pytest.mark.parametrize("word", ["queued", "paused", "cancelled"])
@pytest.mark.parametrize("status", STATUSES)
def test_an_operators_plain_update_passes_unless_it_would_undo_an_end(store: Store, status: str, word: str) -> None:
    row_id = row_with(store, status, recipients="a@example.com, b@example.com")
    statement = f"UPDATE outbox SET status = '{word}' WHERE id = {row_id}"
    if (status, word) in REFUSED_WORDS:
        refused(store.engine, statement)
    else:
        by_hand(store.engine, statement)
    assert status_of(store.engine, row_id) == (status if (status, word) in REFUSED_WORDS else word)


def test_the_bodies_of_an_ended_row_may_be_emptied(store: Store) -> None:
    row_id = row_with(store, "sent")
    assert by_hand(store.engine, f"UPDATE outbox SET body_text = NULL WHERE id = {row_id}") == 1


def test_a_suppression_is_a_lower_case_address(engine: Engine) -> None:
    insert_one = "INSERT INTO outbox_suppression (address) VALUES (:address)"
    assert "is_lower_case" in refused(engine, insert_one, address="A@b.example")
    assert "has_an_at_sign" in refused(engine, insert_one, address="b.example")
    by_hand(engine, insert_one, address="@b.example")


def test_a_recipient_that_was_sent_to_has_a_time(engine: Engine) -> None:
    row_id = insert(engine)
    values = "INSERT INTO outbox_recipient (outbox_id, address, status, updated_at) VALUES (:id, 'a@b.c', :s, :at)"
    at = "2026-11-22 09:00:00"
    assert "outbox_recipient_sent_has_a_time" in refused(engine, values, id=row_id, s="sent", at=at)
    assert "outbox_recipient_status_is_known" in refused(engine, values, id=row_id, s="Sent", at=at)
    by_hand(engine, values, id=row_id, s="queued", at=at)


def test_recipients_go_with_their_row(engine: Engine) -> None:
    values = (
        "INSERT INTO outbox_recipient (outbox_id, address, status, updated_at) VALUES (:id, 'a@b.c', 'queued', :at)"
    )
    row_id = insert(engine)
    by_hand(engine, values, id=row_id, at="2026-11-22 09:00:00")
    by_hand(engine, "DELETE FROM outbox")
    assert recipients_of(engine, row_id) == {}


# ---- what it keeps


def test_one_plain_insert_is_enough(engine: Engine) -> None:
    by_hand(engine, "INSERT INTO outbox (recipients, subject, body_text) VALUES ('a@example.com', 'Hi', 'Hello')")
    with engine.connect() as connection:
        row = connection.execute(sa.select(outbox)).one()
        now = connection.scalar(sa.text({"sqlite": "SELECT CURRENT_TIMESTAMP"}.get(engine.dialect.name, "SELECT 1")))
    assert now
    assert (row.status, row.priority, row.attempts, row.doubts, row.claim_seq) == ("queued", 5, 0, 0, 0)
    assert (row.domain, row.message_id, row.claimed_by) == ("example.com", None, None)
    assert abs((row.due_at - row.created_at).total_seconds()) < 1


def test_a_dedupe_key_is_compared_byte_by_byte(engine: Engine) -> None:
    for key in ("order-A", "order-a", "order-A ", " order-A", "Örder-A", "O\u0308rder-A", "order-A\t"):
        insert(engine, dedupe_key=key)
    values = "INSERT INTO outbox (recipients, body_text, dedupe_key) VALUES ('a@b.c', 'x', 'order-A')"
    assert "dedupe_key" in refused(engine, values)


def test_rows_without_a_dedupe_key_are_many(engine: Engine) -> None:
    assert insert(engine) != insert(engine)


def test_an_id_is_never_used_again(engine: Engine) -> None:
    first = insert(engine)
    by_hand(engine, f"DELETE FROM outbox WHERE id = {first}")
    assert insert(engine) > first


def test_every_text_takes_emoji_and_every_body_more_than_64_kib(engine: Engine) -> None:
    words = "Grüße 👩\u200d🚀 " * 8
    given = {
        **dict.fromkeys(("cc", "bcc"), f"{words}<c@example.com>"),
        **dict.fromkeys(
            ("sender", "reply_to", "envelope_from", "subject", "locale", "batch", "dedupe_key"), words[:60]
        ),
        "recipients": ", ".join(f"{words} <a{n}@example.com>" for n in range(2000)),
        "context": None,
        "headers": {"X-Gruß": [words, "100% :x"]},
        "body_text": words * 2000,
        "body_html": "<p>" + words * 2000,
    }
    row = row_of(engine, insert(engine, **given))
    assert given == {name: getattr(row, name) for name in given}


def test_the_variables_of_a_template_come_back_as_they_went_in(engine: Engine) -> None:
    context = {"name": "Zoë 🚀", "n": 1.5, "list": [1, None, True], "deep": {"a": "b" * 70_000}}
    assert row_of(engine, insert(engine, template="t", body_text=None, context=context)).context == context


def test_an_attachment_may_be_large_and_goes_with_its_row(engine: Engine) -> None:
    content = bytes(range(256)) * 400
    row_id = insert(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(attachment).values(outbox_id=row_id, name="Grüße 🚀.bin", content=content))
        found = connection.execute(sa.select(attachment)).one()
    assert (found.name, found.content_type, found.content) == ("Grüße 🚀.bin", "application/octet-stream", content)
    by_hand(engine, "DELETE FROM outbox")
    with engine.connect() as connection:
        assert connection.execute(sa.select(attachment)).all() == []


DOMAINS = {
    "a@example.com": "example.com",
    "A@Example.COM": "example.com",
    "Ann <a@example.com>": "example.com",
    " Ann <a@example.com> ": "example.com",
    "Ann <a@example.com >": "example.com",
    "a@one.example, b@two.example": "two.example",
    '"x@y" <a@example.com>': "example.com",
    "a@müller.example": "müller.example",
    "a@[192.0.2.1]": "[192.0.2.1]",
    "a@localhost": "localhost",
    "Team: a@x.example, b@x.example;": "x.example",
    "Team: Ann <a@x.example>;": "x.example",
    "c@x.example,": "x.example",
    "c@x.example, ": "x.example",
    "d@x.example (Dora)": "x.example",
    "Dora <d@x.example> (Dora)": "x.example",
    "nobody": None,
    "a@": "",
    "a@" + "x" * 300: "x" * 255,
}


@pytest.mark.parametrize(("addresses", "domain"), DOMAINS.items(), ids=range(len(DOMAINS)))
def test_the_domain_is_computed_alike_everywhere(engine: Engine, addresses: str, domain: str | None) -> None:
    assert row_of(engine, insert(engine, recipients=addresses)).domain == domain
    assert row_of(engine, insert(engine, recipients=None, cc=" ", bcc=addresses)).domain == domain
    assert row_of(engine, insert(engine, recipients="", cc=addresses, bcc="z@z.example")).domain == domain


LANES = {
    (None, None): " ",
    ("bulk", None): "bulk ",
    (None, "News@Example.COM"): " news@example.com",
    ("bulk", "News <News@Example.COM>"): "bulk news@example.com",
    (None, " News < news@example.com > "): " news@example.com",
    (None, "News <news@example.com> (weekly)"): " news@example.com",
    (None, '"x@y" <news@example.com>'): " news@example.com",
    (None, "news@münchen.example"): " news@münchen.example",
    (None, "<>"): " ",
    (None, "x" * 500): " " + "x" * 399,
}


@pytest.mark.parametrize(("names", "lane"), LANES.items(), ids=range(len(LANES)))
def test_the_lane_is_computed_alike_everywhere(engine: Engine, names: tuple[str | None, str | None], lane: str) -> None:
    relay, sender = names
    assert row_of(engine, insert(engine, relay=relay, sender=sender)).lane == lane


# ---- times

UNREADABLE = {
    "postgresql": ("infinity", "-infinity", "20000-01-01Z", "0044-03-15 BC"),
    "mariadb": ("0000-00-00", "2026-11-00", "2026-00-01"),
    "sqlite": ("infinity", "0000-00-00 00:00:00", "2026-02-31 00:00:00"),
}


@pytest.mark.parametrize("column", ["due_at", "expires_at", "created_at"])
def test_a_time_that_no_client_can_read_is_refused_to_applications(engine: Engine, kind: str, column: str) -> None:
    for time in UNREADABLE[kind]:
        if kind == "mariadb":
            statement = f"SET STATEMENT sql_mode = '' FOR INSERT INTO outbox (recipients, body_text, {column})"
        else:
            statement = f"INSERT INTO outbox (recipients, body_text, {column})"
        said = refused(engine, f"{statement} VALUES ('a@b.c', 'x', '{time}')")
        assert f"outbox_{column}_is_a_time" in said


GOOD_TIMES = ("2026-11-22 09:30:00", "2026-11-22 09:30:00.250", "2026-11-22 09:30:00.250000", "2026-12-31 23:59:59")
BAD_TIMES = (
    "2026-11-22T09:30:00",
    "2026-11-22 09:30",
    "2026-11-22 09:30:00Z",
    "2026-11-22 09:30:00+01:00",
    "22.11.2026 09:30:00",
    "2026-13-22 09:30:00",
    "2026-11-22 24:30:00",
    "2026-11-22 09:30:00.2.5",
    "2026-02-31 09:30:00",
    "0000-01-01 09:30:00",
    "2026-11-22 09:30:00.",
    "2026-11-22 09:30:00 250",
    "1795339800",
    "",
    "now",
)


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("time", GOOD_TIMES)
def test_sqlite_takes_times_that_sort(engine: Engine, time: str) -> None:
    row_id = insert(engine)
    assert by_hand(engine, "UPDATE outbox SET due_at = :t, expires_at = :t WHERE id = :id", t=time, id=row_id) == 1


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("time", BAD_TIMES)
@pytest.mark.parametrize("column", ["due_at", "expires_at", "created_at"])
def test_sqlite_refuses_a_time_that_does_not_sort(engine: Engine, column: str, time: str) -> None:
    row_id = insert(engine)
    said = refused(engine, f"UPDATE outbox SET {column} = :t WHERE id = :id", t=time, id=row_id)
    assert f"outbox_{column}_is_a_time" in said
