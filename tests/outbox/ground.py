"""What the tests of this room stand on: rows put in as an application would, steps as a judge would make them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.exchange import Reply
from poller.judgement.retry import Note, RecipientState, Step
from poller.outbox.migrate import sql_directory
from poller.outbox.operate import Selection, change
from poller.outbox.store import Store
from poller.outbox.tables import attempt, outbox, recipient
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine

    from poller.outbox.rows import ClaimedRow

ACCEPTED = Reply(code=250, status="2.0.0", text="Ok: queued as 4ABC")
BUSY = Reply(code=450, status="4.2.0", text="greylisted")
NO_SUCH_USER = Reply(code=550, status="5.1.1", text="no such user")

STATUSES = (
    "queued",
    "sending",
    "sent",
    "partial",
    "failed",
    "in_doubt",
    "paused",
    "cancelled",
    "expired",
    "suppressed",
)


def store_for(engine: Engine, worker: str) -> Store:
    return Store(engine, worker=worker, message_id_domain="mail.example.com")


def insert(engine: Engine, **columns: Any) -> int:
    """A row with defaults; returns its id."""
    given = {"recipients": "a@example.com", "subject": "Hi", "body_text": "Hello", **columns}
    with engine.begin() as connection:
        key = connection.execute(sa.insert(outbox).values(given)).inserted_primary_key
    assert key is not None
    return int(key[0])


def row_of(engine: Engine, row_id: int) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.select(outbox).where(outbox.c.id == row_id)).one()


def status_of(engine: Engine, row_id: int) -> str:
    return str(row_of(engine, row_id).status)


def history_of(engine: Engine, row_id: int) -> list[Any]:
    query = sa.select(attempt).where(attempt.c.outbox_id == row_id).order_by(attempt.c.id)
    with engine.connect() as connection:
        return list(connection.execute(query))


def outcomes_of(engine: Engine, row_id: int) -> list[str]:
    return [line.outcome for line in history_of(engine, row_id)]


def recipients_of(engine: Engine, row_id: int) -> dict[str, Any]:
    query = sa.select(recipient).where(recipient.c.outbox_id == row_id)
    with engine.connect() as connection:
        return {line.address: line for line in connection.execute(query)}


def by_hand(engine: Engine, statement: str, **values: Any) -> int:
    """A plain statement, as an operator types it; returns the number of rows."""
    with engine.begin() as connection:
        return connection.execute(sa.text(statement), values).rowcount


def claimed(store: Store) -> ClaimedRow:
    """The one row that is due."""
    (row,) = store.claim(Gate(limit=10))
    return row


def step(store: Store, row: ClaimedRow, status: str, **more: Any) -> Step:
    """What a judge would write down about `row`, now."""
    return Step(
        row_id=row.id, claim_seq=row.claim_seq, message_id=row.message_id, status=status, at=store.now(), **more
    )


def sent(store: Store, row: ClaimedRow, **more: Any) -> Step:
    made = step(store, row, "sent", attempts=1, reply=ACCEPTED, queue_id="4ABC", **more)
    return replace(made, sent_at=made.at)


def deferred(store: Store, row: ClaimedRow, *, seconds: float = 60) -> Step:
    made = step(store, row, "queued", attempts=1, reply=BUSY, error="deferred at RCPT", notes=(note("deferred", BUSY),))
    return replace(made, due_at=made.at + timedelta(seconds=seconds))


def failed(store: Store, row: ClaimedRow) -> Step:
    return step(
        store, row, "failed", attempts=1, reply=NO_SUCH_USER, error="refused", notes=(note("failed", NO_SUCH_USER),)
    )


def doubtful(store: Store, row: ClaimedRow) -> Step:
    return step(store, row, "in_doubt", doubts=1, error="line lost", notes=(note("in_doubt", None),))


def partial(store: Store, row: ClaimedRow) -> Step:
    """a@example.com has it, b@example.com does not exist."""
    made = step(store, row, "partial", attempts=1, reply=NO_SUCH_USER, error="b@example.com: refused")
    good = state("a@example.com", "sent", attempts=1, reply=ACCEPTED, sent_at=made.at)
    bad = state("b@example.com", "failed", attempts=1, reply=NO_SUCH_USER, error="refused")
    return replace(made, sent_at=made.at, recipients=(good, bad), notes=(note("failed", NO_SUCH_USER, bad.address),))


def state(address: str, status: str, **more: Any) -> RecipientState:
    return RecipientState(address=address, status=status, **more)


def note(outcome: str, reply: Reply | None, address: str | None = None) -> Note:
    return Note(outcome=outcome, recipient=address, blame=None, reply=reply, queue_id=None, error=None)


def row_with(store: Store, status: str, **columns: Any) -> int:
    """A row that came to `status` by the road that rows take."""
    engine = store.engine
    row_id = insert(engine, **columns)
    if status in {"paused", "cancelled"}:
        change(engine, Selection(ids=(row_id,)), "pause" if status == "paused" else "cancel")
    elif status != "queued":
        row = claimed(store)
        made = {"sent": sent, "partial": partial, "failed": failed, "in_doubt": doubtful}
        if status != "sending":
            store.record([made[status](store, row) if status in made else step(store, row, status, error="no")])
    assert status_of(engine, row_id) == status
    return row_id


@contextmanager
def locking(engine: Engine, row_id: int) -> Iterator[Connection]:
    """A forgotten transaction of somebody who touched the row."""
    connection = engine.connect()
    outer = connection.begin()
    connection.execute(sa.text("UPDATE outbox SET batch = 'forgotten' WHERE id = :id"), {"id": row_id})
    try:
        yield connection
    finally:
        outer.rollback()
        connection.close()


FILES = {"postgresql": "postgresql", "mariadb": "mysql"}


def roles_sql(kind: str) -> str:
    return (sql_directory(FILES[kind]) / "roles.sql").read_text("utf-8")
