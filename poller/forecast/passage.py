"""Pure: one limit that a curve of messages passes through.

`through` says how the messages come out, and how long it was what that they waited for. It goes from one event to the
next: a burst is used up, a twentieth of a quota's period is over, the window closes. Between two events everything
flows evenly, so that a million messages cost no more than ten.

It reckons as `poller.pacing.limits` does, but with fractions of messages, each as heavy as they are on average: so it
is at most about one spacing off for each limit, and for a quota one twentieth of its period.

Pauses are not looked at: before they end nobody arrives. After MOST_EVENTS the rest is taken to go on as fast as until
then. Times are seconds from now. Raises nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from poller.forecast.curves import LEAST, Curve, coarser, total
from poller.pacing.hours import closes_at, is_open, opens_at
from poller.pacing.limits import part_of, rate_of
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.pacing.hours import Hours
    from poller.pacing.limits import Limit, Scope, Used
    from poller.units import Rate

MOST_EVENTS = 4000
MOST_CHANGES = 64
"""Of windows that open and close: about a month of days."""
THE_HOURS = "the sending hours"
LONGEST_S = 36500 * 86400.0
"""No end lies further ahead; a time beyond the year 9999 can't be written down."""

LEAST_LENGTH_S = 1e-6
"""Of a step, so that no error of rounding stops it."""

_PARTS = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(kw_only=True, slots=True)
class Pace:
    """So much time between two messages, `burst` of them at once after a rest. `tokens` are what may go now."""

    words: str
    spacing: float
    burst: float
    tokens: float

    def rate(self) -> float:
        """Messages a second that may go just now, if nothing is left to go at once."""
        return 1 / self.spacing if self.tokens > -LEAST else 0.0

    def ends(self, rate: float, time: float) -> float:  # noqa: ARG002 - as a quota is asked
        """In how many seconds it will hold up, or let go again, what flows at `rate`."""
        if self.tokens <= -LEAST:
            return -self.tokens * self.spacing
        falls = rate - 1 / self.spacing
        return self.tokens / falls if falls > LEAST * rate and self.tokens > LEAST else math.inf

    def room(self) -> float:
        """What may go at once."""
        return max(0.0, self.tokens)

    def goes(self, seconds: float, time: float, messages: float) -> None:  # noqa: ARG002 - as a quota is told
        """Time passes, and messages go."""
        self.tokens = min(self.burst, self.tokens + seconds / self.spacing - messages)


@dataclass(kw_only=True, slots=True)
class Quota:
    """So many messages in a period, counted by its twentieths. `offset` is how much of the present one is over."""

    words: str
    count: float
    part: float
    offset: float
    used: dict[int, float] = field(default_factory=dict)
    number: int = 0

    def room(self) -> float:
        """What may go at once."""
        return max(0.0, self.count - sum(self.used.values()))

    def rate(self) -> float:
        """Nothing flows when the quota is used up."""
        return 0.0

    def ends(self, rate: float, time: float) -> float:
        """In how many seconds it is used up at `rate`, or the present twentieth ends; used up: one that counts."""
        room, number = self.room(), self.number + 1
        if room <= LEAST and self.used:
            number = max(number, min(self.used) + _PARTS + 1)
        ends = max(0.0, number * self.part - self.offset - time)
        return min(ends, room / rate) if rate > 0 and room > LEAST else ends

    def goes(self, seconds: float, time: float, messages: float) -> None:
        """They go within one twentieth, which may end with them."""
        if messages:
            self.used[self.number] = self.used.get(self.number, 0.0) + messages
        number = math.floor((self.offset + time + seconds) / self.part + 1e-6)
        if number > self.number:
            self.number = number
            self.used = {part: count for part, count in self.used.items() if part >= number - _PARTS}


class Doors:
    """The sending hours, seen from `now`. What was asked once is remembered: every passage asks the same."""

    def __init__(self, hours: Hours, now: datetime) -> None:
        self._hours, self._now = hours, now
        self._changes: list[float] = [0.0]
        self._opens_first = is_open(hours, now)

    def at(self, time: float) -> tuple[bool, float]:
        """Whether they are closed at `time`, and until when that is so. After MOST_CHANGES they stay open."""
        while self._changes[-1] <= time and len(self._changes) <= MOST_CHANGES:
            self._changes.append(self._next_change(self._changes[-1]))
        place = bisect_right(self._changes, time)
        if place == len(self._changes):
            return False, math.inf
        return (place % 2 == 1) != self._opens_first, self._changes[place]

    def _next_change(self, time: float) -> float:
        if not math.isfinite(time):
            return time
        moment = later(self._now, time)
        change = opens_at(self._hours, moment)
        after = closes_at(self._hours, moment) if change == moment else change
        return math.inf if after is None else (after - self._now).total_seconds()

    @property
    def last_known(self) -> float:
        """After so many seconds nobody has looked."""
        return self._changes[-1] if len(self._changes) > MOST_CHANGES else math.inf


@dataclass(kw_only=True, slots=True)
class Passage:
    """What one scope lets through. Made by `passage_of`; it remembers what went, so it is used once."""

    paces: list[Pace] = field(default_factory=list)
    quotas: list[Quota] = field(default_factory=list)
    doors: Doors | None = None
    waited: dict[str, float] = field(default_factory=dict)
    """Seconds during which messages were there and could not go on, by what held them."""

    @property
    def is_free(self) -> bool:
        """Nothing is held up here."""
        return not (self.rules or self.doors)

    @property
    def rules(self) -> list[Pace | Quota]:
        """What limits the flow while it is open."""
        return [*self.paces, *self.quotas]

    @property
    def used_up(self) -> str:
        """The quota that would hold up what the hours hold up too; "" if none."""
        return next((quota.words for quota in self.quotas if quota.room() <= LEAST), "")

    def room(self) -> float:
        """What may go at once."""
        return min((rule.room() for rule in self.rules), default=math.inf)

    def rate(self, slope: float, *, waiting: bool) -> tuple[float, str]:
        """How fast it flows when so many come a second, beside those that are `waiting`, and what holds it."""
        full = [rule for rule in self.rules if rule.room() <= LEAST]
        slowest = min(full, key=lambda rule: rule.rate(), default=None)
        if slowest is None:
            return slope, ""
        rate = slowest.rate()
        return rate if waiting else min(rate, slope), slowest.words

    def ends(self, rate: float, time: float) -> float:
        """In how many seconds one of the rules has something else to say."""
        return min((rule.ends(rate, time) for rule in self.rules), default=math.inf)

    def goes(self, seconds: float, time: float, messages: float) -> None:
        """So many go, from `time` on, in so many seconds."""
        for rule in self.rules:
            rule.goes(seconds, time, messages)


def passage_of(limit: Limit, state: Scope, now: datetime, weight: float) -> Passage:
    """For messages that count `weight` each."""
    found = Passage()
    weight = weight if limit.counts == "recipients" else 1.0
    rate = rate_of(limit, state)
    if rate is not None:
        found.paces.append(_pace(limit, state, rate, now, weight))
    if limit.gap:
        ahead = _ahead(state.gap_until, now) / limit.gap
        words = f"a gap of {format_duration(limit.gap)}"
        found.paces.append(Pace(words=words, spacing=limit.gap, burst=1.0, tokens=1.0 - ahead))
    found.quotas += [_quota(quota, state.used.get(quota.span), now, weight) for quota in limit.quotas]
    return found


def _pace(limit: Limit, state: Scope, rate: Rate, now: datetime, weight: float) -> Pace:
    slow = state.pace < 1
    spacing = rate.period / rate.count / (state.pace if slow else 1.0) * weight
    burst = max(1.0, (1 if slow else limit.burst) / weight)
    words = f"{rate}, slowed to {state.pace:.0%}" if slow else str(rate)
    return Pace(words=words, spacing=spacing, burst=burst, tokens=burst - _ahead(state.free_at, now) / spacing)


def _quota(quota: Rate, used: Used | None, now: datetime, weight: float) -> Quota:
    part = part_of(quota)
    present = (now - _EPOCH) // part
    found = Quota(
        words=str(quota),
        count=max(1.0, quota.count / weight),
        part=part.total_seconds(),
        offset=((now - _EPOCH) % part).total_seconds(),
    )
    first = (used.since - _EPOCH) // part - present if used else 0
    counts = used.counts if used else ()
    for number, count in enumerate(counts, first):
        if count and number >= -_PARTS:
            found.used[number] = count / weight
    return found


def _ahead(moment: datetime | None, now: datetime) -> float:
    return max(0.0, (moment - now).total_seconds()) if moment else 0.0


def later(now: datetime, seconds: float) -> datetime:
    """`seconds` after `now`, a hundred years at most."""
    return now + timedelta(seconds=min(max(0.0, seconds), LONGEST_S))


# ---- passing


def through(curve: Curve, passage: Passage) -> Curve:
    """When the messages of `curve` have passed."""
    if passage.is_free or total(curve) <= LEAST:
        return curve
    out = list(_flow(curve, passage))
    return coarser([(out[0][0], 0.0), *out])


def _flow(curve: Curve, passage: Passage) -> Iterator[tuple[float, float]]:
    """The points of what comes out, from event to event."""
    whole, gone, place, time = total(curve), 0.0, 0, curve[0][0]
    passage.goes(time, 0.0, 0.0)
    for _ in range(MOST_EVENTS):
        while place + 1 < len(curve) and curve[place + 1][0] <= time:
            place += 1
        there, slope, next_point = _coming(curve, place, time)
        closed, changes_at = passage.doors.at(time) if passage.doors else (False, math.inf)
        step = 0.0 if closed else min(there - gone, passage.room())
        if step > LEAST:
            passage.goes(0.0, time, step)
            gone += step
        yield time, gone
        backlog = there - gone
        if gone >= whole - LEAST or (passage.doors and time >= passage.doors.last_known):
            break
        rate, held_by = (0.0, passage.used_up or THE_HOURS) if closed else passage.rate(slope, waiting=backlog > LEAST)
        ends = [next_point - time, changes_at - time, math.inf if closed else passage.ends(rate, time)]
        if backlog > LEAST and rate > slope:
            ends.append(backlog / (rate - slope))
        length = max(min(ends), LEAST_LENGTH_S)
        if not math.isfinite(length):
            break
        if backlog > LEAST:
            passage.waited[held_by] = passage.waited.get(held_by, 0.0) + length
        moved = min(rate * length, whole - gone)
        passage.goes(length, time, moved)
        time, gone = time + length, gone + moved
    if gone < whole:
        yield _as_until_then(curve, time, gone, whole) if gone < whole - LEAST else (time, whole)


def _as_until_then(curve: Curve, time: float, gone: float, whole: float) -> tuple[float, float]:
    spent = time - curve[0][0]
    rest = spent * (whole - gone) / gone if gone > 0 else LONGEST_S
    return min(max(time + rest, curve[-1][0]), LONGEST_S), whole


def _coming(curve: Curve, place: int, time: float) -> tuple[float, float, float]:
    """How many are there, how many more a second, and until when that is so."""
    t0, n0 = curve[place]
    if place + 1 == len(curve):
        return n0, 0.0, math.inf
    t1, n1 = curve[place + 1]
    slope = (n1 - n0) / (t1 - t0)
    return n0 + slope * (time - t0), slope, t1
