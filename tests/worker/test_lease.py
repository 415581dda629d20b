"""How long a worker may act, and when another's rows may be judged: by clocks that nobody can set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.worker.lease import Lease, Watch, boot_clock


class Clock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_before_it_was_had_it_allows_nothing() -> None:
    lease = Lease(Clock(), 900, spare=60)
    assert (lease.ended, lease.allows_another) == (True, False)


@pytest.mark.parametrize(
    ("after", "allows", "ended"), [(0, True, False), (839, True, False), (840, False, False), (900, False, True)]
)
def test_it_allows_another_transaction_while_there_is_time_for_one(after: float, allows: bool, ended: bool) -> None:  # noqa: FBT001
    clock = Clock()
    lease = Lease(clock, 900, spare=60)
    lease.renewed(clock())
    clock.now += after
    assert (lease.allows_another, lease.ended) == (allows, ended)


def test_of_a_short_lease_half_is_spared() -> None:
    clock = Clock()
    lease = Lease(clock, 2, spare=660)
    lease.renewed(clock())
    assert lease.allows_another
    clock.now += 1
    assert not lease.allows_another


def test_a_renewal_counts_from_when_it_was_asked_for() -> None:
    clock = Clock()
    lease = Lease(clock, 10, spare=1)
    asked_at = lease.now()
    clock.now += 8  # the database was slow
    lease.renewed(asked_at)
    assert not lease.ended
    clock.now += 2
    assert lease.ended


def test_a_lease_that_had_ended_and_is_had_again_is_another_one() -> None:
    clock = Clock()
    lease = Lease(clock, 10, spare=1)
    lease.renewed(clock())
    first = lease.epoch
    clock.now += 5
    lease.renewed(clock())
    assert lease.epoch == first
    clock.now += 10
    lease.renewed(clock())
    assert lease.epoch == first + 1


def test_the_clock_goes_forward() -> None:
    assert boot_clock() <= boot_clock()


# --- the watch ---


def test_nobody_is_silent_at_first_sight_however_old_its_mark() -> None:
    assert Watch(Clock(), 900).silent({"w2": ((1, "long ago"), False)}) == set()


def test_a_worker_is_silent_when_its_mark_has_stood_still_for_the_whole_time() -> None:
    clock = Clock()
    watch = Watch(clock, 900)
    holders = {"w2": ((1, "10:00"), False)}
    watch.silent(holders)
    clock.now += 899
    assert watch.silent(holders) == set()
    clock.now += 1
    assert watch.silent(holders) == {"w2"}


def test_one_that_said_that_it_stopped_is_silent_at_once() -> None:
    assert Watch(Clock(), 900).silent({"w2": ((1, "10:00"), True)}) == {"w2"}


def test_who_was_away_from_the_list_is_watched_from_the_beginning() -> None:
    clock = Clock()
    watch = Watch(clock, 900)
    holders = {"w2": ((1, "10:00"), False)}
    watch.silent(holders)
    clock.now += 500
    watch.silent({})
    clock.now += 500
    assert watch.silent(holders) == set()


@given(st.lists(st.tuples(st.floats(0, 400), st.booleans()), max_size=30))
def test_silence_is_what_we_saw_ourselves(looks: list[tuple[float, bool]]) -> None:
    """Whatever the marks say, and whichever way they go: only our own clock counts, since the last change."""
    clock = Clock()
    watch = Watch(clock, 900)
    mark, changed_at, seen = 0, clock.now, False
    for passed, beats in looks:
        clock.now += passed
        if beats or not seen:
            mark, changed_at, seen = -mark + 1, clock.now, True
        assert watch.silent({"w2": (mark, False)}) == ({"w2"} if clock.now - changed_at >= 900 else set())
