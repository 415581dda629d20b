"""What people ask of an outbox: numbers, workers, one row's whole story. Reads only."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.database import transaction
from poller.outbox.dialects import DIALECTS
from poller.outbox.tables import Utc, attachment, attempt, meta, outbox, recipient
from poller.outbox.tables import worker as worker_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The outbox at one moment; times are aware UTC on the database's clock."""

    at: datetime
    paused: str | None
    by_status: Mapping[str, int]
    due: int
    retrying: int
    next_due_at: datetime | None
    sent_last_minute: int
    sent_last_hour: int
    workers: tuple[Mapping[str, Any], ...]
    batches: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, Any], ...]

    def percent_done(self) -> float:
        """Share of all messages that need nothing more, in percent."""
        total = sum(self.by_status.values())
        waiting = sum(self.by_status.get(status, 0) for status in ("queued", "sending", "in_doubt", "paused"))
        return 100.0 * (total - waiting) / total if total else 100.0

    def seconds_left(self) -> float | None:
        """Until what is due now is gone at the last minute's rate; None when nothing went out."""
        if not self.due:
            return 0.0
        return 60.0 * self.due / self.sent_last_minute if self.sent_last_minute else None


def _now(connection: Connection) -> Any:
    return sa.literal_column(DIALECTS[connection.dialect.name].now, type_=Utc())


def _moment(connection: Connection, seconds: float) -> Any:
    text = DIALECTS[connection.dialect.name].moment(":seconds")
    return sa.text(text).bindparams(seconds=seconds)


_BATCHES = sa.text("SELECT * FROM outbox_batch_progress ORDER BY first_attempt_at DESC LIMIT 20").columns(
    percent_done=sa.Numeric(asdecimal=False), first_attempt_at=Utc(), last_finished_at=Utc()
)
_FAILURES = sa.text("SELECT * FROM outbox_failed_today ORDER BY finished_at DESC LIMIT 20").columns(finished_at=Utc())


def open_rows(engine: Engine, *, retries: bool) -> int:
    """Rows that are due now; with `retries` also those that wait for another try, or are in a worker's hands."""

    def work(connection: Connection) -> int:
        due: Any = outbox.c.due_at <= _now(connection)
        condition = sa.and_(outbox.c.status == "queued", sa.or_(due, outbox.c.claim_seq > 0) if retries else due)
        if retries:
            condition = sa.or_(outbox.c.status == "sending", condition)
        return int(connection.execute(sa.select(sa.func.count()).select_from(outbox).where(condition)).scalar_one())

    return transaction(engine, work, reading=True)


def overview(engine: Engine) -> Overview:
    """The outbox now."""
    return transaction(engine, _overview, reading=True)


def _overview(connection: Connection) -> Overview:
    now = connection.execute(sa.select(_now(connection))).scalar_one()
    counts = sa.select(outbox.c.status, sa.func.count()).group_by(outbox.c.status)
    queued = outbox.c.status == "queued"
    tries = outbox.c.attempts + outbox.c.doubts + outbox.c.setbacks
    tally = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(sa.case((outbox.c.due_at <= _now(connection), 1), else_=0)), 0),
        sa.func.coalesce(sa.func.sum(sa.case((tries > 0, 1), else_=0)), 0),
        sa.func.min(outbox.c.due_at),
    ).where(queued)
    _, due, retrying, next_due = connection.execute(tally).one()
    return Overview(
        at=now,
        paused=connection.execute(sa.select(meta.c.value).where(meta.c.name == "paused")).scalar(),
        by_status=dict(connection.execute(counts).all()),
        due=int(due),
        retrying=int(retrying),
        next_due_at=next_due,
        sent_last_minute=_sent_since(connection, 60),
        sent_last_hour=_sent_since(connection, 3600),
        workers=_mappings(connection, sa.select(worker_table).order_by(worker_table.c.name)),
        batches=_mappings(connection, _BATCHES),
        failures=_mappings(connection, _FAILURES),
    )


def _sent_since(connection: Connection, seconds: float) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(outbox)
        .where(outbox.c.status.in_(("sent", "partial")), outbox.c.finished_at > _moment(connection, -seconds))
    )
    return int(connection.execute(query).scalar_one())


def _mappings(connection: Connection, query: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple(dict(row) for row in connection.execute(query).mappings())


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """Everything written down about one row. `row` has the columns of `outbox`."""

    row: Mapping[str, Any]
    recipients: tuple[Mapping[str, Any], ...]
    attempts: tuple[Mapping[str, Any], ...]
    attachments: tuple[Mapping[str, Any], ...]


def story(engine: Engine, row_id: int) -> Story | None:
    """The whole story of a row, or None if there is none with this id."""

    def work(connection: Connection) -> Story | None:
        row = connection.execute(sa.select(outbox).where(outbox.c.id == row_id)).mappings().first()
        if row is None:
            return None
        size = sa.func.length(attachment.c.content).label("size")
        names = (attachment.c.name, attachment.c.content_type, attachment.c.content_id, size)
        return Story(
            row=dict(row),
            recipients=_mappings(connection, _of(recipient, row_id).order_by(recipient.c.address)),
            attempts=_mappings(connection, _of(attempt, row_id).order_by(attempt.c.id)),
            attachments=_mappings(
                connection, sa.select(*names).where(attachment.c.outbox_id == row_id).order_by(attachment.c.id)
            ),
        )

    return transaction(engine, work, reading=True)


def attachments_of(engine: Engine, row_id: int) -> list[Mapping[str, Any]]:
    """A row's attachments in order: name, content_type, content, content_id."""
    if engine.dialect.name == "postgresql":
        return transaction(engine, lambda c: _in_pieces(c, row_id), reading=True)
    columns = (attachment.c.name, attachment.c.content_type, attachment.c.content, attachment.c.content_id)
    query = sa.select(*columns).where(attachment.c.outbox_id == row_id).order_by(attachment.c.id)
    return transaction(engine, lambda c: list(_mappings(c, query)), reading=True)


PIECE = 2 * 1024 * 1024
"""Bytes of a file that are fetched at a time. The driver's buffer grows to a power of two above it, and stays so."""
_PIECES = f"""
SELECT a.id, a.name, a.content_type, a.content_id, octet_length(a.content) AS size,
    p.start - 1 AS start, substring(a.content FROM p.start FOR {PIECE}) AS piece
FROM outbox_attachment AS a
LEFT JOIN LATERAL generate_series(1, octet_length(a.content), {PIECE}) AS p (start) ON true
WHERE a.outbox_id = %s"""


def _in_pieces(connection: Connection, row_id: int) -> list[Mapping[str, Any]]:
    """In the driver's own binary form, as text would be twice as long; and bit by bit.

    As a whole the driver would hold a file three times: as it was received, as a result, as bytes.
    """
    driver: Any = connection.connection.driver_connection
    found: dict[int, dict[str, Any]] = {}
    with driver.cursor(binary=True) as cursor:
        for number, name, content_type, content_id, size, start, piece in cursor.stream(_PIECES, [row_id]):
            names = {"name": name, "content_type": content_type, "content_id": content_id}
            file = found.setdefault(number, names)
            content = file["content"] = file.get("content") or _with_room(size)
            content.seek(start or 0)
            content.write(piece or b"")
    return [{**file, "content": file["content"].getvalue()} for _, file in sorted(found.items())]


def _with_room(size: int) -> io.BytesIO:
    """A buffer that has taken the room for so many bytes: one that grows by and by would copy what it holds."""
    room = io.BytesIO()
    if size:
        room.seek(size - 1)
        room.write(b"\0")
    return room


def _of(table: sa.Table, row_id: int) -> Any:
    return sa.select(table).where(table.c.outbox_id == row_id)
