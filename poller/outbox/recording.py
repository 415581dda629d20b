"""Writing down what became of rows: in groups, else row by row, and late if it must be.

Rule 1. A group is one transaction. When somebody has locked some of its rows, the others go without waiting for
        them; when data makes it fail, each goes alone. So one row holds up nobody else.
Rule 2. The fence decides. Where it closes, the row is looked at once more, alone, and a 250 is never thrown away.
Rule 3. Recording the same steps again changes nothing: the reply to COMMIT may have been lost.

Raises DatabaseUnavailable when the database is away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller import statuses
from poller.judgement.retry import Note
from poller.outbox import content
from poller.outbox.database import DatabaseRefusal, RowsLocked, transaction
from poller.outbox.dialects import dialect_of
from poller.outbox.rows import Late, Recorded
from poller.outbox.tables import attempt, outbox, recipient
from poller.outbox.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

    from poller.judgement.retry import RecipientState, Step

_POSITION = sa.text("""
UPDATE outbox_worker
SET journal_applied = CASE WHEN journal_applied < :position THEN :position ELSE journal_applied END
WHERE name = :name AND identity = :identity AND incarnation = :incarnation AND journal_applied >= :known""")
_OUTCOME_COLUMNS = ("due_at", "reply_code", "reply_status", "reply_text", "queue_id", "error", "sent_at", "finished_at")


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """Who writes: `holder` has claimed the rows. With `position` its journal's position is written down as well.

    `position` says, for the keys (id, claim_seq) that are being written, up to where everything is then; `identity`
    and `incarnation` are those of the life that asks, `known` is the position that the database has confirmed before:
    another's is left alone, and so is a lower one, which shows that the database is older than it was.
    """

    holder: str
    message_id_key: str
    message_id_domain: str
    identity: str = ""
    incarnation: int = 0
    known: int = 0
    position: Callable[[Collection[tuple[int, int]]], int] | None = None


def record(engine: Engine, writer: Writer, steps: Sequence[Step]) -> Recorded:
    """Write down `steps` of rows that `writer` holds; what can't be written now comes back as `stubborn`."""
    try:
        written, applied = transaction(engine, lambda c: record_group(c, writer, steps))
    except RowsLocked as error:
        return _record_unlocked(engine, writer, steps, str(error))
    except DatabaseRefusal as error:
        return _record_each(engine, writer, steps, str(error))
    rest = [step for step in steps if step.row_id not in written]
    return _merged([Recorded(written=frozenset(written), applied=applied), *_settle_all(engine, writer, rest)])


def _record_unlocked(engine: Engine, writer: Writer, steps: Sequence[Step], why: str) -> Recorded:
    locked = transaction(engine, lambda c: locked_by_others(c, [step.row_id for step in steps]))
    if not locked and writer.position is not None:  # then it is our own line in outbox_worker
        return record(engine, replace(writer, position=None), steps)
    if not locked:
        return _record_each(engine, writer, steps, why)
    free = [step for step in steps if step.row_id not in locked]
    set_aside = Recorded(written=frozenset(), stubborn=tuple(s for s in steps if s.row_id in locked), why=why)
    return _merged([set_aside, record(engine, writer, free)] if free else [set_aside])


def _record_each(engine: Engine, writer: Writer, steps: Sequence[Step], why: str) -> Recorded:
    if len(steps) == 1 and steps[0].keep is not None:  # what is to be kept of it may be to blame; it is the lesser good
        return record(engine, writer, [replace(steps[0], keep=None)])
    if len(steps) == 1:
        return Recorded(written=frozenset(), stubborn=tuple(steps), why=why)
    return _merged([record(engine, writer, [step]) for step in steps])


def locked_by_others(connection: Connection, ids: Collection[int]) -> set[int]:
    """Those of `ids` that somebody else has locked now; the rest is ours until the end of the transaction."""
    there = sa.select(outbox.c.id).where(outbox.c.id.in_(ids)).with_hint(outbox, "FORCE INDEX (PRIMARY)", "mysql")
    free = there.with_for_update(skip_locked=True, key_share=True)
    got = set(connection.execute(free).scalars())
    return set(connection.execute(there).scalars()) - got


def hand_back(connection: Connection, holder: str, fences: Iterable[tuple[int, int, str]], now: datetime) -> set[int]:
    """Return rows (id, claim_seq, message_id) that were not begun: as before the claim, but for `claim_seq`.

    Gives the ids of those that are returned.
    """
    nothing = dict.fromkeys(_OUTCOME_COLUMNS)
    unbegun = {"status": "queued", "attempts": 0, "doubts": 0, "setbacks": 0, "begun": 0, "updated_at": now}
    steps = [{"id": i, "claim_seq": seq, "message_id": mid, **unbegun, **nothing} for i, seq, mid in fences]
    return dialect_of(connection).record(connection, holder, steps) if steps else set()


def _merged(parts: Sequence[Recorded]) -> Recorded:
    return Recorded(
        written=frozenset[int]().union(*(part.written for part in parts)),
        late={row_id: late for part in parts for row_id, late in part.late.items()},
        stubborn=tuple(step for part in parts for step in part.stubborn),
        why=next((part.why for part in parts if part.why), ""),
        applied=max((part.applied for part in parts if part.applied is not None), default=None),
    )


def record_group(connection: Connection, writer: Writer, steps: Sequence[Step]) -> tuple[set[int], int | None]:
    """The ids that were written, and the journal's position if it was."""
    written = dialect_of(connection).record(connection, writer.holder, [_values(step) for step in steps])
    done = [step for step in steps if step.row_id in written]
    _write_recipients(connection, done, also_as_written=False)
    _write_notes(connection, writer.holder, done)
    content.write(connection, done)
    return written, write_position(connection, writer, {step.key for step in done})


def write_position(connection: Connection, writer: Writer, keys: Collection[tuple[int, int]]) -> int | None:
    """Write down the journal's position as it is once `keys` are written. None: it is not asked for, or not ours."""
    if writer.position is None:
        return None
    position = writer.position(keys)
    mine = {"name": writer.holder, "identity": writer.identity, "incarnation": writer.incarnation}
    mine |= {"known": writer.known}
    changed = connection.execute(_POSITION, mine | {"position": position}).rowcount
    return position if changed else None


def _settle_all(engine: Engine, writer: Writer, steps: Sequence[Step]) -> list[Recorded]:
    """Together, so that a database that comes and goes does not throw away what was found out; else one by one."""
    if not steps:
        return []
    try:
        late = transaction(engine, lambda c: {step.row_id: _settle_late(c, writer, step) for step in steps})
    except (DatabaseRefusal, RowsLocked):
        return [_settle(engine, writer, step) for step in steps]
    return [Recorded(written=frozenset(), late=late)]


def _settle(engine: Engine, writer: Writer, step: Step) -> Recorded:
    try:
        late = transaction(engine, lambda c: _settle_late(c, writer, step))
    except (DatabaseRefusal, RowsLocked) as error:
        return Recorded(written=frozenset(), stubborn=(step,), why=str(error))
    return Recorded(written=frozenset(), late={step.row_id: late})


def _settle_late(connection: Connection, writer: Writer, step: Step) -> Late:
    """The fence let `step` not through: find out why, and save what is a fact."""
    holder = writer.holder
    message_id = given_message_id(connection, key=writer.message_id_key, domain=writer.message_id_domain)
    facts = (outbox.c.claim_seq, outbox.c.status, outbox.c.updated_at, outbox.c.reply_code, outbox.c.queue_id)
    columns = (*facts, message_id.label("message_id"))
    row = connection.execute(sa.select(*columns).where(outbox.c.id == step.row_id).with_for_update()).first()
    accepted = step.sent_at is not None
    if row is None:
        _write_notes(connection, holder, [step], why="the row was deleted meanwhile")
        return Late.GONE
    if row.message_id == step.message_id and row.claim_seq < step.claim_seq and row.status != "sent":
        return _claim_again(connection, writer, step, row.status)
    if (row.claim_seq, row.message_id) != (step.claim_seq, step.message_id):
        is_same = row.message_id == step.message_id
        is_known = is_same and _is_known(connection, row.status, step) and not _is_another(connection, row, step)
        if not accepted or is_known:
            return Late.OVERTAKEN
        _write_notes(
            connection, holder, [step], outcome="accepted_twice", why="accepted by a claim that was no longer ours"
        )
        return Late.ACCEPTED_TWICE
    if not accepted or _is_known(connection, row.status, step):
        return Late.RECORDED if _says_the_same(row, step) else Late.OVERTAKEN
    _write_recipients(connection, [step], also_as_written=True)
    _write_notes(connection, holder, [step], outcome="accepted", why="its reply was recorded late")
    if step.status != "queued" or row.status == "in_doubt":
        connection.execute(sa.update(outbox).where(outbox.c.id == step.row_id).values(_late_values(step, holder)))
    return Late.SETTLED


def given_message_id(connection: Connection, *, key: str, domain: str) -> sa.ColumnElement[str]:
    """The Message-ID of a row, or the one that its first claim will give it."""
    expression = dialect_of(connection).message_id.format(o="outbox.")
    return sa.func.coalesce(
        outbox.c.message_id, sa.text(expression).bindparams(key=key, domain=domain), type_=sa.Text()
    )


def _claim_again(connection: Connection, writer: Writer, step: Step, status: str) -> Late:
    """The database is older than our claim, which was in it before: enter that claim again, then its outcome."""
    claim = {
        "status": status if status in statuses.IN_HAND else "sending",
        "claim_seq": step.claim_seq,
        "message_id": step.message_id,
        "claimed_by": writer.holder,
        "claimed_at": step.at,
        "first_attempt_at": sa.func.coalesce(outbox.c.first_attempt_at, step.at),
        "sent_at": None,
        "finished_at": None,
    }
    connection.execute(sa.update(outbox).where(outbox.c.id == step.row_id).values(claim))
    record_group(connection, replace(writer, position=None), [step])
    return Late.REPAIRED


def _is_known(connection: Connection, status: str, step: Step) -> bool:
    """Whether the acceptance that `step` tells of is written down."""
    if not step.recipients:
        return status in {"sent", "partial"}
    query = sa.select(recipient.c.address).where(recipient.c.outbox_id == step.row_id, recipient.c.status == "sent")
    return {state.address for state in step.recipients if state.status == "sent"} <= set(
        connection.execute(query).scalars()
    )


def _is_another(connection: Connection, row: Any, step: Step) -> bool:
    """Whether what is written down is the acceptance of a later claim, by other words than those that `step` was told.

    A person's word that it was sent ("resolve") is none.
    """
    if row.claim_seq <= step.claim_seq:
        return False
    if not step.recipients:
        return _differs(row, step.queue_id)
    query = sa.select(recipient).where(recipient.c.outbox_id == step.row_id, recipient.c.status == "sent")
    written = {line.address: line for line in connection.execute(query)}
    return any(
        _differs(written[state.address], state.queue_id)
        for state in step.recipients
        if state.status == "sent" and state.address in written and state.sent_at == step.at
    )


def _differs(written: Any, queue_id: str | None) -> bool:
    by_a_relay = written.reply_code is not None and written.reply_code // 100 == 2  # noqa: PLR2004 - the class "done"
    return by_a_relay and written.queue_id != queue_id


def _says_the_same(row: Any, step: Step) -> bool:
    """Two may write within one tick of the clock: the time alone proves nothing."""
    if step.status != "queued":
        return bool(row.status == step.status)
    return row.updated_at == step.at and row.status in {"queued", "paused", "cancelled"}


def _write_recipients(connection: Connection, steps: Sequence[Step], *, also_as_written: bool) -> None:
    """A row of thousands has most of them written: only a database that may have lost them gets them again."""
    rows = [
        {"outbox_id": step.row_id, **_recipient_values(state, step.at)}
        for step in steps
        for state in step.recipients
        if also_as_written or state.address not in step.as_written
    ]
    upsert(connection, recipient, rows)
    for step in steps:
        if step.withdrawn:  # the row was corrected meanwhile; who has it keeps his line
            old = sa.and_(recipient.c.outbox_id == step.row_id, recipient.c.address.in_(step.withdrawn))
            connection.execute(sa.delete(recipient).where(old, recipient.c.status == "queued"))


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
            "outcome": outcome if outcome and note.outcome == "accepted" else note.outcome,
            "blame": note.blame,
            "phase": step.phase,
            "relay": step.relay or None,
            **_reply_values(note),
            "error": why if why and note.outcome == "accepted" else note.error or why,
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
        "setbacks": step.setbacks,
        "due_at": step.due_at,
        **_reply_values(step),
        "sent_at": step.sent_at,
        "finished_at": step.at if step.status in statuses.TERMINAL else None,
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
    held = step.status not in {"queued", "in_doubt"}
    return values | {
        "sent_at": None if step.status == "queued" else step.sent_at,
        "attempts": outbox.c.attempts + step.attempts,
        "doubts": outbox.c.doubts + step.doubts,
        "setbacks": outbox.c.setbacks + step.setbacks,
        "claimed_by": holder if held else None,
        "claimed_at": outbox.c.claimed_at if held else None,
    }
