"""Enqueueing from Python: one INSERT in the caller's own transaction, and the database's words when it says no."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import by_hand, row_of

import poller
from poller.outbox.enqueue import RowRefused, enqueue, enqueue_alone
from poller.outbox.report import attachments_of
from poller.outbox.tables import attachment, outbox

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
FILES = (
    {"name": "z.pdf", "content": b"\0\xff", "content_type": "application/pdf"},
    {"name": "a.png", "content": b"png", "content_id": "logo"},
)


def everything(engine: Engine, table: sa.Table) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table)))


def test_a_message_and_its_attachments_go_in_with_the_callers_transaction(engine: Engine) -> None:
    with engine.begin() as connection:
        row_id = poller.enqueue(
            connection, recipients="a@example.com", body_text="Hi", due_at=NOON, context=None, attachments=FILES
        )
    row = row_of(engine, row_id)
    assert (row.status, row.due_at, row.context, row.priority) == ("queued", NOON, None, 5)
    assert [(f["name"], f["content_type"], f["content"], f["content_id"]) for f in attachments_of(engine, row_id)] == [
        ("z.pdf", "application/pdf", b"\0\xff", None),
        ("a.png", "application/octet-stream", b"png", "logo"),
    ]


def test_a_rollback_leaves_nothing(engine: Engine) -> None:
    with engine.connect() as connection:
        enqueue(connection, recipients="a@example.com", body_text="Hi", attachments=FILES)
        connection.rollback()
    assert everything(engine, outbox) == everything(engine, attachment) == []


@pytest.mark.parametrize("column", ["status", "claim_seq", "domain", "id", "nonsense"])
def test_what_belongs_to_the_poller_is_refused_to_applications(engine: Engine, column: str) -> None:
    with pytest.raises(TypeError, match=f"not a column that an application writes: {column}"):
        enqueue_alone(engine, recipients="a@example.com", body_text="Hi", **{column: 1})


REFUSED = {
    "outbox_has_a_body_or_template": {"body_text": None},
    "outbox_has_a_recipient": {"recipients": ""},
    "outbox_priority_is_0_to_9": {"priority": 11},
    "outbox_context_is_an_object": {"body_text": None, "template": "t", "context": [1]},
    "outbox_on_doubt_is_known": {"on_doubt": "ask"},
}


@pytest.mark.parametrize(("rule", "columns"), REFUSED.items(), ids=REFUSED)
def test_a_row_that_breaks_a_rule_is_refused_by_its_name(engine: Engine, rule: str, columns: dict[str, Any]) -> None:
    with pytest.raises(RowRefused, match=rf"^the database refused the row: .*{rule}"):
        enqueue_alone(engine, **{"recipients": "a@example.com", "body_text": "Hi", **columns})
    assert everything(engine, outbox) == []


def test_a_dedupe_key_is_taken_as_long_as_its_row_exists(engine: Engine) -> None:
    given = {"recipients": "a@example.com", "body_text": "Hi", "dedupe_key": "order-1"}
    enqueue_alone(engine, **given)
    with pytest.raises(RowRefused, match="dedupe_key"):
        enqueue_alone(engine, **given)
    by_hand(engine, "DELETE FROM outbox")
    enqueue_alone(engine, **given)


def test_an_attachment_that_is_refused_takes_its_row_with_it(engine: Engine) -> None:
    with pytest.raises(RowRefused, match="content_id_is_not_empty"):
        enqueue_alone(
            engine, recipients="a@b.c", body_text="x", attachments=[{"name": "a", "content": b"", "content_id": ""}]
        )
    assert everything(engine, outbox) == []


def test_the_null_reverse_path_is_an_empty_text_and_not_null(engine: Engine) -> None:
    row_id = enqueue_alone(engine, recipients="a@b.c", body_text="x", envelope_from="")
    assert row_of(engine, row_id).envelope_from == ""
