"""However a conversation overlaps, it comes to the same: held against lock-step, and against a relay's own ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from smtp.model import (
    ANSWERS,
    BYE,
    DROP,
    FINE,
    LOCKSTEP,
    NO,
    ODD,
    OVERLAP,
    TRANSACTION,
    Carried,
    Chance,
    Cut,
    Habits,
    Mode,
    Policy,
    carry,
    window,
)

from poller.exchange import Message
from poller.judgement.outcome import Deferred, Failed, InDoubt, Sent, judge

if TYPE_CHECKING:
    from poller.exchange import Exchange

RECIPIENTS = ("b@b.test", "c@c.test")


def message(number: int, size: int = 0) -> Message:
    return Message(
        row_id=number,
        claim_seq=1,
        message_id=f"<{number}@a.test>",
        mail_from=f"{number}@a.test",
        recipients=RECIPIENTS[: 1 + number % 2],
        content=b"Subject: %d\r\n\r\n.hello\r\n" % number + b"x" * size + b"\r\n",
    )


answers = st.sampled_from([FINE] * 6 + list(ANSWERS))
policy = st.builds(Policy, mail=answers, rcpt=st.tuples(answers, answers), data=answers, end=answers)
policies = st.lists(policy, min_size=1, max_size=7).map(lambda some: dict(enumerate(some, 1)))
habits = st.builds(Habits, forgets=st.booleans(), forgets_recipients=st.booleans())
modes = st.sampled_from([TRANSACTION, OVERLAP, window(2), window(3), window(16)])
wilder = st.builds(Habits, forgets=st.booleans(), forgets_recipients=st.booleans(), odd_is_yes=st.booleans())
sizes = st.sampled_from([0, 0, 0, 17_000, 40_000])
fractions = st.floats(0, 1)
cut = st.none() | st.builds(Cut, at=st.integers(1, 12), taken=fractions, readable=fractions)
cuts = st.lists(cut, max_size=4).map(tuple)
pieces = st.lists(st.integers(1, 40), max_size=30).map(tuple)
none_now = st.lists(st.booleans(), max_size=10).map(tuple)
chance = st.builds(Chance, pieces=pieces, none_now=none_now)
chance_with_cuts = st.builds(Chance, pieces=pieces, none_now=none_now, cuts=cuts)


def judged(exchange: Exchange) -> list[tuple[str, str]]:
    """One outcome for each recipient, as a kind and who is to blame."""
    return [(type(outcome).__name__, str(getattr(outcome, "blame", ""))) for outcome in judge(exchange).outcomes]


def one_round(count: int, big: int = 0) -> list[Message]:
    return [message(number, big if number == 2 else 0) for number in range(1, count + 1)]


@given(policies=policies, habits=habits, chance=chance, big=sizes, mode=st.sampled_from([TRANSACTION, OVERLAP]))
def test_pipelined_it_comes_to_the_same_as_in_lockstep(
    policies: dict[int, Policy], habits: Habits, chance: Chance, big: int, mode: Mode
) -> None:
    messages = one_round(len(policies), big)
    expected = carry(messages, LOCKSTEP, policies, habits=habits)
    seen = carry(messages, mode, policies, habits=habits, chance=chance)
    assert seen.order == expected.order == list(policies)
    for number in policies:
        assert judged(seen.exchanges[number]) == judged(expected.exchanges[number])
    assert seen.ledger == expected.ledger


@given(policies=policies, habits=habits, chance=chance, big=sizes, size=st.sampled_from([2, 3, 16]))
def test_in_a_window_it_comes_to_the_same_but_for_doubts_when_a_session_ends_in_trouble(
    policies: dict[int, Policy], habits: Habits, chance: Chance, big: int, size: int
) -> None:
    messages = one_round(len(policies), big)
    expected = carry(messages, LOCKSTEP, policies, habits=habits)
    seen = carry(messages, window(size), policies, habits=habits, chance=chance)
    assert sorted(seen.order) == list(policies)
    troubled = any(BYE in _answers(p) or ODD in _answers(p) or DROP in _answers(p) for p in policies.values())
    for number in policies:
        exchange, reference = seen.exchanges[number], expected.exchanges[number]
        for one, other in zip(judged(exchange), judged(reference), strict=True):
            if one != other:
                assert troubled
                assert one[0] == "InDoubt"
                assert exchange.end_of_data_sent
                assert exchange.end is None or exchange.end.kind == 3
    if not troubled:
        assert seen.ledger == expected.ledger


def _answers(policy: Policy) -> tuple[str, ...]:
    return (policy.mail, *policy.rcpt, policy.data, policy.end)


@given(policies=policies, mode=modes, habits=wilder, chance=chance_with_cuts, big=sizes)
def test_what_is_called_sent_is_in_the_ledger_once_and_what_is_called_unsent_is_not(
    policies: dict[int, Policy], mode: Mode, habits: Habits, chance: Chance, big: int
) -> None:
    messages = one_round(len(policies), big)
    seen = carry(messages, mode, policies, habits=habits, chance=chance)
    assert sorted(seen.order) == list(policies)
    delivered = {(entry.number, address) for entry in seen.ledger for address in entry.recipients}
    assert len(seen.ledger) == len({entry.number for entry in seen.ledger})
    for carried in messages:
        outcomes = judge(seen.exchanges[carried.row_id]).outcomes
        for address, outcome in zip(carried.recipients, outcomes, strict=True):
            if isinstance(outcome, Sent):
                assert (carried.row_id, address) in delivered
            elif not isinstance(outcome, InDoubt):
                assert (carried.row_id, address) not in delivered
    for entry in seen.ledger:
        assert entry.content == messages[entry.number - 1].content


@given(policies=policies, size=st.sampled_from([2, 3, 16]), chance=chance_with_cuts)
def test_no_session_leaves_more_doubts_than_its_window(policies: dict[int, Policy], size: int, chance: Chance) -> None:
    messages = one_round(len(policies))
    seen = carry(messages, window(size), policies, chance=chance)
    doubts = sum(any(kind == "InDoubt" for kind, _ in judged(e)) for e in seen.exchanges.values())
    assert doubts <= size * len(seen.relays)


@given(mode=st.sampled_from([LOCKSTEP, OVERLAP, window(3)]), at=st.integers(1, 12), taken=fractions, big=sizes)
@example(mode=window(2), at=1, taken=1.0, big=0)
def test_a_broken_write_leaves_exactly_those_in_doubt_whose_end_was_taken(
    mode: Mode, at: int, taken: float, big: int
) -> None:
    """No reply that came with the broken write can be read: what the relay has and did not say so is a doubt."""
    chance = Chance(cuts=(Cut(at=at, taken=taken, readable=0.0),))
    seen = carry(one_round(5, big), mode, chance=chance)
    doubts = {number for number, e in seen.exchanges.items() if ("InDoubt", "message") in judged(e)}
    sent = {number for number, e in seen.exchanges.items() if e.end}
    assert {entry.number for entry in seen.ledger} - sent == doubts


@pytest.mark.parametrize(
    ("mode", "trips"),
    [(LOCKSTEP, 4), (TRANSACTION, 2), (OVERLAP, 1), (window(4), 0.25)],
    ids=["lockstep", "transaction", "overlap", "window"],
)
def test_round_trips_for_each_message(mode: Mode, trips: float) -> None:
    messages = [message(2 * number) for number in range(1, 41)]
    (line,) = carry(messages, mode).lines
    assert abs(line.waits - trips * 40) <= 1


def outcomes_of(seen: Carried) -> list[type]:
    return [type(judge(seen.exchanges[number]).outcomes[0]) for number in sorted(seen.exchanges)]


@pytest.mark.parametrize("forgets", [True, False], ids=["postfix", "exim"])
@pytest.mark.parametrize("refused", [Policy(mail=NO), Policy(rcpt=(NO,)), Policy(data=NO), Policy(end=NO)])
@pytest.mark.parametrize("mode", [LOCKSTEP, OVERLAP, window(4)], ids=["lockstep", "overlap", "window"])
def test_a_refused_message_harms_no_other(mode: Mode, refused: Policy, *, forgets: bool) -> None:
    messages = [message(2 * number) for number in range(1, 6)]
    seen = carry(messages, mode, {4: refused}, habits=Habits(forgets=forgets))
    assert outcomes_of(seen) == [Sent, Failed, Sent, Sent, Sent]
    assert [entry.number for entry in seen.ledger] == [2, 6, 8, 10]


def test_a_message_called_out_of_sequence_is_carried_again_and_nothing_more_is_sent_ahead() -> None:
    messages = [message(2 * number) for number in range(1, 4)]
    habits = Habits(forgets=False, forgets_recipients=True)
    seen = carry(messages, OVERLAP, {2: Policy(end=NO)}, habits=habits)
    assert outcomes_of(seen) == [Failed, Sent, Sent]
    once = [b"MAIL", b"RCPT", b"DATA"]
    assert [[line[:4] for line in relay.commands] for relay in seen.relays] == [once * 2, once * 2]
    assert seen.lines[1].waits == 4  # two round trips each: the gear is `transaction`


def test_a_message_taken_into_the_transaction_before_is_not_delivered_there() -> None:
    messages = [message(2 * number) for number in range(1, 4)]
    seen = carry(messages, OVERLAP, {2: Policy(end=NO)}, habits=Habits(forgets=False))
    assert outcomes_of(seen) == [Failed, Sent, Sent]
    assert len(seen.relays) == 2
    assert seen.lines[1].waits == 4


@pytest.mark.parametrize("end", [BYE, DROP, ODD])
def test_a_session_that_ends_with_a_message_costs_the_one_taken_ahead_nothing(end: str) -> None:
    messages = [message(2 * number) for number in range(1, 4)]
    seen = carry(messages, OVERLAP, {2: Policy(end=end)})
    assert outcomes_of(seen) == [Deferred if end == BYE else InDoubt, Sent, Sent]
    assert len(seen.relays) == 2


def test_after_421_what_was_in_flight_behind_it_is_in_doubt_and_nothing_more_is_taken() -> None:
    messages = [message(2 * number) for number in range(1, 9)]
    seen = carry(messages, window(3), {4: Policy(mail=BYE)})
    assert outcomes_of(seen) == [Sent, Deferred, InDoubt, InDoubt, Sent, Sent, Sent, Sent]
    assert len(seen.relays) == 2


def test_after_eight_refusals_one_message_at_a_time_is_sent() -> None:
    messages = [message(2 * number) for number in range(1, 31)]
    seen = carry(messages, window(4), {2 * number: Policy(rcpt=(NO,)) for number in range(1, 20)})
    assert outcomes_of(seen) == [Failed] * 19 + [Sent] * 11
    (line,) = seen.lines
    assert line.waits >= 19
