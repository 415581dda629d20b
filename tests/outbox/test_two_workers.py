"""Two workers at one outbox: no row twice, none left, both busy, and applications never wait in vain."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from outbox.ground import insert, sent, store_for

from poller.outbox.database import connect
from poller.outbox.tables import outbox
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

ROWS, LIMIT, INSERTS = 1000, 50, 40


def test_two_workers_share_the_rows_while_an_application_goes_on_inserting(
    engine: Engine, shared: DatabaseSettings
) -> None:
    rows = [{"recipients": f"a{n}@example.com", "body_text": "x", "priority": n % 10} for n in range(ROWS)]
    with engine.begin() as connection:
        connection.execute(sa.insert(outbox), rows)
    taken: dict[str, list[int]] = {"w1": [], "w2": []}
    errors: list[BaseException] = []
    ready, both_busy = threading.Barrier(3, timeout=30), threading.Barrier(2, timeout=30)

    def worker(name: str) -> None:
        own = connect(replace(shared, lock_timeout=20.0))
        store = store_for(own, name)
        ready.wait()
        claimed = store.claim(Gate(limit=LIMIT))
        both_busy.wait()  # each holds rows that the other must pass by
        while claimed:
            taken[name] += [row.id for row in claimed]
            made = sent(store, claimed[0])
            steps = [
                replace(made, row_id=row.id, claim_seq=row.claim_seq, message_id=row.message_id) for row in claimed
            ]
            assert len(store.record(steps).written) == len(claimed)
            claimed = store.claim(Gate(limit=LIMIT))
        own.dispose()

    def application() -> None:
        own = connect(replace(shared, lock_timeout=20.0))
        ready.wait()
        for _ in range(INSERTS):
            insert(own, batch="late")
        own.dispose()

    def guarded(work: object, *arguments: str) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
            errors.append(error)

    jobs = [(worker, "w1"), (worker, "w2"), (application,)]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    rest = store_for(engine, "w3").claim(Gate(limit=INSERTS))  # what came in after both had gone home
    everything = taken["w1"] + taken["w2"] + [row.id for row in rest]
    assert len(everything) == len(set(everything)) == ROWS + INSERTS
    assert min(len(ids) for ids in taken.values()) >= LIMIT
