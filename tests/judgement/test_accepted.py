"""What each destination accepted in the last minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.judgement.accepted import MOST_DESTINATIONS, AcceptedLately
from poller.units import Rate

WINDOW = AcceptedLately().window


def test_what_was_accepted_within_a_minute_is_seen() -> None:
    accepted_lately = AcceptedLately()
    accepted_lately.accepted("a", 100.2)
    accepted_lately.accepted("a", 100.9, 4)
    accepted_lately.accepted("a", 130.0)
    assert accepted_lately.seen("a", 131.0) == Rate(count=6, period=60)
    assert accepted_lately.seen("b", 131.0) is None


def test_what_is_a_minute_ago_is_seen_no_more() -> None:
    accepted_lately = AcceptedLately()
    accepted_lately.accepted("a", 100.0)
    assert accepted_lately.seen("a", 159.9) == Rate(count=1, period=60)
    assert accepted_lately.seen("a", 160.0) is None


def test_of_too_many_destinations_the_one_without_news_for_longest_is_forgotten() -> None:
    accepted_lately = AcceptedLately()
    for number in range(MOST_DESTINATIONS):
        accepted_lately.accepted(f"d{number}", 0.0)
    accepted_lately.accepted("d0", 1.0)
    accepted_lately.accepted("new", 1.0)
    seen = [name for name in ("d0", "d1", "d2", "new") if accepted_lately.seen(name, 1.0)]
    assert seen == ["d0", "d2", "new"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30), st.integers(1, 5)), max_size=60))
def test_what_is_seen_is_what_was_accepted_in_the_last_whole_seconds(events: list[tuple[str, float, int]]) -> None:
    accepted_lately, now = AcceptedLately(), 0.0
    log: list[tuple[str, int, int]] = []
    for destination, step, count in events:
        now += step
        accepted_lately.accepted(destination, now, count)
        log.append((destination, int(now), count))
        for name in "ab":
            expected = sum(n for who, second, n in log if who == name and second > int(now) - WINDOW)
            seen = accepted_lately.seen(name, now)
            assert (seen.count if seen else 0) == expected
