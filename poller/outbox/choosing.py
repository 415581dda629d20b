"""A claim that is paced: the scopes are locked, candidates shown, and the rows that may go are named; one transaction.

Rule 1. Who chooses sees the scopes as nobody else can change them until this transaction ends, and the database's time
        after they were locked.
Rule 2. What is chosen and what is written down about it become true together, or not at all.
Rule 3. Where most of a page may not go, the next page is shown: MOST_PAGES at most, the last ones from where the last
        claim ended. Where nothing more may go of a sender or a named relay, the walk begins again behind all of theirs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from poller.outbox.throttling import WAITED_FOR, enter, lock, now_on, write
from poller.pacing.gate import Candidate, Choice, Grant, Record
from poller.pacing.state_row import as_row

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import Connection

    from poller.outbox.walk import Page, Walk
    from poller.pacing.gate import Choose, Gate, ScopeKey
    from poller.pacing.limits import Scope

MOST_PAGES = 10


def unpaced(connection: Connection, gate: Gate, walk: Walk) -> dict[int, Grant]:
    """Whatever the walk finds may go, by row id."""
    return {row.id: Grant() for row in walk.first(connection, gate).rows}


def chosen(
    connection: Connection, gate: Gate, choose: Choose, walk: Walk
) -> tuple[dict[int, Grant], Collection[ScopeKey]]:
    """Which of the rows that the walk finds may go, by row id, and which scopes were there and free.

    Rows and scopes are locked; the scopes' new states are written.
    """
    records = lock_scopes(connection, gate.scopes)
    now = now_on(connection)
    grants: dict[int, Grant] = {}
    states: dict[ScopeKey, Scope] = {}
    asked: set[int] = set()
    page = walk.first(connection, gate)
    for _ in range(MOST_PAGES):
        shown = [candidate for candidate in candidates(page) if candidate.id not in asked]
        asked |= {candidate.id for candidate in shown}
        choice = choose(shown, {**records, **_written(records, states)}, now) if shown else Choice()
        grants |= {row.id: choice.grants[row.id] for row in shown if row.id in choice.grants}
        states |= choice.states
        if len(grants) >= gate.limit:
            break
        if not choice.closed_lanes <= set(gate.closed_lanes):
            gate = replace(gate, closed_lanes=tuple(sorted({*gate.closed_lanes, *choice.closed_lanes})))
            page = walk.first(connection, gate)
        elif page.end is None:
            break
        else:
            page = walk.next(connection, gate, page, gate.limit - len(grants))
    _require_locked(states, records)
    write(connection, states)
    return grants, records.keys()


def lock_scopes(connection: Connection, scopes: Sequence[ScopeKey]) -> dict[ScopeKey, Record]:
    """The locked scopes. Those that are missing among the waited-for are inserted."""
    records = lock(connection, scopes, waiting=False)
    missing = [key for key in scopes if key.kind in WAITED_FOR and key not in records]
    if missing:
        enter(connection, missing)
        records |= lock(connection, missing, waiting=False)
    return records


def candidates(page: Page) -> list[Candidate]:
    """What is shown to the one who chooses."""
    return [candidate(row) for row in page.rows]


def candidate(row: Any) -> Candidate:
    """One row of `poller.outbox.dialect.COLUMNS`."""
    return Candidate(
        id=row.id,
        domain=row.domain,
        relay=row.relay,
        sender=row.sender,
        lane=row.lane,
        recipients=row.recipients,
        cc=row.cc,
        bcc=row.bcc,
        priority=row.priority,
        due_at=row.due_at,
    )


def _written(records: dict[ScopeKey, Record], states: dict[ScopeKey, Scope]) -> dict[ScopeKey, Record]:
    """The scopes as they will be."""
    return {key: replace(records[key], values=as_row(state)) for key, state in states.items() if key in records}


def _require_locked(states: dict[ScopeKey, Scope], records: dict[ScopeKey, Record]) -> None:
    """To write what somebody else has locked or changed meanwhile would give a limit twice."""
    strange = next((key for key in states if key not in records), None)
    if strange is not None:
        raise ValueError(f"a state was chosen for {strange}, which this claim has not locked; choose among those shown")
