"""How it goes, for anyone who watches: the rate, what ended last, batches and destinations. Reads only, by index."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.tables import Utc, outbox
from poller.statuses import FAILURES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

STEPS, STEP_S = 30, 10.0
"""Of the rate: five minutes."""
LATEST = 8
MOST_BATCHES = 200
MOST_DOMAINS = 100
ACCEPTED = ("sent", "partial")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Messages accepted in each of the last STEPS times STEP_S, the oldest first, and the rows that ended last."""

    accepted: tuple[int, ...]
    latest: tuple[Mapping[str, Any], ...]

    @property
    def per_second(self) -> float:
        """In the last step."""
        return self.accepted[-1] / STEP_S


def pace(engine: Engine) -> Pace:
    """How fast it goes now."""
    return transaction(engine, _pace, reading=True)


def _pace(connection: Connection) -> Pace:
    now = now_of(connection)
    edges = [now - timedelta(seconds=STEP_S * step) for step in range(STEPS, -1, -1)]
    steps = [_accepted(*edges[n : n + 2]).label(f"step_{n}") for n in range(STEPS)]
    ended = (row for status in (*ACCEPTED, *FAILURES) for row in connection.execute(_last(status)).mappings())
    rows = {row["id"]: dict(row) for row in ended}
    latest = sorted(rows.values(), key=lambda row: (row["finished_at"], row["id"]), reverse=True)
    return Pace(accepted=tuple(connection.execute(sa.select(*steps)).one()), latest=tuple(latest[:LATEST]))


def _accepted(begin: datetime, end: datetime) -> Any:
    between = sa.and_(outbox.c.finished_at > begin, outbox.c.finished_at <= end)
    query = sa.select(sa.func.count()).select_from(outbox).where(outbox.c.status.in_(ACCEPTED), between)
    return query.scalar_subquery()


def _last(status: str) -> Any:
    columns = [outbox.c[name] for name in ("id", "status", "recipients", "cc", "bcc", "subject", "template", "error")]
    query = sa.select(*columns, outbox.c.finished_at, outbox.c.reply_text)
    query = query.where(outbox.c.status == status, outbox.c.finished_at.is_not(None))
    return query.order_by(outbox.c.finished_at.desc()).limit(LATEST)


_PROGRESS = sa.text("SELECT * FROM outbox_batch_progress ORDER BY first_attempt_at DESC LIMIT :most")
_ONE_BATCH = sa.text("SELECT * FROM outbox_batch_progress WHERE batch = :batch")
_TYPES: Any = {
    "percent_done": sa.Numeric(asdecimal=False),
    "first_attempt_at": Utc(),
    "last_finished_at": Utc(),
}


def batches(engine: Engine) -> list[Mapping[str, Any]]:
    """The progress of each: MOST_BATCHES at most, what began last first."""
    query = _PROGRESS.columns(**_TYPES).bindparams(most=MOST_BATCHES)
    return transaction(engine, lambda c: [dict(row) for row in c.execute(query).mappings()], reading=True)


def batch_named(engine: Engine, batch: str) -> Mapping[str, Any] | None:
    """The progress of one; None if there is none of this name."""
    query = _ONE_BATCH.columns(**_TYPES).bindparams(batch=batch)
    found = transaction(engine, lambda c: c.execute(query).mappings().first(), reading=True)
    return dict(found) if found else None


_DOMAINS = sa.text("""
SELECT * FROM outbox_domains ORDER BY queued + sending + in_doubt DESC, failed DESC, sent DESC LIMIT :most""")


def destinations(engine: Engine) -> list[Mapping[str, Any]]:
    """What is open for each domain, and what became of the last hour's: MOST_DOMAINS at most, the fullest first."""
    query = _DOMAINS.bindparams(most=MOST_DOMAINS)
    return transaction(engine, lambda c: [dict(row) for row in c.execute(query).mappings()], reading=True)
