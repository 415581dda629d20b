"""What waits, how fast it goes, and how the limits stand: what a forecast and an explanation are made from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.clock import now_in_sql, now_of
from poller.outbox.database import transaction
from poller.outbox.tables import Utc, outbox, throttle
from poller.pacing.gate import Record, ScopeKey
from poller.pacing.state_row import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

MOST_GROUPS = 10_000
"""Of what waits; of scopes as well. The rest is one group more, or left out."""
FARTHEST_HOUR = 168
"""What is due later than in a week goes into one group."""
LATELY = 500
"""Messages by which the speed is measured."""
RUN = 10
"""Messages in a row, the fastest of which count: few, so that they lie between two pauses of a batch."""


_SAID = (
    "limits", "limit_override", "overridden_by", "session_limit", "recipient_limit", "pipelining", "pipelining_reason"
)  # fmt: skip


def throttles(engine: Engine) -> dict[ScopeKey, Record]:
    """Every row of outbox_throttle, unjudged: MOST_GROUPS at most."""

    def work(connection: Connection) -> dict[ScopeKey, Record]:
        query = sa.select(throttle).order_by(throttle.c.kind, throttle.c.name).limit(MOST_GROUPS)
        return {
            ScopeKey(row["kind"], row["name"]): Record(
                values={name: row[name] for name in COLUMNS},
                **{name: row[name] for name in _SAID},
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
        now = now_of(connection)
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
            .where(outbox.c.finished_at > now_of(connection) - timedelta(days=1), outbox.c.status == "sent")
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
        query = sa.select(sa.func.count()).where(outbox.c.status == "queued", outbox.c.due_at <= now_in_sql(connection))
        if domains is not None:
            query = query.where(outbox.c.domain.in_(domains))
        return int(connection.execute(query.where(place)).scalar_one())

    return transaction(engine, work, reading=True)


def domains_waiting(engine: Engine) -> list[str]:
    """The domains that have queued rows: MOST_GROUPS at most."""
    query = sa.select(outbox.c.domain).distinct().where(outbox.c.status == "queued", outbox.c.domain.is_not(None))
    return transaction(engine, lambda c: list(c.execute(query.limit(MOST_GROUPS)).scalars()), reading=True)
