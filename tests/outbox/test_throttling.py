"""outbox_throttle: one truth for all workers, from which a claim takes wholly or not at all."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import by_hand, insert, row_of, status_of, store_for

from poller.outbox import choosing, throttling
from poller.outbox.database import connect
from poller.outbox.tables import outbox, throttle, worker
from poller.outbox.throttling import Throttles
from poller.pacing.gate import Candidate, Choice, Gate, Grant, Record, ScopeKey, Share
from poller.pacing.limits import Limit, Scope, take
from poller.pacing.state_row import repaired
from poller.units import parse_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings
    from poller.outbox.store import Store

ALL = ScopeKey("outbox")
RELAY = ScopeKey("relay", "smtp")
PACED = ScopeKey("domain", "paced.example")
NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
TEN_A_DAY = Limit(rates=(parse_rate("1000/s"), parse_rate("10/d")), burst=1000)


@pytest.fixture
def throttles(engine: Engine) -> Throttles:
    """Of a worker named w1."""
    return Throttles(engine, worker="w1")


def due(engine: Engine, count: int, domain: str = "a.example") -> list[int]:
    rows = [{"recipients": f"a@{domain}", "body_text": "x", "due_at": NOON} for _ in range(count)]
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox), rows)
        query = sa.select(outbox.c.id).where(outbox.c.domain == domain).order_by(outbox.c.id)
        return list(connection.execute(query).scalars())[-count:]


class Taking:
    """Chooses as far as one limit goes, and remembers what it was shown."""

    def __init__(self, key: ScopeKey, limit: Limit = TEN_A_DAY) -> None:
        self.key, self.limit = key, limit
        self.shown: list[list[Candidate]] = []

    def __call__(self, rows: Sequence[Candidate], records: Mapping[ScopeKey, Record], now: datetime) -> Choice:
        self.shown.append(list(rows))
        if self.key not in records:
            return Choice()
        state, _ = repaired(self.limit, records[self.key].values, now)
        taken = take(self.limit, state, [1] * len(rows), now, ahead=60)
        slots = zip(rows, taken.slots, strict=False)
        grants = {row.id: Grant(relay="smtp", at=at, scopes=(Share(self.key),)) for row, at in slots}
        return Choice(grants=grants, states={self.key: taken.state})


def everything(rows: Sequence[Candidate], _: object, __: object) -> Choice:
    """All may go."""
    return Choice(grants={row.id: Grant(relay="smtp") for row in rows})


def used(throttles: Throttles, key: ScopeKey, limit: Limit = TEN_A_DAY) -> int:
    state, faults = repaired(limit, throttles.read()[key].values, datetime.now(UTC))
    assert faults == ""
    return sum(sum(each.counts) for each in state.used.values())


# ---- the claim


def test_what_is_granted_is_claimed_and_carries_its_grant(store: Store, throttles: Throttles) -> None:
    rows = due(store.engine, 12)
    claimed = store.claim(Gate(limit=20, scopes=(ALL,)), Taking(ALL))
    assert [row.id for row in claimed] == rows[:10]
    assert {row.grant.relay for row in claimed} == {"smtp"}
    assert all(row.grant.at is not None and row.grant.scopes == (Share(ALL),) for row in claimed)
    assert [status_of(store.engine, row) for row in rows[9:]] == ["sending", "queued", "queued"]
    assert used(throttles, ALL) == 10
    assert store.claim(Gate(limit=20, scopes=(ALL,)), Taking(ALL)) == []
    assert row_of(store.engine, rows[10]).claim_seq == 0


def test_without_a_gate_rows_carry_a_grant_that_paces_nothing(store: Store) -> None:
    due(store.engine, 1)
    assert [row.grant for row in store.claim(Gate(limit=1))] == [Grant()]


def test_candidates_show_what_pacing_depends_on_in_the_order_of_the_claim(store: Store) -> None:
    columns = {"cc": "c@b.example", "bcc": "d@b.example", "sender": "me@example.com", "relay": "other"}
    last = insert(store.engine, due_at=NOON, **columns)
    first = insert(store.engine, recipients="a@b.example", priority=0, due_at=NOON)
    taking = Taking(ALL)
    store.claim(Gate(limit=5, scopes=(ALL,)), taking)
    ((shown, full),) = taking.shown
    assert (shown.id, shown.domain, shown.priority, shown.due_at) == (first, "b.example", 0, NOON)
    assert full == Candidate(
        id=last,
        domain="example.com",
        lane="other me@example.com",
        recipients="a@example.com",
        priority=5,
        due_at=NOON,
        **columns,
    )


def test_where_a_page_may_not_go_the_next_ones_are_shown(store: Store) -> None:
    rows = due(store.engine, 30)

    def choose(shown: Sequence[Candidate], records: Mapping[ScopeKey, Record], now: datetime) -> Choice:
        assert repaired(Limit(), records[ALL].values, now)[0].reason == ("" if shown[0].id == rows[0] else "seen")
        free = [row for row in shown if row.id in rows[20:]]
        return Choice(grants={row.id: Grant() for row in free}, states={ALL: Scope(reason="seen")})

    assert [row.id for row in store.claim(Gate(limit=5, scopes=(ALL,)), choose)] == rows[20:25]


def test_rows_behind_more_than_a_claim_looks_at_come_with_a_later_claim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "MOST_PAGES", 3)
    rows = due(store.engine, 30)

    def choose(shown: Sequence[Candidate], _: object, __: object) -> Choice:
        return Choice(grants={row.id: Grant() for row in shown if row.id == rows[-1]})

    assert [row.id for _ in range(12) for row in store.claim(Gate(limit=2, scopes=(ALL,)), choose)] == rows[-1:]


def test_a_crash_of_whoever_chooses_leaves_everything_as_it_was(store: Store, throttles: Throttles) -> None:
    rows = due(store.engine, 3)

    def choose(*_: object) -> Choice:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.claim(Gate(limit=5, scopes=(ALL,)), choose)
    assert {status_of(store.engine, row) for row in rows} == {"queued"}
    assert throttles.read() == {ALL: Record(values={"slots": None, "paused_until": None, "reason": None, "pace": 1.0})}
    assert len(store.claim(Gate(limit=5, scopes=(ALL,)), Taking(ALL))) == 3


def test_a_state_for_a_scope_that_is_not_locked_is_refused(store: Store) -> None:
    due(store.engine, 1)
    with pytest.raises(ValueError, match=r"domain paced\.example, which this claim has not locked"):
        store.claim(Gate(limit=5, scopes=(ALL,)), lambda *_: Choice(states={PACED: Scope()}))
    with pytest.raises(ValueError, match="needs somebody who chooses"):
        store.claim(Gate(limit=5, scopes=(ALL,)))


def test_a_scope_whose_row_was_deleted_is_back_with_the_next_claim_at_the_latest(store: Store) -> None:
    due(store.engine, 4)
    gate = Gate(limit=1, scopes=(ALL, PACED))
    store.claim(gate, everything)
    by_hand(store.engine, "DELETE FROM outbox_throttle")
    assert len(store.claim(gate, Taking(ALL))) == 1
    assert len(store.claim(gate, Taking(PACED))) == 1


def test_a_scope_that_somebody_has_locked_is_left_out(store: Store, throttles: Throttles) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one lock for all rows")
    due(store.engine, 2)
    gate = Gate(limit=1, scopes=(ALL, PACED))
    store.claim(gate, everything)
    with store.engine.connect() as stranger:
        stranger.execute(sa.text("UPDATE outbox_throttle SET reason = 'mine' WHERE kind = 'domain'"))
        assert store.claim(gate, Taking(PACED)) == []
        assert len(store.claim(gate, Taking(ALL))) == 1
        assert set(throttles.read()) == {ALL, PACED}
        stranger.rollback()


def test_two_workers_never_take_more_than_a_limit_that_they_share(
    engine: Engine, shared: DatabaseSettings, throttles: Throttles
) -> None:
    limit = Limit(rates=(parse_rate("1000/s"), parse_rate("100/d")), burst=1000)
    due(engine, 300)
    taken: list[int] = []

    def work(store: Store, _: int) -> None:
        rows = store.claim(Gate(limit=7, scopes=(RELAY, ALL)), Taking(ALL, limit))
        taken.extend(row.id for row in rows)

    crowd(shared, 2, 25, work)
    assert len(taken) == len(set(taken)) == 100
    assert used(throttles, ALL, limit) == 100


def test_claims_with_overlapping_scopes_do_not_deadlock(engine: Engine, shared: DatabaseSettings) -> None:
    scopes = [ALL, RELAY, ScopeKey("relay", "two"), *(ScopeKey("domain", f"d{n}.example") for n in range(6))]
    for n in range(6):
        due(engine, 60, f"d{n}.example")
    closed = tuple(f"d{n}.example" for n in range(6))
    claimed: list[tuple[int, int]] = []

    def work(store: Store, turn: int) -> None:
        mixed = tuple(scopes[turn % 9 :] + scopes[: turn % 9])[:: -1 if turn % 2 else 1]
        gate = Gate(limit=4, closed_domains=closed, open_domains=tuple((d, 2) for d in closed), scopes=mixed)
        rows = store.claim(gate, Taking(mixed[0], Limit()))
        claimed.extend((row.id, row.claim_seq) for row in rows)
        if turn % 5 == 0:
            store.hand_back(rows)
        if turn % 7 == 0:
            Throttles(store.engine, worker=store.worker).change(mixed[-1], lambda _, __: Scope(reason="heard"))

    crowd(shared, 4, 75, work)
    assert len(claimed) == len(set(claimed)) > 0


def crowd(shared: DatabaseSettings, workers: int, turns: int, work: Any) -> None:
    """So many workers at once, each so many turns; their errors are this thread's."""
    errors: list[BaseException] = []
    ready = threading.Barrier(workers, timeout=30)

    def one(number: int) -> None:
        own = connect(replace(shared, lock_timeout=20.0))
        try:
            store = store_for(own, f"w{number}")
            ready.wait()
            for turn in range(turns):
                work(store, turn + number)
        except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
            errors.append(error)
        finally:
            own.dispose()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# ---- handing back


def test_rows_that_are_handed_back_unsent_give_their_quotas_back(store: Store, throttles: Throttles) -> None:
    due(store.engine, 10)
    rows = store.claim(Gate(limit=10, scopes=(ALL,)), Taking(ALL))
    store.hand_back(rows[6:])
    assert used(throttles, ALL) == 6
    store.hand_back(rows[6:])  # these claims are over
    assert used(throttles, ALL) == 6
    assert len(store.claim(Gate(limit=10, scopes=(ALL,)), Taking(ALL))) == 4


def test_what_was_paced_by_a_scope_that_is_gone_or_spoilt_is_handed_back_all_the_same(store: Store) -> None:
    due(store.engine, 2)
    first, second = store.claim(Gate(limit=2, scopes=(ALL,)), Taking(ALL))
    by_hand(store.engine, "UPDATE outbox_throttle SET slots = '[oops'")
    store.hand_back([first])
    by_hand(store.engine, "DELETE FROM outbox_throttle")
    store.hand_back([second])
    assert {status_of(store.engine, row.id) for row in (first, second)} == {"queued"}


# ---- reading and changing


def test_a_change_is_made_of_what_stands_there_at_the_databases_time(store: Store, throttles: Throttles) -> None:
    seen: list[tuple[Record, datetime]] = []

    def pause(record: Record, now: datetime) -> Scope:
        seen.append((record, now))
        return Scope(paused_until=now + timedelta(hours=1), reason="450 slow down", pace=0.5)

    before = store.now()
    state = throttles.change(PACED, pause)
    assert before <= seen[0][1] <= store.now()
    assert seen[0][0].values["pace"] == 1.0
    values = throttles.read()[PACED].values
    assert repaired(Limit(), values, before)[0] == state
    assert values["paused_until"] == state.paused_until
    assert throttles.change(PACED, lambda record, now: repaired(Limit(), record.values, now)[0]) == state


def test_changes_of_one_scope_do_not_overtake_each_other(
    engine: Engine, shared: DatabaseSettings, throttles: Throttles
) -> None:
    def count(record: Record, now: datetime) -> Scope:
        state, _ = repaired(Limit(), record.values, now)
        return replace(state, complaints=state.complaints + 1)

    crowd(shared, 4, 10, lambda store, _: Throttles(store.engine, worker="w").change(RELAY, count))
    assert repaired(Limit(), throttles.read()[RELAY].values, datetime.now(UTC))[0].complaints == 40
    assert engine is throttles.engine


def spoilt(kind: str) -> Iterator[str]:
    yield "UPDATE outbox_throttle SET slots = 'nonsense', reason = '', limits = '?'"
    yield "UPDATE outbox_throttle SET slots = '{\"d\": 7, \"next\": []}', paused_until = '1000-01-01 00:00:00'"
    yield "UPDATE outbox_throttle SET paused_until = '9999-12-29 00:00:00'"
    yield "UPDATE outbox_throttle SET pace = 0.0000001"
    if kind == "sqlite":
        yield "UPDATE outbox_throttle SET paused_until = '2026-11-22 10:00:00 or so'"


def test_whatever_a_hand_did_to_a_row_raises_nothing(store: Store, throttles: Throttles, kind: str) -> None:
    due(store.engine, 10)
    store.claim(Gate(limit=1, scopes=(ALL,)), Taking(ALL))
    for statement in spoilt(kind):
        by_hand(store.engine, statement)
        now = store.now()
        assert repaired(TEN_A_DAY, throttles.read()[ALL].values, now)
        store.claim(Gate(limit=1, scopes=(ALL,)), Taking(ALL))
        throttles.announce({ALL: "10/d"})
        throttles.change(ALL, lambda record, now: repaired(TEN_A_DAY, record.values, now)[0])


def test_what_the_configuration_allows_is_written_beside_what_is_known(engine: Engine, throttles: Throttles) -> None:
    heard = Scope(pace=0.5, reason="slow down", pace_of=parse_rate("10/m"))
    throttles.change(PACED, lambda _, __: heard)
    throttles.learn(RELAY, "session_limit", 50)
    throttles.announce({ALL: "100/h", PACED: "10/m", RELAY: "2/s"})
    assert {key: record.limits for key, record in throttles.read().items()} == {
        ALL: "100/h",
        PACED: "10/m",
        RELAY: "2/s",
    }
    throttles.announce({})
    left = throttles.read()
    assert {key: record.limits for key, record in left.items()} == {PACED: None, RELAY: None}
    assert repaired(Limit(), left[PACED].values, NOON)[0] == replace(heard, pace_since=None)
    with engine.begin() as connection:
        connection.execute(sa.update(throttle).values(pace=1, reason=None, slots=None, session_limit=None))
    throttles.announce({})
    assert throttles.read() == {}


def test_a_pause_that_is_not_over_outlives_the_limit_that_named_its_scope(throttles: Throttles) -> None:
    throttles.change(PACED, lambda _, now: Scope(paused_until=now + timedelta(hours=1), reason="by hand"))
    throttles.change(ALL, lambda _, now: Scope(paused_until=now - timedelta(hours=1), reason="was paused"))
    throttles.announce({})
    assert set(throttles.read()) == {PACED}


def test_the_least_that_a_relay_ever_took_on_one_connection_is_kept(throttles: Throttles) -> None:
    assert [throttles.learn(RELAY, "session_limit", most) for most in (50, 20, 100)] == [50, 20, 20]
    assert throttles.read()[RELAY].session_limit == 20


# ---- connections


def alive(engine: Engine, name: str, lease: float = 60) -> Throttles:
    """A worker whose lease lasts so long."""
    store_for(engine, name).register(identity=name, host="h", pid=1, version="0", lease=lease, may_be_alive=False)
    return Throttles(engine, worker=name)


def test_no_more_workers_hold_a_connection_than_a_relay_allows(engine: Engine) -> None:
    one, two, three = (alive(engine, name) for name in ("w1", "w2", "w3"))
    assert [each.connect("smtp", 2) for each in (one, two, three, one)] == [True, True, False, True]
    assert three.connect("other", 1)
    two.disconnect("smtp")
    assert three.connect("smtp", 2)
    assert not two.connect("smtp", 2)
    assert not two.connect("other", 1)  # held beside the other one
    three.disconnect("other")
    assert two.connect("other", 1)
    assert not two.connect("smtp", 2)


def test_a_worker_whose_lease_has_ended_holds_no_connection(engine: Engine) -> None:
    one, two = alive(engine, "w1"), alive(engine, "w2")
    assert (one.connect("smtp", 1), two.connect("smtp", 1)) == (True, False)
    by_hand(engine, "UPDATE outbox_worker SET lease_until = '2020-01-01 00:00:00' WHERE name = 'w1'")
    assert two.connect("smtp", 1)


def test_a_worker_that_starts_again_holds_no_connection(engine: Engine) -> None:
    assert alive(engine, "w1").connect("smtp", 1)
    alive(engine, "w1")
    with engine.connect() as connection:
        assert connection.execute(sa.select(worker.c.connected_to)).scalars().all() == [None]


def test_workers_that_connect_at_once_do_not_pass_the_limit(engine: Engine, shared: DatabaseSettings) -> None:
    for number in range(4):
        alive(engine, f"w{number}")
    got: list[str] = []

    def work(store: Store, _: int) -> None:
        if Throttles(store.engine, worker=store.worker).connect("smtp", 2):
            got.append(store.worker)

    crowd(shared, 4, 5, work)
    assert len(set(got)) == 2


def test_a_pause_is_read_however_many_scopes_say_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    few = throttling._READ.text.replace(str(throttling.MOST_READ), "5")
    monkeypatch.setattr(throttling, "_READ", sa.text(few).bindparams(whole=1.0))
    lines = [{"kind": "domain", "name": f"a{n}.example"} for n in range(9)]
    with store.engine.begin() as connection:
        connection.execute(sa.insert(throttle), lines)
        pause = {"kind": "domain", "name": "z.example", "paused_until": datetime(2099, 1, 1, tzinfo=UTC)}
        connection.execute(sa.insert(throttle), pause)
    read = Throttles(store.engine, worker="w1").read()
    assert len(read) == 5
    assert ScopeKey("domain", "z.example") in read
