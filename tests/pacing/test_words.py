"""Limits in words: what is written is read back, and what overrides holds wherever a limit is asked for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.delivery.claim_plan import Pacing
from poller.forecast import in_force
from poller.pacing.gate import Record, ScopeKey
from poller.pacing.limits import Limit
from poller.pacing.settings import ThrottleSettings
from poller.pacing.words import limit_of_words, override_of, words_of_limit
from poller.units import Rate, parse_rate

NOW = datetime(2026, 11, 28, tzinfo=UTC)
KEY = ScopeKey("domain", "example.com")
SLOW = Limit(rates=(parse_rate("1/h"),))
RATES = st.builds(Rate, period=st.sampled_from([1, 60, 900, 3600, 86400]), count=st.integers(1, 10**6))


@given(
    rates=st.lists(RATES, max_size=3, unique_by=lambda rate: rate.period),
    burst=st.integers(1, 50),
    gap=st.sampled_from([0.0, 0.5, 2.0, 90.0]),
    counts=st.sampled_from(["messages", "recipients"]),
)
def test_a_limit_that_is_written_is_read_back(rates: list[Rate], burst: int, gap: float, counts: str) -> None:
    has_pace = any(rate.period < 86400 for rate in rates)
    wanted = Limit(
        rates=tuple(sorted(rates)),
        burst=burst if has_pace else 1,
        gap=gap,
        counts="recipients" if rates and counts == "recipients" else "messages",
    )
    assert limit_of_words(words_of_limit(wanted) or "none") == wanted


@pytest.mark.parametrize("words", ["60", "60/m, burst x", "60/m and 30/m", "fast", "60/m gap 2s", "gap ever"])
def test_what_is_no_limit_overrides_nothing(words: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        limit_of_words(words)
    assert override_of(words) is None


@pytest.mark.parametrize(
    ("words", "holds"),
    [("60/m", Limit(rates=(parse_rate("60/m"),))), ("1/d", Limit(rates=(parse_rate("1/d"),))), ("none", Limit())],
)
def test_an_override_holds_instead_of_the_configured_limit_up_and_down(words: str, holds: Limit) -> None:
    throttle = ThrottleSettings(domains={KEY.name: SLOW})
    record = Record(values={}, limit_override=words, overridden_by="anna")
    pacing = Pacing(settings=throttle, relays={})
    assert pacing.limit_of(KEY) == SLOW
    pacing.see({KEY: record}, NOW)
    assert pacing.limit_of(KEY) == holds
    pacing.see({KEY: Record(values={})}, NOW)
    assert pacing.limit_of(KEY) == SLOW
    standing = in_force(throttle, {}, {KEY: record}, NOW, mail_exchangers=lambda _domain: ())
    paced = standing.scopes[KEY]
    assert (paced.limit, paced.configured, paced.overridden_by) == (holds, SLOW, "anna")


def test_an_override_that_can_not_be_read_is_said_and_the_configured_limit_holds() -> None:
    throttle = ThrottleSettings(domains={KEY.name: SLOW})
    record = Record(values={}, limit_override="sixty")
    paced = in_force(throttle, {}, {KEY: record}, NOW, mail_exchangers=lambda _domain: ()).scopes[KEY]
    assert (paced.limit, paced.overridden_by) == (SLOW, None)
    assert "limit_override 'sixty' can't be read" in paced.fault
