"""What a person orders of limits and relays, for all workers: lines of outbox_throttle.

Rule 1. An override holds instead of what is configured, up as well as down, until it is cleared: over restarts too.
        What was taken of the pace is forgotten, so that a faster one holds at once; what was used of quotas is not.
Rule 2. The end of a pause or of a rest is one order, not a setting: the next complaint or trouble makes another.
Rule 3. Who ordered it is written down beside it.

Workers read all this every second, and at each claim that falls under it.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.clock import now_in_sql, now_of
from poller.outbox.database import transaction
from poller.outbox.tables import throttle
from poller.outbox.throttling import enter, lock
from poller.pacing.gate import ScopeKey

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.engine import Connection, Engine

MOST_BY = 255
"""Characters of outbox_throttle.overridden_by."""
_OF_THE_PACE = ("next", "gap")
"""What outbox_throttle.slots has of it."""


def override(engine: Engine, key: ScopeKey, words: str | None, *, by: str) -> None:
    """Allow so much there from now on, in the words of `poller.pacing.words`; None: what is configured (Rule 1)."""
    transaction(engine, partial(_override, key=key, words=words, by=by))


def _override(connection: Connection, *, key: ScopeKey, words: str | None, by: str) -> None:
    enter(connection, [key])
    record = lock(connection, [key], waiting=True)[key]
    when = f"{now_of(connection):%Y-%m-%d %H:%M} UTC"
    values = {
        "limit_override": words,
        "overridden_by": f"{by}, {when}"[:MOST_BY] if words else None,
        "slots": _without_pace(record.values["slots"]),
    }
    _update(connection, sa.and_(throttle.c.kind == key.kind, throttle.c.name == key.name), values)


def _without_pace(slots: Any) -> Any:
    try:
        kept = {name: value for name, value in json.loads(slots or "{}").items() if name not in _OF_THE_PACE}
    except (ValueError, TypeError, AttributeError):
        return None
    return json.dumps(kept) if kept else None


def at_pace(engine: Engine, key: ScopeKey, share: float, *, by: str) -> None:
    """Let a scope go at this share of its limit, above 0 and at most 1; acceptances raise it as ever."""

    def work(connection: Connection) -> None:
        enter(connection, [key])
        record = lock(connection, [key], waiting=True)[key]
        values = {"pace": share, "reason": f"set by {by}" if share < 1 else None}
        kept = _without_pace(record.values["slots"])
        mine = sa.and_(throttle.c.kind == key.kind, throttle.c.name == key.name)
        _update(connection, mine, values | {"slots": kept})

    transaction(engine, work)


def pauses(engine: Engine, keys: Collection[ScopeKey] | None) -> list[ScopeKey]:
    """Of these scopes, or of all, those that pause now."""
    return transaction(engine, partial(_pausing, keys=keys), reading=True)


def end_pauses(engine: Engine, keys: Collection[ScopeKey] | None) -> list[ScopeKey]:
    """End the pauses of these scopes, or of all (Rule 2). Returns whose."""

    def work(connection: Connection) -> list[ScopeKey]:
        found = _pausing(connection, keys=keys)
        for key in lock(connection, found, waiting=True):
            mine = sa.and_(throttle.c.kind == key.kind, throttle.c.name == key.name)
            _update(
                connection, mine, {"paused_until": None, "reason": sa.case((throttle.c.pace < 1, throttle.c.reason))}
            )
        return found

    return transaction(engine, work)


def _pausing(connection: Connection, *, keys: Collection[ScopeKey] | None) -> list[ScopeKey]:
    query = sa.select(throttle.c.kind, throttle.c.name).where(throttle.c.paused_until > now_in_sql(connection))
    found = [ScopeKey(row.kind, row.name) for row in connection.execute(query)]
    return sorted(key for key in found if keys is None or key in keys)


def rouse(engine: Engine, relays: Collection[str]) -> None:
    """End the rest of these relays with every worker (Rule 2)."""
    keys = [ScopeKey("relay", name) for name in relays]

    def work(connection: Connection) -> None:
        enter(connection, keys)
        for key in lock(connection, keys, waiting=True):
            mine = sa.and_(throttle.c.kind == key.kind, throttle.c.name == key.name)
            _update(connection, mine, {"roused_at": now_in_sql(connection)})

    transaction(engine, work)


def _update(connection: Connection, which: sa.ColumnElement[bool], values: dict[str, Any]) -> None:
    stamped = values | {"updated_at": now_in_sql(connection)}
    connection.execute(sa.update(throttle).where(which).values(stamped))
