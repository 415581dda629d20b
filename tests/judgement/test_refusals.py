"""Telling an incident of the relay from a run of bad addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.exchange import Message, Phase, Reply
from poller.judgement.outcome import Blame, Deferred, Failed, InDoubt, Outcome, Sent, Verdict
from poller.judgement.refusals import MOST_RUNS, Belief, Refusals

TAKEN = Reply(code=250, text="Ok")


def refused(text: str = "go away") -> Failed:
    return Failed(blame=Blame.RECIPIENT, reason=text, reply=Reply(code=550, status="5.7.1", text=text))


SENT = Sent(reply=TAKEN)
UNSAID = Failed(blame=Blame.MESSAGE, reason="not sent: SMTPUTF8")
DEFERRED = Deferred(blame=Blame.RECIPIENT, reason="later", reply=Reply(code=450))
LOST = Deferred(blame=Blame.SESSION, reason="lost")
CLOSING = Deferred(blame=Blame.SESSION, reason="421", reply=Reply(code=421))
DOUBT = InDoubt(blame=Blame.MESSAGE, reason="lost")


def verdict(*outcomes: Outcome) -> Verdict:
    recipients = tuple(f"r{number}@example.com" for number in range(len(outcomes)))
    message = Message(row_id=1, claim_seq=1, message_id="<1@x>", mail_from="", recipients=recipients, content=b"")
    return Verdict(message=message, phase=Phase.END, outcomes=outcomes)


def refusals(limit: int = 3) -> Refusals[int]:
    return Refusals(limit=limit, patience=3600.0)


def weigh_all(judges: Refusals[int], *verdicts: Verdict) -> list[Belief[int]]:
    """Items are numbered from 1."""
    return [judges.weigh(number, one, age=0.0) for number, one in enumerate(verdicts, 1)]


NOTHING: Belief[int] = Belief()


def test_identical_refusals_up_to_the_limit_are_an_incident_and_given_back() -> None:
    same = verdict(refused())
    assert weigh_all(refusals(), same, same, same) == [NOTHING, NOTHING, Belief(give_back=(1, 2, 3))]


def test_after_an_incident_counting_begins_anew() -> None:
    judges = refusals(2)
    same = verdict(refused())
    beliefs = weigh_all(judges, same, same, same, same)
    assert beliefs == [NOTHING, Belief(give_back=(1, 2)), NOTHING, Belief(give_back=(3, 4))]


def test_a_limit_of_one_gives_back_each_refusal() -> None:
    assert weigh_all(refusals(1), verdict(refused())) == [Belief(give_back=(1,))]


def test_an_acceptance_in_between_makes_refusals_believed() -> None:
    beliefs = weigh_all(refusals(), verdict(refused()), verdict(refused()), verdict(SENT))
    assert beliefs == [NOTHING, NOTHING, Belief(settle=(1, 2, 3))]


def test_a_deferral_of_another_row_in_between_does_too() -> None:
    assert weigh_all(refusals(), verdict(refused()), verdict(DEFERRED)) == [NOTHING, Belief(settle=(1, 2))]


def test_another_refusal_believes_the_former_and_is_withheld_itself() -> None:
    judges = refusals()
    beliefs = weigh_all(judges, verdict(refused("unknown")), verdict(refused("too large")))
    assert beliefs == [NOTHING, Belief(settle=(1,))]
    assert judges.withheld == [2]


def test_another_refusal_can_reach_a_limit_of_one_while_the_former_is_believed() -> None:
    judges = refusals(2)
    judges.weigh(1, verdict(refused("unknown")), age=0.0)
    judges.limit = 1
    assert judges.weigh(2, verdict(refused("too large")), age=0.0) == Belief(settle=(1,), give_back=(2,))


def test_a_lost_line_a_closed_session_or_a_doubt_in_between_shows_nothing() -> None:
    same = verdict(refused())
    beliefs = weigh_all(refusals(), same, verdict(LOST), same, verdict(CLOSING), verdict(DOUBT), same)
    settled = [NOTHING, Belief(settle=(2,)), NOTHING, Belief(settle=(4,)), Belief(settle=(5,))]
    assert beliefs == [*settled, Belief(give_back=(1, 3, 6))]


def test_a_message_accepted_for_one_recipient_shows_a_difference_though_another_blames_the_session() -> None:
    assert weigh_all(refusals(), verdict(refused()), verdict(SENT, CLOSING)) == [NOTHING, Belief(settle=(1, 2))]


def test_a_message_refused_for_all_its_recipients_alike_counts_once() -> None:
    both = verdict(refused("<r0@example.com> unknown"), refused("<r1@example.com> unknown"))
    assert weigh_all(refusals(2), both, both) == [NOTHING, Belief(give_back=(1, 2))]


def test_a_message_refused_for_some_or_unlike_is_believed_at_once() -> None:
    some = verdict(refused(), DEFERRED)
    unlike = verdict(refused("unknown"), refused("too large"))
    assert weigh_all(refusals(), some, unlike) == [Belief(settle=(1,)), Belief(settle=(2,))]


def test_a_refusal_of_our_own_making_is_believed_at_once() -> None:
    assert weigh_all(refusals(), verdict(UNSAID)) == [Belief(settle=(1,))]


def test_a_row_whose_patience_is_at_an_end_is_believed_and_the_others_stay_withheld() -> None:
    judges = refusals()
    assert judges.weigh(1, verdict(refused()), age=3599.9) == NOTHING
    assert judges.weigh(2, verdict(refused()), age=3600.0) == Belief(settle=(2,))
    assert judges.withheld == [1]


def test_release_gives_up_everything_once() -> None:
    judges = refusals()
    weigh_all(judges, verdict(refused()), verdict(refused()))
    assert judges.release() == Belief(settle=(1, 2))
    assert judges.release() == NOTHING


@pytest.mark.parametrize("after", [verdict(SENT), verdict(DEFERRED), verdict(refused("too large"))])
def test_the_remainder_of_an_incident_is_given_back_too(after: Verdict) -> None:
    judges = refusals(3)
    same = verdict(refused())
    *_, last = weigh_all(judges, same, same, same, same, same, after)
    assert last.excuse == (4, 5)
    assert last.give_back == ()


def test_the_remainder_of_an_incident_is_given_back_when_nothing_more_comes() -> None:
    judges = refusals(2)
    weigh_all(judges, *[verdict(refused())] * 3)
    assert judges.release() == Belief(excuse=(3,))


def test_an_incident_is_over_with_the_first_acceptance() -> None:
    judges = refusals(2)
    same = verdict(refused())
    *_, last = weigh_all(judges, same, same, verdict(SENT), same, verdict(SENT))
    assert last == Belief(settle=(4, 5))


VERDICTS = st.sampled_from(
    [verdict(o) for o in (refused(), refused("unknown"), SENT, DEFERRED, LOST, DOUBT, UNSAID)]
    + [verdict(refused(), SENT), verdict(SENT, CLOSING)]
)


@given(st.lists(st.tuples(VERDICTS, st.sampled_from([0.0, 4000.0])), max_size=40), st.integers(1, 5))
def test_every_row_comes_back_once_and_few_are_withheld(verdicts: list[tuple[Verdict, float]], limit: int) -> None:
    judges = refusals(limit)
    returned: list[int] = []
    for number, (one, age) in enumerate(verdicts):
        belief = judges.weigh(number, one, age=age)
        returned += belief.settle + belief.give_back + belief.excuse
        assert len(judges.withheld) < limit
        assert len(belief.give_back) in {0, limit}
    rest = judges.release()
    returned += rest.settle + rest.excuse
    assert sorted(returned) == list(range(len(verdicts)))


# ---- by destination


Event = tuple[str, Verdict] | tuple[str, Verdict, float]


def weigh_each(judges: Refusals[int], *events: Event) -> list[Belief[int]]:
    """Each event is a destination and a verdict, perhaps with the time; items are numbered from 1."""
    return [
        judges.weigh(number, one, age=0.0, destination=destination, now=when[0] if when else 0.0)
        for number, (destination, one, *when) in enumerate(events, 1)
    ]


SAME = verdict(refused())
TAKEN_ONE = verdict(SENT)


def test_identical_refusals_of_one_destination_are_its_incident_though_others_accept_meanwhile() -> None:
    events = [("a", SAME), ("b", TAKEN_ONE), ("a", SAME), ("b", TAKEN_ONE), ("a", SAME)]
    *_, last = weigh_each(refusals(), *events)
    assert last == Belief(give_back=(1, 3, 5), destination="a")


def test_an_acceptance_at_another_destination_makes_no_refusal_believed() -> None:
    judges = refusals()
    assert weigh_each(judges, ("a", SAME), ("b", TAKEN_ONE)) == [NOTHING, Belief(settle=(2,))]
    assert judges.withheld == [1]


@pytest.mark.parametrize("after", [TAKEN_ONE, verdict(DEFERRED)])
def test_a_destination_that_makes_a_difference_is_believed(after: Verdict) -> None:
    assert weigh_each(refusals(), ("a", SAME), ("b", SAME), ("a", after))[-1] == Belief(settle=(1, 3))


def test_a_destination_that_asks_for_less_in_between_shows_nothing() -> None:
    less = verdict(Deferred(blame=Blame.DESTINATION, reason="slow down", reply=Reply(code=451)))
    *_, last = weigh_each(refusals(), ("a", SAME), ("a", less), ("a", SAME), ("a", SAME))
    assert last == Belief(give_back=(1, 3, 4), destination="a")


def test_identical_refusals_over_several_destinations_in_a_row_are_the_relays_incident() -> None:
    *_, last = weigh_each(refusals(), ("a", SAME), ("b", SAME), ("c", SAME))
    assert last == Belief(give_back=(1, 2, 3))


def test_an_acceptance_by_anyone_in_between_acquits_the_relay() -> None:
    judges = refusals()
    beliefs = weigh_each(judges, ("a", SAME), ("b", SAME), ("d", TAKEN_ONE), ("c", SAME))
    assert beliefs[-1] == NOTHING
    assert judges.withheld == [1, 2, 4]


def test_a_second_destination_with_the_same_incident_and_nothing_accepted_between_makes_it_the_relays() -> None:
    beliefs = weigh_each(refusals(), *[("a", SAME)] * 3, *[("b", SAME)] * 3)
    assert [belief.destination for belief in beliefs if belief.give_back] == ["a", ""]
    parted = weigh_each(refusals(), *[("a", SAME)] * 3, ("c", TAKEN_ONE), *[("b", SAME)] * 3)
    assert [belief.destination for belief in parted if belief.give_back] == ["a", "b"]


def test_refusals_for_several_destinations_at_once_are_nobodys_but_the_relays() -> None:
    *_, last = weigh_each(refusals(2), ("", SAME), ("", SAME))
    assert last == Belief(give_back=(1, 2))


def test_a_destination_that_had_an_incident_is_not_believed_for_a_while_whatever_it_accepts() -> None:
    judges = refusals()
    weigh_each(judges, *[("a", SAME)] * 3, ("a", TAKEN_ONE))
    beliefs = [
        judges.weigh(number, one, age=0.0, destination="a", now=3599.0)
        for number, one in ((11, SAME), (12, TAKEN_ONE), (13, SAME))
    ]
    assert beliefs == [NOTHING, Belief(settle=(12,), excuse=(11,)), NOTHING]
    assert judges.release() == Belief(excuse=(13,))


@pytest.mark.parametrize(
    ("destination", "one", "now"), [("a", SAME, 3600.0), ("b", SAME, 0.0), ("a", verdict(refused("other")), 0.0)]
)
def test_after_that_or_elsewhere_or_in_other_words_it_is(destination: str, one: Verdict, now: float) -> None:
    judges = refusals()
    weigh_each(judges, *[("a", SAME)] * 3, ("a", TAKEN_ONE))
    judges.weigh(11, one, age=0.0, destination=destination, now=now)
    assert judges.release() == Belief(settle=(11,))


def test_another_incident_of_it_is_news_again() -> None:
    *_, last = weigh_each(refusals(), *[("a", SAME)] * 3, ("a", TAKEN_ONE), *[("a", SAME)] * 3)
    assert last == Belief(give_back=(5, 6, 7), destination="a")


def test_beyond_so_many_withheld_rows_the_oldest_destination_is_believed() -> None:
    judges = refusals(3)
    events: list[Event] = [
        event for number in range(31) for event in ((f"d{number}", SAME), (f"other{number}", TAKEN_ONE))
    ]
    *_, last, _ = weigh_each(judges, *events)
    assert last == Belief(settle=(1,))
    assert len(judges.withheld) == 30


def test_a_tail_of_a_list_that_is_lied_about_fails_nobody() -> None:
    """A provider that has too much says "user unknown" to each but every third, after an incident."""
    judges = refusals()
    beliefs = weigh_each(judges, *[("a", SAME)] * 3, *[("a", TAKEN_ONE), ("a", SAME), ("a", SAME)] * 20)
    accepted = {number for number in range(4, 64) if (number - 4) % 3 == 0}
    assert {item for belief in beliefs for item in belief.settle} == accepted
    assert judges.release().settle == ()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b", "c", "d"]),
            VERDICTS,
            st.sampled_from([0.0, 0.0, 0.0, 4000.0]),
            st.sampled_from([0.0, 1.0, 2000.0]),
        ),
        max_size=80,
    ),
    st.integers(1, 4),
)
def test_with_destinations_too_every_row_comes_back_once_and_few_are_withheld(
    events: list[tuple[str, Verdict, float, float]], limit: int
) -> None:
    judges, now = refusals(limit), 0.0
    returned: list[int] = []
    for number, (destination, one, age, step) in enumerate(events):
        now += step
        belief = judges.weigh(number, one, age=age, destination=destination, now=now)
        returned += belief.settle + belief.give_back + belief.excuse
        assert len(judges.withheld) <= limit * MOST_RUNS
        assert not belief.destination or len(belief.give_back) == limit
        if age < 3600 and one.outcomes == (refused(),):
            assert number not in belief.settle
    rest = judges.release()
    returned += rest.settle + rest.excuse
    assert sorted(returned) == list(range(len(events)))
