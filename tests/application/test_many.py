"""One mail or a million: what `add_many` writes is what `add` writes, in order, and by id where that is asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from application.ways import ASYNC, SYNC
from outbox.ground import by_hand

import poller
from poller.columns import APPLICATION_COLUMNS
from poller.outbox.database import connect
from poller.outbox.report import attachments_of
from poller.outbox.tables import attachment, outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

OUTBOX = poller.Outbox()
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
PNG = poller.Attachment(name="logo ä.png", content=b"\0\x89'\\\xff%", content_type="image/png", content_id="logo")
PDF = poller.Attachment(name="a.pdf", content=b"%PDF")
EVERYTHING = {
    "recipients": '"Müller, Anna" <anna@example.com>, b@exämple.com',
    "cc": "c@example.com",
    "bcc": "d@example.com",
    "sender": "Shop <shop@example.com>",
    "reply_to": "help@example.com",
    "envelope_from": "",
    "subject": "100 % 'safe' \\ \U0001f600 %s ?",
    "template": "shop/welcome",
    "context": {"a": [1, None, "ä\n"]},
    "locale": "de_AT",
    "headers": {"X-A": ["1", "2"]},
    "list": "news",
    "message_id": "<a@example.com>",
    "batch": "b",
    "priority": 0,
    "due_at": NOON,
    "expires_at": NOON,
    "dedupe_key": "k",
    "on_doubt": "hold",
    "max_attempts": 3,
    "relay": "smtp",
    "created_at": NOON,
}


def every(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(outbox).order_by(outbox.c.id)))


def one(number: int, **columns: Any) -> poller.Mail:
    return poller.Mail(recipients="a@example.com", subject=str(number), body_text="Hi", **columns)


@pytest.fixture
def engine(database: DatabaseSettings) -> Iterator[Engine]:
    engine = connect(database)
    yield engine
    engine.dispose()


def test_every_column_arrives_by_every_way(database: DatabaseSettings, engine: Engine, kind: str) -> None:
    mails = [
        poller.Mail(**{**EVERYTHING, "dedupe_key": str(n), "attachments": files})
        for n, files in enumerate(((), (PNG, PDF)))
    ]

    def singly(connection: Any, _: object) -> None:
        for mail in mails:
            OUTBOX.add(connection, mail)

    def together(connection: Any, _: object) -> None:
        assert OUTBOX.add_many(connection, mails) == 2

    def by_copy(connection: Any, _: object) -> None:
        assert OUTBOX.add_many(connection, mails[:1]) == 1

    async def awaited(connection: Any, _: object) -> None:
        assert await OUTBOX.add_many_async(connection, mails[:1]) == 1

    calls: list[tuple[Callable[..., None], Any]] = [
        (way, work) for way in SYNC[kind] for work in (singly, together, by_copy)
    ]
    for way, work in [*calls, *((way, awaited) for way in ASYNC[kind])]:
        way(database.url, work, commit=True)
        for row in every(engine):
            wanted = {name: EVERYTHING.get(name) for name in APPLICATION_COLUMNS} | {"dedupe_key": row.dedupe_key}
            assert {name: getattr(row, name) for name in APPLICATION_COLUMNS} == wanted, (way, work)
            files = [dict(file) for file in attachments_of(engine, row.id)]
            given = [
                {"name": f.name, "content_type": f.content_type, "content": f.content, "content_id": f.content_id}
                for f in ((PNG, PDF) if row.dedupe_key == "1" else ())
            ]
            assert [{name: file[name] for name in given[0]} if given else file for file in files] == given, (way, work)
        by_hand(engine, "DELETE FROM outbox")


def test_ids_are_those_of_the_rows_in_their_order(database: DatabaseSettings, engine: Engine, kind: str) -> None:
    mails = [
        one(n, priority=3 if n % 7 == 0 else None, cc="c@example.com" if n % 2 else None, attachments=(PDF,) * (n == 5))
        for n in range(1100)
    ]
    found: list[int] = []

    def work(connection: Any, _: object) -> None:
        OUTBOX.add(connection, one(-1))
        found[:] = OUTBOX.add_many_ids(connection, iter(mails))

    for way in SYNC[kind]:
        way(database.url, work, commit=True)
        rows = {row.id: row for row in every(engine)}
        assert [(rows[row_id].subject, rows[row_id].priority, rows[row_id].cc) for row_id in found] == [
            (mail.subject, 5 if mail.priority is None else mail.priority, mail.cc) for mail in mails
        ], way
        with engine.connect() as connection:
            assert connection.execute(sa.select(attachment.c.outbox_id)).scalars().all() == [found[5]]
        by_hand(engine, "DELETE FROM outbox")


def test_what_is_known_by_its_key_is_left_out_or_named_when_asked(engine: Engine) -> None:
    mails = [one(n, dedupe_key=f"k{n}" if n != 1 else None) for n in range(3)]
    with engine.begin() as connection:
        (first,) = OUTBOX.add_many_ids(connection, mails[:1])
    with engine.begin() as connection:
        assert OUTBOX.add(connection, mails[0], on_duplicate="existing") == first
        with pytest.raises(poller.Duplicate, match=f"^dedupe_key 'k0' is taken by row {first}; choose another"):
            OUTBOX.add(connection, mails[0])
        assert OUTBOX.add_many(connection, mails, on_duplicate="existing") == 2
        ids = OUTBOX.add_many_ids(connection, mails, on_duplicate="existing")
    rows = every(engine)
    assert ids[0] == first
    assert [row.subject for row in rows] == ["0", "1", "2", "1"]
    assert ids == [rows[0].id, rows[3].id, rows[2].id]


def test_of_many_with_keys_each_new_one_goes_in_once(engine: Engine) -> None:
    mails = [one(n, dedupe_key=f"k{n // 2}", attachments=(PDF,) * (n == 2000)) for n in range(2002)]
    with engine.begin() as connection:
        OUTBOX.add(connection, one(-1, dedupe_key="k5"))
        assert OUTBOX.add_many(connection, mails, on_duplicate="existing") == 1000
    assert [row.subject for row in every(engine)] == ["-1", *(str(n) for n in range(0, 2002, 2) if n != 10)]
    with engine.connect() as connection:
        assert len(connection.execute(sa.select(attachment.c.id)).all()) == 1


def test_a_key_that_is_known_twice_in_many_is_the_databases_to_refuse(engine: Engine) -> None:
    errors = (sa.exc.IntegrityError, psycopg.errors.UniqueViolation)  # by COPY it is the driver's own
    with pytest.raises(errors, match=r"outbox_dedupe_key_is_unique|outbox.dedupe_key"), engine.begin() as connection:
        OUTBOX.add_many(connection, [one(1, dedupe_key="k"), one(2, dedupe_key="k")])
    assert every(engine) == []


def test_a_schema_may_be_named(engine: Engine, kind: str) -> None:
    with engine.begin() as connection:
        asked = {"postgresql": "SELECT current_schema()", "mariadb": "SELECT DATABASE()", "sqlite": "SELECT 'main'"}
        schema = connection.exec_driver_sql(asked[kind]).scalar_one()
        named = poller.Outbox(schema=schema)
        assert named.add_many(connection, [one(1)]) == 1
        row_id = named.add(connection, one(2, dedupe_key="k", attachments=(PDF,)))
        assert named.add(connection, one(2, dedupe_key="k"), on_duplicate="existing") == row_id
        assert named.replace(connection, one(3, dedupe_key="k")) > row_id
        assert named.cancel(connection, "k")
    assert [(row.subject, row.status) for row in every(engine)] == [
        ("1", "queued"),
        ("2", "cancelled"),
        ("3", "cancelled"),
    ]
