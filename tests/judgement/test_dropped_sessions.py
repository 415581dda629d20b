"""A session that ended early: the relay's doing, or a destination's through it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poller.judgement.dropped_sessions import MOST_SUSPECTS, DroppedSessions


def test_one_end_says_nothing() -> None:
    assert not DroppedSessions().befell("a")


def test_a_second_end_at_the_same_destination_with_others_accepted_between_is_its_doing() -> None:
    dropped_sessions = DroppedSessions()
    dropped_sessions.befell("a")
    dropped_sessions.accepted("b")
    assert dropped_sessions.befell("a")


def test_a_second_end_with_nothing_accepted_between_is_the_relays() -> None:
    dropped_sessions = DroppedSessions()
    dropped_sessions.befell("a")
    assert not dropped_sessions.befell("a")


def test_an_end_at_another_destination_makes_nobody_a_suspect() -> None:
    dropped_sessions = DroppedSessions()
    dropped_sessions.befell("a")
    dropped_sessions.accepted("b")
    assert not dropped_sessions.befell("c")


def test_an_acceptance_clears_a_destination() -> None:
    dropped_sessions = DroppedSessions()
    dropped_sessions.befell("a")
    dropped_sessions.accepted("b")
    dropped_sessions.accepted("a")
    assert not dropped_sessions.befell("a")


def test_only_so_many_suspects_are_remembered_and_the_oldest_is_forgotten() -> None:
    dropped_sessions = DroppedSessions()
    for number in range(MOST_SUSPECTS + 1):
        dropped_sessions.befell(f"d{number}")
    dropped_sessions.accepted("other")
    assert not dropped_sessions.befell("d0")
    assert dropped_sessions.befell(f"d{MOST_SUSPECTS}")


EVENTS = st.lists(st.tuples(st.sampled_from(["befell", "accepted"]), st.sampled_from("abc")), max_size=40)


@given(EVENTS)
def test_it_is_a_destinations_doing_if_and_only_if_all_between_two_ends_were_others_and_one_was_accepted(
    events: list[tuple[str, str]],
) -> None:
    dropped_sessions = DroppedSessions()
    for number, (event, destination) in enumerate(events):
        if event == "accepted":
            dropped_sessions.accepted(destination)
            continue
        own = [place for place, (_, who) in enumerate(events[:number]) if who == destination]
        between = events[own[-1] + 1 : number] if own and events[own[-1]][0] == "befell" else []
        assert dropped_sessions.befell(destination) == any(what == "accepted" for what, _ in between)
