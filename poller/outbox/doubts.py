"""The rows that may have been delivered and wait for a person. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.database import transaction
from poller.outbox.tables import attempt, outbox, recipient

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

MOST = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """One row in doubt; `recipients` are those who may or may not have it, `at` when it last became so (UTC).

    `relay` is where it was then, as `host:port`; "" if that is not known.
    """

    id: int
    recipients: str
    doubts: int
    message_id: str
    worker: str
    relay: str
    at: datetime | None
    error: str


def doubts(engine: Engine) -> list[Doubt]:
    """Up to MOST rows, the oldest first."""
    return transaction(engine, _doubts, reading=True)


def _doubts(connection: Connection) -> list[Doubt]:
    last = [
        _of_the_last(column).label(f"last_{column.name}")
        for column in (attempt.c.worker, attempt.c.relay, attempt.c.at)
    ]
    small = [column for column in outbox.c if column is not outbox.c.raw]
    query = sa.select(*small, *last).where(outbox.c.status == "in_doubt")
    rows = connection.execute(query.order_by(outbox.c.id).limit(MOST)).all()
    held = sa.select(recipient.c.outbox_id, recipient.c.address).where(
        recipient.c.status == "in_doubt", recipient.c.outbox_id.in_([row.id for row in rows])
    )
    by_row: dict[int, list[str]] = {}
    for row_id, address in connection.execute(held) if rows else ():
        by_row.setdefault(row_id, []).append(address)
    return [
        Doubt(
            id=row.id,
            recipients=", ".join(by_row.get(row.id, [row.recipients or row.cc or row.bcc])),
            doubts=row.doubts,
            message_id=row.message_id or "",
            worker=row.last_worker or "",
            relay=row.last_relay or "",
            at=row.last_at or row.updated_at,
            error=row.error or "",
        )
        for row in rows
    ]


def _of_the_last(column: sa.Column[Any]) -> sa.ScalarSelect[Any]:
    """What the newest line of a row's history says that tells of a doubt."""
    mine = sa.select(column).where(attempt.c.outbox_id == outbox.c.id, attempt.c.outcome == "in_doubt")
    return mine.order_by(attempt.c.id.desc()).limit(1).scalar_subquery()
