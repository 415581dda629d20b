"""A forecast comes true: held against a plain simulation that sends one message after the other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.forecast import Breath, Waiting, forecast, in_force, paced_in_words, used_of, warnings
from poller.judgement.retry import RetrySettings
from poller.pacing import Limit, Scope, as_row, next_at, paused, slow_down, take
from poller.pacing.gate import Record, ScopeKey
from poller.pacing.hours import Hours, is_open, opens_at, parse_span
from poller.pacing.settings import ProviderSettings, ThrottleSettings
from poller.settings import PollSettings
from poller.smtp.relays import FirstRelaySettings, RelaySettings
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
def test_a_forecast_is_within_a_tenth_and_a_spacing_of_what_a_message_by_message_simulation_finds(data: Any) -> None:
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
    spare = 0.1 * expected + slack(place) + 1
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


# ---- what is said of it


def test_twenty_at_a_time_with_a_breath_of_seventeen_seconds_takes_as_long_as_it_takes() -> None:
    found = forecast([Waiting(messages=5000)], standing(), Breath(batch_size=20, batch_pause=17.0, speed=200.0))
    assert ends(found) == pytest.approx(5000 / 20 * 17, rel=0.02)
    assert found.bottleneck == "[poll] batch_size 20, then batch_pause 17s"
    assert found.per_minute == pytest.approx(70.6, rel=0.02)


def test_nothing_that_waits_is_done_at_once() -> None:
    found = forecast([], standing())
    assert (found.messages, found.last_at, found.bottleneck, found.per_minute, found.seconds) == (0, None, "", 0.0, 0.0)


def test_the_bottleneck_is_what_the_last_waits_for_the_longest() -> None:
    google = ProviderSettings(rates=rates("30/m"))
    place = standing(ThrottleSettings(rates=rates("600/m"), providers={"google": google}))
    few = forecast([Waiting(messages=90, domain="gmail.com"), Waiting(messages=90, domain="a.example")], place, FAST)
    assert (few.bottleneck, ends(few)) == ("provider google: 30/m", pytest.approx(178, abs=2))
    many = forecast([Waiting(messages=90, domain="gmail.com"), Waiting(messages=9000)], place, FAST)
    assert (many.bottleneck, ends(many)) == ("the whole outbox: 600/m", pytest.approx(909, abs=2))
    assert [(one.name, one.messages, one.limit) for one in few.destinations] == [
        ("provider google", 90, "30/m"),
        ("all others", 90, ""),
    ]


@pytest.mark.parametrize(
    ("some", "states", "words"),
    [
        (Waiting(messages=1, first_due=NOON + timedelta(hours=3)), {}, "the last are due only then"),
        (
            Waiting(messages=1, domain="a.example"),
            {ScopeKey("domain", "a.example"): paused(Scope(), NOON + timedelta(hours=3), "busy")},
            "domain a.example is paused",
        ),
    ],
)
def test_a_wait_that_no_rate_explains_is_named(some: Waiting, states: dict[ScopeKey, Scope], words: str) -> None:
    found = forecast([some], standing(states=states), FAST)
    assert (found.bottleneck, ends(found)) == (words, 3 * 3600)


def test_domains_of_one_provider_share_its_limit() -> None:
    place = standing(ThrottleSettings(providers={"google": ProviderSettings(rates=rates("60/m"))}))
    both = [Waiting(messages=61, domain=domain) for domain in ("gmail.com", "googlemail.com")]
    assert ends(forecast(both, place, FAST)) == pytest.approx(121, abs=1)


def test_a_relay_of_a_higher_order_waits_until_the_first_rests() -> None:
    second = RelaySettings(order=2, rates=rates("60/m"))
    some = [Waiting(messages=61)]
    assert ends(forecast(some, standing(second=second), FAST)) < 1
    resting = {ScopeKey("relay", "smtp"): paused(Scope(), NOON + timedelta(hours=3), "quota")}
    found = forecast(some, standing(states=resting, second=second), FAST)
    assert (found.bottleneck, ends(found)) == ("relay second: 60/m", 60)


def test_relays_of_one_order_share_by_weight() -> None:
    second = RelaySettings(weight=3, rates=rates("60/m"))
    assert ends(forecast([Waiting(messages=80)], standing(second=second), FAST)) == pytest.approx(59, abs=1)


@pytest.mark.parametrize(
    ("some", "taker"),
    [
        (Waiting(messages=1, domain="a.example"), "by_domain"),
        (Waiting(messages=1, domain="b.example", sender="news@shop.example"), "by_sender"),
        (Waiting(messages=1, domain="b.example", sender="News@other.example"), "smtp"),
        (Waiting(messages=1), "smtp"),
        (Waiting(messages=1, domain="a.example", relay="smtp"), "smtp"),
    ],
)
def test_a_relay_that_names_a_sender_or_a_domain_takes_that_and_nothing_else(some: Waiting, taker: str) -> None:
    named = {"by_domain": RelaySettings(domains=("a.example",)), "by_sender": RelaySettings(senders=("@shop.example",))}
    place = standing(**named)
    assert place.ways_of(some.domain, some.sender, some.relay) == ((taker, 1.0),)


def test_a_domain_is_its_providers_by_name_in_any_script_or_by_its_mail_exchangers() -> None:
    group = ProviderSettings(domains=("xn--bcher-kva.example",), rates=rates("1/m"))
    throttle = ThrottleSettings(providers={"books": group, "google": ProviderSettings(rates=rates("1/m"))})
    hosts = {"shop.example": ("aspmx.l.google.com",)}
    place = in_force(throttle, {}, {}, NOON, lambda domain: hosts.get(domain, ()))
    found = {name: [str(key) for key in place.destinations_of(name)] for name in ("Bücher.example", "shop.example")}
    assert found["Bücher.example"] == ["domain xn--bcher-kva.example", "provider books"]
    assert found["shop.example"] == ["domain shop.example", "provider google"]


def test_a_row_whose_relay_nobody_knows_is_left_out_and_named() -> None:
    found = forecast([Waiting(messages=4, relay="fast"), Waiting(messages=2, relay="smtp")], standing())
    assert (found.messages, found.unknown_relays) == (2, (("fast", 4),))


def test_recipients_count_where_a_limit_counts_them() -> None:
    place = standing(ThrottleSettings(rates=rates("60/m"), counts="recipients"))
    assert ends(forecast([Waiting(messages=20, recipients=60)], place, FAST)) == pytest.approx(57, abs=3)


def test_a_million_messages_over_years_are_reckoned_all_the_same() -> None:
    place = standing(ThrottleSettings(rates=rates("10/m", "100/d"), windows=spans("Mon-Fri 08:00-18:00")))
    found = forecast([Waiting(messages=1_000_000)], place, FAST)
    assert 10_000 * 86400 < ends(found) < 16_000 * 86400
    assert found.bottleneck in {"the whole outbox: 100/d", "the sending hours"}


def test_what_is_used_of_a_quota_leaves_the_count_with_its_period() -> None:
    place = standing(ThrottleSettings(rates=rates("60/m", "100/h")))
    taken = take(place.scopes[OUTBOX].limit, Scope(), (1,) * 40, NOON - timedelta(minutes=50), ahead=3600)
    place = standing(place.throttle, {OUTBOX: taken.state})
    assert used_of(place.scopes[OUTBOX], NOON) == [("100/h", 40, 100)]
    place = in_force(place.throttle, place.relays, {}, NOON)
    assert used_of(place.scopes[OUTBOX], NOON) == [("100/h", 0, 100)]


def test_a_limit_is_told_in_words_as_it_stands() -> None:
    limit = Limit(rates=rates("1000/d", "30/m"), burst=5, gap=2.0, counts="recipients")
    until = NOON + timedelta(minutes=5)
    state = replace(paused(Scope(), until, "busy"), pace=0.5)
    place = standing(throttle_of(limit), {ScopeKey("domain", "a.example"): state})
    words = {str(key): paced_in_words(paced, NOON) for key, paced in place.scopes.items()}
    assert words["outbox"] == "30/m and 1000/d, burst 5, gap 2s"
    assert words["domain a.example"] == "slowed to 50%, paused"


# ---- settings that contradict each other


def warned(throttle: ThrottleSettings | None = None, /, **more: Any) -> list[str]:
    poll, retry = more.pop("poll", PollSettings()), more.pop("retry", RetrySettings())
    messages, states = more.pop("messages", None), more.pop("states", None)
    return list(warnings(standing(throttle, states, **more), poll, retry, messages=messages))


def test_settings_that_fit_each_other_are_not_spoken_of() -> None:
    fine = ThrottleSettings(rates=rates("30/m", "1000/h"), providers={"google": ProviderSettings(rates=rates("10/m"))})
    assert warned() == warned(fine) == []


@pytest.mark.parametrize(
    ("throttle", "words"),
    [
        (
            ThrottleSettings(rates=rates("30/m", "2000/d")),
            "[throttle] 30/m uses up 2000/d in 1h6m; then it stands still for 22h53m; 83/h would spread it evenly",
        ),
        (
            ThrottleSettings(providers={"google": ProviderSettings(rates=rates("10/m", "1000/h"))}),
            "[throttle.providers.google] 1000/h is never reached: 10/m lets at most 600 through in that time",
        ),
        (
            ThrottleSettings(domains={"a.example": Limit(rates=rates("10/m"), gap=30.0)}),
            '[throttle.domains."a.example"] 10/m is never reached: a gap of 30s lets less through',
        ),
        (
            ThrottleSettings(rates=rates("10/m", "5000/d"), windows=spans("08:00-10:00")),
            "[throttle] 5000/d is never reached: the sending hours are 2h a day, in which 10/m lets 1200 through",
        ),
    ],
)
def test_limits_that_contradict_each_other_are_told_with_the_figures(throttle: ThrottleSettings, words: str) -> None:
    assert warned(throttle) == [words]


def test_a_quota_that_the_queue_fits_into_is_not_spoken_of() -> None:
    throttle = ThrottleSettings(rates=rates("30/m", "2000/d"))
    assert warned(throttle, messages=2000) == []
    assert len(warned(throttle, messages=2001)) == 1


def test_hours_too_short_for_the_queue_are_told() -> None:
    throttle = ThrottleSettings(rates=rates("10/m"), windows=spans("Mon-Fri 08:00-10:00"))
    (words,) = warned(throttle, messages=3000)
    assert words.startswith("3000 messages need 4 days: the sending hours are 1h25m a day")


def test_batches_that_work_against_a_rate_are_told() -> None:
    throttle = ThrottleSettings(rates=rates("60/m"))
    (slow,) = warned(throttle, poll=PollSettings(batch_size=20, batch_pause=60.0))
    assert slow.startswith("[throttle] 60/m is never reached by one worker: [poll] batch_size 20 and batch_pause 1m")
    (long,) = warned(ThrottleSettings(gap=60.0), poll=PollSettings(batch_size=100, batch_pause=1.0))
    assert long.startswith("[poll] batch_size 100 takes 1h39m at the pace of [throttle]")


def test_giving_up_before_a_pause_ends_is_told() -> None:
    retry = RetrySettings(give_up_after=1800.0)
    (short,) = warned(retry=retry)
    assert short.startswith("[retry] give_up_after 30m ends before a pause of [throttle] longest_pause 1h does")
    states = {ScopeKey("relay", "smtp"): paused(Scope(), NOON + timedelta(days=9), "quota")}
    (long,) = warned(states=states)
    assert long.startswith(
        "relay smtp is paused until 2026-12-01 12:00 UTC, which is longer than [retry] give_up_after"
    )


@pytest.mark.parametrize(
    ("relay", "words"),
    [
        (
            RelaySettings(host="smtp.office365.com", max_connections=4),
            [
                (
                    "[relays.second] smtp.office365.com has no limit, and Exchange Online takes 30 messages a minute,"
                    ' 10,000 recipients a day; set rates = ["30/m", "10000/d"]'
                ),
                "[relays.second] allows 4 connections, and Exchange Online 3; set max_connections = 3",
            ],
        ),
        (
            RelaySettings(host="SMTP.gmail.com", rates=rates("100/h"), max_recipients_per_message=500),
            [
                "[relays.second] lets 2400 through in 1d, and Gmail takes 2,000 messages a day; set 2000/d",
                "[relays.second] max_recipients_per_message is 500, and Gmail takes 100; set it to that",
            ],
        ),
        (
            RelaySettings(host="email-smtp.eu-west-1.amazonaws.com"),
            [
                (
                    "[relays.second] email-smtp.eu-west-1.amazonaws.com has no limit, and SES takes so many a second"
                    " and in 24 hours as your account's quotas say; set rates to them"
                ),
            ],
        ),
        (RelaySettings(host="smtp.office365.com", rates=rates("30/m", "10000/d"), max_connections=3), []),
        (RelaySettings(host="smtp.example.com"), []),
    ],
)
def test_what_a_provider_of_a_relay_demands_is_told_where_the_settings_do_not_keep_it(
    relay: RelaySettings, words: list[str]
) -> None:
    assert warned(second=relay, messages=100) == words
