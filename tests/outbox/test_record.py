"""Recording: what is written down of a claimed row, whatever happens in between; a 250 is never thrown away."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.ground import (
    ACCEPTED,
    BUSY,
    NO_SUCH_USER,
    by_hand,
    claimed,
    deferred,
    doubtful,
    failed,
    history_of,
    insert,
    locking,
    outcomes_of,
    partial,
    recipients_of,
    row_of,
    sent,
    state,
    status_of,
    step,
)

from poller.outbox.operate import Selection, change
from poller.outbox.rows import ClaimedRow, Late
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.judgement.retry import Step
    from poller.outbox.store import Store

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)


def recorded(store: Store, make: Callable[[Store, ClaimedRow], Step], recipients: str = "a@example.com") -> tuple:  # type: ignore[type-arg]
    row_id = insert(store.engine, recipients=recipients)
    made = make(store, claimed(store))
    result = store.record([made])
    assert result.written == {row_id}
    return made, row_of(store.engine, row_id)


def test_a_sent_row_says_when_by_whom_and_under_which_queue_id(store: Store) -> None:
    made, row = recorded(store, sent)
    assert (row.status, row.attempts, row.claimed_by, row.error) == ("sent", 1, "w1", None)
    assert row.sent_at == row.finished_at == row.updated_at == made.at
    assert (row.reply_code, row.reply_status, row.reply_text) == (250, "2.0.0", ACCEPTED.text)
    assert row.queue_id == "4ABC"
    assert history_of(store.engine, row.id) == []


def test_a_deferred_row_waits_unclaimed_for_its_next_time(store: Store) -> None:
    made, row = recorded(store, deferred)
    assert (row.status, row.attempts, row.claimed_by, row.claimed_at) == ("queued", 1, None, None)
    assert (row.due_at, row.reply_code, row.error) == (made.due_at, 450, "deferred at RCPT")
    assert (row.sent_at, row.finished_at, row.updated_at) == (None, None, made.at)
    assert outcomes_of(store.engine, row.id) == ["deferred"]


def test_a_failed_row_says_why(store: Store) -> None:
    made, row = recorded(store, failed)
    assert (row.status, row.reply_code, row.error) == ("failed", 550, "refused")
    assert (row.sent_at, row.finished_at) == (None, made.at)
    (line,) = history_of(store.engine, row.id)
    assert (line.outcome, line.worker, line.claim_seq, line.reply_text) == ("failed", "w1", 1, NO_SUCH_USER.text)


def test_a_row_in_doubt_is_in_no_workers_hands(store: Store) -> None:
    _, row = recorded(store, doubtful)
    assert (row.status, row.doubts, row.attempts, row.error) == ("in_doubt", 1, 0, "line lost")
    assert (row.claimed_by, row.claimed_at, row.sent_at, row.finished_at) == (None, None, None, None)
    assert store.own_orphans() == []


def test_a_partial_row_has_a_line_for_each_recipient(store: Store) -> None:
    made, row = recorded(store, partial, "a@example.com, b@example.com")
    assert (row.status, row.sent_at, row.finished_at) == ("partial", made.at, made.at)
    lines = recipients_of(store.engine, row.id)
    assert {a: (r.status, r.attempts, r.reply_code, r.error) for a, r in lines.items()} == {
        "a@example.com": ("sent", 1, 250, None),
        "b@example.com": ("failed", 1, 550, "refused"),
    }
    assert [(h.outcome, h.recipient) for h in history_of(store.engine, row.id)] == [("failed", "b@example.com")]


def test_what_is_known_of_recipients_comes_with_the_next_claim(store: Store) -> None:
    insert(store.engine, recipients="a@example.com, b@example.com")
    made = deferred(store, claimed(store), seconds=-1)
    good = state("a@example.com", "sent", attempts=1, reply=ACCEPTED, queue_id="4ABC", sent_at=made.at)
    open_ = state("b@example.com", "queued", attempts=1, reply=BUSY, error="busy")
    store.record([replace(made, sent_at=made.at, recipients=(good, open_))])
    row = claimed(store)
    assert dict(row.known) == {good.address: good, open_.address: open_}
    assert row_of(store.engine, row.id).sent_at is None


def test_a_due_time_that_the_step_leaves_open_stays(store: Store) -> None:
    row_id = insert(store.engine, due_at=NOON)
    store.record([replace(deferred(store, claimed(store)), due_at=None)])
    assert row_of(store.engine, row_id).due_at == NOON


def test_a_whole_group_is_written_at_once(store: Store) -> None:
    for n in range(100):
        insert(store.engine, subject=str(n))
    rows = store.claim(Gate(limit=100))
    makers = (sent, deferred, failed, doubtful)
    result = store.record([makers[n % 4](store, row) for n, row in enumerate(rows)])
    assert result.written == {row.id for row in rows}
    with store.engine.connect() as connection:
        counts = connection.execute(sa.text("SELECT status, count(*) FROM outbox GROUP BY status")).all()
    assert dict(counts) == {"sent": 25, "queued": 25, "failed": 25, "in_doubt": 25}


# ---- the fence


@pytest.mark.parametrize("make", [sent, deferred, failed, doubtful])
def test_a_claim_that_an_older_database_has_lost_is_entered_again_with_its_outcome(
    store: Store, make: Callable[[Store, ClaimedRow], Step]
) -> None:
    row_id = insert(store.engine)
    step = make(store, claimed(store))
    older = "status = 'queued', claim_seq = 0, claimed_by = NULL, claimed_at = NULL, first_attempt_at = NULL"
    by_hand(store.engine, f"UPDATE outbox SET {older}, message_id = NULL")
    assert store.record([step]).late == {row_id: Late.REPAIRED}
    row = row_of(store.engine, row_id)
    assert (row.status, row.claim_seq, row.message_id) == (step.status, 1, step.message_id)
    assert row.sent_at == step.sent_at


@pytest.mark.parametrize("make", [failed, partial])
def test_an_acceptance_that_an_older_database_has_lost_settles_a_row_that_had_ended_otherwise_then(
    store: Store, make: Callable[[Store, ClaimedRow], Step]
) -> None:
    row_id = insert(store.engine)
    store.record([make(store, claimed(store))])
    older = row_of(store.engine, row_id)
    change(store.engine, Selection(ids=(row_id,)), "retry")
    step = sent(store, claimed(store))
    lost = "claim_seq = 1, claimed_by = 'w1', finished_at = updated_at, sent_at = :sent_at"
    given = {"sent_at": older.sent_at and "2026-11-22 03:00:00"}
    by_hand(store.engine, f"UPDATE outbox SET status = '{older.status}', {lost}", **given)
    assert store.record([step]).late == {row_id: Late.REPAIRED}
    assert (status_of(store.engine, row_id), row_of(store.engine, row_id).claim_seq) == ("sent", step.claim_seq)


def test_another_row_under_the_same_id_is_left_alone(store: Store) -> None:
    row_id = insert(store.engine)
    step = sent(store, claimed(store))
    by_hand(store.engine, "DELETE FROM outbox")
    insert(store.engine, id=row_id)
    assert store.record([step]).late == {row_id: Late.ACCEPTED_TWICE}
    assert status_of(store.engine, row_id) == "queued"


@pytest.mark.parametrize(
    "wrong", [{"claim_seq": 0}, {"message_id": "<other@example.com>"}, {"message_id": "<OTHER@example.com>"}]
)
@pytest.mark.parametrize("make", [sent, deferred])
def test_a_step_with_another_fence_changes_nothing(
    store: Store, wrong: dict[str, object], make: Callable[[Store, ClaimedRow], Step]
) -> None:
    row_id = insert(store.engine, message_id="<other@Example.com>")
    result = store.record([replace(make(store, claimed(store)), **wrong)])  # type: ignore[arg-type]
    assert result.written == frozenset()
    assert result.late == {row_id: Late.ACCEPTED_TWICE if make is sent else Late.OVERTAKEN}
    assert (status_of(store.engine, row_id), row_of(store.engine, row_id).attempts) == ("sending", 0)


def test_a_deferral_by_somebody_who_does_not_hold_the_row_changes_nothing(store: Store, other: Store) -> None:
    row_id = insert(store.engine)
    made = deferred(store, claimed(store))
    assert other.record([made]).late == {row_id: Late.OVERTAKEN}
    assert status_of(store.engine, row_id) == "sending"


@pytest.mark.parametrize("make", [sent, deferred, failed, doubtful, partial])
def test_recording_twice_counts_once(store: Store, make: Callable[[Store, ClaimedRow], Step]) -> None:
    made, row = recorded(store, make, "a@example.com, b@example.com")
    history = outcomes_of(store.engine, row.id)
    assert store.record([made]).late == {row.id: Late.RECORDED}
    assert row_of(store.engine, row.id) == row
    assert outcomes_of(store.engine, row.id) == history


def test_recording_twice_what_an_operator_cancelled_meanwhile_counts_once(store: Store) -> None:
    made, row = recorded(store, failed)
    by_hand(store.engine, f"UPDATE outbox SET status = 'cancelled' WHERE id = {row.id}")
    store.record([made])
    assert (row_of(store.engine, row.id).attempts, status_of(store.engine, row.id)) == (1, "cancelled")


def test_a_row_that_was_deleted_meanwhile_leaves_its_history(store: Store) -> None:
    row_id = insert(store.engine)
    made = sent(store, claimed(store))
    by_hand(store.engine, "DELETE FROM outbox")
    assert store.record([made]).late == {row_id: Late.GONE}
    (line,) = history_of(store.engine, row_id)
    assert (line.outcome, line.reply_code, line.error) == ("accepted", 250, "the row was deleted meanwhile")


@pytest.mark.parametrize("judged", [doubtful, failed, deferred])
def test_a_late_acceptance_settles_what_another_worker_judged(
    store: Store, other: Store, judged: Callable[[Store, ClaimedRow], Step]
) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    accepted = sent(store, row)
    assert other.record([judged(other, row)], holder=row.holder).written == {row_id}
    assert store.record([accepted]).late == {row_id: Late.SETTLED}
    after = row_of(store.engine, row_id)
    assert (after.status, after.sent_at, after.finished_at, after.error) == ("sent", accepted.at, accepted.at, None)
    assert outcomes_of(store.engine, row_id)[-1] == "accepted"
    assert store.record([accepted]).late == {row_id: Late.RECORDED}


def test_a_late_deferral_does_not_undo_what_another_worker_judged(store: Store, other: Store) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    late = deferred(store, row)
    other.record([doubtful(other, row)], holder=row.holder)
    assert store.record([late]).late == {row_id: Late.OVERTAKEN}
    assert status_of(store.engine, row_id) == "in_doubt"


@pytest.mark.parametrize("recipients", ["a@example.com", "a@example.com, b@example.com"])
def test_a_late_acceptance_beside_that_of_a_later_claim_is_told(store: Store, other: Store, recipients: str) -> None:
    row_id = insert(store.engine, recipients=recipients)
    row = claimed(store)
    addresses = recipients.split(", ")

    def accepted(by: Store, its: ClaimedRow, queue_id: str) -> Step:
        made = sent(by, its)
        states = tuple(state(to, "sent", queue_id=queue_id, reply=ACCEPTED, sent_at=made.at) for to in addresses)
        return replace(made, queue_id=queue_id, recipients=states if len(states) > 1 else ())

    late = accepted(store, row, "FIRST")
    other.record([deferred(other, row, seconds=-1)], holder=row.holder)
    second = accepted(other, claimed(other), "SECOND")
    assert other.record([second]).written == {row_id}
    assert store.record([late]).late == {row_id: Late.ACCEPTED_TWICE}
    line = history_of(store.engine, row_id)[-1]
    assert (line.outcome, line.claim_seq, line.queue_id) == ("accepted_twice", 1, "FIRST")
    assert (status_of(store.engine, row_id), row_of(store.engine, row_id).queue_id) == ("sent", "SECOND")
    assert other.record([second]).late == {row_id: Late.RECORDED}


def test_what_a_person_called_sent_is_no_second_acceptance(store: Store, other: Store) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    late = sent(store, row)
    other.record([deferred(other, row, seconds=-1)], holder=row.holder)
    other.record([doubtful(other, claimed(other))])
    change(store.engine, Selection(ids=(row_id,)), "resolve-sent")
    assert store.record([late]).late == {row_id: Late.OVERTAKEN}


def test_a_late_acceptance_after_another_claim_is_kept_as_accepted_twice(store: Store, other: Store) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    late = sent(store, row)
    other.record([deferred(other, row, seconds=-1)], holder=row.holder)
    second = claimed(other)
    assert store.record([late]).late == {row_id: Late.ACCEPTED_TWICE}
    assert status_of(store.engine, row_id) == "sending"
    assert other.record([sent(other, second)]).written == {row_id}
    line = history_of(store.engine, row_id)[-1]
    assert (line.outcome, line.claim_seq, line.worker, line.queue_id) == ("accepted_twice", 1, "w1", "4ABC")


def test_a_late_partial_acceptance_writes_its_recipients(store: Store, other: Store) -> None:
    row_id = insert(store.engine, recipients="a@example.com, b@example.com")
    row = claimed(store)
    late = partial(store, row)
    other.record([doubtful(other, row)], holder=row.holder)
    assert store.record([late]).late == {row_id: Late.SETTLED}
    assert status_of(store.engine, row_id) == "partial"
    assert {a: r.status for a, r in recipients_of(store.engine, row_id).items()} == {
        "a@example.com": "sent",
        "b@example.com": "failed",
    }


# ---- the operator's word


@pytest.mark.parametrize("word", ["paused", "cancelled"])
@pytest.mark.parametrize("make", [deferred, sent, failed, doubtful])
def test_an_operators_word_outlives_a_deferral_and_nothing_else(
    store: Store, word: str, make: Callable[[Store, ClaimedRow], Step]
) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    by_hand(store.engine, f"UPDATE outbox SET status = '{word}' WHERE id = {row_id}")
    made = make(store, row)
    assert store.record([made]).written == {row_id}
    after = row_of(store.engine, row_id)
    assert after.status == (word if make is deferred else made.status)
    assert (after.claimed_by is None) == (make in {deferred, doubtful})
    assert (after.finished_at is not None) == (after.status in {"cancelled", "sent", "failed"})


@pytest.mark.parametrize("word", ["pause", "cancel"])
def test_a_row_paused_or_cancelled_in_hand_goes_back_with_that_word(store: Store, word: str) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    change(store.engine, Selection(ids=(row_id,)), word)  # type: ignore[arg-type]
    store.hand_back([row])
    after = row_of(store.engine, row_id)
    assert after.status == {"pause": "paused", "cancel": "cancelled"}[word]
    assert (after.claimed_by, after.finished_at is not None) == (None, word == "cancel")


# ---- stubborn rows


def test_a_row_that_somebody_locked_holds_up_nobody_else(store: Store) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one lock for all rows")
    ids = [insert(store.engine) for _ in range(5)]
    steps = [sent(store, row) for row in store.claim(Gate(limit=10))]
    with locking(store.engine, ids[2]):
        result = store.record(steps)
        assert result.written == set(ids) - {ids[2]}
        assert [made.row_id for made in result.stubborn] == [ids[2]]
        assert "lock" in result.why.lower()
    assert store.record(result.stubborn).written == {ids[2]}
    assert status_of(store.engine, ids[2]) == "sent"


def test_a_row_whose_data_the_database_refuses_holds_up_nobody_else(store: Store) -> None:
    ids = [insert(store.engine) for _ in range(3)]
    steps = [sent(store, row) for row in store.claim(Gate(limit=10))]
    steps[1] = replace(steps[1], attempts=-5)
    result = store.record(steps)
    assert result.written == {ids[0], ids[2]}
    assert ([made.row_id for made in result.stubborn], bool(result.why)) == ([ids[1]], True)


def test_a_step_of_a_row_with_one_recipient_writes_no_recipients(store: Store) -> None:
    _, row = recorded(store, lambda s, r: step(s, r, "expired", error="too late"))
    assert (row.status, row.error, recipients_of(store.engine, row.id)) == ("expired", "too late", {})
