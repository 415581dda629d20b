"""Writing down what became of rows: in groups, else row by row, and late if it must be.

Rule 1. A group is one transaction. When a row makes it fail (its lock, its data), each goes alone, so that one row
        holds up nobody else.
Rule 2. The fence decides. Where it closes, the row is looked at once more, alone, and a 250 is never thrown away.
Rule 3. Recording the same steps again changes nothing: the reply to COMMIT may have been lost.

Raises DatabaseUnavailable when the database is away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from poller.outbox.database import transaction, words_of
from poller.outbox.dialects import DIALECTS
from poller.outbox.rows import Late, Recorded
from poller.outbox.tables import TERMINAL_STATUSES, attempt, outbox, recipient
from poller.outbox.upsert import upsert
from poller.retry import Note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

    from poller.retry import RecipientState, Step

_OUTCOME_COLUMNS = ("due_at", "reply_code", "reply_status", "reply_text", "queue_id", "error", "sent_at", "finished_at")


def record(engine: Engine, holder: str, steps: Sequence[Step]) -> Recorded:
    """Write down `steps` of rows claimed by `holder`; what can't be written now comes back as `stubborn`."""
    try:
        written = transaction(engine, lambda c: _record_group(c, holder, steps))
    except DBAPIError as error:
        if len(steps) == 1:
            return Recorded(written=frozenset(), stubborn=tuple(steps), why=words_of(error))
        return _merged([record(engine, holder, [step]) for step in steps])
    rest = [_settle(engine, holder, step) for step in steps if step.row_id not in written]
    return _merged([Recorded(written=frozenset(written)), *rest])


def hand_back(connection: Connection, holder: str, fences: Iterable[tuple[int, int, str]], now: datetime) -> None:
    """Return rows (id, claim_seq, message_id) that were not begun: as before the claim, but for `claim_seq`."""
    nothing = dict.fromkeys(_OUTCOME_COLUMNS)
    unbegun = {"status": "queued", "attempts": 0, "doubts": 0, "begun": 0, "updated_at": now}
    steps = [{"id": i, "claim_seq": seq, "message_id": mid, **unbegun, **nothing} for i, seq, mid in fences]
    if steps:
        DIALECTS[connection.dialect.name].record(connection, holder, steps)


def _merged(parts: Sequence[Recorded]) -> Recorded:
    return Recorded(
        written=frozenset[int]().union(*(part.written for part in parts)),
        late={row_id: late for part in parts for row_id, late in part.late.items()},
        stubborn=tuple(step for part in parts for step in part.stubborn),
        why=next((part.why for part in parts if part.why), ""),
    )


def _record_group(connection: Connection, holder: str, steps: Sequence[Step]) -> set[int]:
    written = DIALECTS[connection.dialect.name].record(connection, holder, [_values(step) for step in steps])
    done = [step for step in steps if step.row_id in written]
    _write_recipients(connection, done)
    _write_notes(connection, holder, done)
    return written


def _settle(engine: Engine, holder: str, step: Step) -> Recorded:
    try:
        late = transaction(engine, lambda c: _settle_late(c, holder, step))
    except DBAPIError as error:
        return Recorded(written=frozenset(), stubborn=(step,), why=words_of(error))
    return Recorded(written=frozenset(), late={step.row_id: late})


def _settle_late(connection: Connection, holder: str, step: Step) -> Late:
    """The fence let `step` not through: find out why, and save what is a fact."""
    columns = (outbox.c.claim_seq, outbox.c.message_id, outbox.c.status, outbox.c.updated_at)
    row = connection.execute(sa.select(*columns).where(outbox.c.id == step.row_id).with_for_update()).first()
    accepted = step.sent_at is not None
    if row is None:
        _write_notes(connection, holder, [step], why="the row was deleted meanwhile")
        return Late.GONE
    if (row.claim_seq, row.message_id) != (step.claim_seq, step.message_id):
        if not accepted:
            return Late.OVERTAKEN
        _write_notes(
            connection, holder, [step], outcome="accepted_twice", why="accepted by a claim that was no longer ours"
        )
        return Late.ACCEPTED_TWICE
    if row.updated_at == step.at or row.status == step.status != "queued":
        return Late.RECORDED
    if not accepted or row.status in {"sent", "partial"}:
        return Late.OVERTAKEN
    _write_recipients(connection, [step])
    _write_notes(connection, holder, [step], outcome="accepted", why="its reply was recorded late")
    if step.status != "queued":
        connection.execute(sa.update(outbox).where(outbox.c.id == step.row_id).values(_late_values(step, holder)))
    return Late.SETTLED


def _write_recipients(connection: Connection, steps: Iterable[Step]) -> None:
    rows = [
        {"outbox_id": step.row_id, **_recipient_values(state, step.at)} for step in steps for state in step.recipients
    ]
    upsert(connection, recipient, rows)


def _write_notes(
    connection: Connection, holder: str, steps: Iterable[Step], *, outcome: str | None = None, why: str | None = None
) -> None:
    must_say = outcome is not None or why is not None
    rows = [
        {
            "outbox_id": step.row_id,
            "claim_seq": step.claim_seq,
            "at": step.at,
            "worker": holder,
            "recipient": note.recipient,
            "outcome": outcome or note.outcome,
            "blame": note.blame,
            "phase": step.phase,
            **_reply_values(note),
            "error": why or note.error,
        }
        for step in steps
        for note in step.notes or ((_bare_note(step),) if must_say else ())
    ]
    if rows:
        connection.execute(sa.insert(attempt), rows)


def _bare_note(step: Step) -> Note:
    word = "accepted" if step.sent_at else step.status
    return Note(outcome=word, recipient=None, blame=None, reply=step.reply, error=step.error, queue_id=step.queue_id)


def _values(step: Step) -> dict[str, Any]:
    return {
        "id": step.row_id,
        "claim_seq": step.claim_seq,
        "message_id": step.message_id,
        "status": step.status,
        "attempts": step.attempts,
        "doubts": step.doubts,
        "due_at": step.due_at,
        **_reply_values(step),
        "sent_at": step.sent_at,
        "finished_at": step.at if step.status in TERMINAL_STATUSES else None,
        "updated_at": step.at,
        "begun": 1,
    }


def _reply_values(teller: Step | RecipientState | Note) -> dict[str, Any]:
    reply = teller.reply
    return {
        "reply_code": reply.code if reply else None,
        "reply_status": (reply.status or None) if reply else None,
        "reply_text": reply.text if reply else None,
        "queue_id": teller.queue_id,
        "error": teller.error,
    }


def _recipient_values(state: RecipientState, at: datetime) -> dict[str, Any]:
    return {
        "address": state.address,
        "status": state.status,
        "attempts": state.attempts,
        "doubts": state.doubts,
        **_reply_values(state),
        "sent_at": state.sent_at,
        "updated_at": at,
    }


def _late_values(step: Step, holder: str) -> dict[str, Any]:
    values = _values(step)
    for name in ("id", "claim_seq", "message_id", "begun", "due_at"):
        del values[name]
    return values | {
        "attempts": outbox.c.attempts + step.attempts,
        "doubts": outbox.c.doubts + step.doubts,
        "claimed_by": holder,
    }
