"""What people ask of an outbox: numbers, workers, one row's whole story, what waits for which limit. Reads only.

Longer than most: every question is a query of its own, and they share nothing but the ground.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.database import transaction
from poller.outbox.dialects import DIALECTS
from poller.outbox.guard import BELONGS_TO
from poller.outbox.tables import Utc, attachment, attempt, meta, outbox, recipient, throttle
from poller.pacing.gate import Record, ScopeKey
from poller.pacing.state_row import COLUMNS
from poller.statuses import FAILURES, UNENDED

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
        "at": connection.execute(sa.select(_now(connection))).scalar_one(),
        "paused": connection.execute(sa.select(meta.c.value).where(meta.c.name == "paused")).scalar(),
        "workers": _mappings(connection, _WORKERS),
    }


def _now(connection: Connection) -> Any:
    return sa.literal_column(DIALECTS[connection.dialect.name].now, type_=Utc())


def _moment(connection: Connection, seconds: float) -> Any:
    text = DIALECTS[connection.dialect.name].moment(":seconds")
    return sa.text(text).bindparams(seconds=seconds)


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


def pulse(engine: Engine) -> Pulse:
    """A few numbers, by index."""

    def work(connection: Connection) -> Pulse:
        now = connection.execute(sa.select(_now(connection))).scalar_one()
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
        since = connection.execute(sa.select(sa.type_coerce(_moment(connection, -seconds), Utc))).scalar_one()
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
    since = connection.execute(sa.select(sa.type_coerce(_moment(connection, -seconds), Utc))).scalar_one()
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


# ---- pacing

MOST_GROUPS = 10_000
"""Of what waits; of scopes as well. The rest is one group more, or left out."""
FARTHEST_HOUR = 168
"""What is due later than in a week goes into one group."""
LATELY = 500
"""Messages by which the speed is measured."""
RUN = 10
"""Messages in a row, the fastest of which count: few, so that they lie between two pauses of a batch."""


def throttles(engine: Engine) -> dict[ScopeKey, Record]:
    """Every row of outbox_throttle, unjudged: MOST_GROUPS at most."""

    def work(connection: Connection) -> dict[ScopeKey, Record]:
        query = sa.select(throttle).order_by(throttle.c.kind, throttle.c.name).limit(MOST_GROUPS)
        return {
            ScopeKey(row["kind"], row["name"]): Record(
                values={name: row[name] for name in COLUMNS},
                **{
                    name: row[name]
                    for name in ("limits", "session_limit", "recipient_limit", "pipelining", "pipelining_reason")
                },
            )
            for row in connection.execute(query).mappings()
        }

    return transaction(engine, work, reading=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingRows:
    """Queued rows of one destination, relay and sender, as far as was asked; all due now or all within one hour."""

    domain: str | None
    relay: str | None
    sender: str | None
    """The bare address, in lower case."""
    messages: int
    recipients: int
    """About: the number of @ in the lists."""
    first_due: datetime | None
    last_due: datetime | None


# Whole hours from :now until due.
_HOURS_AHEAD = {
    "postgresql": "floor(extract(epoch FROM due_at - CAST(:now AS timestamptz)) / 3600)",
    "sqlite": "floor((julianday(due_at) - julianday(:now)) * 24)",
    "mysql": "floor(TIMESTAMPDIFF(SECOND, :now, due_at) / 3600)",
}
_HOURS_AHEAD["mariadb"] = _HOURS_AHEAD["mysql"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """What is looked at of waiting rows: the domain, the lane (relay and sender), the number of recipients.

    An index has the domain, and one has the lane; both together, or recipients, only the rows themselves have.
    """

    domains: bool = False
    lanes: bool = False
    recipients: bool = False


def waiting_rows(engine: Engine, sides: Sides, batch: str | None = None) -> list[WaitingRows]:
    """What is queued, in the outbox or of one batch, by hour and what is asked for; the largest groups first.

    There are MOST_GROUPS groups at most; whatever they leave out is the last one, with no domain.
    """

    def work(connection: Connection) -> list[WaitingRows]:
        now = connection.execute(sa.select(_now(connection))).scalar_one()
        rows = _waiting_rows(sides, batch)
        hours = _hours_ahead(connection, now)
        if batch is not None:  # few rows, and no index has them with their times: they are read once
            groups = _groups(connection, rows, sides, hours)
        else:
            due, later = rows.where(outbox.c.due_at <= now), rows.where(outbox.c.due_at > now)
            groups = [*_groups(connection, due, sides), *_groups(connection, later, sides, hours)]
        if len(groups) < MOST_GROUPS:
            return groups
        groups = sorted(groups, key=lambda group: -group.messages)[:MOST_GROUPS]
        every = int(connection.execute(sa.select(sa.func.count()).select_from(rows.subquery())).scalar_one())
        return [*groups, *_left_out(every - sum(group.messages for group in groups))]

    return transaction(engine, work, reading=True)


def _waiting_rows(sides: Sides, batch: str | None) -> Any:
    lists = (outbox.c.recipients, outbox.c.cc, outbox.c.bcc)
    signs = [sa.func.coalesce(_length(text) - _length(sa.func.replace(text, "@", "")), 0) for text in lists]
    nothing: Any = sa.literal_column("NULL")
    query = sa.select(
        (outbox.c.domain if sides.domains else nothing).label("domain"),
        (outbox.c.lane if sides.lanes else nothing).label("lane"),
        (sum(signs[1:], signs[0]) if sides.recipients else sa.literal_column("1")).label("addresses"),
        outbox.c.due_at,
    ).where(outbox.c.status == "queued")
    return query if batch is None else query.where(outbox.c.batch == batch)


def _hours_ahead(connection: Connection, now: datetime) -> Any:
    """Whole hours from `now` until due; what is due is one, and all that is far away."""
    ahead: Any = sa.text(_HOURS_AHEAD[connection.dialect.name]).bindparams(sa.bindparam("now", now, Utc()))
    is_far = outbox.c.due_at > now + timedelta(hours=FARTHEST_HOUR)
    return sa.case((outbox.c.due_at <= now, -1), (is_far, FARTHEST_HOUR), else_=ahead)


def _groups(connection: Connection, chosen: Any, sides: Sides, hour: Any = None) -> list[WaitingRows]:
    """The largest first; by `hour` where there is one. By nothing else, so that an index has them in order."""
    rows = (chosen if hour is None else chosen.add_columns(hour.label("hour"))).subquery()
    asked = {"domain": sides.domains, "lane": sides.lanes, "hour": hour is not None}
    by = [rows.c[name] for name, is_asked in asked.items() if is_asked]
    count, due = sa.func.count(), (sa.func.min(rows.c.due_at), sa.func.max(rows.c.due_at))
    moments = (sa.type_coerce(moment, Utc) for moment in due)
    shown = [rows.c[name] if asked[name] else sa.literal_column("NULL") for name in ("domain", "lane")]
    query = sa.select(*shown, count, sa.func.sum(rows.c.addresses), *moments)
    found: Any = connection.execute(query.group_by(*by).order_by(count.desc()).limit(MOST_GROUPS)).all()
    return [
        WaitingRows(
            domain=domain,
            relay=(lane or "").partition(" ")[0] or None,
            sender=(lane or "").partition(" ")[2] or None,
            messages=int(messages),
            recipients=int(addresses),
            first_due=first,
            last_due=last,
        )
        for domain, lane, messages, addresses, first, last in found
        if messages
    ]


def _length(text: Any) -> Any:
    return sa.func.length(text)


def _left_out(messages: int) -> list[WaitingRows]:
    if messages <= 0:
        return []
    nobody: dict[str, None] = dict.fromkeys(("domain", "relay", "sender", "first_due", "last_due"))
    return [WaitingRows(messages=messages, recipients=messages, **nobody)]


def has_batch(engine: Engine, batch: str) -> bool:
    """Whether any row, finished or not, is of this batch."""
    query = sa.select(outbox.c.id).where(outbox.c.batch == batch).limit(1)
    return transaction(engine, lambda c: c.execute(query).first() is not None, reading=True)


def speed(engine: Engine) -> float | None:
    """Messages a second: the fastest run of RUN among the last LATELY that were sent within a day; None if too few."""

    def work(connection: Connection) -> list[datetime]:
        query = (
            sa.select(outbox.c.sent_at)
            .where(outbox.c.finished_at > _moment(connection, -86400.0), outbox.c.status == "sent")
            .order_by(outbox.c.finished_at.desc())
            .limit(LATELY)
        )
        return sorted(connection.execute(query).scalars())

    times = transaction(engine, work, reading=True)
    runs = [(last - first).total_seconds() for first, last in zip(times, times[RUN:], strict=False)]
    return RUN / max(min(runs), 0.001) if runs else None


def rows_before(engine: Engine, row: Mapping[str, Any], domains: Sequence[str] | None = None) -> int:
    """How many rows that are due now go before this one: of these domains, or of all."""
    place = sa.or_(
        outbox.c.priority < row["priority"],
        sa.and_(
            outbox.c.priority == row["priority"],
            sa.or_(outbox.c.due_at < row["due_at"], sa.and_(outbox.c.due_at == row["due_at"], outbox.c.id < row["id"])),
        ),
    )

    def work(connection: Connection) -> int:
        query = sa.select(sa.func.count()).where(outbox.c.status == "queued", outbox.c.due_at <= _now(connection))
        if domains is not None:
            query = query.where(outbox.c.domain.in_(domains))
        return int(connection.execute(query.where(place)).scalar_one())

    return transaction(engine, work, reading=True)


def domains_waiting(engine: Engine) -> list[str]:
    """The domains that have queued rows: MOST_GROUPS at most."""
    query = sa.select(outbox.c.domain).distinct().where(outbox.c.status == "queued", outbox.c.domain.is_not(None))
    return transaction(engine, lambda c: list(c.execute(query.limit(MOST_GROUPS)).scalars()), reading=True)


def knows_its_home(engine: Engine) -> bool:
    """Whether a worker has ever entered the address at which the outbox is at home."""
    query = sa.select(meta.c.value).where(meta.c.name == BELONGS_TO)
    return bool(transaction(engine, lambda c: c.execute(query).scalar(), reading=True))
