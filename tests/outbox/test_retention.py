"""Retention: what is done and past its time goes, with all that is its own; nothing else does, and nobody waits."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import STATUSES, by_hand, insert, locking, row_with

from poller.outbox.retention import Purged, due_for_purge, purge
from poller.outbox.settings import RetentionSettings
from poller.outbox.tables import attachment, attempt, outbox, recipient
from poller.pacing.gate import Gate
from poller.statuses import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poller.outbox.store import Store

DAY = 86400.0
BOTH = RetentionSettings(sent=30 * DAY, failed=60 * DAY)


def at_once(_seconds: float) -> None:
    """Nobody works beside us."""


def age(store: Store, *ids: int, days: float) -> None:
    """Let rows have ended, and their history been written, so many days ago."""
    at = store.now() - timedelta(days=days)
    with store.engine.begin() as connection:
        ended = outbox.c.finished_at.is_not(None)
        connection.execute(sa.update(outbox).where(outbox.c.id.in_(ids), ended).values(finished_at=at))
        connection.execute(sa.update(attempt).where(attempt.c.outbox_id.in_(ids)).values(at=at))


def left(store: Store, table: sa.Table = outbox, column: str = "id") -> Sequence[Any]:
    with store.engine.connect() as connection:
        return connection.execute(sa.select(table.c[column]).order_by(table.c[column])).scalars().all()


def note(store: Store, row_id: int) -> None:
    by_hand(
        store.engine,
        "INSERT INTO outbox_attempt (outbox_id, claim_seq, at, worker, outcome)"
        " VALUES (:id, 1, '2026-01-01 00:00:00', 'w1', 'deferred')",
        id=row_id,
    )


def test_a_row_goes_when_the_time_of_its_end_has_come_and_no_other(store: Store) -> None:
    ids = {status: row_with(store, status) for status in sorted(STATUSES, key=lambda status: status == "queued")}
    age(store, *ids.values(), days=45)
    assert due_for_purge(store.engine, BOTH) == 1
    assert purge(store.engine, BOTH, wait=at_once).rows == 1
    assert due_for_purge(store.engine, BOTH) == 0
    assert left(store) == sorted(row_id for status, row_id in ids.items() if status != "sent")
    age(store, *ids.values(), days=61)
    purge(store.engine, BOTH, wait=at_once)
    assert left(store) == sorted(row_id for status, row_id in ids.items() if status not in TERMINAL)
    assert {status for status in ids if status not in TERMINAL} > {"queued", "sending"}


def test_a_row_goes_with_its_recipients_files_and_history(store: Store) -> None:
    old, young = row_with(store, "partial"), row_with(store, "partial")
    for row_id in (old, young):
        note(store, row_id)
        with store.engine.begin() as connection:
            connection.execute(sa.insert(attachment).values(outbox_id=row_id, name="a", content=b"x"))
    age(store, old, days=61)
    age(store, young, days=59)
    purge(store.engine, BOTH, wait=at_once)
    assert left(store) == [young]
    for table in (recipient, attachment, attempt):
        assert set(left(store, table, "outbox_id")) == {young}


def test_history_has_a_time_of_its_own_and_that_of_an_open_row_stays(store: Store) -> None:
    ended, waiting, gone = row_with(store, "sent"), insert(store.engine), 4711
    for row_id in (ended, waiting, gone):
        note(store, row_id)
    settings = RetentionSettings(attempts=10 * DAY)
    assert purge(store.engine, settings, wait=at_once) == Purged(rows=0, attempts=2)
    assert left(store, attempt, "outbox_id") == [waiting]
    note(store, gone)
    assert purge(store.engine, RetentionSettings(sent=DAY), wait=at_once) == Purged()


def test_it_goes_by_small_portions_with_a_pause_and_ends_when_told(store: Store) -> None:
    ids = [row_with(store, "sent") for _ in range(25)]
    age(store, *ids, days=31)
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return len(pauses) == 2

    assert purge(store.engine, BOTH, wait=wait, portion=10).rows == 20
    assert (len(left(store)), len(pauses)) == (5, 2)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_row_that_somebody_has_locked_is_left_for_the_next_time(store: Store) -> None:
    locked, free = row_with(store, "sent"), row_with(store, "sent")
    age(store, locked, free, days=31)
    with locking(store.engine, locked):
        assert purge(store.engine, BOTH, wait=at_once).rows == 1
    assert left(store) == [locked]


def test_what_plain_sql_cancels_goes_too(store: Store) -> None:
    row_id = insert(store.engine)
    by_hand(store.engine, "UPDATE outbox SET status = 'cancelled', finished_at = '2020-01-01 00:00:00'")
    assert purge(store.engine, BOTH, wait=at_once).rows == 1
    assert row_id not in left(store)


def test_claims_go_on_while_it_works(store: Store) -> None:
    ids = [row_with(store, "sent") for _ in range(60)]
    age(store, *ids, days=31)
    waiting = {insert(store.engine) for _ in range(5)}
    purging = threading.Thread(target=lambda: purge(store.engine, BOTH, wait=time.sleep, portion=5))
    purging.start()
    claimed: set[int] = set()
    deadline = time.monotonic() + 30
    while claimed != waiting and time.monotonic() < deadline:
        claimed |= {row.id for row in store.claim(Gate(limit=2))}
    purging.join()
    assert claimed == waiting
    assert set(left(store)) == waiting
