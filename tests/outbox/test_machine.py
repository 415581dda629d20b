"""Any sequence of what workers, operators and restored backups do to rows: what holds after each step.

A 250 that was written down stays; a row that a worker holds is nobody else's until its lease has ended; a fence never
goes back; and every row is in a state that the schema knows. `POLLER_TEST_EXAMPLES=2000` makes the search longer.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import databases
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from outbox.ground import (
    STATUSES,
    by_hand,
    deferred,
    doubtful,
    failed,
    insert,
    partial,
    recipients_of,
    row_of,
    sent,
    step,
    store_for,
)

from poller.outbox.belief import OutboxIsOlder
from poller.outbox.database import connect
from poller.outbox.operate import Action, Selection, change
from poller.outbox.rows import Late
from poller.outbox.tables import meta, metadata, outbox, recipient
from poller.pacing.gate import Gate
from poller.statuses import IN_HAND

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poller.judgement.retry import Step
    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store

WORKERS = ("w1", "w2")
BOTH = "a@example.com, b@example.com"
MAKE = {
    "sent": sent,
    "deferred": lambda store, row: deferred(store, row, seconds=0),
    "failed": failed,
    "in_doubt": doubtful,
    "resend": lambda store, row: step(store, row, "queued", doubts=1, error="line lost"),
    "partial": partial,
}
HAS_IT = {Late.RECORDED, Late.SETTLED, Late.REPAIRED}
"""After which a step that was accepted is in the database."""

workers = st.sampled_from(WORKERS)
numbers = st.integers(0, 3)


class Rows(RuleBasedStateMachine):
    """Two workers, an operator and a restored backup at one outbox."""

    engine: ClassVar[Engine]

    @initialize()
    def begin(self) -> None:
        with self.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                kept = meta.c.name.not_like("migration %") if table is meta else sa.true()
                connection.execute(sa.delete(table).where(kept))
        self.stores: dict[str, Store] = {name: store_for(self.engine, name) for name in WORKERS}
        for name, store in self.stores.items():
            store.register(identity=name, host="here", pid=1, version="0", lease=900)
        self.ids: list[int] = []
        self.hands: dict[str, dict[int, ClaimedRow]] = {name: {} for name in WORKERS}
        """What each worker believes to hold."""
        self.held: dict[int, str] = {}
        """Who holds a row by right."""
        self.accepted: set[int] = set()
        """Rows of which a 250 is written down."""
        self.fences: dict[int, int] = {}
        self.written: list[tuple[str, Step]] = []
        self.backups: list[tuple[int, dict[str, Any], list[dict[str, Any]], bool]] = []
        self.set_back: set[int] = set()

    # --- an application ---

    @rule(several=st.booleans(), priority=st.sampled_from([0, 5, 9]))
    def enqueue(self, several: bool, priority: int) -> None:  # noqa: FBT001
        row_id = insert(self.engine, recipients=BOTH if several else "a@example.com", priority=priority)
        self.ids.append(row_id)
        self.fences[row_id] = 0

    # --- workers ---

    @rule(worker=workers, limit=st.integers(1, 3))
    def claim(self, worker: str, limit: int) -> None:
        for row in self._claimed(worker, limit):
            self.hands[worker][row.id] = row
            self.held[row.id] = worker

    @rule(worker=workers)
    def claim_and_never_hear_of_it(self, worker: str) -> None:
        """The reply to COMMIT is lost."""
        for row in self._claimed(worker, 2):
            self.held[row.id] = worker
        self.stores[worker]._claim_unconfirmed = True

    def _claimed(self, worker: str, limit: int) -> list[ClaimedRow]:
        store = self.stores[worker]
        if store._claim_unconfirmed:  # then what it does not know of goes back first
            for row_id in [r for r, w in self.held.items() if w == worker and r not in self.hands[worker]]:
                del self.held[row_id]
        try:
            rows = store.claim(Gate(limit=limit), in_hand=self.hands[worker])
        except OutboxIsOlder:  # a row came back as it was before this worker claimed it: a new life begins
            assert self.set_back
            store.register(identity=worker, host="here", pid=1, version="0", lease=900, may_be_alive=False)
            return []
        assert len(rows) <= limit
        for row in rows:
            assert row.id not in self.held, "claimed although a worker holds it"
            assert row.id not in self.accepted or row.known["a@example.com"].status == "sent"
            assert row.claim_seq > self.fences[row.id] or row.id in self.set_back
        return rows

    def _one_of(self, worker: str, number: int) -> ClaimedRow | None:
        rows = list(self.hands[worker].values())
        return self.hands[worker].pop(rows[number % len(rows)].id) if rows else None

    @rule(worker=workers, number=numbers, outcome=st.sampled_from([*MAKE, "sent"]))
    def record(self, worker: str, number: int, outcome: str) -> None:
        row = self._one_of(worker, number)
        if row is None:
            return
        several = row.content["recipients"] == BOTH
        made = MAKE[outcome if several or outcome != "partial" else "sent"](self.stores[worker], row)
        if several and outcome == "sent":
            made = partial(self.stores[worker], row)
        self._write(worker, made)
        self.written.append((worker, made))

    def _write(self, worker: str, made: Step) -> None:
        result = self.stores[worker].record([made])
        assert not result.stubborn
        if self.held.get(made.row_id) == worker and made.row_id in result.written:
            del self.held[made.row_id]
        if result.late.get(made.row_id) in {Late.SETTLED, Late.REPAIRED}:
            self.held.pop(made.row_id, None)
        if made.sent_at and (made.row_id in result.written or result.late.get(made.row_id) in HAS_IT):
            self.accepted.add(made.row_id)

    @precondition(lambda self: self.written)
    @rule(number=numbers)
    def record_once_more(self, number: int) -> None:
        """The reply to COMMIT was lost: the same step again changes nothing that was not changed by others."""
        worker, made = self.written[-1 - number % len(self.written)]
        before = row_of(self.engine, made.row_id)
        self._write(worker, made)
        after = row_of(self.engine, made.row_id)
        if before.claim_seq == made.claim_seq and made.row_id not in self.set_back:
            assert (after.attempts, after.doubts) == (before.attempts, before.doubts)

    @rule(worker=workers, number=numbers)
    def hand_back(self, worker: str, number: int) -> None:
        row = self._one_of(worker, number)
        if row is not None:
            self.stores[worker].hand_back([row])
            if self.held.get(row.id) == worker:
                del self.held[row.id]

    @rule(silent=workers, resend=st.booleans())
    def take_over(self, silent: str, resend: bool) -> None:  # noqa: FBT001
        """The lease of one ends; the other judges its rows; the first wakes up and knows nothing of it."""
        (other,) = set(WORKERS) - {silent}
        by_hand(self.engine, "UPDATE outbox_worker SET lease_until = '2020-01-01 00:00:00' WHERE name = :n", n=silent)
        for row in self.stores[other].orphans_of({silent}, takeover=900):
            made = MAKE["resend" if resend else "in_doubt"](self.stores[other], row)
            assert self.stores[other].record([made], holder=silent).written == {row.id}
            self.held.pop(row.id, None)
        by_hand(self.engine, "UPDATE outbox_worker SET lease_until = '9020-01-01 00:00:00' WHERE name = :n", n=silent)

    # --- an operator ---

    @precondition(lambda self: self.ids)
    @rule(number=st.integers(0, 20), action=st.sampled_from(get_args(Action)))
    def operate(self, number: int, action: Action) -> None:
        row_id = self.ids[number % len(self.ids)]
        before = row_of(self.engine, row_id).status
        changed = change(self.engine, Selection(ids=(row_id,)), action).rows
        after = row_of(self.engine, row_id).status
        assert bool(changed) or after == before
        if action == "resolve-sent" and changed and after == "sent":
            self.accepted.add(row_id)  # a person's word is a fact as well

    # --- a database that comes back older than it was ---

    @precondition(lambda self: self.ids)
    @rule(number=st.integers(0, 20))
    def back_up(self, number: int) -> None:
        row_id = self.ids[number % len(self.ids)]
        with self.engine.connect() as connection:
            row = dict(connection.execute(sa.select(outbox).where(outbox.c.id == row_id)).one()._mapping)
            query = sa.select(recipient).where(recipient.c.outbox_id == row_id)
            lines = [dict(line._mapping) for line in connection.execute(query)]
        self.backups.append((row_id, row, lines, row_id in self.accepted))

    @precondition(lambda self: self.backups)
    @rule(number=numbers)
    def restore(self, number: int) -> None:
        row_id, row, lines, accepted = self.backups[number % len(self.backups)]
        with self.engine.begin() as connection:
            values = {name: value for name, value in row.items() if name not in {"domain", "lane", "flow"}}
            connection.execute(sa.update(outbox).where(outbox.c.id == row_id).values(values))
            connection.execute(sa.delete(recipient).where(recipient.c.outbox_id == row_id))
            if lines:
                connection.execute(sa.insert(recipient), lines)
        (self.accepted.add if accepted else self.accepted.discard)(row_id)
        self.set_back.add(row_id)
        self.held.pop(row_id, None)
        self.fences[row_id] = row["claim_seq"]

    # --- what always holds ---

    @invariant()
    def every_row_is_as_it_must_be(self) -> None:
        for row_id in getattr(self, "ids", ()):
            row = row_of(self.engine, row_id)
            assert row.status in STATUSES
            assert min(row.attempts, row.doubts, row.setbacks) >= 0
            assert row.claim_seq >= self.fences[row_id]
            self.fences[row_id] = row.claim_seq
            if row_id in self.accepted:
                self._is_still_accepted(row)
            if row_id in self.held and row_id not in self.set_back:
                assert (row.claimed_by, row.finished_at) == (self.held[row_id], None)
                assert row.status in IN_HAND

    def _is_still_accepted(self, row: Any) -> None:
        states = recipients_of(self.engine, row.id)
        if not states:
            assert row.status == "sent"
            return
        assert states["a@example.com"].status == "sent"
        assert row.status in {"sent", "partial"} or states["b@example.com"].status != "sent"


def test_whatever_is_done_to_rows_a_250_stays_and_nobody_shares_a_row() -> None:
    near = "/dev/shm" if Path("/dev/shm").is_dir() else None  # a disk's syncs are not what this is about
    with tempfile.TemporaryDirectory(dir=near) as directory, databases.database("sqlite", Path(directory)) as database:
        Rows.engine = connect(database)
        try:
            examples = int(os.environ.get("POLLER_TEST_EXAMPLES", "40"))
            quick = settings(max_examples=examples, stateful_step_count=30, deadline=None)
            run_state_machine_as_test(Rows, settings=quick)
        finally:
            Rows.engine.dispose()
