"""Deleting what is done, after its time: rows, what belongs to them, and history.

Rule 1. A row that has not ended is never touched, nor one that somebody has locked.
Rule 2. Small portions, each in a transaction of its own, with a pause behind it: no claim waits for longer than one.
Rule 3. A row goes with its recipients, attachments, history and what is kept of its content. Of rows that stay, what is
        kept has a time of its own; so has history, also of rows that somebody else deleted. That of a row that has not
        ended stays.

Raises DatabaseUnavailable; what was deleted until then is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox import blobs
from poller.outbox.clock import now_of
from poller.outbox.content import purge_portion
from poller.outbox.database import transaction
from poller.outbox.suppression import delete_ended
from poller.outbox.tables import attachment, attempt, content, outbox, recipient
from poller.statuses import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

    from poller.outbox.settings import RetentionSettings

PORTION = 500
"""Rows in one transaction: some ten milliseconds, on SQLite too, where all others wait meanwhile."""
FEW = 20
"""Shared files: they may be large."""
PAUSE_S = 0.05
"""Between two portions."""


@dataclass(kw_only=True)
class Purged:
    """How many of each were deleted."""

    rows: int = 0
    attempts: int = 0
    """History lines of rows that are kept, or that somebody else had deleted."""
    kept: int = 0
    """Copies of what was sent, of rows that are kept."""
    blobs: int = 0
    """Shared files that no row names any more."""
    suppressions: int = 0
    """Lines of the suppression list whose time was over."""


def purge(
    engine: Engine, settings: RetentionSettings, *, wait: Callable[[float], object], portion: int = PORTION
) -> Purged:
    """Delete all that is past its time. `wait` pauses for so many seconds; what it returns, if true, ends the work."""
    purged = Purged()
    now = transaction(engine, now_of, reading=True)
    for kind, one_portion in _portions(settings, now, portion):
        while deleted := transaction(engine, one_portion):
            setattr(purged, kind, getattr(purged, kind) + deleted)
            if wait(PAUSE_S):
                return purged
    if settings.attempts is not None:
        before = now - timedelta(seconds=settings.attempts)
        purged.attempts = _history(engine, before, wait=wait, portion=portion)
    return purged


def _portions(
    settings: RetentionSettings, now: datetime, portion: int
) -> Iterator[tuple[str, Callable[[Connection], int]]]:
    """What deletes one portion, and what it is called in `Purged`."""
    for status, keep in _kept(settings):
        yield "rows", partial(_rows, status=status, before=now - keep, portion=portion)
    if settings.kept is not None:
        before = now - timedelta(seconds=settings.kept)
        yield "kept", partial(purge_portion, before=before, portion=portion)
    if settings.suppressions is not None:
        before = now - timedelta(seconds=settings.suppressions)
        yield "suppressions", partial(delete_ended, before=before, portion=portion)
    if settings.is_set:
        yield "blobs", partial(blobs.purge_portion, now=now, portion=FEW)


def due_for_purge(engine: Engine, settings: RetentionSettings) -> int:
    """How many rows are past their time."""

    def work(connection: Connection) -> int:
        now = now_of(connection)
        counts = (
            sa.select(sa.func.count()).where(outbox.c.status == status, outbox.c.finished_at < now - keep)
            for status, keep in _kept(settings)
        )
        return sum(int(connection.execute(query).scalar_one()) for query in counts)

    return transaction(engine, work, reading=True)


def _kept(settings: RetentionSettings) -> list[tuple[str, timedelta]]:
    """Each status by itself: an index has its rows in the order of their end, and no others are sorted, or locked."""
    kept = ((status, settings.sent if status == "sent" else settings.failed) for status in TERMINAL)
    return [(status, timedelta(seconds=keep)) for status, keep in kept if keep is not None]


def _rows(connection: Connection, status: str, before: datetime, portion: int) -> int:
    """One portion of rows, the longest done first, with all that is theirs."""
    done = sa.and_(outbox.c.status == status, outbox.c.finished_at < before)
    query = sa.select(outbox.c.id).where(done).order_by(outbox.c.finished_at).limit(portion)
    ids = list(connection.execute(query.with_for_update(skip_locked=True)).scalars())
    if ids:
        for table in (attempt, recipient, attachment, content):
            connection.execute(sa.delete(table).where(table.c.outbox_id.in_(ids)))
        connection.execute(sa.delete(outbox).where(outbox.c.id.in_(ids)))
    return len(ids)


def _history(engine: Engine, before: datetime, *, wait: Callable[[float], object], portion: int) -> int:
    """Walk through the history in its order until it is too young; returns how many lines were deleted."""
    deleted, last = 0, 0
    while seen := transaction(engine, partial(_lines, after=last, before=before, portion=portion), reading=True):
        last = seen[-1].id
        gone = [line.id for line in seen if line.at < before and (line.status is None or line.finished_at is not None)]
        if gone:
            transaction(engine, partial(_delete_lines, ids=gone))
            deleted += len(gone)
        if wait(PAUSE_S if gone else 0.0):
            break
    return deleted


def _delete_lines(connection: Connection, ids: Sequence[int]) -> None:
    connection.execute(sa.delete(attempt).where(attempt.c.id.in_(ids)))


def _lines(connection: Connection, after: int, before: datetime, portion: int) -> Sequence[Any]:
    """The next lines, none where all of them are younger."""
    query = (
        sa.select(attempt.c.id, attempt.c.at, outbox.c.status, outbox.c.finished_at)
        .select_from(attempt.outerjoin(outbox, outbox.c.id == attempt.c.outbox_id))
        .where(attempt.c.id > after)
        .order_by(attempt.c.id)
        .limit(portion)
    )
    found = connection.execute(query).all()
    return found if any(line.at < before for line in found) else ()
