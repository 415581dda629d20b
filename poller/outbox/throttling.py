"""The table outbox_throttle: what is known of each scope, shared by all workers.

Rule 1. Anyone who changes a scope has its row locked. Locks are taken in one order: outbox, relays, then the others by
        kind and name. A claim, which needs many, waits for none of those others.
Rule 2. What a hand or an accident did to a row raises nothing here. Values are given as they stand: he who reads them
        has them repaired.
Rule 3. Times are the database's.

`Throttles` is the delivering thread's; the functions belong in a transaction of somebody else's.
Raises DatabaseUnavailable when the database is away.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import sqlalchemy as sa

from poller.outbox.database import transaction
from poller.outbox.dialects import dialect_of
from poller.outbox.tables import Utc, throttle
from poller.outbox.tables import worker as worker_table
from poller.outbox.upsert import insert_unless_there
from poller.pacing.gate import Record, ScopeKey, Share
from poller.pacing.limits import Limit, Scope
from poller.pacing.state_row import MOST_TEXT, as_row, repaired, unsent

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine

    from poller.outbox.rows import ClaimedRow

T = TypeVar("T")
MOST_READ = 10_000
"""Scopes; those that say nothing are read last, and the domains among them."""
MOST_NAMES = 500
"""In one statement."""
WAITED_FOR = ("outbox", "relay")
Learnt = Literal["session_limit", "recipient_limit"]
"""Messages on one connection, recipients in one transaction: columns, and fields of Record."""
GEARS = ("off", "transaction", "overlap")
"""Of outbox_throttle.pipelining, the most careful first."""

_COLUMNS = (
    "kind, name, limits, limit_override, overridden_by, roused_at, session_limit, recipient_limit, pipelining,"
    " pipelining_reason, slots, paused_until, reason, pace"
)
# Bare text: values come as the driver gives them, and a time that can't be read breaks nothing.
# What holds mail back comes first: no pause is missed for the number of those that say nothing.
_READ = sa.text(
    f"SELECT {_COLUMNS} FROM outbox_throttle"
    " ORDER BY CASE WHEN paused_until IS NOT NULL OR pace < :whole OR limit_override IS NOT NULL THEN 0 ELSE 1 END,"
    " kind DESC, name"
    f" LIMIT {MOST_READ}"
).bindparams(whole=1.0)
_WRITE = (
    "UPDATE outbox_throttle SET slots = :slots, paused_until = :paused_until, reason = :reason, pace = :pace,"
    " updated_at = {now} WHERE kind = :kind AND name = :name"
)
_CONNECTED = "SELECT connected_to FROM outbox_worker WHERE connected_to IS NOT NULL AND lease_until > {now} AND name"


class Throttles:
    """The scopes of one outbox, as one worker reads and changes them. Each call is one short transaction."""

    def __init__(self, engine: Engine, *, worker: str) -> None:
        self.engine = engine
        self.worker = worker

    def read(self) -> dict[ScopeKey, Record]:
        """All scopes, locking nothing; at most MOST_READ."""
        return transaction(self.engine, lambda c: _records(c.execute(_READ)), reading=True)

    def change(self, key: ScopeKey, how: Callable[[Record, datetime], Scope]) -> Scope:
        """Write down what `how` makes of a scope as it stands, at this time; returns the same."""

        def work(connection: Connection) -> Scope:
            record = _one(connection, key)
            state = how(record, now_on(connection))
            write(connection, {key: state})
            return state

        return self._write(work)

    def announce(self, limits: Mapping[ScopeKey, str]) -> None:
        """Write down what the configuration allows, in words. What it no longer limits, and says nothing more, goes."""

        def work(connection: Connection) -> None:
            now = now_on(connection)
            there = _records(connection.execute(_READ))
            old = [key for key, record in there.items() if key not in limits and _may_go(record, now)]
            enter(connection, limits)
            for key, record in lock(connection, [*limits, *old], waiting=True).items():
                if key not in limits and _says_nothing(record, now):
                    connection.execute(sa.delete(throttle).where(_is(key)))
                elif record.limits != limits.get(key):
                    connection.execute(sa.update(throttle).where(_is(key)).values(limits=limits.get(key)))

        self._write(work)

    def learn(self, key: ScopeKey, what: Learnt, limit: int) -> int:
        """Keep how many messages or recipients a relay takes: the least that it ever said. Returns that."""

        def work(connection: Connection) -> int:
            known: int | None = getattr(_one(connection, key), what)
            least = max(1, limit if known is None else min(known, limit))
            if least != known:
                connection.execute(sa.update(throttle).where(_is(key)).values({what: least}))
            return least

        return self._write(work)

    def lower(self, key: ScopeKey, pipelining: str, reason: str) -> None:
        """Keep the gear that a relay was found to bear at most. One that is lower already stays (GEARS)."""

        def work(connection: Connection) -> None:
            known = _one(connection, key).pipelining
            if known is None or GEARS.index(pipelining) < GEARS.index(known):
                values = {"pipelining": pipelining, "pipelining_reason": reason[:MOST_TEXT]}
                connection.execute(sa.update(throttle).where(_is(key)).values(values))

        self._write(work)

    def connect(self, relay: str, most: int) -> bool:
        """Enter that we hold a connection to `relay`; False if `most` others do, whose leases have not ended."""

        def work(connection: Connection) -> bool:
            _one(connection, ScopeKey("relay", relay))
            query = sa.text(f"{_CONNECTED.format(now=_now(connection))} <> :worker")
            held = connection.execute(query, {"worker": self.worker}).scalars()
            if sum(relay in names.split() for names in held) >= most:
                return False
            return self._enter(connection, {*self._entered(connection), relay}) == 1

        return self._write(work)

    def disconnect(self, relay: str) -> None:
        """Enter that we hold none to `relay` any more."""
        self._write(lambda c: self._enter(c, self._entered(c) - {relay}))

    def _entered(self, connection: Connection) -> set[str]:
        query = sa.select(worker_table.c.connected_to).where(worker_table.c.name == self.worker)
        return set((connection.execute(query).scalar() or "").split())

    def _enter(self, connection: Connection, relays: Collection[str]) -> int:
        """The names of relays have no spaces."""
        mine = worker_table.c.name == self.worker
        names = " ".join(sorted(relays)) or None
        return connection.execute(sa.update(worker_table).where(mine).values(connected_to=names)).rowcount

    def _write(self, work: Callable[[Connection], T]) -> T:
        return transaction(self.engine, work)


# ---- within a transaction


def enter(connection: Connection, keys: Iterable[ScopeKey]) -> None:
    """Insert the rows of these scopes, unless they are there.

    Looked for first: on MariaDB an INSERT IGNORE waits for the one who has the row locked.
    """
    wanted = in_order(keys)
    there = {key for part in _parts(wanted) for key in _chosen(connection, part, "")}
    for key in wanted:
        if key not in there:
            insert_unless_there(connection, throttle, {"kind": key.kind, "name": key.name})


def lock(connection: Connection, keys: Collection[ScopeKey], *, waiting: bool) -> dict[ScopeKey, Record]:
    """Lock the rows of these scopes until the end of the transaction, as far as they are there.

    Those of the outbox and of relays are waited for; the others only if `waiting`, else they are left out while
    somebody has them.
    """
    found: dict[ScopeKey, Record] = {}
    first = [key for key in in_order(keys) if key.kind in WAITED_FOR]
    rest = [key for key in in_order(keys) if key.kind not in WAITED_FOR]
    for some, skip in ((first, ""), (rest, "" if waiting else " SKIP LOCKED")):
        row_lock = dialect_of(connection).row_lock
        for part in _parts(some):
            found |= _chosen(connection, part, f"{row_lock}{skip}" if row_lock else "")
    return found


def write(connection: Connection, states: Mapping[ScopeKey, Scope]) -> None:
    """Write these states into the rows of their scopes, which are locked."""
    if not states:
        return
    statement = sa.text(_WRITE.format(now=_now(connection))).bindparams(sa.bindparam("paused_until", type_=Utc()))
    rows = [{"kind": key.kind, "name": key.name, **as_row(states[key])} for key in in_order(states)]
    connection.execute(statement, rows)


def give_back(connection: Connection, rows: Iterable[ClaimedRow]) -> None:
    """Let the scopes forget `rows`, which were granted and were not sent; but a scope that somebody has locked.

    Quotas get everything back; a pace only if nobody has taken since.
    """
    lost: dict[ScopeKey, list[tuple[datetime, Share]]] = {}
    for row in rows:
        for share in row.grant.scopes:
            lost.setdefault(share.key, []).append((row.grant.at or row.claimed_at, share))
    if not lost:
        return
    for key, record in lock(connection, lost, waiting=False).items():
        before = record.values["slots"]
        after = unsent(before, lost[key])
        if after != before:
            connection.execute(
                sa.update(throttle).where(_is(key)).values(slots=after, updated_at=sa.text(_now(connection)))
            )


def now_on(connection: Connection) -> datetime:
    """The database's clock, aware UTC."""
    return connection.execute(sa.select(sa.literal_column(_now(connection), type_=Utc()))).scalar_one()


def in_order(keys: Iterable[ScopeKey]) -> list[ScopeKey]:
    """The order of locks (Rule 1)."""
    return sorted(set(keys), key=lambda key: (key.kind not in WAITED_FOR, key))


# ---- inside


def _now(connection: Connection) -> str:
    return dialect_of(connection).now


def _is(key: ScopeKey) -> sa.ColumnElement[bool]:
    return sa.and_(throttle.c.kind == key.kind, throttle.c.name == key.name)


def _one(connection: Connection, key: ScopeKey) -> Record:
    """One scope's row, locked; inserted if need be."""
    found = lock(connection, [key], waiting=True)
    if not found:
        enter(connection, [key])
        found = lock(connection, [key], waiting=True)
    return found[key]


def _parts(keys: Sequence[ScopeKey]) -> Iterable[Sequence[ScopeKey]]:
    return (keys[begin : begin + MOST_NAMES] for begin in range(0, len(keys), MOST_NAMES))


def _chosen(connection: Connection, keys: Sequence[ScopeKey], row_lock: str) -> dict[ScopeKey, Record]:
    names: dict[str, list[str]] = {}
    for key in keys:
        names.setdefault(key.kind, []).append(key.name)
    chosen = " OR ".join(f"(kind = '{kind}' AND name IN :{kind})" for kind in names)
    hint = " FORCE INDEX (PRIMARY)" if connection.dialect.name in {"mysql", "mariadb"} else ""
    statement = sa.text(f"SELECT {_COLUMNS} FROM outbox_throttle{hint} WHERE {chosen} ORDER BY kind, name {row_lock}")
    wanted = statement.bindparams(*(sa.bindparam(kind, expanding=True) for kind in names))
    return _records(connection.execute(wanted, names))


def _records(rows: Iterable[Any]) -> dict[ScopeKey, Record]:
    return {
        ScopeKey(row.kind, row.name): Record(
            values={
                "slots": row.slots,
                "paused_until": _aware(row.paused_until),
                "reason": row.reason,
                "pace": row.pace,
            },
            limits=row.limits,
            limit_override=row.limit_override,
            overridden_by=row.overridden_by,
            roused_at=str(row.roused_at) if row.roused_at is not None else None,
            session_limit=row.session_limit,
            recipient_limit=row.recipient_limit,
            pipelining=row.pipelining,
            pipelining_reason=row.pipelining_reason,
        )
        for row in rows
    }


def _aware(value: Any) -> Any:
    """A time in UTC; what is none is left for `repaired` to speak of."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return value
    if not isinstance(moment, datetime):
        return value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _may_go(record: Record, now: datetime) -> bool:
    return record.limits is not None or _says_nothing(record, now)


def _says_nothing(record: Record, now: datetime) -> bool:
    """But for what is configured: nothing is overridden, learnt, paused or slow, and nobody complained."""
    state, _ = repaired(Limit(), record.values, now)
    is_over = state.paused_until is None or state.paused_until <= now
    known = replace(state, paused_until=None, reason="", free_at=None, gap_until=None)
    learnt = (record.limit_override, record.session_limit, record.recipient_limit, record.pipelining)
    is_known = any(value is not None for value in learnt)
    return not is_known and is_over and known == Scope()
