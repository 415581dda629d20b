"""What becomes of a row: attempts, doubts, delays, ends, and its history."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.exchange import Reply
from poller.judgement.outcome import Blame, Deferred, Expired, Failed, InDoubt, Outcome, Sent, Suppressed
from poller.judgement.retry import (
    MOST_DEATHS,
    Note,
    OnDoubt,
    RecipientState,
    RetrySettings,
    Standing,
    Step,
    _weighed,
    died,
    fold,
    next_step,
    refused,
)

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
DEFAULTS = RetrySettings()

TAKEN = Reply(code=250, status="2.0.0", text="Ok: queued as 4F1A")
LATER = Reply(code=450, status="4.2.0", text="Greylisted")
NO = Reply(code=550, status="5.1.1", text="unknown")

SENT = Sent(reply=TAKEN, queue_id="4F1A")
DEFERRED = Deferred(blame=Blame.RECIPIENT, reason="deferred: 450", reply=LATER)
FULL = Deferred(blame=Blame.RECIPIENT, reason="full", reply=Reply(code=452, status="4.5.3"), at_once=True)
TROUBLE = Deferred(blame=Blame.SESSION, reason="the session broke")
FAILED = Failed(blame=Blame.RECIPIENT, reason="refused: 550", reply=NO)
UNSENDABLE = Failed(blame=Blame.MESSAGE, reason="not sent")
DOUBT = InDoubt(blame=Blame.MESSAGE, reason="may have been delivered")
LESS = Deferred(blame=Blame.DESTINATION, reason="the destination x limits our rate", reply=Reply(code=451))
LESS_PACED = replace(LESS, wait=600.0, paced=True)
SUPPRESSED = Suppressed(reason="on the list")
EXPIRED = Expired(reason="expired at noon")
OUTCOMES: tuple[Outcome, ...] = (
    SENT,
    DEFERRED,
    replace(DEFERRED, blame=Blame.MESSAGE),
    FULL,
    TROUBLE,
    replace(TROUBLE, reply=Reply(code=421)),
    FAILED,
    UNSENDABLE,
    DOUBT,
    LESS,
    LESS_PACED,
    SUPPRESSED,
    EXPIRED,
)
CHARGED: tuple[Outcome, ...] = (SENT, DEFERRED, replace(DEFERRED, blame=Blame.MESSAGE), FAILED)


def recipient(name: str = "a", **more: Any) -> RecipientState:
    return replace(RecipientState(address=f"{name}@example.com"), **more)


def row(*recipients: RecipientState, **more: Any) -> Standing:
    standing = Standing(
        row_id=7,
        claim_seq=1,
        message_id="<7@x>",
        attempts=0,
        doubts=0,
        setbacks=0,
        first_attempt_at=NOON,
        expires_at=None,
        max_attempts=None,
        on_doubt=None,
        recipients=recipients or (recipient(),),
    )
    return replace(standing, **more)


def step(
    standing: Standing,
    *outcomes: Outcome | None,
    now: datetime = NOON,
    chance: float = 0.5,
    settings: RetrySettings = DEFAULTS,
) -> Step:
    """`outcomes` in the order of the recipients; None: this one was not asked for."""
    pairs = zip(standing.recipients, outcomes, strict=True)
    by_address = {state.address: outcome for state, outcome in pairs if outcome is not None}
    return next_step(standing, by_address, now=now, chance=chance, settings=settings, phase="end")


def waited(found: Step) -> float:
    assert found.due_at is not None
    return (found.due_at - found.at).total_seconds()


# Any standing, any outcomes

STATES = st.builds(
    RecipientState,
    address=st.just(""),
    status=st.sampled_from(["queued", "queued", "queued", "sent", "failed", "in_doubt", "expired", "suppressed"]),
    attempts=st.integers(0, 60),
    doubts=st.integers(0, 5),
    error=st.none() | st.just("earlier"),
).map(lambda state: replace(state, sent_at=NOON - timedelta(hours=1) if state.status == "sent" else None))
PAST = st.integers(0, 8 * 24).map(lambda hours: NOON - timedelta(hours=hours))
AROUND = st.integers(-60, 10_000).map(lambda minutes: NOON + timedelta(minutes=minutes))


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    states = draw(st.lists(STATES, min_size=1, max_size=3))
    named = tuple(replace(state, address=f"r{number}@example.com") for number, state in enumerate(states))
    return Standing(
        row_id=7,
        claim_seq=draw(st.integers(1, 100)),
        message_id="<7@x>",
        attempts=draw(st.integers(0, 60)),
        doubts=draw(st.integers(0, 5)),
        setbacks=draw(st.integers(0, 100)),
        first_attempt_at=draw(PAST),
        expires_at=draw(st.none() | AROUND),
        max_attempts=draw(st.none() | st.integers(1, 60)),
        on_doubt=draw(st.sampled_from([None, "resend", "hold"])),
        recipients=named,
    )


SETTINGS = st.builds(
    RetrySettings,
    first=st.floats(0.001, 1e5),
    factor=st.floats(1.0, 100.0),
    longest=st.floats(0.001, 1e6),
    jitter=st.floats(0.0, 1.0),
    max_attempts=st.integers(1, 60),
    give_up_after=st.floats(1.0, 1e6),
    on_doubt=st.sampled_from(["resend", "hold"]),
    max_doubts=st.integers(0, 5),
)
CHANCES = st.floats(0.0, 1.0, exclude_max=True)
A_FEW_SETTINGS = st.sampled_from(
    [
        DEFAULTS,
        RetrySettings(jitter=1.0, max_attempts=1, on_doubt="hold"),
        RetrySettings(first=0.001, factor=1.0, longest=0.001, jitter=0.0, give_up_after=1.0, max_doubts=0),
        RetrySettings(first=1e5, factor=100.0, longest=1e6, jitter=1.0, max_attempts=60, max_doubts=5),
    ]
)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Standing, dict[str, Outcome], Step, RetrySettings]:
    standing = draw(standings())
    asked = st.none() | st.sampled_from(OUTCOMES)
    drawn = {state.address: draw(asked) for state in standing.recipients}
    outcomes = {address: outcome for address, outcome in drawn.items() if outcome is not None}
    settings = draw(A_FEW_SETTINGS)
    found = next_step(standing, outcomes, now=NOON, chance=draw(st.sampled_from([0.0, 0.3, 0.999])), settings=settings)
    open_ones = {state.address for state in standing.recipients if state.status == "queued"}
    return standing, {a: o for a, o in outcomes.items() if a in open_ones}, found, settings


SITUATIONS = situations()
Situation = tuple[Standing, dict[str, Outcome], Step, RetrySettings]


@given(SITUATIONS)
def test_the_rows_status_is_the_fold_of_its_recipients(situation: Situation) -> None:
    standing, _, found, _ = situation
    if found.recipients:
        assert found.status == fold(state.status for state in found.recipients)
    assert len(found.recipients) == (len(standing.recipients) if len(standing.recipients) > 1 else 0)


SHORT_WAY = st.builds(
    lambda status, expires_at, queue_id: (
        row(recipient(status=status), expires_at=expires_at),
        {"a@example.com": replace(SENT, queue_id=queue_id)},
    ),
    st.sampled_from(["queued", "queued", "sent"]),
    st.none() | st.just(NOON + timedelta(hours=1)),
    st.sampled_from(["", "4F1A"]),
)


@given(SHORT_WAY | SITUATIONS.map(lambda drawn: drawn[:2]), A_FEW_SETTINGS)
def test_the_short_way_for_a_plain_success_ends_where_the_long_one_does(
    situation: tuple[Standing, dict[str, Outcome]], settings: RetrySettings
) -> None:
    standing, outcomes = situation
    facts: dict[str, Any] = {"now": NOON, "chance": 0.5, "settings": settings, "phase": "end", "relay": "r:25"}
    assert next_step(standing, outcomes, **facts) == _weighed(standing, outcomes, **facts)


@given(SITUATIONS)
def test_an_attempt_is_charged_if_and_only_if_it_was_the_messages_own(situation: Situation) -> None:
    _, outcomes, found, _ = situation
    assert found.attempts == int(any(outcome in CHARGED for outcome in outcomes.values()))
    assert found.doubts == int(DOUBT in outcomes.values())


@given(SITUATIONS)
def test_a_settled_recipient_stays_as_it_is(situation: Situation) -> None:
    standing, _, found, _ = situation
    for before, later in zip(standing.recipients, found.recipients, strict=False):
        if before.status != "queued":
            assert later == before


@given(SITUATIONS)
def test_an_open_recipient_that_was_not_asked_for_stays_open(situation: Situation) -> None:
    standing, outcomes, found, _ = situation
    for before, later in zip(standing.recipients, found.recipients, strict=False):
        if before.address not in outcomes:
            assert later == before


@given(SITUATIONS)
def test_each_recipient_is_charged_for_its_own_outcome_only(situation: Situation) -> None:
    standing, outcomes, found, _ = situation
    for before, later in zip(standing.recipients, found.recipients, strict=False):
        outcome = outcomes.get(before.address)
        assert later.attempts - before.attempts == int(outcome in CHARGED)
        assert later.doubts - before.doubts == int(outcome == DOUBT)


@given(SITUATIONS)
def test_only_a_queued_row_has_a_new_due_time_and_it_lies_ahead(situation: Situation) -> None:
    standing, _, found, _ = situation
    if found.due_at is not None:
        assert found.status == "queued"
        assert found.due_at > NOON or found.due_at == standing.expires_at


@given(SITUATIONS)
def test_no_row_waits_beyond_its_expiry(situation: Situation) -> None:
    standing, _, found, _ = situation
    if standing.expires_at is not None and found.due_at is not None:
        assert found.due_at <= standing.expires_at


@given(SITUATIONS)
def test_no_row_waits_longer_than_the_longest_delay_and_its_jitter(situation: Situation) -> None:
    _, _, found, settings = situation
    if found.due_at is not None:
        assert waited(found) <= settings.longest * (1 + settings.jitter) + 1e-6


@given(SITUATIONS)
def test_a_recipient_that_was_sent_to_has_a_time_and_no_error(situation: Situation) -> None:
    _, outcomes, found, _ = situation
    for state in found.recipients:
        if outcomes.get(state.address) == SENT:
            assert (state.status, state.sent_at, state.error, state.queue_id) == ("sent", NOON, None, "4F1A")
    if found.status in {"sent", "partial"}:
        assert found.sent_at is not None


@given(SITUATIONS)
def test_whatever_is_not_sent_says_why(situation: Situation) -> None:
    _, outcomes, found, _ = situation
    if found.status == "sent":
        assert found.error is None
    elif any(outcome != SENT for outcome in outcomes.values()):
        assert found.error


@given(SITUATIONS)
def test_a_row_that_may_have_been_delivered_is_never_called_expired(situation: Situation) -> None:
    standing, _, found, _ = situation
    for before, later in zip(standing.recipients, found.recipients, strict=False):
        if before.status == "queued" and later.status == "expired":
            assert later.doubts == 0


# Delays


def test_delays_double_from_the_first_to_the_longest() -> None:
    minutes = [DEFAULTS.delay(attempt, 0.5) / 60 for attempt in range(1, 11)]
    assert minutes == [1, 2, 4, 8, 16, 32, 64, 128, 240, 240]


@given(SETTINGS, st.integers(1, 10_000), CHANCES)
def test_a_delay_is_bounded_and_never_negative(settings: RetrySettings, attempt: int, chance: float) -> None:
    assert 0 <= settings.delay(attempt, chance) <= settings.longest * (1 + settings.jitter)


@given(SETTINGS, st.integers(1, 10_000), CHANCES)
def test_a_delay_grows_with_the_attempt(settings: RetrySettings, attempt: int, chance: float) -> None:
    assert settings.delay(attempt, chance) <= settings.delay(attempt + 1, chance)


@given(SETTINGS, st.integers(1, 10_000), CHANCES)
def test_jitter_changes_a_delay_by_its_share_at_most(settings: RetrySettings, attempt: int, chance: float) -> None:
    even = replace(settings, jitter=0.0).delay(attempt, chance)
    assert abs(settings.delay(attempt, chance) - even) <= (settings.jitter + 1e-9) * even


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 60.0), (1, 120.0), (5, 1920.0), (20, 14_400.0)])
def test_a_deferral_waits_by_the_recipients_own_attempts(attempts: int, seconds: float) -> None:
    alone = row(recipient(attempts=attempts), claim_seq=attempts + 1, attempts=attempts)
    assert waited(step(alone, DEFERRED)) == seconds
    beside = row(recipient(attempts=attempts), recipient("b", status="sent"), claim_seq=30, attempts=29)
    assert waited(step(beside, DEFERRED, None)) == seconds


@pytest.mark.parametrize("outcome", [DEFERRED, TROUBLE, replace(TROUBLE, reply=Reply(code=421))])
def test_a_reply_that_names_a_time_is_obeyed_where_it_is_longer_than_ours(outcome: Deferred) -> None:
    assert step(row(), replace(outcome, wait=7200.0)).due_at == NOON + timedelta(hours=2)
    assert step(row(recipient(attempts=20), attempts=20), replace(DEFERRED, wait=10.0)).due_at == NOON + timedelta(
        hours=4
    )


def test_the_first_trouble_of_a_session_does_not_delay_the_row() -> None:
    assert step(row(), TROUBLE).due_at is None
    assert step(row(claim_seq=400, attempts=2, doubts=1), TROUBLE).due_at is None
    assert step(row(), TROUBLE).setbacks == 1


@pytest.mark.parametrize(("setbacks", "seconds"), [(1, 60.0), (2, 120.0), (3, 240.0), (49, 14_400.0)])
def test_trouble_that_keeps_happening_to_this_very_row_delays_it(setbacks: int, seconds: float) -> None:
    found = step(row(setbacks=setbacks), TROUBLE)
    assert (found.status, found.attempts, waited(found)) == ("queued", 0, seconds)


def test_a_row_that_trouble_delays_is_due_no_later_than_its_expiry() -> None:
    soon = NOON + timedelta(seconds=30)
    assert step(row(setbacks=9, expires_at=soon), TROUBLE).due_at == soon


def test_the_earliest_wish_of_the_open_recipients_counts() -> None:
    standing = row(recipient(attempts=5), recipient("b"), recipient("c", doubts=2))
    assert waited(step(standing, DEFERRED, DEFERRED, DOUBT)) == 60.0


def test_trouble_of_one_recipient_does_not_hurry_another_that_was_told_to_wait() -> None:
    found = step(row(recipient(), recipient("b")), DEFERRED, TROUBLE)
    assert (found.attempts, waited(found)) == (1, 60.0)


@pytest.mark.parametrize("outcome", [SENT, DEFERRED, FAILED, DOUBT, TROUBLE])
def test_a_row_with_recipients_not_asked_for_yet_is_due_now(outcome: Outcome) -> None:
    found = step(row(recipient(), recipient("b")), outcome, None)
    assert (found.status, found.due_at) == ("queued", None)


def test_a_row_that_keeps_breaking_sessions_waits_though_some_were_not_asked_for() -> None:
    assert waited(step(row(recipient(), recipient("b"), setbacks=2), TROUBLE, None)) == 120.0


def test_a_full_transaction_goes_on_now_and_costs_the_others_nothing() -> None:
    found = step(row(recipient(), recipient("b"), recipient("c")), SENT, FULL, DEFERRED)
    assert (found.status, found.due_at) == ("queued", None)
    assert [state.attempts for state in found.recipients] == [1, 0, 1]


def test_any_number_of_full_transactions_never_gives_a_recipient_up() -> None:
    standing = row(*(recipient(f"r{number}") for number in range(100)))
    for _ in range(100):
        opened = [state for state in standing.recipients if state.status == "queued"]
        outcomes = {state.address: FULL for state in opened} | {opened[0].address: SENT}
        found = next_step(standing, outcomes, now=NOON, chance=0.5, settings=DEFAULTS)
        standing = claimed_again(standing, found)
    assert {state.status for state in standing.recipients} == {"sent"}


# Giving up


@pytest.mark.parametrize(
    ("tried", "own", "status"),
    [(48, None, "queued"), (49, None, "failed"), (1, 2, "failed"), (0, 2, "queued"), (49, 51, "queued")],
)
def test_a_recipient_is_given_up_after_so_many_attempts_of_its_own(tried: int, own: int | None, status: str) -> None:
    found = step(row(recipient(attempts=tried), attempts=tried, claim_seq=tried + 1, max_attempts=own), DEFERRED)
    assert found.status == status
    if status == "failed":
        assert found.error == f"given up after {tried + 1} attempts: deferred: 450"


@pytest.mark.parametrize(("days", "status"), [(4.9, "queued"), (5.0, "failed")])
def test_a_recipient_is_given_up_after_so_long(days: float, status: str) -> None:
    found = step(row(first_attempt_at=NOON - timedelta(days=days)), DEFERRED)
    assert found.status == status
    if status == "failed":
        assert found.error == "given up after 5d: deferred: 450"


def test_trouble_of_the_session_never_gives_a_row_up() -> None:
    ancient = row(recipient(attempts=49), first_attempt_at=NOON - timedelta(days=99), claim_seq=900, attempts=49)
    found = step(ancient, TROUBLE)
    assert (found.status, found.attempts, found.error) == ("queued", 0, "the session broke")


@pytest.mark.parametrize(("seconds", "status"), [(59, "expired"), (60, "expired"), (61, "queued")])
def test_a_retry_that_would_lie_beyond_the_expiry_is_not_scheduled(seconds: int, status: str) -> None:
    found = step(row(expires_at=NOON + timedelta(seconds=seconds)), DEFERRED)
    assert found.status == status
    if status == "expired":
        assert found.error == "expires before the next attempt: deferred: 450"


def test_a_refusal_is_final_and_keeps_the_relays_words() -> None:
    found = step(row(), FAILED)
    assert (found.status, found.reply, found.error, found.due_at) == ("failed", NO, "refused: 550", None)


def test_a_row_that_cannot_be_sent_fails_without_an_attempt() -> None:
    found = refused(
        row(recipient(), recipient("b", status="sent", sent_at=NOON)), "no sender", now=NOON, settings=DEFAULTS
    )
    assert (found.status, found.attempts, found.error) == ("partial", 0, "a@example.com: no sender")


@pytest.mark.parametrize(("outcome", "status"), [(SUPPRESSED, "suppressed"), (EXPIRED, "expired")])
def test_a_row_that_is_not_to_be_sent_ends_in_words(outcome: Suppressed | Expired, status: str) -> None:
    found = step(row(), outcome)
    assert (found.status, found.error, found.attempts) == (status, outcome.reason, 0)


def test_outcomes_of_strangers_and_of_settled_recipients_count_for_nothing() -> None:
    standing = row(recipient(status="sent", sent_at=NOON), recipient("b"))
    found = next_step(
        standing,
        {"a@example.com": FAILED, "x@example.com": SENT},
        now=NOON,
        chance=0.5,
        settings=DEFAULTS,
    )
    assert (found.status, found.attempts, found.notes) == ("queued", 0, ())
    assert found.recipients == standing.recipients


# Doubts


@pytest.mark.parametrize(("doubts", "status"), [(0, "queued"), (2, "queued"), (3, "in_doubt"), (4, "in_doubt")])
def test_a_doubt_is_resent_so_many_times_and_then_held(doubts: int, status: str) -> None:
    found = step(row(recipient(doubts=doubts), doubts=doubts, claim_seq=doubts + 1), DOUBT)
    assert (found.status, found.attempts, found.doubts) == (status, 0, 1)
    if status == "in_doubt":
        assert found.error == f"may have been delivered; held after {doubts + 1} doubts"


@pytest.mark.parametrize(
    ("own", "configured", "status"),
    [
        (None, "resend", "queued"),
        (None, "hold", "in_doubt"),
        ("hold", "resend", "in_doubt"),
        ("resend", "hold", "queued"),
    ],
)
def test_the_rows_own_word_on_doubts_comes_first(own: OnDoubt | None, configured: OnDoubt, status: str) -> None:
    found = step(row(on_doubt=own), DOUBT, settings=RetrySettings(on_doubt=configured))
    assert found.status == status


def test_a_doubt_that_could_not_be_resent_in_time_is_held() -> None:
    found = step(row(expires_at=NOON + timedelta(seconds=60)), DOUBT)
    held = "may have been delivered; held, as it expires before it would be resent"
    assert (found.status, found.error) == ("in_doubt", held)


@pytest.mark.parametrize("outcome", [EXPIRED, DEFERRED])
def test_an_expired_row_that_may_have_been_delivered_is_held(outcome: Outcome) -> None:
    found = step(row(recipient(doubts=1), doubts=1, claim_seq=2, expires_at=NOON), outcome)
    assert found.status == "in_doubt"
    assert str(found.error).endswith("; held, as it may have been delivered before")


def test_a_held_doubt_does_not_stop_the_others() -> None:
    found = step(row(recipient(), recipient("b"), on_doubt="hold"), DOUBT, DEFERRED)
    assert (found.status, waited(found)) == ("queued", 60.0)
    assert [state.status for state in found.recipients] == ["in_doubt", "queued"]


# History


def test_a_plain_success_leaves_no_history() -> None:
    found = step(row(), SENT)
    assert (found.status, found.sent_at, found.queue_id, found.notes) == ("sent", NOON, "4F1A", ())


def test_a_success_after_earlier_trouble_is_noted() -> None:
    note = Note(outcome="accepted", recipient=None, blame=None, reply=TAKEN, queue_id="4F1A", error=None)
    assert step(row(setbacks=1), SENT).notes == (note,)
    assert step(row(claim_seq=2), SENT).notes == ()


@pytest.mark.parametrize(
    ("outcome", "word", "blame"),
    [
        (DEFERRED, "deferred", "recipient"),
        (TROUBLE, "deferred", "session"),
        (FAILED, "failed", "recipient"),
        (DOUBT, "in_doubt", "message"),
        (SUPPRESSED, "suppressed", None),
        (EXPIRED, "expired", None),
    ],
)
def test_whatever_did_not_simply_succeed_is_noted(outcome: Outcome, word: str, blame: str | None) -> None:
    [note] = step(row(), outcome).notes
    assert (note.outcome, note.recipient, note.blame, note.reply) == (word, None, blame, outcome.reply)


def test_a_note_names_its_recipient_when_there_are_several() -> None:
    found = step(row(recipient(), recipient("b")), FAILED, DEFERRED)
    assert [note.recipient for note in found.notes] == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        (SENT, FAILED, "b@example.com: refused: 550"),
        (FAILED, DEFERRED, "a@example.com: refused: 550"),
        (DEFERRED, DOUBT, "a@example.com: deferred: 450"),
        (SENT, SENT, None),
    ],
)
def test_the_row_tells_what_a_person_must_know_first(first: Outcome, second: Outcome, error: str | None) -> None:
    assert step(row(recipient(), recipient("b")), first, second).error == error


def test_a_step_carries_the_fence_and_the_phase() -> None:
    found = step(row(claim_seq=3), SENT)
    assert (found.row_id, found.claim_seq, found.message_id, found.phase) == (7, 3, "<7@x>", "end")


# Whole lives


def claimed_again(standing: Standing, found: Step) -> Standing:
    """The standing of the next claim, from what was written down."""
    alone = replace(
        standing.recipients[0],
        attempts=standing.recipients[0].attempts + found.attempts,
        doubts=standing.recipients[0].doubts + found.doubts,
        error=found.error,
    )
    return replace(
        standing,
        claim_seq=standing.claim_seq + 1,
        setbacks=standing.setbacks + found.setbacks,
        attempts=standing.attempts + found.attempts,
        doubts=standing.doubts + found.doubts,
        recipients=found.recipients or (alone,),
    )


def life(outcome: Outcome, standing: Standing, settings: RetrySettings, chance: float) -> list[Step]:
    """Every claim's step against a relay that always does the same, until the row is queued no more."""
    steps: list[Step] = []
    now = NOON
    for _ in range(1000):
        steps.append(step(standing, outcome, now=now, chance=chance, settings=settings))
        if steps[-1].status != "queued":
            break
        now = max(now, steps[-1].due_at or now)
        standing = claimed_again(standing, steps[-1])
    return steps


@given(CHANCES)
def test_a_relay_that_always_defers_ends_in_failed_after_days(chance: float) -> None:
    steps = life(DEFERRED, row(), DEFAULTS, chance)
    last = steps[-1]
    assert timedelta(days=5) <= last.at - NOON <= timedelta(days=5, hours=5)
    assert last.status == "failed"
    assert str(last.error).startswith("given up after 5d")
    assert str(last.error).endswith(": deferred: 450")
    assert 30 <= len(steps) < DEFAULTS.max_attempts


@given(SETTINGS.map(lambda settings: replace(settings, give_up_after=1e9)), st.integers(1, 40))
def test_attempts_end_a_row_whatever_the_clock(settings: RetrySettings, most: int) -> None:
    steps = life(DEFERRED, row(max_attempts=most), settings, 0.5)
    assert (len(steps), steps[-1].status) == (most, "failed")


@given(st.integers(0, 9))
def test_a_relay_that_always_loses_the_end_is_sent_to_max_doubts_times_more_and_then_held(most: int) -> None:
    steps = life(DOUBT, row(), RetrySettings(max_doubts=most), 0.5)
    assert (len(steps), steps[-1].status) == (most + 1, "in_doubt")
    assert sum(found.attempts for found in steps) == 0


def test_a_row_that_breaks_every_session_soon_leaves_the_others_alone() -> None:
    steps = life(TROUBLE, row(), DEFAULTS, 0.5)
    assert {found.status for found in steps} == {"queued"}
    assert steps[-1].at - NOON > timedelta(days=100)
    assert sum(found.at - NOON < timedelta(hours=1) for found in steps) == 7


def test_a_mixture_of_deferral_and_trouble_does_not_hammer_the_relay() -> None:
    standing = row(recipient(), recipient("b"))
    now = NOON
    times = []
    for _ in range(8):
        found = step(standing, DEFERRED, TROUBLE, now=now)
        times.append((now - NOON).total_seconds())
        now = max(now, found.due_at or now)
        standing = claimed_again(standing, found)
    assert times == [0, 60, 120, 240, 480, 960, 1920, 3840]


def test_a_row_of_many_transactions_goes_round_and_then_waits() -> None:
    standing = row(*(recipient(f"r{number}") for number in range(15)))
    now = NOON
    times = []
    for _ in range(6):
        opened = [state for state in standing.recipients if state.status == "queued"]
        some = sorted(opened, key=lambda state: state.attempts + state.doubts)[:10]
        outcomes = {state.address: DEFERRED for state in some}
        found = next_step(standing, outcomes, now=now, chance=0.5, settings=DEFAULTS)
        times.append((now - NOON).total_seconds())
        now = max(now, found.due_at or now)
        standing = claimed_again(standing, found)
    # 10 of 15, the other 5 and 5 of the first, the 10 that lag behind, ...
    assert times == [0, 0, 60, 180, 180, 420]


def test_those_that_wait_for_their_retry_are_not_hurried_by_the_last_of_the_others() -> None:
    assert waited(step(row(recipient(), recipient("b", attempts=2)), SENT, None)) == 120.0


@pytest.mark.parametrize(("code", "expected"), [(554, 60.0), (421, None)])
def test_a_refusal_of_us_is_given_time_at_once_and_a_421_is_not_the_rows(code: int, expected: float | None) -> None:
    said = Deferred(blame=Blame.SESSION, reason="no", reply=Reply(code=code, text="no"))
    found = step(row(), said)
    assert (waited(found) if found.due_at else None) == expected


# ---- deaths


def test_a_row_that_killed_its_worker_lets_others_go_first_and_fails_at_last() -> None:
    facts: dict[str, Any] = {"now": NOON, "chance": 0.5, "settings": DEFAULTS}
    first, second, last = (died(row(), deaths, **facts) for deaths in range(1, MOST_DEATHS + 1))
    assert [step.status for step in (first, second, last)] == ["queued", "queued", "failed"]
    assert (first.due_at, second.due_at) == (NOON + timedelta(seconds=60), NOON + timedelta(seconds=120))
    assert {step.attempts for step in (first, second, last)} == {0}
    assert [step.notes[0].outcome for step in (first, second, last)] == ["died", "died", "died"]
    assert last.error == "composing it has killed the worker 3 times"


# ---- a destination that takes less than we have (Rule 6)


def test_a_destination_that_asks_for_less_costs_no_attempt_and_is_a_setback() -> None:
    for outcome in (LESS, LESS_PACED):
        found = step(row(), outcome)
        assert (found.status, found.attempts, found.doubts, found.setbacks) == ("queued", 0, 0, 1)
        assert found.notes[0].blame == "destination"


def test_a_pause_that_is_written_down_elsewhere_moves_no_row() -> None:
    assert step(row(setbacks=7), LESS_PACED).due_at is None
    assert step(row(setbacks=7), replace(TROUBLE, reply=Reply(code=454), wait=60.0, paced=True)).due_at is None


@pytest.mark.parametrize(("setbacks", "wait", "seconds"), [(0, 0.0, 60.0), (2, 0.0, 240.0), (0, 900.0, 900.0)])
def test_a_wish_that_is_written_nowhere_is_the_rows_own_to_wait_for(setbacks: int, wait: float, seconds: float) -> None:
    assert waited(step(row(setbacks=setbacks), replace(LESS, wait=wait))) == seconds


@pytest.mark.parametrize(("days", "status"), [(4.9, "queued"), (5.0, "failed")])
@pytest.mark.parametrize("outcome", [LESS, LESS_PACED])
def test_only_time_gives_up_a_row_whose_destination_takes_less(outcome: Outcome, days: float, status: str) -> None:
    tired = row(recipient(attempts=49), attempts=49, setbacks=900, first_attempt_at=NOON - timedelta(days=days))
    found = step(tired, outcome)
    assert found.status == status
    if status == "failed":
        assert found.error == "given up after 5d of waiting for example.com: the destination x limits our rate"


def test_a_row_that_its_destination_makes_wait_still_expires() -> None:
    assert step(row(expires_at=NOON + timedelta(seconds=59)), LESS).status == "expired"
    assert step(row(expires_at=NOON + timedelta(seconds=1)), LESS_PACED).status == "queued"
    assert step(row(expires_at=NOON), LESS_PACED).status == "expired"


def test_a_row_for_one_domain_is_held_by_its_pause_and_one_for_several_waits_by_itself() -> None:
    beside = recipient("b")
    elsewhere = RecipientState(address="c@other.example")
    assert step(row(recipient(), beside), LESS_PACED, LESS_PACED).due_at is None
    assert waited(step(row(recipient(), elsewhere), LESS_PACED, SENT)) == 600.0


def test_a_recipient_with_a_destination_of_its_own_is_not_made_to_wait_for_another() -> None:
    standing = row(recipient(), RecipientState(address="c@other.example"))
    assert waited(step(standing, replace(LESS_PACED, wait=14_400.0), DEFERRED)) == 60.0
    assert step(standing, LESS_PACED, None).due_at is None


def test_a_row_whose_recipients_do_not_fit_a_transaction_goes_on_once_with_each_and_then_waits() -> None:
    """Ten of fifteen fit; those never answered come first, as `poller.delivery.prepare` has it."""
    standing = row(*(RecipientState(address=f"r@d{number}.example") for number in range(15)))
    now, times = NOON, []
    for _ in range(6):
        some = sorted(standing.recipients, key=lambda state: (state.attempts, state.reply is not None))[:10]
        found = next_step(standing, {s.address: LESS for s in some}, now=now, chance=0.5, settings=DEFAULTS)
        times.append((now - NOON).total_seconds())
        now = max(now, found.due_at or now)
        standing = claimed_again(standing, found)
    assert times == [0, 0, 120, 360, 840, 1800]


@given(st.lists(st.sampled_from([LESS, LESS_PACED, SENT, DEFERRED, FAILED]), min_size=1, max_size=3), A_FEW_SETTINGS)
def test_no_matter_who_else_is_in_the_row_a_destinations_wish_charges_nobody(
    outcomes: list[Outcome], settings: RetrySettings
) -> None:
    states = [RecipientState(address=f"r@d{number}.example") for number in range(len(outcomes))]
    found = step(row(*states), *outcomes, settings=settings)
    assert found.attempts == int(any(outcome in CHARGED for outcome in outcomes))
    for state, outcome in zip(found.recipients, outcomes, strict=False):
        assert state.attempts == int(outcome in CHARGED)
    if found.status == "queued" and len(outcomes) > 1:
        assert found.due_at is not None
