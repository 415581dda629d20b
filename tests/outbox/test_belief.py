"""A database that has forgotten what it had confirmed is noticed by the claim and by the heartbeat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.ground import insert, row_of

from poller.outbox.belief import Belief, Claims, OutboxIsOlder
from poller.outbox.store import Store
from poller.outbox.tables import outbox, worker
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poller.outbox.rows import ClaimedRow

PATIENCE_S = 60.0
TEN = Gate(limit=10)


@dataclass
class Clock:
    """Seconds, as told."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def entered(engine: Engine, name: str, clock: Clock | None = None) -> Store:
    """A store whose worker has written position 10 of its journal."""
    store = Store(engine, worker=name, message_id_domain="mail.example.com")
    store.belief = Belief(name, clock=clock or Clock(), patience=PATIENCE_S)
    store.register(identity=f"identity of {name}", host="h", pid=1, version="1", lease=900)
    assert store.note_position(10)
    return store


def change(engine: Engine, name: str, **values: object) -> None:
    """As an older dump, or a person, has it."""
    with engine.begin() as connection:
        connection.execute(sa.update(worker).where(worker.c.name == name).values(values))


def as_before_the_claim(engine: Engine, row_id: int) -> None:
    values = {"status": "queued", "claim_seq": 0, "claimed_by": None, "claimed_at": None, "message_id": None}
    with engine.begin() as connection:
        connection.execute(sa.update(outbox).where(outbox.c.id == row_id).values(values))


def test_nothing_is_claimed_from_a_database_that_has_less_of_our_journal(engine: Engine) -> None:
    store = entered(engine, "w1")
    row_id = insert(engine)
    change(engine, "w1", journal_applied=9)
    with pytest.raises(OutboxIsOlder, match="written down up to 10, not 9"):
        store.claim(TEN)
    assert row_of(engine, row_id).status == "queued"
    with pytest.raises(OutboxIsOlder):
        store.look_around()
    assert not store.note_position(12)


def test_nothing_is_claimed_from_a_database_that_does_not_know_this_life_of_ours(engine: Engine) -> None:
    store = entered(engine, "w1")
    insert(engine)
    change(engine, "w1", incarnation=0)
    with pytest.raises(OutboxIsOlder, match="does not know this life"):
        store.claim(TEN)


def test_a_row_that_comes_back_as_it_was_before_our_claim_is_not_claimed_again(engine: Engine) -> None:
    store = entered(engine, "w1")
    row_id = insert(engine)
    assert [row.id for row in store.claim(TEN)] == [row_id]
    as_before_the_claim(engine, row_id)
    with pytest.raises(OutboxIsOlder, match=f"row {row_id} is as it was"):
        store.claim(TEN)
    assert store.belief.rows_repeat
    store.register(identity="identity of w1", host="h", pid=1, version="1", lease=900, may_be_alive=False)
    assert [row.id for row in store.claim(TEN)] == [row_id]


def test_a_row_that_was_handed_back_is_claimed_again(engine: Engine) -> None:
    store = entered(engine, "w1")
    insert(engine)
    for claim_seq in (1, 2, 3):
        rows = store.claim(TEN)
        assert [row.claim_seq for row in rows] == [claim_seq]
        store.hand_back(rows)


def test_what_another_living_worker_has_lost_is_waited_for_and_then_given_up_in_words(engine: Engine) -> None:
    clock = Clock()
    store = entered(engine, "w1", clock)
    entered(engine, "w2")
    store.look_around()
    insert(engine)
    change(engine, "w2", journal_applied=5)
    for clock.now in (1.0, PATIENCE_S):
        with pytest.raises(OutboxIsOlder, match="'w2' has to write down again"):
            store.claim(TEN)
        assert store.belief.given_up() == ""
    clock.now = 1.0 + PATIENCE_S
    assert store.belief.given_up() == "it lacks what 'w2' had written down, and has not come to write again"
    assert len(store.claim(TEN)) == 1


def test_another_worker_that_has_written_it_again_is_waited_for_no_longer(engine: Engine) -> None:
    store = entered(engine, "w1")
    entered(engine, "w2")
    store.look_around()
    insert(engine)
    change(engine, "w2", journal_applied=5)
    with pytest.raises(OutboxIsOlder):
        store.claim(TEN)
    change(engine, "w2", journal_applied=10)
    assert len(store.claim(TEN)) == 1


def test_a_worker_that_stopped_may_be_forgotten(engine: Engine) -> None:
    store = entered(engine, "w1")
    other = entered(engine, "w2")
    store.look_around()
    other.sign_off(incarnation=1)
    store.look_around()
    with engine.begin() as connection:
        connection.execute(sa.delete(worker).where(worker.c.name == "w2"))
    insert(engine)
    assert len(store.claim(TEN)) == 1


def test_the_numbers_of_a_million_claims_take_little_room(engine: Engine) -> None:
    store = entered(engine, "w1")
    insert(engine)
    (row,) = store.claim(TEN)
    claims = Claims()
    claims.add(_as(row, n, 1) for n in range(1, 20_000))
    claims.add([_as(row, 7, 4)])
    assert len(claims._first) == 20
    assert [claims.repeated([_as(row, 7, seq)]) for seq in (1, 4, 5)] == [7, 7, None]
    assert [claims.repeated([_as(row, 19_999, 1)]), claims.repeated([_as(row, 20_000, 1)])] == [19_999, None]


def _as(row: ClaimedRow, row_id: int, claim_seq: int) -> ClaimedRow:
    return replace(row, id=row_id, claim_seq=claim_seq)
