"""What is kept of content: in the transaction of its outcome, at no cost where nothing is, no longer than wanted."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from outbox.ground import claimed, deferred, insert, row_with, sent, status_of
from outbox.test_retention import age, at_once

from poller.judgement.keeping import MOST, NOTHING, Kept, keeping, unpacked
from poller.outbox.content import content_of
from poller.outbox.retention import purge
from poller.outbox.settings import RetentionSettings
from poller.outbox.tables import content, outbox
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.store import Store

RENDERED = Kept(rendered=b"\x00\xff rendered", made_of="0" * 64)
COPY = Kept(sha256="a" * 64, message=b"\x00\xff bytes")
DAY = 86400.0


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """All that is said to the database meanwhile."""
    said: list[str] = []

    def hear(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    sa.event.listen(engine, "before_cursor_execute", hear)
    try:
        yield said
    finally:
        sa.event.remove(engine, "before_cursor_execute", hear)


def kept_of(store: Store, row_id: int) -> Kept | None:
    found = content_of(store.engine, row_id)
    return found.kept if found else None


def let_all_be_due(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.update(outbox).values(due_at=store.now() - timedelta(minutes=1)))


def test_a_row_that_goes_out_at_once_costs_no_statement(store: Store) -> None:
    for _ in range(3):
        insert(store.engine)
    with statements(store.engine) as said:
        store.record([sent(store, row) for row in store.claim(Gate(limit=10))])
    assert [statement for statement in said if "outbox_content" in statement] == []


def test_what_is_kept_comes_back_with_the_next_claim_and_goes_when_the_row_ends(store: Store) -> None:
    ids = [insert(store.engine) for _ in range(3)]
    rows = store.claim(Gate(limit=10))
    store.record([replace(deferred(store, row), keep=RENDERED if row.id != ids[2] else None) for row in rows])
    let_all_be_due(store)
    again = {row.id: row for row in store.claim(Gate(limit=10))}
    assert [again[row_id].kept for row_id in ids] == [RENDERED, RENDERED, None]
    last = {ids[0]: NOTHING, ids[1]: replace(RENDERED, sha256=COPY.sha256, message=COPY.message)}
    store.record([replace(sent(store, row), keep=last.get(row.id)) for row in again.values()])
    assert [kept_of(store, row_id) for row_id in ids] == [None, last[ids[1]], None]


def test_a_hash_stays_when_a_rendering_is_kept_or_forgotten(store: Store) -> None:
    row_id = insert(store.engine)
    expected = [COPY, replace(COPY, rendered=RENDERED.rendered, made_of=RENDERED.made_of), COPY]
    for keep, kept in zip((COPY, RENDERED, NOTHING), expected, strict=True):
        store.record([replace(deferred(store, claimed(store)), keep=keep)])
        assert kept_of(store, row_id) == kept
        let_all_be_due(store)


def test_content_that_the_database_refuses_keeps_no_outcome_from_being_written(store: Store) -> None:
    good, bad = insert(store.engine), insert(store.engine)
    refused = Kept(rendered=b"x", made_of=None)
    rows = store.claim(Gate(limit=10))
    steps = [replace(sent(store, row), keep=refused if row.id == bad else COPY) for row in rows]
    recorded = store.record(steps)
    assert (recorded.written, recorded.stubborn) == ({good, bad}, ())
    assert [status_of(store.engine, row_id) for row_id in (good, bad)] == ["sent", "sent"]
    assert [kept_of(store, row_id) for row_id in (good, bad)] == [COPY, None]


def test_much_content_goes_in_several_statements(store: Store) -> None:
    large = Kept(sha256="b" * 64, message=bytes(700_000))
    ids = [insert(store.engine) for _ in range(4)]
    rows = store.claim(Gate(limit=10))
    with statements(store.engine) as said:
        store.record([replace(sent(store, row), keep=large) for row in rows])
    assert len([statement for statement in said if "outbox_content" in statement]) == 4
    assert [kept_of(store, row_id) for row_id in ids] == [large] * 4


def test_copies_have_a_time_of_their_own_but_not_those_of_open_rows(store: Store) -> None:
    ids = {status: row_with(store, status) for status in ("sent", "failed", "in_doubt")}
    young = row_with(store, "sent")
    with store.engine.begin() as connection:
        for row_id in (*ids.values(), young):
            at = store.now() - timedelta(days=1 if row_id == young else 8)
            connection.execute(sa.insert(content).values(outbox_id=row_id, sha256="a" * 64, kept_at=at))
    purged = purge(store.engine, RetentionSettings(kept=7 * DAY), wait=at_once, portion=1)
    assert (purged.rows, purged.kept) == (0, 2)
    left = {row_id for row_id in (*ids.values(), young) if kept_of(store, row_id)}
    assert left == {ids["in_doubt"], young}
    age(store, young, days=31)
    assert purge(store.engine, RetentionSettings(sent=30 * DAY), wait=at_once).rows == 1
    assert kept_of(store, young) is None


def test_what_is_too_large_is_not_kept_and_its_hash_is() -> None:
    noise = random.Random(1).randbytes(700_000)
    kept = keeping("sent", before=None, accepted=noise, keep_sent="full")
    assert kept is not None
    assert kept.message is not None
    assert unpacked(kept.message) == noise
    too_much = keeping("sent", before=None, accepted=random.Random(1).randbytes(MOST + 1), keep_sent="full")
    assert too_much is not None
    assert (too_much.message, len(too_much.sha256 or "")) == (None, 64)
    vast = Kept(rendered=bytes(MOST + 1), made_of="0" * 64)
    assert keeping("queued", before=None, rendered=vast) is None
    assert keeping("queued", before=RENDERED, rendered=RENDERED) is None
    assert keeping("failed", before=RENDERED, rendered=RENDERED) == NOTHING
    assert keeping("sent", before=kept, accepted=noise, keep_sent="full") is None
