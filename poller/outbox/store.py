"""The store: what a worker does with the outbox. Claim, record, hand back, find orphans, stay alive.

Rule 1. Each call is one short transaction; none is open while a socket is in use.
Rule 2. Every write after the claim is fenced by id, claim_seq, message_id and holder.
Rule 3. Times written here are the database's.
Rule 4. A claim whose COMMIT was not confirmed may have happened: its rows were never begun and go back first.

Raises DatabaseUnavailable when the database is away; then nothing is known about the last transaction, and `record`
may simply be called again with the same steps.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from poller.exchange import Reply
from poller.outbox import recording
from poller.outbox.database import DatabaseUnavailable, transaction
from poller.outbox.dialects import CLAIM_COLUMNS, DIALECTS, ClaimRequest
from poller.outbox.report import attachments_of
from poller.outbox.rows import DRAFT_COLUMNS, ClaimedRow, NameTaken, Recorded
from poller.outbox.tables import HELD_STATUSES, Utc, attachment, meta, outbox, recipient, suppression
from poller.outbox.tables import worker as worker_table
from poller.outbox.upsert import insert_unless_there, upsert
from poller.retry import RecipientState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

    from poller.retry import Step

T = TypeVar("T")
Fence = tuple[int, int, str]
"""id, claim_seq, message_id."""

MESSAGE_ID_KEY_BYTES = 32
ORPHANS_AT_ONCE = 200


class Store:
    """One worker's view of one outbox. Safe to use from two threads: each call takes its own connection."""

    def __init__(self, engine: Engine, *, worker: str, message_id_domain: str) -> None:
        self.engine = engine
        self.worker = worker
        self._domain = message_id_domain
        self._sql = DIALECTS[engine.dialect.name]
        self._key: str | None = None
        self._claim_unconfirmed = False

    # --- the clock and the switch ---

    def now(self) -> datetime:
        """The database's clock, aware UTC."""
        return self._read(self._now_on)

    def paused(self) -> str | None:
        """Why the whole outbox is off, or None while it is on."""
        query = sa.select(meta.c.value).where(meta.c.name == "paused")
        return self._read(lambda c: c.execute(query).scalar())

    def anything_due(self) -> bool:
        """Whether a claim would get a row now."""
        return self._read(lambda c: c.execute(sa.text(self._sql.due)).first()) is not None

    # --- being a worker ---

    def register(self, *, identity: str, host: str, pid: int, version: str, lease: float) -> int:
        """Enter ourselves in outbox_worker for `lease` seconds and return the incarnation. Raises NameTaken."""

        def work(connection: Connection) -> int:
            now = self._now_on(connection)
            incarnation = self._incarnation(connection, identity, now)
            row = {
                "name": self.worker,
                "identity": identity,
                "incarnation": incarnation,
                "host": host,
                "pid": pid,
                "version": version,
                "started_at": now,
                "heartbeat_at": now,
                "lease_until": self._lease_end(lease),
                "stopped_at": None,
                "trouble": None,
            }
            upsert(connection, worker_table, [row])
            return incarnation

        return self._write(work)

    def heartbeat(self, *, identity: str, incarnation: int, lease: float, trouble: str | None = None) -> bool:
        """Renew the lease, and say what keeps mail from going out. False: somebody else has our name now: stop."""
        mine = sa.and_(
            worker_table.c.name == self.worker,
            worker_table.c.identity == identity,
            worker_table.c.incarnation == incarnation,
        )
        values = {
            "heartbeat_at": sa.text(self._sql.now),
            "lease_until": self._lease_end(lease),
            "trouble": trouble,
        }
        return self._write(lambda c: c.execute(sa.update(worker_table).where(mine).values(values)).rowcount) == 1

    def sign_off(self, *, incarnation: int) -> None:
        """Enter that we stopped, and end the lease now."""
        mine = sa.and_(worker_table.c.name == self.worker, worker_table.c.incarnation == incarnation)
        values = {"stopped_at": sa.text(self._sql.now), "lease_until": sa.text(self._sql.now)}
        self._write(lambda c: c.execute(sa.update(worker_table).where(mine).values(values)))

    # --- claiming ---

    def claim(self, limit: int, *, in_hand: Collection[int] = ()) -> list[ClaimedRow]:
        """Claim up to `limit` due rows, first priority first, then the longest due.

        `in_hand` are the rows whose outcomes are not recorded yet: they are not mistaken for strays (Rule 4).
        """
        strays_left = self._claim_unconfirmed and not self._hand_back(outbox.c.id.not_in(list(in_hand)))
        request = ClaimRequest(
            worker=self.worker,
            limit=limit,
            message_id_key=self._message_id_key(),
            message_id_domain=self._domain,
        )
        self._claim_unconfirmed = True
        rows = self._write(lambda c: self._claimed(c, self._sql.claim(c, request)))
        self._claim_unconfirmed = strays_left
        return rows

    def orphans(self, *, takeover: float, own: bool, beside: Collection[int] = ()) -> list[ClaimedRow]:
        """Rows in the hands of nobody: of workers whose lease has ended, and with `own` all that bear our name.

        Ids in `beside` are left out. At most ORPHANS_AT_ONCE.
        """
        query = self._orphan_query(takeover, beside, own=own)
        return self._write(lambda c: self._claimed(c, c.execute(query).all()))

    def still_sending(self, ids: Collection[int]) -> set[int]:
        """Of `ids`, claimed by us, those that no operator has paused or cancelled; none while the outbox is off."""
        on = ~sa.exists().where(meta.c.name == "paused")
        query = sa.select(outbox.c.id).where(outbox.c.id.in_(ids), outbox.c.status == "sending", on)
        return self._read(lambda c: set(c.execute(query).scalars()))

    def attachments(self, row_id: int) -> list[Mapping[str, Any]]:
        """A row's attachments in order: name, content_type, content, content_id."""
        return attachments_of(self.engine, row_id)

    def suppressed(self, addresses: Collection[str]) -> dict[str, str]:
        """Of `addresses`, those on the suppression list, themselves or by `@domain`, with the reason."""
        wanted = {key for address in addresses for key in _suppression_keys(address)}
        if not wanted:
            return {}
        query = sa.select(suppression.c.address, suppression.c.reason).where(suppression.c.address.in_(sorted(wanted)))
        found = self._read(lambda c: {row.address: row.reason for row in c.execute(query)})
        return {a: found[key] for a in addresses for key in reversed(_suppression_keys(a)) if key in found}

    # --- writing down ---

    def record(self, steps: Sequence[Step], *, holder: str | None = None) -> Recorded:
        """Write down what became of rows that `holder` (default: we) had claimed; see `poller.outbox.recording`."""
        return recording.record(self.engine, holder or self.worker, steps)

    def hand_back(self, rows: Iterable[ClaimedRow]) -> None:
        """Return rows that were not begun: as they were before the claim, but for `claim_seq`.

        One that somebody has locked, or all if the database is away, go back before the next claim (Rule 4).
        """
        fences = {row.id: (row.id, row.claim_seq, row.message_id) for row in rows}
        if not fences:
            return
        try:
            self._claim_unconfirmed |= not self._hand_back(outbox.c.id.in_(list(fences)), fences)
        except DatabaseUnavailable:
            self._claim_unconfirmed = True
            raise

    # --- inside ---

    def _read(self, work: Callable[[Connection], T]) -> T:
        return transaction(self.engine, work, reading=True)

    def _write(self, work: Callable[[Connection], T]) -> T:
        return transaction(self.engine, work)

    def _now_on(self, connection: Connection) -> datetime:
        now = connection.execute(sa.select(sa.literal_column(self._sql.now, type_=Utc()))).scalar_one()
        assert now is not None  # noqa: S101 - a clock always answers
        return now

    def _lease_end(self, lease: float) -> Any:
        return sa.text(self._sql.moment(":lease")).bindparams(lease=lease)

    def _incarnation(self, connection: Connection, identity: str, now: datetime) -> int:
        query = sa.text(f"SELECT * FROM outbox_worker WHERE name = :name {self._sql.row_lock}").columns(*worker_table.c)
        row = connection.execute(query, {"name": self.worker}).first()
        if row is None:
            return 1
        if row.identity != identity and row.lease_until > now:
            raise NameTaken(
                f"a worker named {self.worker!r} is alive on {row.host} (pid {row.pid}); give this one its own"
                " [worker] name, or wait for the other's lease to end"
            )
        return int(row.incarnation) + 1

    def _message_id_key(self) -> str:
        if self._key is None:
            new = secrets.token_hex(MESSAGE_ID_KEY_BYTES)
            self._key = self._write(lambda c: _meta_or_new(c, "message_id_key", new))
        return self._key

    def _hand_back(self, chosen: sa.ColumnElement[bool], only: Mapping[int, Fence] | None = None) -> bool:
        """Hand back what is `chosen` among the rows we hold, and has these fences if they are given.

        False: some are locked by others, and were left.
        """

        def work(connection: Connection) -> bool:
            query = sa.select(outbox.c.id, outbox.c.claim_seq, outbox.c.message_id).where(
                outbox.c.claimed_by == self.worker,
                outbox.c.status.in_(HELD_STATUSES),
                outbox.c.finished_at.is_(None),
                chosen,
            )
            held = connection.execute(query).all()
            fences = [fence for fence in held if only is None or only.get(fence[0]) == fence]
            locked = recording.locked_by_others(connection, [fence[0] for fence in fences])
            free = [fence for fence in fences if fence[0] not in locked]
            recording.hand_back(connection, self.worker, free, self._now_on(connection))
            return not locked

        return self._write(work)

    def _orphan_query(self, takeover: float, beside: Collection[int], *, own: bool) -> Any:
        now = self._sql.now
        long_ago = self._sql.moment(":ago")
        columns = ", ".join(f"o.{column.name}" for column in CLAIM_COLUMNS)
        held = ", ".join(f"'{status}'" for status in HELD_STATUSES)
        mine = "o.claimed_by = :me OR" if own else ""
        return (
            sa.text(f"""
            SELECT {columns} FROM outbox AS o LEFT JOIN outbox_worker AS w ON w.name = o.claimed_by
            WHERE o.claimed_by IS NOT NULL AND o.status IN ({held}) AND o.finished_at IS NULL
              AND o.id NOT IN :beside AND ({mine} (o.claimed_by <> :me
                   AND (w.lease_until < {now} OR (w.name IS NULL AND o.claimed_at < {long_ago}))))
            ORDER BY o.id LIMIT {ORPHANS_AT_ONCE}""")
            .bindparams(sa.bindparam("beside", [*beside] or [0], expanding=True), me=self.worker, ago=-takeover)
            .columns(*CLAIM_COLUMNS)
        )

    def _claimed(self, connection: Connection, rows: Sequence[Any]) -> list[ClaimedRow]:
        if not rows:
            return []
        ids = [row.id for row in rows]
        tried = [row.id for row in rows if row.claim_seq > 1 or row.attempts or row.doubts]
        known = _known_recipients(connection, tried) if tried else {}
        query = sa.select(attachment.c.outbox_id).where(attachment.c.outbox_id.in_(ids)).distinct()
        attached = set(connection.execute(query).scalars())
        ordered = sorted(rows, key=lambda row: (row.priority, row.due_at, row.id))
        return [_as_claimed(row, known.get(row.id, {}), attached) for row in ordered]


def _suppression_keys(address: str) -> tuple[str, str]:
    lower = address.lower()
    return lower, "@" + lower.rpartition("@")[2]


def _meta_or_new(connection: Connection, name: str, value: str) -> str:
    insert_unless_there(connection, meta, {"name": name, "value": value})
    return str(connection.execute(sa.select(meta.c.value).where(meta.c.name == name)).scalar_one())


def _known_recipients(connection: Connection, ids: Sequence[int]) -> dict[int, dict[str, RecipientState]]:
    known: dict[int, dict[str, RecipientState]] = {}
    for row in connection.execute(sa.select(recipient).where(recipient.c.outbox_id.in_(ids))):
        known.setdefault(row.outbox_id, {})[row.address] = RecipientState(
            address=row.address,
            status=row.status,
            attempts=row.attempts,
            doubts=row.doubts,
            reply=_reply_of(row),
            queue_id=row.queue_id,
            error=row.error,
            sent_at=row.sent_at,
        )
    return known


def _reply_of(row: Any) -> Reply | None:
    if row.reply_code is None:
        return None
    return Reply(code=row.reply_code, status=row.reply_status or "", text=row.reply_text or "")


def _as_claimed(row: Any, known: Mapping[str, RecipientState], attached: Collection[int]) -> ClaimedRow:
    return ClaimedRow(
        id=row.id,
        claim_seq=row.claim_seq,
        message_id=row.message_id,
        holder=row.claimed_by,
        status=row.status,
        attempts=row.attempts,
        doubts=row.doubts,
        setbacks=row.setbacks,
        first_attempt_at=row.first_attempt_at,
        claimed_at=row.claimed_at,
        expires_at=row.expires_at,
        max_attempts=row.max_attempts,
        on_doubt=row.on_doubt,
        relay=row.relay,
        batch=row.batch,
        domain=row.domain,
        content={name: getattr(row, name) for name in DRAFT_COLUMNS},
        known=known,
        has_attachments=row.id in attached,
    )
