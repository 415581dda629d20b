"""Limits hold: over any sequence of takes, by any number of takers, whatever clocks and hands do."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.pacing import (
    Hearing,
    Limit,
    Scope,
    Slot,
    accepted,
    allowance,
    as_row,
    given_back,
    good_for,
    is_unlimited,
    next_at,
    paused,
    repaired,
    slow_down,
    take,
)
from poller.pacing.limits import slack_of
from poller.units import Rate, parse_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def limit(*rates: str, **settings: Any) -> Limit:
    return Limit(rates=tuple(map(parse_rate, rates)), **settings)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def seconds(times: Sequence[datetime]) -> list[float]:
    """Since noon, to the tenth."""
    return [round((time - NOON).total_seconds(), 1) for time in times]


def about(*times: float) -> Any:
    """So many seconds, and what slack may add to a few slots."""
    return pytest.approx([*times], abs=0.11)


def fullest(sent: Sequence[tuple[datetime, int]], rate: Rate) -> int:
    """The most that any window of the rate's period holds."""
    period = timedelta(seconds=rate.period)
    return max((sum(n for at, n in sent if start <= at < start + period) for start, _ in sent), default=0)


# ---- the pace


def test_slots_of_a_rate_are_spaced_evenly() -> None:
    assert seconds(take(limit("30/m"), Scope(), [1] * 4, NOON, ahead=60).slots) == about(0, 2, 4, 6)


def test_the_slots_of_a_period_are_spread_over_a_little_more_than_it() -> None:
    slots = take(limit("100/s"), Scope(), [1] * 101, NOON, ahead=60).slots
    assert slots[100] - slots[0] == timedelta(seconds=1) + slack_of(parse_rate("100/s"))
    assert good_for(limit("100/s"), Scope()) == timedelta(milliseconds=75)
    assert good_for(limit("30/m"), Scope()) == timedelta(milliseconds=375)


def test_a_spacing_that_does_not_come_out_even_is_rounded_up() -> None:
    slots = take(limit("7/s"), Scope(), [1] * 8, NOON, ahead=60).slots
    assert slots[7] - slots[0] >= timedelta(seconds=1)


def test_only_what_may_leave_at_once_is_taken_unless_asked_ahead() -> None:
    assert allowance(limit("30/m"), Scope(), NOON) == 1
    assert allowance(limit("30/m", burst=5), Scope(), NOON) == 5
    assert allowance(limit("30/m"), Scope(), NOON, ahead=11) == 6
    assert allowance(limit("30/m"), Scope(), NOON, ahead=11, most=4) == 4


def test_a_slot_that_is_not_used_in_its_time_is_lost() -> None:
    state = take(limit("30/m", burst=3), Scope(), [1], NOON).state
    assert allowance(limit("30/m", burst=3), state, after(86_400)) == 3


def test_what_was_taken_by_one_is_gone_for_the_others() -> None:
    state = take(limit("30/m"), Scope(), [1, 1, 1], NOON, ahead=10).state
    waiting = next_at(limit("30/m"), state, NOON)
    assert (seconds([waiting.at]), waiting.why) == (about(6), "30/m")
    assert seconds(take(limit("30/m"), state, [1] * 9, after(1), ahead=10).slots) == about(6, 8, 10)


def test_a_gap_is_kept_whatever_the_burst_allows() -> None:
    paced = limit("60/s", burst=60, gap=1.5)
    assert seconds(take(paced, Scope(), [1] * 3, NOON, ahead=10).slots) == [0, 1.5, 3]
    assert next_at(paced, take(paced, Scope(), [1], NOON).state, NOON) == Slot(at=after(1.5), why="a gap of 1.5s")


def test_twenty_and_then_a_breath_is_a_valid_way_to_live() -> None:
    state, sent = Scope(), []
    for second in range(60):
        taken = take(limit("20/s", "20/17s", burst=20), state, [1] * 50, after(second))
        state, sent = taken.state, sent + [(second, len(taken.slots))] * bool(taken.slots)
    assert sent == [(0, 20), (18, 20), (36, 20), (54, 20)]


# ---- the quotas


def test_a_quota_is_used_as_fast_as_the_pace_allows_and_then_waits_until_it_leaves_the_count() -> None:
    daily = limit("30/m", "100/d")
    state = take(daily, Scope(), [1] * 1000, NOON, ahead=3600).state
    waiting = next_at(daily, state, after(3600))
    assert waiting.why == "100/d is used up"
    assert after(86_400) < waiting.at <= after(86_400 * 1.05 + 200)


def test_a_quota_alone_is_spread_evenly() -> None:
    assert seconds(take(limit("1000/h"), Scope(), [1, 1], NOON, ahead=60).slots) == [0, 3.6]


def test_a_day_is_a_duration_and_not_a_date() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for night in (
        datetime(2026, 3, 28, 23, 59, tzinfo=berlin),
        datetime(2026, 10, 24, 23, 59, tzinfo=berlin),
        datetime(2026, 2, 28, 23, 59, tzinfo=UTC),
        datetime(2026, 12, 31, 23, 59, tzinfo=UTC),
    ):
        evening = night.astimezone(UTC)
        daily = limit("10/s", "5/d")
        state = take(daily, Scope(), [1] * 10, evening, ahead=60).state
        for hours in (1, 12, 24):
            assert allowance(daily, state, evening + timedelta(hours=hours), most=9, ahead=9) == 0
        assert allowance(daily, state, evening + timedelta(hours=25.3), most=9, ahead=9) == 5


# ---- weights


def test_recipients_are_counted_only_where_the_limit_says_so() -> None:
    assert limit("30/m").weight_of(7) == 1
    assert limit("30/m", counts="recipients").weight_of(7) == 7


def test_a_heavy_message_takes_as_many_slots() -> None:
    paced = limit("30/m", burst=10)
    state = take(paced, Scope(), [6], NOON).state
    assert allowance(paced, state, NOON) == 4
    assert seconds([next_at(paced, state, NOON, weight=6).at]) == [4]


def test_a_message_heavier_than_all_that_may_go_at_once_goes_when_all_is_free_and_its_debt_is_paid() -> None:
    for paced in (limit("30/m", burst=10), limit("30/s", "30/m", burst=30)):
        state = take(paced, Scope(), [100], NOON).state
        assert allowance(paced, state, after(50)) == 0
        assert allowance(paced, state, after(300)) == paced.burst


# ---- the property


MOMENTS = st.sampled_from([0.0, 0.001, 0.3, 1.0, 2.0, 5.0, 17.0, 59.999, 60.0, 300.0])
RATES = st.lists(
    st.builds(Rate, count=st.integers(1, 40), period=st.sampled_from([1, 7, 60, 300])),
    min_size=1,
    max_size=3,
    unique_by=lambda rate: rate.period,
)
LIMITS = st.builds(
    Limit,
    rates=RATES.map(tuple),
    burst=st.integers(1, 12),
    gap=st.sampled_from([0.0, 0.0, 0.5]),
)
TAKES = st.lists(
    st.tuples(
        MOMENTS,
        st.lists(st.integers(1, 4), min_size=1, max_size=30),
        st.sampled_from([0.0, 0.0, 1.0, 10.0]),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.5, 1.0, 1.0]),
        st.sampled_from(["", "", "", "slow down", "well", "row"]),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(LIMITS, TAKES)
def test_no_window_ever_holds_more_than_count_and_burst(
    limits: Limit, takes: list[tuple[float, list[int], float, int, float, str]]
) -> None:
    state, now = Scope(), NOON
    sent: list[tuple[datetime, int]] = []
    for moment, weights, ahead, unused, late, event in takes:
        now += timedelta(seconds=moment)
        taken = take(limits, state, weights, now, ahead=ahead)
        lateness = (good_for(limits, state) or timedelta()) * late
        state = taken.state
        match event:
            case "slow down":
                state = slow_down(limits, state, now, reason="busy")
            case "well":
                state = accepted(state, now, 100)
            case "row":
                state, faults = repaired(limits, as_row(state), now)
                assert faults == ""
        used = max(0, len(taken.slots) - unused)
        state = given_back(limits, state, taken, len(taken.slots) - used)
        sent += [(slot + lateness, weight) for slot, weight in zip(taken.slots[:used], weights, strict=False)]
    heaviest = max((weight for _, weight in sent), default=1)
    for rate in limits.rates:
        assert fullest(sent, rate) <= rate.count + max(limits.burst, heaviest)


@settings(max_examples=150, deadline=None)
@given(LIMITS, st.integers(0, 10**9), st.lists(st.tuples(MOMENTS, st.sampled_from([0.0, 10.0])), max_size=40))
def test_no_window_holds_more_whichever_slots_are_used_as_late_as_they_may(
    limits: Limit, phase: int, takes: list[tuple[float, float]]
) -> None:
    """A slot can be in any window that begins up to `good_for` after it: as if the window were longer by that."""
    state, now, slots = Scope(), NOON + timedelta(microseconds=phase), []
    for moment, ahead in takes:
        now += timedelta(seconds=moment)
        taken = take(limits, state, [1] * 60, now, ahead=ahead)
        state, slots = taken.state, slots + [(slot, 1) for slot in taken.slots]
    late = good_for(limits, Scope())
    assert late is not None
    for rate in limits.rates:
        period = timedelta(seconds=rate.period) + late
        most = max((sum(start <= at < start + period for at, _ in slots) for start, _ in slots), default=0)
        assert most <= rate.count + limits.burst


STEPS = st.sampled_from([0.0, 0.2, 0.34, 0.7, 1.0, 2.9, 3.1, 6.6, 15.0])


@settings(max_examples=150, deadline=None)
@given(LIMITS, st.lists(st.tuples(STEPS, st.sampled_from([0.0, 2.0, 20.0]), st.booleans()), min_size=10, max_size=60))
def test_no_window_holds_more_when_greedy_takers_give_back_behind_each_other(
    limits: Limit, ticks: list[tuple[float, float, bool]]
) -> None:
    """Each taker wants all it can get; what it has not begun when the next one comes it may give back after that."""
    state, now, sent = Scope(), NOON, []
    held = take(limits, state, [], NOON)
    for step, ahead, gives_back in ticks:
        now += timedelta(seconds=step)
        other = take(limits, state, [1] * 60, now, ahead=ahead)
        state = other.state
        unbegun = sum(slot > now for slot in held.slots) if gives_back else 0
        state = given_back(limits, state, held, unbegun)
        sent += [(slot, 1) for slot in held.slots[: len(held.slots) - unbegun]]
        held = other
    for rate in limits.rates:
        assert fullest(sent, rate) <= rate.count + limits.burst


@given(LIMITS, TAKES, st.floats(0, 4000))
def test_a_clock_that_steps_back_grants_nothing(
    limits: Limit, takes: list[tuple[float, list[int], float, int, float, str]], back: float
) -> None:
    state, now = Scope(), NOON
    for moment, weights, ahead, *_ in takes:
        now += timedelta(seconds=moment)
        state = take(limits, state, weights, now, ahead=ahead).state
    assert allowance(limits, state, now - timedelta(seconds=back)) <= allowance(limits, state, now)


@settings(max_examples=60, deadline=None)
@given(LIMITS, st.lists(st.tuples(STEPS, st.sampled_from([0, 0, 0, 3, 90, 7200])), max_size=60))
def test_the_limit_holds_in_true_time_while_the_clock_steps_back(limits: Limit, ticks: list[tuple[float, int]]) -> None:
    state, true, skew = Scope(), NOON, timedelta()
    sent: list[tuple[datetime, int]] = []
    for moment, step in ticks:
        true += timedelta(seconds=moment)
        skew -= timedelta(seconds=step)
        state, _ = repaired(limits, as_row(state), true + skew)
        taken = take(limits, state, [1] * 50, true + skew)
        state = taken.state
        sent += [(true, 1)] * len(taken.slots)
    for rate in limits.rates:
        assert fullest(sent, rate) <= rate.count + limits.burst


@given(LIMITS, st.integers(1, 30))
def test_the_next_slot_is_never_in_the_past_and_is_what_take_gives(limits: Limit, count: int) -> None:
    state = take(limits, Scope(), [1] * count, NOON, ahead=3600).state
    slot = next_at(limits, state, NOON)
    assert slot.at >= NOON
    assert (slot.at == NOON) == (allowance(limits, state, NOON) > 0)
    assert allowance(limits, state, slot.at, most=1) == 1


# ---- giving back


def test_what_is_given_back_at_once_can_be_taken_again() -> None:
    hourly = limit("30/m", "100/h")
    taken = take(hourly, Scope(), [1] * 5, NOON, ahead=60)
    state = given_back(hourly, taken.state, taken, 3)
    assert state == take(hourly, Scope(), [1, 1], NOON, ahead=60).state
    assert given_back(hourly, taken.state, taken, 5) == Scope()


def test_what_somebody_has_taken_behind_is_not_granted_twice() -> None:
    taken = take(limit("30/m"), Scope(), [1] * 5, NOON, ahead=60)
    other = take(limit("30/m"), taken.state, [1], NOON, ahead=60)
    assert given_back(limit("30/m"), other.state, taken, 3) == other.state


def test_a_quota_gets_back_what_was_not_sent_though_somebody_has_taken_behind() -> None:
    daily = limit("30/m", "100/d")
    taken = take(daily, Scope(), [1] * 5, NOON, ahead=60)
    other = take(daily, taken.state, [1], NOON, ahead=60)
    state = given_back(daily, other.state, taken, 3)
    assert (state.free_at, state.used["d"].counts) == (other.state.free_at, (3,))


# ---- being heard


def test_without_limits_all_may_go_and_nothing_is_to_be_written() -> None:
    assert is_unlimited(Limit(), Scope(), NOON)
    assert allowance(Limit(), Scope(), NOON, most=70) == 70
    assert take(Limit(), Scope(), [1] * 3, NOON).state == Scope()


def test_slow_down_halves_the_pace_and_pauses() -> None:
    paced = limit("30/m")
    state = slow_down(paced, Scope(), NOON, reason="421 busy")
    assert (state.pace, state.paused_until, state.reason) == (0.5, after(60), "421 busy")
    assert next_at(paced, state, NOON) == Slot(at=after(60), why="paused: 421 busy")
    assert seconds(take(paced, state, [1] * 3, after(60), ahead=60).slots) == about(60, 64, 68)


def test_who_was_asked_to_slow_down_does_not_come_in_bursts() -> None:
    paced = limit("30/m", burst=30)
    state = slow_down(paced, Scope(), NOON, reason="busy", pause=1)
    assert allowance(paced, state, after(1)) == 1


def test_many_voices_of_one_complaint_count_once() -> None:
    state = slow_down(limit("30/m"), Scope(), NOON, reason="busy")
    assert slow_down(limit("30/m"), state, after(1), reason="busy too") == state
    assert slow_down(limit("30/m"), state, after(1), reason="long", pause=600).paused_until == after(601)
    assert slow_down(limit("30/m"), state, after(1), reason="short", pause=3) == state


def test_a_block_that_goes_on_makes_longer_pauses_but_no_slower_pace() -> None:
    paced, state, now, pauses = limit("30/m"), Scope(), NOON, []
    for _ in range(8):
        state = slow_down(paced, state, now, reason="busy")
        assert state.paused_until is not None
        pauses.append((state.paused_until - now).total_seconds())
        now = state.paused_until
    assert pauses == [60, 660, 1320, 2640, 3600, 3600, 3600, 3600]
    assert state.pace == 0.5


@pytest.mark.parametrize(
    ("asked", "expected"), [(600, [600, 1200, 2400, 3600, 3600]), (14_400, [14_400] * 5), (1, [1, 2, 4, 8, 16])]
)
def test_what_was_asked_is_doubled_too_while_nothing_is_accepted(asked: float, expected: list[float]) -> None:
    state, now, pauses = Scope(), NOON, []
    for _ in expected:
        state = slow_down(Limit(), state, now, reason="busy", pause=asked)
        assert state.paused_until is not None
        pauses.append((state.paused_until - now).total_seconds())
        now = state.paused_until
    assert pauses == expected


def test_each_complaint_after_an_acceptance_halves_again_down_to_the_floor() -> None:
    paced, state, now, paces = limit("30/m"), Scope(), NOON, []
    for _ in range(7):
        state = slow_down(paced, state, now, reason="busy")
        now += timedelta(minutes=2)
        state = accepted(state, now)
        paces.append(state.pace)
    assert paces == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 30, 1 / 30, 1 / 30]


def test_a_scope_without_a_rate_is_slowed_from_what_was_seen() -> None:
    state = slow_down(Limit(), Scope(), NOON, reason="busy", seen=parse_rate("600/m"))
    assert seconds(take(Limit(), state, [1] * 3, after(60), ahead=60).slots) == [60, 60.2, 60.4]
    unseen = slow_down(Limit(), Scope(), NOON, reason="busy")
    assert seconds(take(Limit(), unseen, [1] * 3, after(60), ahead=60).slots) == [60, 62, 64]


def test_what_was_seen_never_makes_a_limit_faster() -> None:
    state = slow_down(limit("30/m"), Scope(), NOON, reason="busy", seen=parse_rate("600/m"))
    assert seconds(take(limit("30/m"), state, [1] * 2, after(60), ahead=60).slots) == [60, 64]


def test_a_few_messages_show_no_rate() -> None:
    state = slow_down(Limit(), Scope(), NOON, reason="busy", seen=parse_rate("2/m"))
    assert seconds(take(Limit(), state, [1] * 2, after(60), ahead=60).slots) == about(60, 72)


def raised(state: Scope, quarters: int, *, each: int = 10, **limits: Limit) -> list[float]:
    """The paces of a scope that goes on well, every quarter of an hour, each time another one."""
    paces = [state.pace]
    for quarter in range(1, quarters + 1):
        state = accepted(state, after(900 * quarter), each, **limits)
        paces += [state.pace] * (state.pace != paces[-1])
    return paces


def test_acceptances_raise_the_pace_step_by_step_to_a_little_below_where_it_complained() -> None:
    state = slow_down(limit("30/m"), Scope(), NOON, reason="busy")
    assert raised(state, 6) == [0.5, 0.625, 0.78125, 0.9]


def test_when_that_has_held_for_an_hour_a_limit_is_whole_again_and_only_the_hit_remains() -> None:
    state = slow_down(limit("30/m"), Scope(), NOON, reason="busy")
    for quarter in range(1, 8):
        state = accepted(state, after(900 * quarter), 10)
    assert replace(state, paused_until=None) == Scope(hits=1)
    assert is_unlimited(Limit(), state, after(7000))


def test_beyond_a_rate_that_was_seen_more_is_tried_step_by_step() -> None:
    state, rates = slow_down(Limit(), Scope(), NOON, reason="busy", seen=parse_rate("30/m")), []
    for quarter in range(1, 17):
        state = accepted(state, after(900 * quarter), 10)
        rates.append(str(state.pace_of))
    assert rates == ["30/m"] * 6 + ["38/m"] * 4 + ["48/m"] * 4 + ["60/m"] * 2
    assert state.pace == 0.9


def test_a_rate_that_was_seen_is_forgotten_when_it_says_no_less_than_the_limit() -> None:
    state = slow_down(limit("40/m"), Scope(), NOON, reason="busy", seen=parse_rate("30/m"))
    assert raised(state, 20, limit=limit("40/m")) == [0.5, 0.625, 0.78125, 0.9, 1.0]
    assert raised(state, 20) == [0.5, 0.625, 0.78125, 0.9]


def test_what_was_tried_in_vain_is_tried_again_after_four_times_as_long() -> None:
    state, now, held = Scope(), NOON, []
    for _ in range(4):
        state = slow_down(limit("30/m"), state, now, reason="busy")
        for _ in range(2000):
            now += timedelta(seconds=900)
            before, state = state, accepted(state, now, 10)
            if state.pace >= 1:
                held.append(now - (before.pace_since or now))
                break
    assert held == [timedelta(hours=hours) for hours in (1, 4, 16, 24)]


def test_after_a_second_complaint_the_pace_comes_back_to_below_that() -> None:
    state = accepted(slow_down(limit("30/m"), Scope(), NOON, reason="busy"), after(900), 10)
    again = slow_down(limit("30/m"), state, after(1000), reason="busy")
    assert (again.pace, again.too_fast, again.hits) == (0.3125, 0.625, 1)
    state, paces = again, []
    for quarter in range(1, 5):
        state = accepted(state, after(1000 + 900 * quarter), 10)
        paces.append(state.pace)
    assert paces == [0.390625, 0.48828125, 0.5625, 0.5625]


def test_what_is_heard_can_be_set() -> None:
    quick = Hearing(first_pause=5, longest_pause=8, raise_every=10, raise_after=2)
    state = slow_down(limit("30/m"), Scope(), NOON, reason="busy", hearing=quick)
    assert state.paused_until == after(5)
    assert slow_down(limit("30/m"), state, after(5), reason="busy", hearing=quick).paused_until == after(13)
    assert accepted(state, after(10), 2, hearing=quick).pace == 0.625
    assert accepted(state, after(10), 1, hearing=quick).pace == 0.5


def test_neither_time_alone_nor_acceptances_alone_raise_the_pace() -> None:
    slow = slow_down(limit("30/m"), Scope(), NOON, reason="busy")
    assert accepted(slow, after(90_000), 9).pace == 0.5
    assert accepted(slow, after(899), 1_000_000).pace == 0.5


def test_what_was_on_its_way_when_the_complaint_came_does_not_end_it() -> None:
    slow = slow_down(limit("30/m"), Scope(), NOON, reason="busy")
    assert accepted(slow, after(59), 5) is slow


def test_an_acceptance_by_a_healthy_scope_need_not_be_written() -> None:
    state = take(limit("30/m"), Scope(), [1], NOON).state
    assert accepted(state, NOON) is state


def test_a_pause_never_shortens_another() -> None:
    long = paused(Scope(), after(600), "a person")
    assert paused(long, after(60), "busy") is long
    assert paused(long, after(700), "busy").reason == "busy"


# ---- the row


def test_a_row_is_short_and_can_be_read() -> None:
    hourly = limit("30/m", "1000/h")
    state = slow_down(hourly, take(hourly, Scope(), [1, 1], NOON, ahead=9).state, NOON, reason="421 busy")
    row = as_row(state)
    assert (row["paused_until"], row["reason"], row["pace"]) == (after(60), "421 busy", 0.5)
    assert json.loads(row["slots"]) == {
        "next": "2026-11-22T12:00:04.033334Z",
        "since": "2026-11-22T12:00:00.000000Z",
        "complaints": 1,
        "hits": 1,
        "h": {"since": "2026-11-22T12:00:00.000000Z", "used": [2]},
    }
    full = limit("30/m", "1000/h", "10000/d")
    assert len(as_row(take(full, Scope(), [1] * 1000, NOON, ahead=3600).state)["slots"]) < 400


def test_an_empty_row_is_a_fresh_scope() -> None:
    assert repaired(limit("30/m"), {}, NOON) == (Scope(), "")
    assert as_row(Scope()) == {"slots": None, "paused_until": None, "reason": None, "pace": 1.0}


def test_a_hand_that_sets_pace_to_one_ends_the_slowness() -> None:
    row = as_row(slow_down(Limit(), Scope(), NOON, reason="busy", seen=parse_rate("9/m"))) | {
        "pace": 1,
        "paused_until": None,
    }
    state, faults = repaired(Limit(), row, NOON)
    assert (is_unlimited(Limit(), state, NOON), faults) == (True, "")
    assert replace(state, complaints=0, hits=0, reason="") == Scope()


def test_a_pause_by_hand_is_honoured_however_long() -> None:
    forever = datetime(2999, 1, 1, tzinfo=UTC)
    state, faults = repaired(limit("30/m"), {"paused_until": forever, "reason": "ask Ann"}, NOON)
    assert (next_at(limit("30/m"), state, NOON), faults) == (Slot(at=forever, why="paused: ask Ann"), "")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"slots": "not JSON"}, "slots can't be read: what was taken is forgotten"),
        ({"slots": "[1]"}, "slots can't be read: what was taken is forgotten"),
        ({"slots": 7}, "slots can't be read: what was taken is forgotten"),
        ({"slots": '{"next": "soon"}'}, "next is no time to go by: left out"),
        ({"slots": '{"next": 12}'}, "next is no time to go by: left out"),
        ({"slots": '{"next": "9999-12-31T23:59:59Z"}'}, "next is no time to go by: left out"),
        ({"slots": '{"next": "2030-01-01T00:00:00Z"}'}, "next lay further ahead than it can: brought back"),
        ({"slots": '{"gap": "2030-01-01T00:00:00Z"}'}, "gap lay further ahead than it can: brought back"),
        ({"slots": '{"h": -5}'}, "what was used of 100/h can't be read: begun anew"),
        ({"slots": '{"h": {"since": "2026-11-22T11:00Z", "used": [-5]}}'}, "what was used of 100/h can't be read: beg"),
        ({"slots": '{"h": {"since": "x", "used": [5]}}'}, "what was used of 100/h can't be read: begun anew"),
        ({"slots": '{"h": {"since": "2030-01-01T00:00Z", "used": [5]}}'}, "what was used of 100/h lay further ahead"),
        ({"slots": '{"complaints": "many"}'}, "complaints is no count: set to 0"),
        ({"slots": '{"of": "fast"}'}, '"of" is no rate: left out'),
        ({"slots": '{"hits": -1}'}, "hits is no count: set to 0"),
        ({"slots": '{"too_fast": 2}', "pace": 0.5}, "too_fast is not above 0 and at most 1: set to 1"),
        ({"pace": 0}, "pace is not above 0 and at most 1: set to 1"),
        ({"pace": -1}, "pace is not above 0 and at most 1: set to 1"),
        ({"pace": "fast"}, "pace is not above 0 and at most 1: set to 1"),
        ({"pace": float("nan")}, "pace is not above 0 and at most 1: set to 1"),
        ({"pace": 1e-300}, "pace is below the least, 0.033: raised to it"),
        ({"paused_until": "tomorrow"}, "paused_until is no time to go by: left out"),
    ],
)
def test_nonsense_in_a_row_is_repaired_and_said(row: dict[str, Any], words: str) -> None:
    state, faults = repaired(limit("30/m", "100/h"), row, NOON)
    assert faults.startswith(words)
    assert next_at(limit("30/m", "100/h"), state, NOON).at <= after(3700)
    assert repaired(limit("30/m", "100/h"), as_row(state), NOON) == (state, "")


JUNK: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.datetimes()
    | st.datetimes().map(str)
    | st.sampled_from(["2026-11-22T12:00:00Z", "30/m", "9999-12-31T23:59:59-14:00", "[" * 9999]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["next", "gap", "h", "since", "used", "of", "too_fast", "hits"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


def written(junk: Any) -> str:
    return json.dumps(junk, default=str)


@settings(max_examples=200, deadline=None)
@given(LIMITS, st.fixed_dictionaries({"slots": JUNK | JUNK.map(written), "pace": JUNK, "reason": JUNK}))
def test_no_row_stops_a_scope_or_the_worker(limits: Limit, row: dict[str, Any]) -> None:
    state, _ = repaired(limits, row, NOON)
    assert next_at(limits, state, NOON).at <= NOON + timedelta(hours=2)
    take(limits, state, [1] * 5, NOON, ahead=9)
    slow_down(limits, accepted(state, NOON), NOON, reason="busy")


# ---- limits that are none


@pytest.mark.parametrize(
    ("rates", "burst", "words"),
    [
        (("30/m", "60/m"), 1, "two rates for the same period, /m; keep the one that is meant"),
        (("30/m", "60/60s"), 1, "two rates for the same period, /m; keep the one that is meant"),
        (("1/d",), 2, "a burst needs a rate of less than a day; of a quota all may go at once"),
        (("1/h",), 9000, "a burst of 9000 is more than 1/h lets through in a year"),
    ],
)
def test_a_limit_that_contradicts_itself_is_refused(rates: tuple[str, ...], burst: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        limit(*rates, burst=burst)
