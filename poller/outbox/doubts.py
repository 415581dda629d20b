"""The rows that may have been delivered and wait for a person. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from poller.outbox.database import transaction
from poller.outbox.tables import attempt, outbox, recipient

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

MOST = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """One row in doubt; `recipients` are those who may or may not have it, `at` when it became so (UTC)."""

    id: int
    recipients: str
    doubts: int
    message_id: str
    worker: str
    at: datetime | None
    error: str


def doubts(engine: Engine) -> list[Doubt]:
    """Up to MOST rows, the oldest first."""
    return transaction(engine, _doubts, reading=True)


def _doubts(connection: Connection) -> list[Doubt]:
    worker = (
        sa.select(attempt.c.worker)
        .where(attempt.c.outbox_id == outbox.c.id, attempt.c.outcome == "in_doubt")
        .order_by(attempt.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = sa.select(outbox, worker.label("worker")).where(outbox.c.status == "in_doubt")
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
            worker=row.worker or "",
            at=row.updated_at,
            error=row.error or "",
        )
        for row in rows
    ]
