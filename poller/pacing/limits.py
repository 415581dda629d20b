"""Pure: limits that hold, over all who share their state.

A `Limit` says how much may go; a `Scope` is what is known of one thing that is limited (the outbox, a relay, a sender,
a domain, a provider): a few numbers that go into a database row. Anyone who wants to send locks the row, calls `take`,
writes the new state, and sends each message at its slot. `poller.pacing.state_row` reads and writes rows.

Rule 1. The shortest rate is the pace: its slots are spaced evenly, `burst` of them may be used at once, and a slot not
        used in its time is lost (GCRA; ITU-T I.371): later than `good_for` it is not to be used, but another one taken.
        The slots of a period are spread over a little more than it (`slack_of`), so that lateness within that, ours and
        the wire's, breaks nothing.
Rule 2. Longer rates are quotas, and one of a day or more always is: they may be used as fast as the pace allows. What
        was sent is counted by twentieths of the period and leaves the count a whole period after the slot could be
        used last.
Rule 3. So no window of a period, wherever it begins, holds more than count plus burst; and with a burst of 1 no more
        than count, as long as nothing is later than the slack.
Rule 4. A period is a plain duration: a day is 86,400 seconds that end now. No midnight, no end of a month and no
        change of the clocks gives anything anew.
Rule 5. A clock that steps back grants nothing.
Rule 6. A message that is heavier than what may ever go at once (recipients are counted, say) goes when all is free, and
        the others wait until its debt is paid. Then a window may hold the heaviest message instead of the burst.

What becomes of a scope that complains is told in `poller.pacing.complaints`.
Time is passed in, aware UTC. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from poller.units import SETTINGS, Checked, Count, Misfit, Rate, SecondsOrZero, format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ASSUMED = Rate(count=60, period=60)
"""What a scope without a rate is taken to have had when it is told to slow down and nobody has counted."""
HALF = 0.5
MOST_AT_ONCE = 1000
"""Messages: more are never asked for in one claim."""
HEAVIEST = 1000
"""Recipients of one transaction; hardly a relay takes more, and their debt is the longest that can be real."""
LONGEST_PACE_S = 86400
"""Nobody who allows 2,000 a day means one every 43 seconds."""
AHEAD = timedelta(hours=1)
"""No slot is taken further ahead, so that a clock that stepped, or a hand, stops nothing for long."""
LONGEST_DEBT = timedelta(days=366)
SLACK_SHARE = 0.1
MOST_SLACK = timedelta(milliseconds=500)
"""A slot of 100/s would be gone in 10 ms: no thread wakes as exactly as that, and no wire is as steady. It costs a
tenth of a rate per second, and next to nothing of one per minute."""
OURS = 0.75
"""Of the slack; the rest is the wire's."""

_PARTS = 20  # of a quota's period: a finer count makes a longer row, a coarser one wastes more of the quota
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_rates(rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
    """The rates, if no two are of the same period. Raises ValueError."""
    spans = [rate.span for rate in rates]
    twice = next((span for span in spans if spans.count(span) > 1), "")
    if twice:
        raise ValueError(f"two rates for the same period, /{twice}; keep the one that is meant")
    return rates


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What may go. Without rates and gap everything may, until a reply asks to slow down."""

    __pydantic_config__: ClassVar = SETTINGS

    rates: Annotated[tuple[Rate, ...], Checked(check_rates)] = ()
    """Several at once; no two of the same period."""
    burst: Count = 1
    """So many at once, after a rest."""
    gap: SecondsOrZero = 0.0
    """Seconds between two messages, at least."""
    counts: Literal["messages", "recipients"] = "messages"

    def __post_init__(self) -> None:
        """Raise ValueError for two rates of one period, and for a burst of more than a year's slots."""
        check_rates(self.rates)
        if self.rates and not self.pace and self.burst > 1:
            raise Misfit("burst", "a burst needs a rate of less than a day; of a quota all may go at once")
        if self.pace and self.burst * self.pace.period > self.pace.count * LONGEST_DEBT.total_seconds():
            raise Misfit("burst", f"a burst of {self.burst} is more than {self.pace} lets through in a year")

    @property
    def pace(self) -> Rate | None:
        """The rate of the shortest period, which spaces the messages; not one of a day or more."""
        return min((rate for rate in self.rates if rate.period < LONGEST_PACE_S), default=None)

    @property
    def quotas(self) -> tuple[Rate, ...]:
        """The longer rates."""
        return tuple(rate for rate in sorted(self.rates) if rate != self.pace)

    def weight_of(self, recipients: int) -> int:
        """What a message to so many recipients counts."""
        return recipients if self.counts == "recipients" else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What went, by twentieths of a quota's period; the first of `counts` begins at `since`."""

    since: datetime
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The state of one thing that is limited. The defaults are those of one that nothing is known of."""

    free_at: datetime | None = None
    """When the pace will have made up for all that was taken: GCRA's theoretical arrival time."""
    gap_until: datetime | None = None
    used: Mapping[str, Used] = field(default_factory=dict)
    """By the quota's span: "h", "d"."""
    paused_until: datetime | None = None
    reason: str = ""
    """Why it is paused or slow, in words."""
    pace: float = 1.0
    """The share of the pace that complaints have left, above 0 and at most 1."""
    too_fast: float = 1.0
    """The share at which it complained last."""
    hits: int = 0
    """How often it has complained at the highest pace that it was allowed."""
    pace_of: Rate | None = None
    """The rate at which it complained, if `pace` is a share of that and not of the limit's own."""
    pace_since: datetime | None = None
    """When `pace` was changed last."""
    accepted: int = 0
    """Since then."""
    complaints: int = 0
    """In a row, without an acceptance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """When a message may leave, and what it waits for until then; "" if nothing."""

    at: datetime
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What `take` took: one slot for each message, in order, and the state to write down."""

    slots: tuple[datetime, ...]
    state: Scope
    before: Scope
    weights: tuple[int, ...]
    at: datetime


# ---- taking


def next_at(limit: Limit, state: Scope, now: datetime, weight: int = 1) -> Slot:
    """When a message that counts `weight` may leave, at the earliest, and what it waits for."""
    slots = [Slot(at=now)]
    if state.paused_until is not None:
        slots.append(Slot(at=state.paused_until, why=f"paused: {state.reason}" if state.reason else "paused"))
    spacing = _spacing(limit, state)
    if spacing is not None and state.free_at is not None:
        at_once = min(weight, _burst(limit, state))
        slots.append(Slot(at=state.free_at - (_burst(limit, state) - at_once) * spacing, why=_pace_words(limit, state)))
    if state.gap_until is not None and limit.gap:
        slots.append(Slot(at=state.gap_until, why=f"a gap of {format_duration(limit.gap)}"))
    slots += [
        _quota_slot(quota, state.used[quota.span], now, weight, _late(limit, state, quota))
        for quota in limit.quotas
        if quota.span in state.used
    ]
    return max(slots, key=lambda slot: slot.at)


def take(limit: Limit, state: Scope, weights: Sequence[int], now: datetime, *, ahead: float = 0.0) -> Taken:
    """Take a slot for each message in order, as far as they begin within `ahead` seconds (at most AHEAD) from `now`.

    With 0 only what may leave at once is taken. With more, anyone who takes waits for each slot before the wire.
    """
    until = now + min(timedelta(seconds=ahead), AHEAD)
    slots: list[datetime] = []
    after = state
    for weight in weights:
        slot = next_at(limit, after, slots[-1] if slots else now, weight)
        if slot.at > until:
            break
        after = spent(limit, after, slot.at, weight)
        slots.append(slot.at)
    return Taken(slots=tuple(slots), state=after, before=state, weights=tuple(weights[: len(slots)]), at=now)


def allowance(limit: Limit, state: Scope, now: datetime, *, ahead: float = 0.0, most: int = MOST_AT_ONCE) -> int:
    """How many, each counting 1, could be taken now; never more than `most`."""
    if is_unlimited(limit, state, now):
        return most
    return len(take(limit, state, (1,) * most, now, ahead=ahead).slots)


def is_unlimited(limit: Limit, state: Scope, now: datetime) -> bool:
    """Nothing is to be taken or written before a message to this scope."""
    return not (limit.rates or limit.gap or state.pace < 1 or is_resting(state, now))


def is_resting(state: Scope, now: datetime) -> bool:
    """A pause is not over."""
    return state.paused_until is not None and now < state.paused_until


def good_for(limit: Limit, state: Scope) -> timedelta | None:
    """How long after its beginning a slot may still be used; None: for ever."""
    rate = rate_of(limit, state)
    return slack_of(rate) * OURS if rate else None


def slack_of(rate: Rate) -> timedelta:
    """How much longer than its period the slots of a period take."""
    return min(timedelta(seconds=rate.period) * SLACK_SHARE, MOST_SLACK)


def given_back(limit: Limit, state: Scope, taken: Taken, unused: int) -> Scope:
    """The state when the last `unused` of what was taken have not been sent, and will not be.

    It is as if they had not been taken, if nobody has taken since. Else the slots are lost; quotas get them back.
    """
    kept = len(taken.slots) - unused
    if (state.free_at, state.gap_until) == (taken.state.free_at, taken.state.gap_until):
        until = max((*taken.slots, taken.at)) - taken.at
        again = take(limit, taken.before, taken.weights[:kept], taken.at, ahead=until.total_seconds()).state
        return replace(state, used=again.used, free_at=again.free_at, gap_until=again.gap_until)
    lost = list(zip(taken.slots[kept:], taken.weights[kept:], strict=True))
    used = {
        quota.span: without(quota, state.used[quota.span], lost) for quota in limit.quotas if quota.span in state.used
    }
    return replace(state, used=used)


def spent(limit: Limit, state: Scope, at: datetime, weight: int = 1) -> Scope:
    """The state when a message that counts `weight` goes at `at`, which is no earlier than `next_at` allows."""
    spacing = _spacing(limit, state)
    return replace(
        state,
        free_at=max(state.free_at or at, at) + min(weight * spacing, LONGEST_DEBT) if spacing else state.free_at,
        gap_until=at + timedelta(seconds=limit.gap) if limit.gap else state.gap_until,
        used={
            **state.used,
            **{
                quota.span: _added(quota, state.used.get(quota.span), at, weight, _late(limit, state, quota))
                for quota in limit.quotas
            },
        },
    )


# ---- the pace


def rate_of(limit: Limit, state: Scope) -> Rate | None:
    """The rate that `state.pace` is a share of."""
    if state.pace >= 1:
        return limit.pace
    known = [rate for rate in (limit.pace, state.pace_of) if rate]
    return min(known, key=per_second, default=ASSUMED)


def _spacing(limit: Limit, state: Scope) -> timedelta | None:
    rate = rate_of(limit, state)
    if rate is None:
        return None
    period = rate.period * 1_000_000 + slack_of(rate) // timedelta(microseconds=1)
    exact = -(-period // rate.count)  # rounded up: never faster than the rate
    return timedelta(microseconds=exact if state.pace >= 1 else round(exact / state.pace))


def _burst(limit: Limit, state: Scope) -> int:
    """Anyone who was asked to slow down does not come in bursts."""
    return limit.burst if state.pace >= 1 else 1


def _pace_words(limit: Limit, state: Scope) -> str:
    rate = rate_of(limit, state)
    return str(rate) if state.pace >= 1 else f"{rate}, slowed to {state.pace:.0%}: {state.reason}"


def longest_debt(limit: Limit, state: Scope) -> timedelta:
    """No `free_at` that `take` makes lies further ahead than this."""
    spacing = _spacing(limit, state) or timedelta()
    heaviest = max(HEAVIEST if limit.counts == "recipients" else 1, limit.burst)
    return min(heaviest * spacing, LONGEST_DEBT) + AHEAD


def per_second(rate: Rate) -> float:
    """How fast it is."""
    return rate.count / rate.period


# ---- the quotas


def part_of(quota: Rate) -> timedelta:
    """A twentieth of its period."""
    return timedelta(seconds=quota.period) / _PARTS


def _number(quota: Rate, at: datetime) -> int:
    return (at - _EPOCH) // part_of(quota)


def _late(limit: Limit, state: Scope, quota: Rate) -> timedelta:
    """How late a slot may have been used; of a pace that is slower than the quota hardly two are in a period."""
    return min(good_for(limit, state) or timedelta(), timedelta(seconds=quota.period))


def _quota_slot(quota: Rate, used: Used, now: datetime, weight: int, late: timedelta) -> Slot:
    """When so much of what went has left the count that this fits in."""
    number, first = _number(quota, now - late), _number(quota, used.since)
    counted = [(first + place, count) for place, count in enumerate(used.counts) if first + place >= number - _PARTS]
    excess = sum(count for _, count in counted) + min(weight, quota.count) - quota.count
    free_from = number
    for place, count in counted:
        if excess <= 0:
            break
        excess -= count
        free_from = place + _PARTS + 1
    if free_from == number:
        return Slot(at=now)
    return Slot(at=_EPOCH + free_from * part_of(quota) + late, why=f"{quota} is used up")


def _added(quota: Rate, used: Used | None, at: datetime, weight: int, late: timedelta) -> Used:
    number = _number(quota, at)
    first = _number(quota, used.since) if used else number
    counts = list(used.counts) if used else []
    start = max(first, _number(quota, at - late) - _PARTS)
    counts = counts[start - first :]
    counts += [0] * (number - start + 1 - len(counts))
    counts[-1] += weight
    empty = next((place for place, count in enumerate(counts) if count), 0)
    return Used(since=_EPOCH + (start + empty) * part_of(quota), counts=tuple(counts[empty:]))


def without(quota: Rate, used: Used, lost: Sequence[tuple[datetime, int]]) -> Used:
    """What was used of a quota but for these slots, each with what it counted."""
    counts = list(used.counts)
    for at, weight in lost:
        place = _number(quota, at) - _number(quota, used.since)
        if 0 <= place < len(counts):
            counts[place] = max(0, counts[place] - weight)
    return replace(used, counts=tuple(counts))
