"""A forecast comes true: held against a plain simulation that sends one message after the other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from poller.forecast import Breath, Waiting, forecast, in_force
from poller.hours import Hours, is_open, opens_at, parse_span
from poller.relays import FirstRelaySettings, RelaySettings
from poller.throttle import Limit, Scope, as_row, next_at, paused, slow_down, take
from poller.throttle.gate import Record, ScopeKey
from poller.throttle.settings import ProviderSettings, ThrottleSettings
from poller.units import Rate, parse_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.forecast import Forecast, Standing

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)  # a Sunday
FAST = Breath(speed=10_000.0)
"""The wire holds nothing up."""
OUTBOX = ScopeKey("outbox")
GOOGLE = ScopeKey("provider", "google")


def rates(*texts: str) -> tuple[Rate, ...]:
    return tuple(map(parse_rate, texts))


def standing(
    throttle: ThrottleSettings | None = None,
    states: Mapping[ScopeKey, Scope] | None = None,
    **relays: RelaySettings,
) -> Standing:
    records = {key: Record(values=as_row(state)) for key, state in (states or {}).items()}
    return in_force(throttle or ThrottleSettings(), {"smtp": FirstRelaySettings(), **relays}, records, NOON)


def spans(*texts: str) -> tuple[Any, ...]:
    return tuple(map(parse_span, texts))


def ends(found: Forecast) -> float:
    """Seconds until the last."""
    assert found.last_at is not None
    return (found.last_at - NOON).total_seconds()


# ---- against a simulation


def simulated(waiting: Sequence[Waiting], place: Standing) -> float:
    """Seconds until the last has gone: each as soon as all of its limits let it, who is furthest behind first."""
    states = {key: paced.state for key, paced in place.scopes.items()}
    hours = place.throttle.hours
    left = [(some.messages, some.messages, _keys(some, place), some.first_due or NOON) for some in waiting]
    now = NOON
    while any(count for count, *_ in left):
        at, _, number = min(
            (_slot(keys, place, states, max(now, due), hours), -count / whole, number)
            for number, (count, whole, keys, due) in enumerate(left)
            if count
        )
        for key in left[number][2]:
            taken = take(place.scopes[key].limit, states[key], (1,), at)
            assert taken.slots == (at,)
            states[key] = taken.state
        left[number] = (left[number][0] - 1, *left[number][1:])
        now = at
    return (now - NOON).total_seconds()


def _keys(some: Waiting, place: Standing) -> list[ScopeKey]:
    sender = [ScopeKey("sender", some.sender)] if some.sender else []
    wanted = [OUTBOX, ScopeKey("relay", "smtp"), *sender, *place.destinations_of(some.domain)]
    return [key for key in wanted if key in place.scopes]


def _slot(keys: Sequence[ScopeKey], place: Standing, states: Mapping[ScopeKey, Scope], at: datetime, hours: Any) -> Any:
    while True:
        later = max(open_from(hours, at), *(next_at(place.scopes[key].limit, states[key], at).at for key in keys))
        if later == at:
            return at
        at = later


def open_from(hours: Hours, at: datetime) -> datetime:
    return at if is_open(hours, at) else opening(hours, at.replace(second=0, microsecond=0))


opening = lru_cache(maxsize=None)(opens_at)

RATES = st.sampled_from(["1/s", "20/m", "60/m", "7/m", "1/m"])
QUOTAS = st.sampled_from(["30/h", "100/h", "40/2h", "25/d"])
LIMITS = st.one_of(
    st.builds(Limit),
    st.builds(lambda rate, burst: Limit(rates=rates(rate), burst=burst), RATES, st.sampled_from([1, 1, 5])),
    st.builds(lambda rate, quota: Limit(rates=rates(rate, quota)), RATES, QUOTAS),
    st.builds(lambda gap: Limit(gap=gap), st.sampled_from([0.5, 3.0, 45.0])),
)
STATES = st.one_of(
    st.just(Scope()),
    st.builds(lambda wait: paused(Scope(), NOON + timedelta(seconds=wait), "busy"), st.sampled_from([60, 1800, 7200])),
    st.builds(lambda limit: replace(slow_down(limit, Scope(), NOON, reason="slow", pause=30.0)), LIMITS),
)
DOMAINS = ("gmail.com", "googlemail.com", "a.example", "b.example", None)
SENDERS = (None, "news@shop.example")
LATER = st.sampled_from([None, NOON + timedelta(minutes=10), NOON + timedelta(hours=3)])
HOURS = st.sampled_from([(), (), spans("08:00-18:00"), spans("12:30-13:00", "20:00-21:00")])


def throttle_of(limit: Limit, **more: Any) -> ThrottleSettings:
    return ThrottleSettings(rates=limit.rates, burst=limit.burst, gap=limit.gap, **more)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_forecast_is_within_a_tenth_or_a_spacing_of_what_a_message_by_message_simulation_finds(data: Any) -> None:
    google, domain, sender, relay, outbox = (data.draw(LIMITS) for _ in range(5))
    keys = (GOOGLE, ScopeKey("domain", "a.example"), ScopeKey("sender", SENDERS[1] or ""))
    throttle = throttle_of(
        outbox,
        windows=data.draw(HOURS),
        providers={"google": ProviderSettings(rates=google.rates, burst=google.burst, gap=google.gap)},
        domains={"a.example": domain},
        senders={SENDERS[1] or "": sender},
    )
    states = {key: data.draw(STATES) for key in data.draw(st.sets(st.sampled_from(keys), max_size=2))}
    smtp = FirstRelaySettings(rates=relay.rates, burst=relay.burst, gap=relay.gap)
    place = standing(throttle, states, smtp=smtp)
    waiting = [
        Waiting(
            messages=data.draw(st.integers(1, 25)),
            domain=data.draw(st.sampled_from(DOMAINS)),
            sender=data.draw(st.sampled_from(SENDERS)),
            first_due=data.draw(LATER),
        )
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    expected, actual = simulated(waiting, place), ends(forecast(waiting, place, FAST))
    spare = max(0.1 * expected, slack(place)) + 1
    if abs(actual - expected) > spare:  # one message more or less before the hours end is hours of difference
        fewer, more = (simulated([_counting(some, step) for some in waiting], place) for step in (-1, 1))
        assert fewer - spare <= actual <= more + spare


def _counting(some: Waiting, step: int) -> Waiting:
    return replace(some, messages=max(1, some.messages + step))


def slack(place: Standing) -> float:
    """One spacing of the slowest limit; of a quota a twentieth of its period."""
    found = [0.0]
    for paced in place.scopes.values():
        found += [paced.limit.gap, *(quota.period / 20 for quota in paced.limit.quotas)]
        if paced.limit.pace or paced.state.pace < 1:
            rate = paced.limit.pace or paced.state.pace_of or Rate(60, 60)
            found.append(rate.period / rate.count / paced.state.pace)
    return max(found)
