"""How long a relay in trouble is left alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.judgement.rest import Rest

LENGTHS = st.floats(0.001, 1e6)


def test_pauses_double_up_to_the_longest() -> None:
    rest = Rest(first=1.0, longest=10.0)
    assert [rest.trouble(0.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_an_acceptance_ends_the_rest_and_the_doubling() -> None:
    rest = Rest(first=1.0, longest=10.0)
    rest.trouble(0.0)
    rest.trouble(0.0)
    rest.well()
    assert rest.remaining(0.0) == 0.0
    assert rest.trouble(0.0) == 1.0


@pytest.mark.parametrize(("now", "remaining"), [(100.0, 4.0), (101.5, 2.5), (104.0, 0.0), (1000.0, 0.0)])
def test_what_remains_of_a_rest_shrinks_to_nothing(now: float, remaining: float) -> None:
    rest = Rest(first=4.0, longest=10.0)
    rest.trouble(100.0)
    assert rest.remaining(now) == remaining


def test_a_relay_without_trouble_does_not_rest() -> None:
    assert Rest(first=1.0, longest=10.0).remaining(0.0) == 0.0


@given(LENGTHS, LENGTHS, st.integers(1, 3000))
def test_no_pause_is_shorter_than_the_one_before_or_longer_than_the_longest(
    first: float, longest: float, times: int
) -> None:
    rest = Rest(first=first, longest=longest)
    pauses = [rest.trouble(0.0) for _ in range(times)]
    assert all(before <= after for before, after in itertools.pairwise(pauses))
    assert 0 < pauses[0] <= pauses[-1] <= longest
    assert rest.until == pauses[-1]
