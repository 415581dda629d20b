"""Telling an incident of the relay from a run of bad addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.cohort import Belief, Cohort
from poller.exchange import Message, Phase, Reply
from poller.outcome import Blame, Deferred, Failed, InDoubt, Outcome, Sent, Verdict

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


def cohort(limit: int = 3) -> Cohort[int]:
    return Cohort(limit=limit, patience=3600.0)


def weigh_all(judges: Cohort[int], *verdicts: Verdict) -> list[Belief[int]]:
    """Items are numbered from 1."""
    return [judges.weigh(number, one, age=0.0) for number, one in enumerate(verdicts, 1)]


NOTHING: Belief[int] = Belief()


def test_identical_refusals_up_to_the_limit_are_an_incident_and_given_back() -> None:
    same = verdict(refused())
    assert weigh_all(cohort(), same, same, same) == [NOTHING, NOTHING, Belief(give_back=(1, 2, 3))]


def test_after_an_incident_counting_begins_anew() -> None:
    judges = cohort(2)
    same = verdict(refused())
    beliefs = weigh_all(judges, same, same, same, same)
    assert beliefs == [NOTHING, Belief(give_back=(1, 2)), NOTHING, Belief(give_back=(3, 4))]


def test_a_limit_of_one_gives_back_each_refusal() -> None:
    assert weigh_all(cohort(1), verdict(refused())) == [Belief(give_back=(1,))]


def test_an_acceptance_in_between_makes_refusals_believed() -> None:
    beliefs = weigh_all(cohort(), verdict(refused()), verdict(refused()), verdict(SENT))
    assert beliefs == [NOTHING, NOTHING, Belief(settle=(1, 2, 3))]


def test_a_deferral_of_another_row_in_between_does_too() -> None:
    assert weigh_all(cohort(), verdict(refused()), verdict(DEFERRED)) == [NOTHING, Belief(settle=(1, 2))]


def test_another_refusal_believes_the_former_and_is_withheld_itself() -> None:
    judges = cohort()
    beliefs = weigh_all(judges, verdict(refused("unknown")), verdict(refused("too large")))
    assert beliefs == [NOTHING, Belief(settle=(1,))]
    assert judges.withheld == [2]


def test_another_refusal_can_reach_a_limit_of_one_while_the_former_is_believed() -> None:
    judges = cohort(2)
    judges.weigh(1, verdict(refused("unknown")), age=0.0)
    judges.limit = 1
    assert judges.weigh(2, verdict(refused("too large")), age=0.0) == Belief(settle=(1,), give_back=(2,))


def test_a_lost_line_a_closed_session_or_a_doubt_in_between_shows_nothing() -> None:
    same = verdict(refused())
    beliefs = weigh_all(cohort(), same, verdict(LOST), same, verdict(CLOSING), verdict(DOUBT), same)
    settled = [NOTHING, Belief(settle=(2,)), NOTHING, Belief(settle=(4,)), Belief(settle=(5,))]
    assert beliefs == [*settled, Belief(give_back=(1, 3, 6))]


def test_a_message_accepted_for_one_recipient_shows_a_difference_though_another_blames_the_session() -> None:
    assert weigh_all(cohort(), verdict(refused()), verdict(SENT, CLOSING)) == [NOTHING, Belief(settle=(1, 2))]


def test_a_message_refused_for_all_its_recipients_alike_counts_once() -> None:
    both = verdict(refused("<r0@example.com> unknown"), refused("<r1@example.com> unknown"))
    assert weigh_all(cohort(2), both, both) == [NOTHING, Belief(give_back=(1, 2))]


def test_a_message_refused_for_some_or_unlike_is_believed_at_once() -> None:
    some = verdict(refused(), DEFERRED)
    unlike = verdict(refused("unknown"), refused("too large"))
    assert weigh_all(cohort(), some, unlike) == [Belief(settle=(1,)), Belief(settle=(2,))]


def test_a_refusal_of_our_own_making_is_believed_at_once() -> None:
    assert weigh_all(cohort(), verdict(UNSAID)) == [Belief(settle=(1,))]


def test_a_row_whose_patience_is_at_an_end_is_believed_and_the_others_stay_withheld() -> None:
    judges = cohort()
    assert judges.weigh(1, verdict(refused()), age=3599.9) == NOTHING
    assert judges.weigh(2, verdict(refused()), age=3600.0) == Belief(settle=(2,))
    assert judges.withheld == [1]


def test_release_gives_up_everything_once() -> None:
    judges = cohort()
    weigh_all(judges, verdict(refused()), verdict(refused()))
    assert judges.release() == Belief(settle=(1, 2))
    assert judges.release() == NOTHING


@pytest.mark.parametrize("after", [verdict(SENT), verdict(DEFERRED), verdict(refused("too large"))])
def test_the_remainder_of_an_incident_is_given_back_too(after: Verdict) -> None:
    judges = cohort(3)
    same = verdict(refused())
    *_, last = weigh_all(judges, same, same, same, same, same, after)
    assert last.excuse == (4, 5)
    assert last.give_back == ()


def test_the_remainder_of_an_incident_is_given_back_when_nothing_more_comes() -> None:
    judges = cohort(2)
    weigh_all(judges, *[verdict(refused())] * 3)
    assert judges.release() == Belief(excuse=(3,))


def test_an_incident_is_over_with_the_first_acceptance() -> None:
    judges = cohort(2)
    same = verdict(refused())
    *_, last = weigh_all(judges, same, same, verdict(SENT), same, verdict(SENT))
    assert last == Belief(settle=(4, 5))


VERDICTS = st.sampled_from(
    [verdict(o) for o in (refused(), refused("unknown"), SENT, DEFERRED, LOST, DOUBT, UNSAID)]
    + [verdict(refused(), SENT), verdict(SENT, CLOSING)]
)


@given(st.lists(st.tuples(VERDICTS, st.sampled_from([0.0, 4000.0])), max_size=40), st.integers(1, 5))
def test_every_row_comes_back_once_and_few_are_withheld(verdicts: list[tuple[Verdict, float]], limit: int) -> None:
    judges = cohort(limit)
    returned: list[int] = []
    for number, (one, age) in enumerate(verdicts):
        belief = judges.weigh(number, one, age=age)
        returned += belief.settle + belief.give_back + belief.excuse
        assert len(judges.withheld) < limit
        assert len(belief.give_back) in {0, limit}
    rest = judges.release()
    returned += rest.settle + rest.excuse
    assert sorted(returned) == list(range(len(verdicts)))
