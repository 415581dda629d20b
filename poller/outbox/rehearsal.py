"""Does the database let a worker do its work? One row is enqueued, claimed and recorded, and all of it undone.

Nothing of it is ever committed. Raises DatabaseUnavailable, with what the database says and a remedy.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from poller.exchange import Reply
from poller.judgement.retry import Note, Step
from poller.outbox.database import transaction
from poller.outbox.dialect import ClaimRequest
from poller.outbox.dialects import dialect_of
from poller.outbox.enqueue import enqueue
from poller.outbox.recording import Writer, record_group
from poller.outbox.tables import Utc
from poller.outbox.tables import worker as worker_table
from poller.outbox.upsert import upsert

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

WORKER = "poller check"
_REPLY = Reply(code=250, status="2.0.0", text="as a relay would say")
_NOTE = Note(outcome="sent", recipient=None, blame=None, reply=_REPLY, queue_id=None, error=None)


def rehearse(engine: Engine) -> str:
    """What would keep a worker from its work, in words; "" if nothing would."""

    def work(connection: Connection) -> str:
        trial = connection.begin_nested()
        try:
            return _rehearse(connection)
        finally:
            trial.rollback()

    return transaction(engine, work)


def _rehearse(connection: Connection) -> str:
    sql = dialect_of(connection)
    now = connection.execute(sa.select(sa.literal_column(sql.now, type_=Utc()))).scalar_one()
    assert now is not None  # noqa: S101 - a clock always answers
    upsert(connection, worker_table, [_entry(now)])
    row_id = enqueue(connection, recipients="nobody@example.com", subject="Überprüfung", body_text="✓", priority=0)
    request = ClaimRequest(worker=WORKER, limit=1, message_id_key="k", message_id_domain="example.com")
    claimed = sql.claim_these(connection, request, [row_id])
    if [row.id for row in claimed] != [row_id]:
        return "a row that was just written can't be claimed; look for row level security, rules or triggers on outbox"
    seq, message_id = claimed[0].claim_seq, claimed[0].message_id
    step = Step(
        row_id=row_id,
        claim_seq=seq,
        message_id=message_id,
        status="sent",
        at=now,
        attempts=1,
        reply=_REPLY,
        queue_id="1",
        sent_at=now,
        notes=(_NOTE,),
    )
    writer = Writer(holder=WORKER, message_id_key="k", message_id_domain="example.com")
    written, _ = record_group(connection, writer, [step])
    if written != {row_id}:
        return "the outcome of a claimed row can't be written; look for row level security, rules or triggers on outbox"
    sql.claim(connection, request)
    return ""


def _entry(now: datetime) -> dict[str, object]:
    return {
        "name": WORKER,
        "identity": WORKER,
        "incarnation": 1,
        "host": "",
        "pid": 0,
        "version": "",
        "started_at": now,
        "heartbeat_at": now,
        "lease_until": now + timedelta(seconds=1),
        "stopped_at": None,
        "trouble": None,
        "journal_applied": 0,
        "connected_to": None,
    }
