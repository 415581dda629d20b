"""What people ask of an outbox: numbers, workers, one row's whole story, what waits for which limit. Reads only.

Longer than most: every question is a query of its own, and they share nothing but the ground.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.clock import now_in_sql, now_of
from poller.outbox.database import transaction
from poller.outbox.guard import BELONGS_TO
from poller.outbox.tables import Utc, attachment, attempt, blob, meta, outbox, recipient
from poller.statuses import FAILURES, UNENDED
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """Who works here, and whether all is off; times are aware UTC on the database's clock."""

    at: datetime
    paused: str | None
    workers: tuple[Mapping[str, Any], ...]

    @property
    def alive(self) -> tuple[Mapping[str, Any], ...]:
        """The workers that are."""
        return tuple(worker for worker in self.workers if worker["state"] == "alive")

    @property
    def nobody(self) -> str:
        """That no worker is alive, in words with the remedy; "" if one is."""
        if self.alive:
            return ""
        since = silent(self.workers)
        return f"no worker is alive{f' ({since})' if since else ''}; start one with: poller run"


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview(Glance):
    """The outbox at one moment."""

    by_status: Mapping[str, int]
    due: int
    retrying: int
    next_due_at: datetime | None
    sent_last_minute: int
    sent_last_hour: int
    batches: tuple[Mapping[str, Any], ...]
    failures: tuple[Mapping[str, Any], ...]

    def percent_done(self) -> float:
        """Share of all messages that need nothing more, in percent."""
        total = sum(self.by_status.values())
        waiting = sum(self.by_status.get(status, 0) for status in UNENDED)
        return 100.0 * (total - waiting) / total if total else 100.0


def silent(workers: Sequence[Mapping[str, Any]]) -> str:
    """Which of them have missed three heartbeats, and since when, in words; "" if none has."""
    since = ((worker["name"], worker["heartbeat_at"]) for worker in workers if worker["state"] == "silent")
    return ", ".join(f"{name} is silent since {at:%Y-%m-%d %H:%M:%S} UTC" for name, at in since)


def glance(engine: Engine) -> Glance:
    """A quick look, however large the outbox is. A worker's `state` is alive, silent or stopped."""
    return transaction(engine, lambda c: Glance(**_glance(c)), reading=True)


def _glance(connection: Connection) -> dict[str, Any]:
    return {
        "at": now_of(connection),
        "paused": connection.execute(sa.select(meta.c.value).where(meta.c.name == "paused")).scalar(),
        "workers": _mappings(connection, _WORKERS),
    }


_BATCHES = sa.text("SELECT * FROM outbox_batch_progress ORDER BY first_attempt_at DESC LIMIT 20").columns(
    percent_done=sa.Numeric(asdecimal=False), first_attempt_at=Utc(), last_finished_at=Utc()
)
_OUTBOX_NOW = sa.text("SELECT status, messages, due, retrying, next_due_at FROM outbox_now").columns(next_due_at=Utc())
_WORKERS = sa.text("SELECT * FROM outbox_workers ORDER BY name").columns(
    **dict.fromkeys(("started_at", "heartbeat_at", "lease_until", "silent_from", "stopped_at"), Utc())
)
_FAILURES = sa.text("SELECT * FROM outbox_failed_today ORDER BY finished_at DESC LIMIT 20").columns(finished_at=Utc())


def open_rows(engine: Engine, *, retries: bool) -> int:
    """Rows that are due now; with `retries` also those that wait for another try, or are in a worker's hands."""

    def work(connection: Connection) -> int:
        due: Any = outbox.c.due_at <= now_in_sql(connection)
        condition = sa.and_(outbox.c.status == "queued", sa.or_(due, outbox.c.claim_seq > 0) if retries else due)
        if retries:
            condition = sa.or_(outbox.c.status == "sending", condition)
        return int(connection.execute(sa.select(sa.func.count()).select_from(outbox).where(condition)).scalar_one())

    return transaction(engine, work, reading=True)


def overview(engine: Engine) -> Overview:
    """The outbox now."""
    return transaction(engine, _overview, reading=True)


def _overview(connection: Connection) -> Overview:
    lines = connection.execute(_OUTBOX_NOW).all()
    waiting = next((line for line in lines if line.status == "queued"), None)
    return Overview(
        **_glance(connection),
        by_status={line.status: int(line.messages) for line in lines},
        due=int(waiting.due) if waiting else 0,
        retrying=int(waiting.retrying) if waiting else 0,
        next_due_at=waiting.next_due_at if waiting else None,
        sent_last_minute=_sent_since(connection, 60),
        sent_last_hour=_sent_since(connection, 3600),
        batches=_mappings(connection, _BATCHES),
        failures=_mappings(connection, _FAILURES),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """Whether mail moves; seconds on the database's clock."""

    due: int
    oldest_due_seconds: float
    """How long the row that is due the longest has been due; 0 where none is."""
    last_sent_seconds: float | None
    """Since the last was accepted; None where none is known."""
    in_doubt: int

    def is_stuck(self, seconds: float) -> bool:
        """Something was due for so long, and nothing was accepted meanwhile."""
        return self.oldest_due_seconds > seconds and (
            self.last_sent_seconds is None or self.last_sent_seconds > seconds
        )

    @property
    def last_sent(self) -> str:
        """When the last one was accepted, in words."""
        ago = self.last_sent_seconds
        return "nothing was ever sent" if ago is None else f"the last was sent {format_duration(ago)} ago"


def pulse(engine: Engine) -> Pulse:
    """A few numbers, by index."""

    def work(connection: Connection) -> Pulse:
        now = now_of(connection)
        due = sa.select(sa.func.count(), sa.func.min(outbox.c.due_at))
        many, oldest = connection.execute(due.where(outbox.c.status == "queued", outbox.c.due_at <= now)).one()
        ends = [connection.execute(_last_end(status)).scalar() for status in ("sent", "partial")]
        last = max((end for end in ends if end is not None), default=None)
        doubts = sa.select(sa.func.count()).where(outbox.c.status == "in_doubt")
        return Pulse(
            due=int(many),
            oldest_due_seconds=(now - oldest).total_seconds() if oldest else 0.0,
            last_sent_seconds=(now - last).total_seconds() if last else None,
            in_doubt=int(connection.execute(doubts).scalar_one()),
        )

    return transaction(engine, work, reading=True)


def ended_lately(engine: Engine) -> tuple[int, int]:
    """How many rows ended within the last hour, and how many of them failed. Suppressed ones are neither."""

    def work(connection: Connection) -> tuple[int, int]:
        since = now_of(connection) - timedelta(hours=1)
        query = sa.select(outbox.c.status, sa.func.count()).where(outbox.c.finished_at > since)
        ends = ("sent", *FAILURES)
        lines = connection.execute(query.where(outbox.c.status.in_(ends)).group_by(outbox.c.status))
        found = {str(status): int(count) for status, count in lines}
        asked_for = found.get("suppressed", 0)
        return sum(found.values()) - asked_for, sum(found.values()) - asked_for - found.get("sent", 0)

    return transaction(engine, work, reading=True)


def _last_end(status: str) -> Any:
    ended = outbox.c.finished_at.is_not(None)  # in so many words: an index has only those
    return (
        sa.select(outbox.c.finished_at)
        .where(outbox.c.status == status, ended)
        .order_by(outbox.c.finished_at.desc())
        .limit(1)
    )


def now_by_status(engine: Engine) -> dict[str, int]:
    """How many rows have which status."""
    lines = transaction(engine, lambda c: c.execute(_OUTBOX_NOW).all(), reading=True)
    return {line.status: int(line.messages) for line in lines}


MOST_FAILURES = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One recipient who did not get it, or a whole row."""

    row_id: int
    status: str
    error: str | None
    code: int | None
    address: str | None
    """None: the row as a whole."""
    domain: str | None
    """As the row has it: that of the last address of its first list."""
    relay: str | None
    template: str | None
    batch: str | None


def failures(engine: Engine, *, seconds: float, batch: str | None = None) -> list[Failure]:
    """Who did not get it, of what ended within so many seconds, the latest first; MOST_FAILURES at most."""
    theirs = recipient.c.address.is_not(None)
    not_got = sa.and_(recipient.c.outbox_id == outbox.c.id, recipient.c.status != "sent")
    columns = {
        "row_id": outbox.c.id,
        "status": sa.case((theirs, recipient.c.status), else_=outbox.c.status),
        "error": sa.case((theirs, sa.func.coalesce(recipient.c.error, recipient.c.reply_text)), else_=outbox.c.error),
        "code": sa.case((theirs, recipient.c.reply_code), else_=outbox.c.reply_code),
        "address": recipient.c.address,
        **{name: outbox.c[name] for name in ("domain", "relay", "template", "batch")},
    }

    def work(connection: Connection) -> list[Failure]:
        since = now_of(connection) - timedelta(seconds=seconds)
        query = (
            sa.select(*(column.label(name) for name, column in columns.items()))
            .select_from(outbox.outerjoin(recipient, not_got))
            .where(outbox.c.status.in_(FAILURES), outbox.c.finished_at > since)
            .order_by(outbox.c.finished_at.desc(), outbox.c.id)
            .limit(MOST_FAILURES)
        )
        if batch is not None:
            query = query.where(outbox.c.batch == batch)
        return [Failure(**row) for row in connection.execute(query).mappings()]

    return transaction(engine, work, reading=True)


def held_rows(engine: Engine) -> int:
    """Rows that a person holds, or has to decide about."""
    query = sa.select(sa.func.count()).where(outbox.c.status.in_(("in_doubt", "paused")))
    return int(transaction(engine, lambda c: c.execute(query).scalar_one(), reading=True))


def _sent_since(connection: Connection, seconds: float) -> int:
    since = now_of(connection) - timedelta(seconds=seconds)
    query = (
        sa.select(sa.func.count())
        .select_from(outbox)
        .where(outbox.c.status.in_(("sent", "partial")), outbox.c.finished_at > since)
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
        size = sa.func.coalesce(sa.func.length(attachment.c.content), sa.func.length(blob.c.content)).label("size")
        names = (attachment.c.name, attachment.c.content_type, attachment.c.content_id, attachment.c.path, size)
        files = attachment.outerjoin(blob, blob.c.sha256 == attachment.c.blob_sha256)
        carried = sa.select(*names).select_from(files).order_by(attachment.c.id)
        return Story(
            row=dict(row),
            recipients=_mappings(connection, _of(recipient, row_id).order_by(recipient.c.address)),
            attempts=_mappings(connection, _of(attempt, row_id).order_by(attempt.c.id)),
            attachments=_mappings(connection, carried.where(attachment.c.outbox_id == row_id)),
        )

    return transaction(engine, work, reading=True)


def attachments_of(engine: Engine, row_id: int) -> list[Mapping[str, Any]]:
    """A row's attachments in order: name, content_type, content_id, part, and one of content, blob_sha256 and path."""
    if engine.dialect.name == "postgresql":
        return transaction(engine, lambda c: _in_pieces(c, row_id), reading=True)
    names = ("name", "content_type", "content", "content_id", "part", "blob_sha256", "path")
    query = sa.select(*(attachment.c[name] for name in names)).where(attachment.c.outbox_id == row_id)
    return transaction(engine, lambda c: list(_mappings(c, query.order_by(attachment.c.id))), reading=True)


def raw_of(engine: Engine, row_id: int) -> tuple[bytes | None, object]:
    """A row's raw message and its DSN parameters; nothing of a row that is gone."""
    query = sa.select(outbox.c.raw, outbox.c.dsn).where(outbox.c.id == row_id)
    found = transaction(engine, lambda c: c.execute(query).first(), reading=True)
    return (found.raw, found.dsn) if found else (None, None)


PIECE = 2 * 1024 * 1024
"""Bytes of a file that are fetched at a time. The driver's buffer grows to a power of two above it, and stays so."""
_PIECES = f"""
SELECT a.id, a.name, a.content_type, a.content_id, a.part, a.blob_sha256, a.path, octet_length(a.content) AS size,
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
        for number, *facts, size, start, piece in cursor.stream(_PIECES, [row_id]):
            names = dict(zip(("name", "content_type", "content_id", "part", "blob_sha256", "path"), facts, strict=True))
            file = found.setdefault(number, names)
            if size is None:
                continue
            content = file["content"] = file.get("content") or _with_room(size)
            content.seek(start or 0)
            content.write(piece or b"")
    files = (file for _, file in sorted(found.items()))
    return [{**file, "content": file["content"].getvalue() if "content" in file else None} for file in files]


def _with_room(size: int) -> io.BytesIO:
    """A buffer that has taken the room for so many bytes: one that grows by and by would copy what it holds."""
    room = io.BytesIO()
    if size:
        room.seek(size - 1)
        room.write(b"\0")
    return room


def _of(table: sa.Table, row_id: int) -> Any:
    return sa.select(table).where(table.c.outbox_id == row_id)


def knows_its_home(engine: Engine) -> bool:
    """Whether a worker has ever entered the address at which the outbox is at home."""
    query = sa.select(meta.c.value).where(meta.c.name == BELONGS_TO)
    return bool(transaction(engine, lambda c: c.execute(query).scalar(), reading=True))
