"""What a gate lets through: closed destinations stand in nobody's way, open ones come in measure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from outbox.ground import insert, locking, row_of, store_for

from poller.outbox import mariadb, postgresql, sqlite, walk
from poller.outbox.operate import pause_all
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Engine

    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
LATER = timedelta(hours=1)


def to(engine: Engine, domain: str, count: int = 1, **columns: object) -> list[int]:
    """So many due rows to a domain."""
    return [insert(engine, recipients=f"a@{domain}", **({"due_at": NOON} | columns)) for _ in range(count)]


def ids(rows: Sequence[ClaimedRow]) -> list[int]:
    return [row.id for row in rows]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few rows fill a window, and a few domains a walk."""
    for module in (postgresql, mariadb, sqlite):
        monkeypatch.setattr(module, "LOOK", 5)
    monkeypatch.setattr(walk, "STEPS", 4)


def test_rows_of_closed_domains_stay_and_all_others_come_in_order(store: Store) -> None:
    engine = store.engine
    to(engine, "closed.example", 3)
    late, first = to(engine, "a.example", due_at=NOON + LATER), to(engine, "b.example", priority=0)
    nameless = [insert(engine, recipients="nobody", due_at=NOON)]
    gate = Gate(limit=10, closed_domains=("closed.example", "gone.example"))
    assert store.anything_due(gate)
    assert ids(store.claim(gate)) == first + nameless + late
    assert not store.anything_due(gate)
    assert store.claim(gate) == []
    assert len(store.claim(Gate(limit=10))) == 3


def test_rows_that_name_a_closed_relay_and_closed_ids_stay(store: Store) -> None:
    engine = store.engine
    slow, fast = to(engine, "a.example", relay="slow"), to(engine, "a.example", relay="fast")
    unnamed, held = to(engine, "a.example"), to(engine, "a.example")
    gate = Gate(limit=10, closed_relays=("slow",), closed_ids=tuple(held))
    assert ids(store.claim(gate)) == fast + unnamed
    assert not store.anything_due(gate)
    assert ids(store.claim(Gate(limit=10))) == slow + held


def test_a_claim_takes_no_more_than_its_limit_through_any_gate(store: Store) -> None:
    rows = to(store.engine, "a.example", 6)
    gate = Gate(limit=4, closed_domains=("closed.example",))
    assert ids(store.claim(gate)) == rows[:4]
    assert ids(store.claim(gate)) == rows[4:]


def test_of_an_open_domain_so_many_come_as_it_has_room_for(store: Store) -> None:
    engine = store.engine
    paced, other = to(engine, "paced.example", 5), to(engine, "a.example", 2)
    urgent, waiting = to(engine, "paced.example", priority=0), to(engine, "paced.example", due_at=store.now() + LATER)
    gate = Gate(limit=10, closed_domains=("paced.example",), open_domains=(("paced.example", 3),))
    assert ids(store.claim(gate)) == urgent + paced[:2] + other
    assert ids(store.claim(gate)) == paced[2:]
    assert not store.anything_due(gate)
    assert row_of(engine, waiting[0]).status == "queued"


def test_open_domains_fill_half_of_a_claim_while_others_fill_the_rest(store: Store) -> None:
    engine = store.engine
    paced, other = to(engine, "paced.example", 20), to(engine, "a.example", 8)
    gate = Gate(limit=10, closed_domains=("paced.example",), open_domains=(("paced.example", 20),))
    assert ids(store.claim(gate)) == paced[:5] + other[:5]
    assert ids(store.claim(gate)) == paced[5:12] + other[5:]
    assert ids(store.claim(gate)) == paced[12:]


@pytest.mark.usefixtures("narrow")
def test_closed_rows_in_front_of_a_free_one_do_not_hide_it(store: Store) -> None:
    engine = store.engine
    for n in range(8):
        to(engine, f"closed{n}.example", 2)
        to(engine, f"closed{n}.example", 2, priority=9)
    free = to(engine, "m.example", due_at=NOON + LATER, priority=7)
    nameless = [insert(engine, recipients="nobody", due_at=NOON + LATER, priority=6)]
    gate = Gate(limit=10, closed_domains=tuple(f"closed{n}.example" for n in range(8)))
    assert found(store, gate) == nameless + free


def found(store: Store, gate: Gate) -> list[int]:
    """What a worker gets in some claims: a walk may end before it has been everywhere."""
    return [row.id for _ in range(6) for row in store.claim(gate)]


@pytest.mark.usefixtures("narrow")
def test_a_walk_from_domain_to_domain_goes_on_where_the_last_one_ended(store: Store) -> None:
    engine = store.engine
    for n in range(20):
        to(engine, f"closed{n:02}.example")
    free = [row for n in (3, 11, 19) for row in to(engine, f"closed{n:02}.free.example", due_at=NOON + LATER)]
    gate = Gate(limit=10, closed_domains=tuple(f"closed{n:02}.example" for n in range(20)))
    assert any(store.anything_due(gate) for _ in range(10))
    assert sorted(row for _ in range(10) for row in ids(store.claim(gate))) == free
    assert not any(store.anything_due(gate) for _ in range(10))


@pytest.mark.usefixtures("narrow")
def test_rows_that_name_a_closed_relay_in_front_of_a_free_one_do_not_hide_it(store: Store) -> None:
    to(store.engine, "a.example", 20, relay="slow")
    free = to(store.engine, "a.example", 2)
    gate = Gate(limit=10, closed_relays=("slow",))
    assert found(store, gate) == free
    assert not any(store.anything_due(gate) for _ in range(6))


def test_nothing_goes_through_any_gate_while_the_outbox_is_switched_off(store: Store) -> None:
    to(store.engine, "a.example")
    to(store.engine, "paced.example")
    gate = Gate(limit=10, closed_domains=("paced.example",), open_domains=(("paced.example", 3),))
    pause_all(store.engine, "the relay moves")
    assert (store.anything_due(gate), store.claim(gate)) == (False, [])


def test_rows_that_somebody_has_locked_are_passed_by(store: Store, other: Store) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one lock for all rows")
    stuck, free = to(store.engine, "a.example"), to(store.engine, "a.example", 3)
    paced = to(store.engine, "paced.example")
    gate = Gate(limit=2, closed_domains=("paced.example",), open_domains=(("paced.example", 1),))
    with locking(store.engine, stuck[0]), locking(store.engine, paced[0]):
        assert ids(store.claim(gate)) == free[:2]
        assert ids(other.claim(gate)) == [free[2]]
    assert ids(store.claim(gate)) == [stuck[0], paced[0]]


def test_each_worker_walks_for_itself(engine: Engine) -> None:
    rows = to(engine, "a.example", 4)
    gate = Gate(limit=2, closed_domains=("closed.example",))
    first, second = store_for(engine, "w1"), store_for(engine, "w2")
    assert ids(first.claim(gate)) + ids(second.claim(gate)) == rows
