"""Pure: what a scope does when a reply asks for something, and when messages are accepted again.

Rule 1. "Slow down" halves the pace, once for each complaint however many voices it has: what is heard while the scope
        pauses, or before anything was accepted again, is the same complaint.
Rule 2. It pauses too: for as long as was asked, else from FIRST_PAUSE_S, doubling while nothing is accepted, up to
        LONGEST_PAUSE_S.
Rule 3. RAISE_AFTER acceptances, and RAISE_EVERY_S, after its last change the pace is raised by a step; when it is whole
        again nothing remains. Steps are a share of the present pace: the lower it is, the more gently it rises.
Rule 4. A scope without a rate of its own is slowed from what was seen to go when it complained.

Time is passed in, aware UTC. Raises nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from poller.throttle.limits import HALF, Scope, is_resting, per_second, rate_of
from poller.units import Rate

if TYPE_CHECKING:
    from datetime import datetime

    from poller.throttle.limits import Limit

FLOOR = Rate(count=1, period=60)
"""No complaint lowers a pace below this, or below LEAST_PACE of what it was, whichever is less."""
LEAST_PACE = 1 / 16
RAISE = 1.25
"""The step by which a pace is raised: from a half back to the whole in four."""
RAISE_AFTER = 10
"""Acceptances; fewer prove nothing."""
RAISE_EVERY_S = 900.0
"""Blocks of ten minutes are usual; a rate must have held for longer than that before it is raised."""
FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 3600.0


def least_pace(limit: Limit, pace_of: Rate | None) -> float:
    """Below this no complaint lowers the pace."""
    rate = rate_of(limit, Scope(pace=HALF, pace_of=pace_of))
    return min(LEAST_PACE, per_second(FLOOR) / per_second(rate)) if rate else LEAST_PACE


def paused(state: Scope, until: datetime, reason: str) -> Scope:
    """Nothing goes before `until`. A longer pause that was already there stays."""
    if state.paused_until is not None and state.paused_until >= until:
        return state
    return replace(state, paused_until=until, reason=reason)


def slow_down(
    limit: Limit, state: Scope, now: datetime, *, reason: str, pause: float | None = None, seen: Rate | None = None
) -> Scope:
    """What follows from "slow down". `pause` is the seconds that were asked for.

    `seen` is what went of late, if somebody counted: for a scope without a rate it is what the pace is a share of.
    """
    if is_resting(state, now):
        return paused(state, now + timedelta(seconds=pause), reason) if pause else state
    if pause is None:
        pause = min(FIRST_PAUSE_S * 2.0 ** min(state.complaints, 30), LONGEST_PAUSE_S)
    slower = state if state.complaints else _halved(limit, state, now, seen)
    until = now + timedelta(seconds=pause)
    return replace(slower, paused_until=until, reason=reason, complaints=state.complaints + 1)


def _halved(limit: Limit, state: Scope, now: datetime, seen: Rate | None) -> Scope:
    whole = state if state.pace < 1 else replace(state, pace_of=seen)
    least = min(least_pace(limit, whole.pace_of), state.pace)
    return replace(whole, pace=max(state.pace * HALF, least), pace_since=now, accepted=0)


def accepted(state: Scope, now: datetime, count: int = 1) -> Scope:
    """What follows from `count` acceptances. The very same state if nothing does: it need not be written."""
    if is_resting(state, now) or (state.pace >= 1 and not state.complaints):
        return state
    well = replace(state, complaints=0, accepted=state.accepted + count)
    if state.pace >= 1:
        return replace(well, accepted=0, reason="")
    since = state.pace_since or now
    if well.accepted < RAISE_AFTER or now < since + timedelta(seconds=RAISE_EVERY_S):
        return well
    if state.pace * RAISE < 1:
        return replace(well, pace=state.pace * RAISE, pace_since=now, accepted=0)
    return replace(well, pace=1.0, pace_of=None, pace_since=None, accepted=0, reason="")
