"""Which rows a selection means: the same on every database, for what is counted, shown and changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import insert, row_of, status_of

from poller.outbox.find import chosen, find
from poller.outbox.operate import Selection, change, count, preview
from poller.outbox.tables import attempt, outbox, recipient

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poller.outbox.store import Store

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def ended(engine: Engine, **columns: Any) -> int:
    """A row that failed at noon."""
    row_id = insert(engine)
    values = {"status": "failed", "finished_at": NOON, **columns}
    with engine.begin() as connection:
        connection.execute(sa.update(outbox).where(outbox.c.id == row_id).values(values))
    return row_id


@pytest.mark.parametrize(
    ("given", "wanted", "other"),
    [
        ({"code": "550"}, {"reply_code": 550}, {"reply_code": 551}),
        ({"code": "55"}, {"reply_code": 559}, {"reply_code": 560}),
        ({"code": "4"}, {"reply_code": 499}, {"reply_code": 500}),
        ({"code": "4.2.2"}, {"reply_status": "4.2.2"}, {"reply_status": "4.2.20"}),
        ({"code": "4.2"}, {"reply_status": "4.2.1"}, {"reply_status": "4.20.1"}),
        ({"reason": "No 100%_user"}, {"error": "there is NO 100%_user here"}, {"error": "no 1000_user"}),
        ({"reason": "spam"}, {"reply_text": "Looks like SPAM"}, {"error": "full"}),
        ({"since": NOON}, {}, {"finished_at": NOON - HOUR}),
        ({"until": NOON}, {}, {"finished_at": NOON + HOUR}),
        ({"template": "letter"}, {"template": "letter", "body_text": None}, {"template": "Letter", "body_text": None}),
        ({"relay": "backup"}, {"relay": "backup"}, {"relay": "Backup"}),
    ],
    ids=str,
)
def test_a_filter_takes_what_it_names(
    store: Store, given: dict[str, Any], wanted: dict[str, Any], other: dict[str, Any]
) -> None:
    row_id = ended(store.engine, **wanted)
    ended(store.engine, **other)
    selection = Selection(**given)
    assert count(store.engine, selection, "retry") == {"failed": 1}
    assert [row["id"] for row in preview(store.engine, selection, "retry", most=5)] == [row_id]
    assert change(store.engine, selection, "retry").rows == 1
    assert status_of(store.engine, row_id) == "queued"


def test_what_one_of_its_recipients_was_told_is_told_of_the_row(store: Store) -> None:
    row_id = ended(store.engine)
    told = {"outbox_id": row_id, "address": "b@example.com", "status": "failed", "reply_code": 552, "updated_at": NOON}
    with store.engine.begin() as connection:
        connection.execute(sa.insert(recipient).values(**told, error="mailbox full"))
    for selection in (Selection(code="552"), Selection(reason="FULL")):
        assert count(store.engine, selection, "retry") == {"failed": 1}


def test_a_row_was_tried_by_a_relay_if_its_history_says_so(store: Store) -> None:
    row_id = ended(store.engine)
    line = {"outbox_id": row_id, "claim_seq": 1, "at": NOON, "worker": "w1", "outcome": "failed"}
    with store.engine.begin() as connection:
        connection.execute(sa.insert(attempt).values(**line, relay="mx.example.com:25"))
    assert count(store.engine, Selection(relay="main", at="mx.example.com:25"), "retry") == {"failed": 1}
    assert count(store.engine, Selection(relay="main", at="mx.example.com:587"), "retry") == {}


def test_what_has_not_ended_is_as_old_as_it_was_written(store: Store) -> None:
    insert(store.engine, created_at=NOON)
    assert count(store.engine, Selection(since=NOON, until=NOON), "pause") == {"queued": 1}
    assert count(store.engine, Selection(since=NOON + HOUR), "pause") == {}


def test_a_limit_takes_the_first_rows_and_counts_no_more(store: Store) -> None:
    ids = [insert(store.engine, batch="b") for _ in range(4)]
    selection = Selection(batch="b", limit=3)
    assert count(store.engine, selection, "pause") == {"queued": 3}
    assert change(store.engine, selection, "pause").rows == 3
    assert [status_of(store.engine, row_id) for row_id in ids] == ["paused"] * 3 + ["queued"]


def test_now_hurries_what_waits_for_another_try_and_nothing_that_an_application_wrote_for_later(store: Store) -> None:
    later = insert(store.engine, due_at=LATER)
    waits = insert(store.engine, due_at=LATER, claim_seq=1, attempts=1)
    assert change(store.engine, Selection(every=True), "retry-now").rows == 1
    assert row_of(store.engine, later).due_at == LATER
    assert row_of(store.engine, waits).due_at <= store.now()
    assert row_of(store.engine, waits).attempts == 1


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "say which rows: ids, --batch"),
        ({"limit": 3}, "say which rows"),
        ({"code": "5xx"}, "is no code"),
        ({"since": NOON, "until": NOON - HOUR}, "nothing lies between"),
    ],
)
def test_a_selection_that_means_nothing_is_refused_with_the_remedy(
    kind: str, given: dict[str, Any], words: str
) -> None:
    assert kind
    with pytest.raises(ValueError, match=words):
        Selection(**given)


def test_what_is_found_by_words_and_by_filters_is_both(store: Store) -> None:
    wanted = ended(store.engine, error="mailbox full")
    ended(store.engine, error="no such user")
    selection = Selection(reason="full")
    assert [row.id for row in chosen(store.engine, selection)] == [wanted]
    assert [row.id for row in find(store.engine, "a@example.com", among=selection)] == [wanted]
