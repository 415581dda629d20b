"""Pure: what a scope does when a reply asks for something, and when messages are accepted again.

Rule 1. "Slow down" halves the pace, once for each complaint however many voices it has: what is heard while the scope
        pauses, or before anything was accepted again, is the same complaint.
Rule 2. It pauses too: for as long as was asked, else for `first_pause`. If nothing is accepted after that it is a
        block: the next pause outlasts a usual one (BLOCK), or is twice what was asked, and each further one is twice
        as long, up to `longest_pause` or what was asked.
Rule 3. `raise_after` acceptances, and `raise_every`, after its last change the pace is raised by a step, a share of the
        present pace: the lower it is, the more gently it rises.
Rule 4. It is not raised to where it complained, but to CEILING of that. Only when that has held for HOLD times
        `raise_every`, and four times longer for each time that more was tried in vain, a step more is tried.
Rule 5. A scope without a rate of its own is slowed from what was seen to go when it complained. A few messages show no
        rate: less than LEAST_SEEN is taken for that.

Time is passed in, aware UTC. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from poller.pacing.limits import HALF, Scope, is_resting, per_second, rate_of
from poller.units import SETTINGS, Count, Rate, Seconds

if TYPE_CHECKING:
    from datetime import datetime

    from poller.pacing.limits import Limit

FLOOR = Rate(count=1, period=60)
"""No complaint lowers a pace below this, or below LEAST_PACE of what it was, whichever is less."""
LEAST_PACE = 1 / 16
LEAST_SEEN = 10
"""Messages in `first_pause`."""
RAISE = 1.25
"""The step by which a pace is raised: from a half to the ceiling in three."""
CEILING = 0.9
BLOCK = 11
"""Times `first_pause`. Blocks of ten minutes are usual, and each attempt meanwhile may begin them anew: so there is but
one, and then this."""
HOLD = 4
LONGEST_HOLD_S = 86400.0
FASTEST = Rate(count=100, period=1)
"""Anyone who takes so much is not paced any more for a rate that was seen."""


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """How "slow down" is heeded where nothing else is said."""

    __pydantic_config__: ClassVar = SETTINGS

    first_pause: Seconds = 60.0
    longest_pause: Seconds = 3600.0
    raise_every: Seconds = 900.0
    """Blocks of ten minutes are usual; a rate must have held for longer than that before it is raised."""
    raise_after: Count = 10
    """Acceptances; fewer prove nothing."""

    @property
    def window(self) -> int:
        """Whole seconds in which is counted what goes: as long as the first pause."""
        return max(1, round(self.first_pause))


HEARING = Hearing()


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
    limit: Limit,
    state: Scope,
    now: datetime,
    *,
    reason: str,
    pause: float | None = None,
    seen: Rate | None = None,
    hearing: Hearing = HEARING,
) -> Scope:
    """What follows from "slow down". `pause` is the seconds that were asked for.

    `seen` is what went of late, if somebody counted: for a scope without a rate it is what the pace is a share of.
    """
    if is_resting(state, now):
        return paused(state, now + timedelta(seconds=pause), reason) if pause else state
    slower = state if state.complaints else _halved(limit, state, now, seen, hearing)
    until = now + timedelta(seconds=_pause(pause, state.complaints, hearing))
    return replace(slower, paused_until=until, reason=reason, complaints=state.complaints + 1)


def _pause(asked: float | None, complaints: int, hearing: Hearing) -> float:
    """Seconds, after so many complaints before this one (Rule 2)."""
    if asked is not None:
        return min(asked * 2.0 ** min(complaints, 30), max(asked, hearing.longest_pause))
    if not complaints:
        return min(hearing.first_pause, hearing.longest_pause)
    block = BLOCK * hearing.first_pause
    return min(block * 2.0 ** min(complaints - 1, 30), hearing.longest_pause)


def _halved(limit: Limit, state: Scope, now: datetime, seen: Rate | None, hearing: Hearing) -> Scope:
    least_seen = Rate(count=LEAST_SEEN, period=hearing.window)
    whole = state if state.pace < 1 else replace(state, pace_of=max(seen, least_seen, key=per_second) if seen else None)
    least = min(least_pace(limit, whole.pace_of), state.pace)
    hit = state.pace >= 1 or state.pace >= _ceiling(state)
    return replace(
        whole,
        pace=max(state.pace * HALF, least),
        pace_since=now,
        accepted=0,
        too_fast=state.pace,
        hits=state.hits + hit,
    )


def accepted(
    state: Scope, now: datetime, count: int = 1, *, limit: Limit | None = None, hearing: Hearing = HEARING
) -> Scope:
    """What follows from `count` acceptances. The very same state if nothing does: it need not be written.

    With `limit` a rate that was seen is forgotten as soon as it says no less than that.
    """
    if is_resting(state, now) or (state.pace >= 1 and not state.complaints):
        return state
    well = replace(state, complaints=0, accepted=state.accepted + count)
    if state.pace >= 1:
        return replace(well, accepted=0, reason="")
    held = (now - (state.pace_since or now)).total_seconds()
    if well.accepted < hearing.raise_after or held < hearing.raise_every:
        return well
    if state.pace < _ceiling(state):
        return replace(well, pace=min(state.pace * RAISE, _ceiling(state)), pace_since=now, accepted=0)
    return _beyond(well, now, limit) if held >= _hold(state, hearing) else well


def _ceiling(state: Scope) -> float:
    return state.too_fast * CEILING


def _hold(state: Scope, hearing: Hearing) -> float:
    """Seconds that the ceiling is kept before more is tried."""
    return min(hearing.raise_every * HOLD * 4.0 ** min(max(state.hits - 1, 0), 30), LONGEST_HOLD_S)


def _beyond(state: Scope, now: datetime, limit: Limit | None) -> Scope:
    """A step more than what it complained about (Rule 4)."""
    if state.too_fast * RAISE <= 1:
        too_fast = state.too_fast * RAISE
        return replace(state, pace=too_fast * CEILING, too_fast=too_fast, pace_since=now, accepted=0)
    known = _more(state.pace_of) if state.pace_of else None
    own = limit.pace if limit else None
    if known is None or per_second(known) >= per_second(FASTEST) or (own and per_second(known) >= per_second(own)):
        return replace(state, pace=1.0, pace_of=None, pace_since=None, accepted=0, too_fast=1.0, reason="")
    return replace(state, pace=CEILING, too_fast=1.0, pace_of=known, pace_since=now, accepted=0)


def _more(rate: Rate) -> Rate:
    return Rate(count=max(rate.count + 1, round(rate.count * RAISE)), period=rate.period)
