"""What an operator does to rows: every action from every status, in chunks, and never over an acceptance."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

import pytest
import sqlalchemy as sa
from outbox.ground import (
    ACCEPTED,
    STATUSES,
    by_hand,
    claimed,
    deferred,
    doubtful,
    history_of,
    insert,
    recipients_of,
    row_of,
    row_with,
    sent,
    state,
    status_of,
    step,
)

from poller.outbox import operate
from poller.outbox.doubts import doubts
from poller.outbox.migrate import refused_trigger
from poller.outbox.operate import FROM, Action, NotInDoubt, Selection, change, count, pause_all, resolve, resume_all
from poller.outbox.rows import Late
from poller.outbox.tables import Utc, outbox
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from poller.outbox.store import Store

ACTIONS: tuple[Action, ...] = get_args(Action)
TO: dict[Action, str] = {
    "pause": "paused",
    "resume": "queued",
    "cancel": "cancelled",
    "retry": "queued",
    "retry-now": "queued",
    "resolve-sent": "sent",
    "resolve-resend": "queued",
    "resolve-failed": "failed",
}
BOTH = "a@example.com, b@example.com"


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("status", STATUSES)
def test_an_action_changes_rows_of_its_statuses_and_leaves_others_alone(
    store: Store, status: str, action: Action
) -> None:
    row_id = row_with(store, status, recipients=BOTH)
    if action == "retry-now" and status == "queued":
        values = {"claim_seq": 1, "due_at": datetime(2100, 1, 1, tzinfo=UTC)}  # it waits for another try
        with store.engine.begin() as connection:
            connection.execute(sa.update(outbox).where(outbox.c.id == row_id).values(values))
    before = row_of(store.engine, row_id)
    changes = status in FROM[action]
    chosen = Selection(ids=(row_id,))
    assert count(store.engine, chosen, action) == ({status: 1} if changes else {})
    assert change(store.engine, chosen, action).rows == int(changes)
    after = row_of(store.engine, row_id)
    assert after.status == (TO[action] if changes else status)
    if not changes:
        assert after == before
    else:
        line = history_of(store.engine, row_id)[-1]
        assert (line.worker, line.outcome, line.error) == ("operator", action, f"was {status}")


def test_rows_are_chosen_by_everything_that_is_given(store: Store) -> None:
    wanted = insert(store.engine, batch="spring", recipients="a@one.example")
    insert(store.engine, batch="spring", recipients="a@two.example")
    insert(store.engine, recipients="a@one.example")
    assert change(store.engine, Selection(batch="spring", domain="ONE.example", status="queued"), "pause").rows == 1
    assert status_of(store.engine, wanted) == "paused"


def test_no_choice_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="say which rows"):
        Selection()


def test_many_rows_are_changed_in_chunks(store: Store) -> None:
    many = operate.CHUNK * 2 + 5
    rows = [{"batch": "big"}] * many
    insert_one = sa.text("INSERT INTO outbox (recipients, body_text, batch) VALUES ('a@b.c', 'x', :batch)")
    with store.engine.begin() as connection:
        connection.execute(insert_one, rows)
    assert count(store.engine, Selection(batch="big"), "pause") == {"queued": many}
    assert change(store.engine, Selection(batch="big"), "pause").rows == many
    assert count(store.engine, Selection(batch="big"), "resume") == {"paused": many}


def test_a_row_in_hand_that_is_paused_and_resumed_goes_on_where_it_was(store: Store) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    change(store.engine, Selection(ids=(row_id,)), "pause")
    change(store.engine, Selection(ids=(row_id,)), "resume")
    assert status_of(store.engine, row_id) == "sending"
    assert store.record([sent(store, row)]).written == {row_id}


def test_a_row_cancelled_in_hand_has_not_ended_until_its_message_has(store: Store) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    change(store.engine, Selection(ids=(row_id,)), "cancel")
    assert row_of(store.engine, row_id).finished_at is None
    store.record([deferred(store, row)])
    assert row_of(store.engine, row_id).finished_at is not None


def test_a_row_that_plain_sql_cancels_has_its_end_entered(store: Store) -> None:
    assert refused_trigger(store.engine) == ""
    waiting, in_hand = insert(store.engine), insert(store.engine)
    by_hand(store.engine, "UPDATE outbox SET status = 'paused' WHERE id = :id", id=waiting)
    row = claimed(store)
    by_hand(store.engine, "UPDATE outbox SET status = 'cancelled'")
    ended = row_of(store.engine, waiting).finished_at
    assert abs(ended - store.now()) < timedelta(minutes=1)
    assert row_of(store.engine, in_hand).finished_at is None
    store.record([deferred(store, row)])
    assert row_of(store.engine, in_hand).finished_at is not None
    by_hand(store.engine, "UPDATE outbox SET priority = 9")
    assert row_of(store.engine, waiting).finished_at == ended


def test_of_a_cancelled_row_the_state_says_when_those_who_have_it_got_it(store: Store) -> None:
    row_id = insert(store.engine, recipients="a@example.com, b@example.com")
    row = claimed(store)
    at = store.now()
    states = (state("a@example.com", "sent", sent_at=at), state("b@example.com", "queued"))
    store.record([step(store, row, "queued", due_at=at + timedelta(hours=1), recipients=states)])
    other = insert(store.engine)
    change(store.engine, Selection(ids=(row_id, other)), "cancel")
    with store.engine.connect() as connection:
        query = sa.text("SELECT id, sent_at FROM outbox_state ORDER BY id").columns(sent_at=Utc())
        found = {found.id: found.sent_at for found in connection.execute(query)}
    assert found == {row_id: at, other: None}


def test_a_row_cancelled_in_hand_can_be_retried_only_when_it_has_left_it(store: Store) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    chosen = Selection(ids=(row_id,))
    change(store.engine, chosen, "cancel")
    assert (count(store.engine, chosen, "retry"), change(store.engine, chosen, "retry").rows) == ({}, 0)
    store.record([deferred(store, row)])
    assert change(store.engine, chosen, "retry").rows == 1


def test_a_retry_starts_afresh_under_the_same_message_id(store: Store) -> None:
    row_id = row_with(store, "failed", expires_at=store.now() + timedelta(seconds=0.2))
    before = row_of(store.engine, row_id)
    by_hand(store.engine, "UPDATE outbox SET expires_at = '2020-01-01 00:00:00', doubts = 2")
    change(store.engine, Selection(ids=(row_id,)), "retry")
    after = row_of(store.engine, row_id)
    assert (after.attempts, after.doubts, after.first_attempt_at, after.finished_at) == (0, 0, None, None)
    assert (after.expires_at, after.claimed_by, after.error) == (None, None, None)
    assert (after.message_id, after.claim_seq) == (before.message_id, before.claim_seq + 1)
    assert [row.id for row in store.claim(Gate(limit=10))] == [row_id]


def test_a_retry_of_a_partial_row_keeps_who_has_it(store: Store) -> None:
    row_id = row_with(store, "partial", recipients=BOTH)
    before = recipients_of(store.engine, row_id)
    change(store.engine, Selection(ids=(row_id,)), "retry")
    after = recipients_of(store.engine, row_id)
    assert after["a@example.com"] == before["a@example.com"]
    assert (after["b@example.com"].status, after["b@example.com"].attempts) == ("queued", 0)
    assert {a: s.status for a, s in claimed(store).known.items()} == {
        "a@example.com": "sent",
        "b@example.com": "queued",
    }


def test_a_late_reply_does_not_settle_a_row_that_a_person_sent_again(store: Store) -> None:
    row_id = insert(store.engine)
    row = claimed(store)
    late = sent(store, row)
    store.record([doubtful(store, row)])
    change(store.engine, Selection(ids=(row_id,)), "resolve-resend")
    assert store.record([late]).late == {row_id: Late.ACCEPTED_TWICE}
    assert status_of(store.engine, row_id) == "queued"


def test_a_resend_keeps_the_count_of_doubts(store: Store) -> None:
    row_id = row_with(store, "in_doubt")
    before = row_of(store.engine, row_id)
    change(store.engine, Selection(ids=(row_id,)), "resolve-resend")
    after = row_of(store.engine, row_id)
    assert (after.doubts, after.first_attempt_at) == (1, before.first_attempt_at)


@pytest.mark.parametrize(
    ("action", "row_status", "held_status"),
    [("resolve-sent", "sent", "sent"), ("resolve-resend", "queued", "queued"), ("resolve-failed", "partial", "failed")],
)
def test_a_doubt_of_several_recipients_is_resolved_for_those_in_doubt(
    store: Store, action: Action, row_status: str, held_status: str
) -> None:
    row_id = insert(store.engine, recipients=BOTH)
    made = doubtful(store, claimed(store))
    known = state("a@example.com", "sent", attempts=1, reply=ACCEPTED, sent_at=made.at)
    store.record([replace(made, sent_at=made.at, recipients=(known, state("b@example.com", "in_doubt", doubts=1)))])
    assert change(store.engine, Selection(ids=(row_id,)), action).rows == 1
    after = row_of(store.engine, row_id)
    assert after.status == row_status
    assert {a: r.status for a, r in recipients_of(store.engine, row_id).items()} == {
        "a@example.com": "sent",
        "b@example.com": held_status,
    }
    assert (after.finished_at is None) == (row_status == "queued")


def test_a_doubt_found_delivered_beside_a_refusal_is_partial(store: Store) -> None:
    row_id = insert(store.engine, recipients=BOTH)
    made = doubtful(store, claimed(store))
    states = (state("a@example.com", "failed", attempts=1), state("b@example.com", "in_doubt", doubts=1))
    store.record([replace(made, recipients=states)])
    change(store.engine, Selection(ids=(row_id,)), "resolve-sent")
    assert status_of(store.engine, row_id) == "partial"


# ---- a doubt of some of several recipients

THREE = ("a@example.com", "b@example.com", "C@example.com")


def in_doubt_for_three(store: Store) -> int:
    """d@example.com has it; of the others nobody knows."""
    row_id = insert(store.engine, recipients=", ".join((*THREE, "d@example.com")))
    made = doubtful(store, claimed(store))
    states = [state(address, "in_doubt", doubts=1, error=f"line lost for {address[0]}") for address in THREE]
    known = state("d@example.com", "sent", attempts=1, reply=ACCEPTED, sent_at=made.at)
    store.record([replace(made, sent_at=made.at, relay="relay.example.com:25", recipients=(*states, known))])
    return row_id


def standing_of(store: Store, row_id: int) -> dict[str, str]:
    return {address: line.status for address, line in sorted(recipients_of(store.engine, row_id).items())}


def test_one_recipient_is_resolved_and_the_others_stay_in_doubt(store: Store) -> None:
    row_id = in_doubt_for_three(store)
    before = row_of(store.engine, row_id)
    assert resolve(store.engine, row_id, ["A@example.com"], "resolve-sent") == "in_doubt"
    after = row_of(store.engine, row_id)
    assert (after.status, after.claim_seq, after.finished_at) == ("in_doubt", before.claim_seq, None)
    assert after.error == "C@example.com: line lost for C"
    assert standing_of(store, row_id) == {
        "C@example.com": "in_doubt",
        "a@example.com": "sent",
        "b@example.com": "in_doubt",
        "d@example.com": "sent",
    }
    line = history_of(store.engine, row_id)[-1]
    assert (line.worker, line.recipient, line.outcome, line.error) == (
        "operator",
        "a@example.com",
        "resolve-sent",
        "was in_doubt",
    )
    (doubt,) = doubts(store.engine)
    assert sorted(doubt.recipients.split(", ")) == ["C@example.com", "b@example.com"]
    assert (doubt.relay, doubt.at) == ("relay.example.com:25", before.updated_at)


def test_a_recipient_that_is_sent_to_again_takes_the_row_back_into_the_queue_and_nobody_else_with_it(
    store: Store,
) -> None:
    row_id = in_doubt_for_three(store)
    before = row_of(store.engine, row_id)
    assert resolve(store.engine, row_id, ["b@example.com"], "resolve-resend") == "queued"
    row = claimed(store)
    assert (row.id, row.claim_seq, row.message_id, row.doubts) == (
        row_id,
        before.claim_seq + 2,
        before.message_id,
        before.doubts,
    )
    assert {a: s.status for a, s in row.known.items()} == {
        "a@example.com": "in_doubt",
        "b@example.com": "queued",
        "C@example.com": "in_doubt",
        "d@example.com": "sent",
    }


@pytest.mark.parametrize(
    ("actions", "status"),
    [
        (("resolve-sent", "resolve-sent", "resolve-sent"), "sent"),
        (("resolve-sent", "resolve-failed", "resolve-sent"), "partial"),
        (("resolve-failed", "resolve-failed", "resolve-failed"), "partial"),
        (("resolve-failed", "resolve-sent", "resolve-resend"), "queued"),
    ],
)
def test_when_the_last_doubt_is_resolved_the_row_is_what_its_recipients_are(
    store: Store, actions: tuple[Action, ...], status: str
) -> None:
    row_id = in_doubt_for_three(store)
    found = [resolve(store.engine, row_id, [a], action) for a, action in zip(THREE, actions, strict=True)]
    assert found == ["in_doubt", "in_doubt", status]
    row = row_of(store.engine, row_id)
    assert (row.status, row.finished_at is None, row.sent_at is None) == (
        status,
        status == "queued",
        status == "queued",
    )
    assert "in_doubt" not in standing_of(store, row_id).values()


def test_several_recipients_are_resolved_at_once(store: Store) -> None:
    row_id = in_doubt_for_three(store)
    assert resolve(store.engine, row_id, ["a@example.com", "c@example.com"], "resolve-failed") == "in_doubt"
    assert resolve(store.engine, row_id, ["b@example.com"], "resolve-failed") == "partial"
    assert row_of(store.engine, row_id).error.endswith("an operator found that it was not delivered")


@pytest.mark.parametrize("address", ["d@example.com", "nobody@example.com"])
def test_a_recipient_that_is_not_in_doubt_is_refused_with_the_names_of_those_that_are(
    store: Store, address: str
) -> None:
    row_id = in_doubt_for_three(store)
    before = row_of(store.engine, row_id)
    with pytest.raises(NotInDoubt) as why:
        resolve(store.engine, row_id, ["a@example.com", address], "resolve-sent")
    assert f"of row {row_id}, {address} is not in doubt; in doubt are:" in str(why.value)
    assert all(name in str(why.value) for name in THREE)
    assert row_of(store.engine, row_id) == before


def test_a_row_that_is_not_in_doubt_has_no_recipient_that_is(store: Store) -> None:
    row_id = row_with(store, "sent")
    with pytest.raises(NotInDoubt, match=f"row {row_id} is sent, not in doubt"):
        resolve(store.engine, row_id, ["a@example.com"], "resolve-sent")
    with pytest.raises(NotInDoubt, match="there is no row 99999"):
        resolve(store.engine, 99999, ["a@example.com"], "resolve-sent")


@pytest.mark.parametrize("action", [a for a in ACTIONS if a.startswith("resolve")])
def test_the_only_recipient_of_a_row_is_the_row(store: Store, action: Action) -> None:
    row_id = row_with(store, "in_doubt", recipients="Anna <anna@example.com>")
    with pytest.raises(NotInDoubt, match="in doubt are: anna@"):
        resolve(store.engine, row_id, ["a@example.com"], action)
    assert resolve(store.engine, row_id, ["Anna@example.com"], action) == TO[action]
    assert status_of(store.engine, row_id) == TO[action]


def test_recipients_that_differ_in_case_alone_must_be_named_exactly(store: Store) -> None:
    row_id = insert(store.engine, recipients="Anna@example.com, anna@example.com")
    states = (state("Anna@example.com", "in_doubt"), state("anna@example.com", "in_doubt"))
    store.record([replace(doubtful(store, claimed(store)), recipients=states)])
    with pytest.raises(NotInDoubt):
        resolve(store.engine, row_id, ["ANNA@example.com"], "resolve-sent")
    assert resolve(store.engine, row_id, ["anna@example.com"], "resolve-sent") == "in_doubt"
    assert standing_of(store, row_id) == {"Anna@example.com": "in_doubt", "anna@example.com": "sent"}


def test_the_switch_remembers_why_and_says_whether_it_was_off(store: Store) -> None:
    assert not resume_all(store.engine)
    pause_all(store.engine, "first")
    pause_all(store.engine, "second")
    assert store.paused() == "second"
    assert resume_all(store.engine)
    assert store.paused() is None
