"""The table outbox_batch: what is known of each batch, and what moved since somebody looked.

Rule 1. A change is made only to what was seen (`version`): of two who change the same batch, one does.
Rule 2. What moved is found by the index of ends. What was missed there (an outcome that was written late) is found by
        looking again at batches that are open, each once in RECHECK_S.

Raises DatabaseUnavailable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.tables import batches, meta, outbox
from poller.outbox.upsert import insert_all_unless_there, upsert
from poller.statuses import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import Connection, Engine

CURSOR: Final = "batches looked"
"""Line of outbox_meta: up to which end of a row the batches are known."""
PAGE: Final = 1000
RECHECK_S: Final = 60.0
OVERLAP_S: Final = 10.0
"""An end is committed a moment after the time that it bears."""
IDLE_S: Final = 60.0
"""Where nothing of a batch ends, it is noted so often that somebody has looked."""
RATE_S: Final = 60.0
FORGET_S: Final = 90 * 86400.0
"""So long after its end a batch is forgotten here; what outbox has of it is not."""
_WAITING = ("queued", "sending")
_HELD = ("in_doubt", "paused")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A batch as its rows are."""

    messages: int = 0
    open: int = 0
    """Queued, or being sent."""
    sent: int = 0
    not_sent: int = 0
    held: int = 0
    """In doubt, or paused."""
    first_attempt_at: datetime | None = None
    last_finished_at: datetime | None = None

    @property
    def ended(self) -> int:
        """Rows that need nothing more."""
        return self.sent + self.not_sent


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A batch as outbox_batch has it."""

    batch: str
    state: str = "open"
    last_finished_at: datetime | None = None
    done_at: datetime | None = None
    taken_until: datetime | None = None
    verdict: str | None = None
    version: int = 0
    """0: it is not there yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """One batch, closely."""

    progress: Progress
    sending: int
    retrying: int
    """Of those that are open: they wait for another try."""
    per_minute: float
    """Ended within RATE_S."""
    state: str
    """As the workers saw it last; "" if they did not."""


_KNOWN = tuple(batches.c[name] for name in Known.__dataclass_fields__)


Judge = Callable[[Known, Progress, datetime], tuple[Mapping[str, Any] | None, bool]]
"""What was known of a batch, how it is, and the time: what is to be written (None: nothing), and whether its beginning
has to be looked at."""


class SharedBatches:
    """Each call is one short transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def look(self, every: float, judge: Judge) -> tuple[list[str], bool]:
        """Write down what became of some that moved. Returns the suspects, and whether more have moved.

        Nothing is looked at if somebody has just done so, in less than half of `every`.
        """

        def work(connection: Connection) -> tuple[list[str], bool]:
            now, place = now_of(connection), _place(connection)
            if place is None:
                _note(connection, _Place(at=now, looked_at=now))
                return [], False
            idle = (now - place.looked_at).total_seconds()
            if idle < every / 2:
                return [], False
            names, end = _moved(connection, place, now)
            if names or idle > IDLE_S:
                _note(connection, end)
            return _follow(connection, names, judge, now), bool(end.name)

        return transaction(self._engine, work)

    def look_again(self, judge: Judge) -> list[str]:
        """The same for some that are open and that nobody has looked at for a while. Old ones are forgotten."""

        def work(connection: Connection) -> list[str]:
            now = now_of(connection)
            _forget(connection, now)
            return _follow(connection, _stale(connection, now), judge, now)

        return transaction(self._engine, work)

    def to_tell(self, quiet: float) -> list[Known]:
        """Those that are done and not told, and that nobody is just telling; a few."""
        return transaction(self._engine, lambda c: _to_tell(c, now_of(c), quiet), reading=True)

    def to_pause(self) -> list[Known]:
        """Those whose pausing somebody has begun and not ended."""
        return transaction(self._engine, lambda c: _to_pause(c, now_of(c)), reading=True)

    def change(self, before: Known, values: Mapping[str, Any], *, seconds: float | None = None) -> Known | None:
        """Change what was seen (Rule 1), and take it for so many `seconds`. None: it is not so any more."""

        def work(connection: Connection) -> Known | None:
            now = now_of(connection)
            taken = {} if seconds is None else {"taken_until": now + timedelta(seconds=seconds)}
            new = {**values, **taken, "version": before.version + 1}
            mine = sa.and_(batches.c.batch == before.batch, batches.c.version == before.version)
            if connection.execute(sa.update(batches).where(mine).values(new)).rowcount != 1:
                return None
            return _known(connection, [before.batch]).get(before.batch)

        return transaction(self._engine, work)

    def known(self, batch: str) -> Known | None:
        """What is known of one."""
        return transaction(self._engine, lambda c: _known(c, [batch]), reading=True).get(batch)

    def progress(self, batch: str) -> Progress:
        """How one is, counted now, by index."""
        found = transaction(self._engine, lambda c: _progress_of(c, [batch]), reading=True)
        return found.get(batch, Progress())

    def detail(self, batch: str) -> Detail:
        """One, closely; counted now, by index."""

        def work(connection: Connection) -> Detail:
            now = now_of(connection)
            mine = sa.select(sa.func.count()).where(outbox.c.batch == batch)
            ended = mine.where(outbox.c.status.in_(TERMINAL), outbox.c.finished_at > now - timedelta(seconds=RATE_S))
            retrying = mine.where(outbox.c.status == "queued", outbox.c.claim_seq > 0, outbox.c.due_at > now)
            known = _known(connection, [batch]).get(batch)
            return Detail(
                progress=_progress_of(connection, [batch]).get(batch, Progress()),
                sending=connection.execute(mine.where(outbox.c.status == "sending")).scalar_one(),
                retrying=connection.execute(retrying).scalar_one(),
                per_minute=connection.execute(ended).scalar_one() * 60.0 / RATE_S,
                state=known.state if known else "",
            )

        return transaction(self._engine, work, reading=True)

    def latest(self, most: int) -> list[dict[str, Any]]:
        """Those that moved last, as the workers saw them."""
        query = sa.select(batches).order_by(batches.c.looked_at.desc(), batches.c.batch).limit(most)
        return transaction(self._engine, lambda c: [dict(row) for row in c.execute(query).mappings()], reading=True)

    def first_ends(self, batch: str, most: int) -> list[str]:
        """What became of the rows that ended first."""
        mine = sa.and_(outbox.c.batch == batch, outbox.c.finished_at.is_not(None))
        query = sa.select(outbox.c.status).where(mine).order_by(outbox.c.finished_at, outbox.c.id).limit(most)
        return transaction(self._engine, lambda c: list(c.execute(query).scalars()), reading=True)

    def now(self) -> datetime:
        """The database's clock."""
        return transaction(self._engine, now_of, reading=True)


# ---- within a transaction


def _follow(connection: Connection, names: Collection[str], judge: Judge, now: datetime) -> list[str]:
    """Write down how these are. Returns the suspects."""
    if not names:
        return []
    seen, were = _progress_of(connection, names), _known(connection, names)
    changes: list[tuple[Known, Mapping[str, Any]]] = []
    suspects = []
    for name in sorted(names):
        before = were.get(name, Known(batch=name))
        after, is_suspect = judge(before, seen.get(name, Progress()), now)
        if after is not None:
            changes.append((before, after))
        if is_suspect:
            suspects.append(name)
    _save(connection, changes, now)
    return suspects


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Up to where somebody has looked: all that ended by then, or those that ended then up to a name."""

    at: datetime
    looked_at: datetime
    name: str = ""


def _place(connection: Connection) -> _Place | None:
    """None: nobody has ever looked."""
    row = connection.execute(sa.select(meta.c.value, meta.c.updated_at).where(meta.c.name == CURSOR)).first()
    if row is None:
        return None
    at, _, name = row.value.partition(" ")
    return _Place(at=datetime.fromisoformat(at), name=name, looked_at=row.updated_at)


def _note(connection: Connection, place: _Place) -> None:
    value = f"{place.at.isoformat()} {place.name}" if place.name else place.at.isoformat()
    upsert(connection, meta, [{"name": CURSOR, "value": value, "updated_at": place.looked_at}])


def _moved(connection: Connection, place: _Place, now: datetime) -> tuple[list[str], _Place]:
    """Batches of which a row ended since then, PAGE at most, in the order of their last end; and where that ends.

    Thousands may end at the same moment, when a person cancels them.
    """
    last = sa.func.max(outbox.c.finished_at)
    since = place.at if place.name else place.at - timedelta(seconds=OVERLAP_S)
    query = (
        sa.select(outbox.c.batch, last)
        .where(outbox.c.status.in_(TERMINAL), outbox.c.finished_at >= since, outbox.c.batch.is_not(None))
        .group_by(outbox.c.batch)
        .order_by(last, outbox.c.batch)
        .limit(PAGE)
    )
    if place.name:
        query = query.having(sa.or_(last > place.at, sa.and_(last == place.at, outbox.c.batch > place.name)))
    found = connection.execute(query).all()
    if len(found) < PAGE:
        return [row[0] for row in found], _Place(at=now, looked_at=now)
    return [row[0] for row in found], _Place(at=found[-1][1], name=found[-1][0], looked_at=now)


def _stale(connection: Connection, now: datetime) -> list[str]:
    """Open batches that nobody has looked at for RECHECK_S, a few."""
    old = batches.c.looked_at < now - timedelta(seconds=RECHECK_S)
    query = sa.select(batches.c.batch).where(batches.c.state == "open", old).order_by(batches.c.looked_at).limit(PAGE)
    return list(connection.execute(query).scalars())


def _progress_of(connection: Connection, names: Collection[str]) -> dict[str, Progress]:
    """Counted now, by index."""
    columns = (
        outbox.c.batch,
        outbox.c.status,
        sa.func.count(),
        sa.func.min(outbox.c.first_attempt_at),
        sa.func.max(outbox.c.finished_at),
    )
    query = sa.select(*columns).where(outbox.c.batch.in_(names)).group_by(outbox.c.batch, outbox.c.status)
    parts: dict[str, list[Any]] = {}
    for batch, *part in connection.execute(query):
        parts.setdefault(batch, []).append(part)
    return {batch: _progress(some) for batch, some in parts.items()}


def _progress(parts: Sequence[Any]) -> Progress:
    counts = {status: int(number) for status, number, *_ in parts}
    total, waiting = sum(counts.values()), sum(counts.get(status, 0) for status in _WAITING)
    held, sent = sum(counts.get(status, 0) for status in _HELD), counts.get("sent", 0)
    return Progress(
        messages=total,
        open=waiting,
        sent=sent,
        held=held,
        not_sent=total - waiting - held - sent,
        first_attempt_at=min((first for _, _, first, _ in parts if first), default=None),
        last_finished_at=max((last for *_, last in parts if last), default=None),
    )


def _known(connection: Connection, names: Collection[str]) -> dict[str, Known]:
    """What is known of these."""
    rows = connection.execute(sa.select(*_KNOWN).where(batches.c.batch.in_(names))).mappings()
    return {row["batch"]: Known(**row) for row in rows}


def _save(connection: Connection, changes: Sequence[tuple[Known, Mapping[str, Any]]], now: datetime) -> None:
    """Rule 1, for many; what is not so any more is looked at again next time."""
    if not changes:
        return
    mine = sa.and_(batches.c.batch == sa.bindparam("seen_batch"), batches.c.version == sa.bindparam("seen_version"))
    names = list(changes[0][1])
    new = [{"batch": one.batch, **values, "looked_at": now, "version": 1} for one, values in changes if not one.version]
    old = [
        {"seen_batch": one.batch, "seen_version": one.version, **values, "looked_at": now, "version": one.version + 1}
        for one, values in changes
        if one.version
    ]
    insert_all_unless_there(connection, batches, new)
    if old:
        fields = {name: sa.bindparam(name, type_=batches.c[name].type) for name in (*names, "looked_at", "version")}
        connection.execute(sa.update(batches).where(mine).values(fields), old)


def _to_tell(connection: Connection, now: datetime, quiet: float) -> list[Known]:
    """Those that are done and not told, and that nobody is just telling; a few."""
    free = sa.or_(batches.c.taken_until.is_(None), batches.c.taken_until < now)
    done = batches.c.done_at <= now - timedelta(seconds=quiet)
    query = sa.select(*_KNOWN).where(batches.c.state.in_(("settling", "telling")), free, done)
    return [Known(**row) for row in connection.execute(query.order_by(batches.c.done_at).limit(PAGE)).mappings()]


def _to_pause(connection: Connection, now: datetime) -> list[Known]:
    """Those whose pausing somebody has begun and not ended."""
    query = sa.select(*_KNOWN).where(
        batches.c.state == "open", batches.c.verdict == "pausing", batches.c.taken_until < now
    )
    return [Known(**row) for row in connection.execute(query).mappings()]


def _forget(connection: Connection, now: datetime) -> None:
    """What ended long ago."""
    old = batches.c.looked_at < now - timedelta(seconds=FORGET_S)
    connection.execute(sa.delete(batches).where(batches.c.state == "done", old))
