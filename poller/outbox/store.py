"""The store: what a worker does with the outbox. Claim, record, hand back, find orphans, stay alive.

Rule 1. Each call is one short transaction; none is open while a socket is in use.
Rule 2. Every write after the claim is fenced by id, claim_seq, message_id and holder.
Rule 3. Times written here are the database's.
Rule 4. A claim whose COMMIT was not confirmed may have happened: its rows were never begun and go back first.
Rule 5. A row that the database does not let us claim (a trigger of somebody's raises) is passed by for a while.

Raises DatabaseUnavailable when the database is away; then nothing is known about the last transaction, and `record`
may simply be called again with the same steps.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from poller import statuses
from poller.columns import DRAFT_COLUMNS
from poller.exchange import Reply
from poller.judgement.retry import RecipientState
from poller.outbox import choosing, recording, suppression, throttling
from poller.outbox.belief import Belief
from poller.outbox.content import kept_of
from poller.outbox.database import DatabaseRefusal, DatabaseUnavailable, refusal_of, transaction
from poller.outbox.dialect import CLAIM_COLUMNS, CLAIMED, ClaimRequest, claimed_list
from poller.outbox.dialects import DIALECTS
from poller.outbox.identity import message_id_key
from poller.outbox.report import attachments_of, raw_of
from poller.outbox.rows import ClaimedRow, Found, NameTaken, Recorded, Registered
from poller.outbox.tables import Utc, attempt, meta, outbox, recipient
from poller.outbox.tables import worker as worker_table
from poller.outbox.upsert import upsert
from poller.outbox.walk import Walk
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

    from poller.judgement.retry import Step
    from poller.pacing.gate import Choose, ScopeKey

T = TypeVar("T")
Fence = tuple[int, int, str]
"""id, claim_seq, message_id."""

OPEN = Gate(limit=1)
"""Nothing is closed."""
ORPHANS_AT_ONCE = 200
PATIENCE_S = 900.0  # with workers that have to write down again what the database has lost

REFUSED_FOR_S = 15.0  # until such a row is tried again
LOOKED_AT = 200  # rows, for the one that the database refuses


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """Why the database did not let us claim a row, and until when (monotonic) it is passed by."""

    reason: str
    until: float


Position = Callable[[Collection[tuple[int, int]]], int]
"""How far the journal is written down, once the rows with these keys (id, claim_seq) are."""

_HELD = ", ".join(f"'{status}'" for status in statuses.IN_HAND)
IS_HELD = sa.text(f"outbox.status IN ({_HELD}) AND outbox.finished_at IS NULL")
"""In somebody's hands. Spelled out: a partial index serves no bound values."""

BEATS_MISSED = 3
"""Heartbeats after which a worker is silent, to who looks. Its rows are judged only when its lease has ended."""
_ENDED = "o.claimed_by IN :names AND (w.lease_until < {now} OR (w.name IS NULL AND o.claimed_at < {long_ago}))"


class Store:
    """One worker's view of one outbox. Safe to use from two threads: each call takes its own connection."""

    def __init__(self, engine: Engine, *, worker: str, message_id_domain: str, patience: float = PATIENCE_S) -> None:
        self.engine = engine
        self.worker = worker
        self.belief = Belief(worker, clock=time.monotonic, patience=patience)
        self._domain = message_id_domain
        self._sql = DIALECTS[engine.dialect.name]
        self._key: str | None = None
        self._claim_unconfirmed = False
        self._strays = False
        self._walk = Walk()
        self._entered: set[ScopeKey] = set()
        self.refused: dict[int, Refused] = {}
        """Rows that the database does not let us claim, and why."""

    # --- the clock and the switch ---

    def now(self) -> datetime:
        """The database's clock, aware UTC."""
        return self._read(self._now_on)

    def paused(self) -> str | None:
        """Why the whole outbox is off, or None while it is on."""
        query = sa.select(meta.c.value).where(meta.c.name == "paused")
        return self._read(lambda c: c.execute(query).scalar())

    def anything_due(self, gate: Gate = OPEN) -> bool:
        """Whether a claim would get a row now, if nothing but what the gate closes kept it back."""
        if _is_wide_open(gate):
            return self._read(lambda c: c.execute(sa.text(self._sql.due)).first()) is not None
        return self._read(lambda c: self._walk.anything(c, gate))

    # --- being a worker ---

    def register(
        self,
        *,
        identity: str,
        host: str,
        pid: int,
        version: str,
        lease: float,
        beat: float = math.inf,
        may_be_alive: bool = True,
    ) -> Registered:
        """Enter ourselves in outbox_worker for `lease` seconds. There is a heartbeat every `beat` seconds.

        Raises NameTaken while another worker with our name may be alive; `may_be_alive` says that one with our own
        identity can't be, as this is its directory.
        """

        def work(connection: Connection) -> Registered:
            now = self._now_on(connection)
            registered = self._registration(connection, identity, now, may_be_alive=may_be_alive)
            row = {
                "name": self.worker,
                "identity": identity,
                "incarnation": registered.incarnation,
                "host": host,
                "pid": pid,
                "version": version,
                "started_at": now,
                "heartbeat_at": now,
                **self._alive_for(lease, beat),
                "stopped_at": None,
                "trouble": None,
                "journal_applied": registered.applied,
                "connected_to": None,
            }
            upsert(connection, worker_table, [row])
            return registered

        registered = self._write(work)
        self.belief.begin(identity, registered.incarnation, registered.applied)
        return registered

    def outbox_identity(self) -> str:
        """What this outbox is known by to journals: the same in every copy of it, and no secret. Asked for anew."""
        self._key = None
        return hashlib.sha256(f"identity of {self._message_id_key()}".encode()).hexdigest()[:32]

    def life(self) -> tuple[int, int]:
        """Incarnation and journal position that the database has of us; (0, 0) if another worker has our name."""
        query = sa.select(worker_table.c.incarnation, worker_table.c.journal_applied).where(
            worker_table.c.name == self.worker, worker_table.c.identity == self.belief.identity
        )
        found = self._read(lambda c: c.execute(query).first())
        return (found.incarnation, found.journal_applied) if found else (0, 0)

    def holders(self) -> dict[str, tuple[object, bool]]:
        """Who else holds rows: by name, what changes while it lives, and whether it said that it has stopped."""
        mark = (worker_table.c.incarnation, worker_table.c.heartbeat_at, worker_table.c.stopped_at)
        query = (
            sa.select(outbox.c.claimed_by, *mark)
            .select_from(outbox.outerjoin(worker_table, worker_table.c.name == outbox.c.claimed_by))
            .where(outbox.c.claimed_by.is_not(None), outbox.c.claimed_by != self.worker, IS_HELD)
            .distinct()
        )
        found = self._read(lambda c: c.execute(query).all())
        return {row.claimed_by: ((row.incarnation, row.heartbeat_at), row.stopped_at is not None) for row in found}

    def heartbeat(
        self, *, identity: str, incarnation: int, lease: float, beat: float = math.inf, trouble: str | None = None
    ) -> bool:
        """Renew the lease, and say what keeps mail from going out. False: somebody else has our name now: stop."""
        mine = sa.and_(
            worker_table.c.name == self.worker,
            worker_table.c.identity == identity,
            worker_table.c.incarnation == incarnation,
        )
        values = {
            "heartbeat_at": sa.text(self._sql.now),
            **self._alive_for(lease, beat),
            "trouble": trouble,
        }
        return self._write(lambda c: c.execute(sa.update(worker_table).where(mine).values(values)).rowcount) == 1

    def look_around(self) -> None:
        """Look at what the database has of us, and of the others that are alive. Raises OutboxIsOlder."""
        alive = sa.and_(worker_table.c.stopped_at.is_(None), worker_table.c.lease_until > sa.text(self._sql.now))
        self._read(lambda c: self.belief.look_around(c, alive))

    def sign_off(self, *, incarnation: int) -> None:
        """Enter that we stopped, and end the lease now."""
        mine = sa.and_(worker_table.c.name == self.worker, worker_table.c.incarnation == incarnation)
        values = {"stopped_at": sa.text(self._sql.now), "lease_until": sa.text(self._sql.now)}
        self._write(lambda c: c.execute(sa.update(worker_table).where(mine).values(values)))

    # --- claiming ---

    def claim(self, gate: Gate, choose: Choose | None = None, *, in_hand: Collection[int] = ()) -> list[ClaimedRow]:
        """Claim up to `gate.limit` due rows that it lets through, first priority first, then the longest due.

        With `gate.scopes` those that `choose` grants, and what it says of the scopes is written in the same
        transaction. `in_hand` are the rows whose outcomes are not recorded yet: they are not mistaken for strays
        (Rule 4).
        """
        self.take_back_strays(in_hand=in_hand)
        return self.claim_ahead(gate, choose)

    def take_back_strays(self, *, in_hand: Collection[int]) -> None:
        """Hand back what may have been claimed unknown to us, or could not be handed back (Rule 4)."""
        if not self.may_claim_ahead:
            self._strays = not self._hand_back(outbox.c.id.not_in(list(in_hand)))
            self._claim_unconfirmed = False

    @property
    def may_claim_ahead(self) -> bool:
        """No claim of ours may have happened that we do not know of."""
        return not (self._claim_unconfirmed or self._strays)

    def claim_ahead(self, gate: Gate, choose: Choose | None = None) -> list[ClaimedRow]:
        """As `claim`, while other rows are in hand that were not begun yet. Only where `may_claim_ahead`."""
        request = ClaimRequest(
            worker=self.worker,
            limit=gate.limit,
            message_id_key=self._message_id_key(),
            message_id_domain=self._domain,
        )
        self._enter(gate.scopes)
        self._claim_unconfirmed = True
        try:
            rows = self._claimed_if_believed(gate, choose, request)
        except DatabaseRefusal:
            if not self._find_refused(gate, request):
                raise
            rows = self._claimed_if_believed(gate, choose, request)
        self._claim_unconfirmed = False
        self.belief.claimed(rows)
        return rows

    def _claimed_if_believed(self, gate: Gate, choose: Choose | None, request: ClaimRequest) -> list[ClaimedRow]:
        gate = self._but_refused(gate)
        return self._write(lambda c: self._believed(c, self._claim(c, gate, choose, request)))

    def _believed(self, connection: Connection, rows: list[ClaimedRow]) -> list[ClaimedRow]:
        """`rows`, if the database is not older than it was. Raises OutboxIsOlder: then none of them is claimed."""
        if rows:
            self.belief.require(connection, rows)
        return rows

    def _but_refused(self, gate: Gate) -> Gate:
        """Rule 5: the same gate, closed to rows that the database did not let us claim a while ago."""
        now = time.monotonic()
        self.refused = {i: kept for i, kept in self.refused.items() if kept.until > now}
        return replace(gate, closed_ids=(*gate.closed_ids, *self.refused)) if self.refused else gate

    def _find_refused(self, gate: Gate, request: ClaimRequest) -> bool:
        """Try each row alone that the claim may have met, and undo it. False: it is none of them."""
        gate = replace(self._but_refused(gate), limit=LOOKED_AT)

        def work(connection: Connection) -> dict[int, str]:
            ids = [row.id for row in Walk().first(connection, gate).rows]
            return {i: refusal_of(connection, partial(self._sql.claim_these, connection, request, [i])) for i in ids}

        tried = self._write(work)
        until = time.monotonic() + REFUSED_FOR_S
        found = {row_id: Refused(reason=why, until=until) for row_id, why in tried.items() if why}
        if len(found) == len(tried) > 1:  # that is no row's fault
            return False
        self.refused |= found
        return bool(found)

    def _claim(
        self, connection: Connection, gate: Gate, choose: Choose | None, request: ClaimRequest
    ) -> list[ClaimedRow]:
        if _is_wide_open(gate):
            return self._claimed(connection, self._claim_any(connection, gate, request))
        if not (gate.paced or gate.scopes):
            grants = choosing.unpaced(connection, gate, self._walk)
        elif choose is None:
            raise ValueError("a paced gate needs somebody who chooses")
        else:
            grants, locked = choosing.chosen(connection, gate, choose, self._walk)
            self._entered -= {key for key in gate.scopes if key not in locked}
        rows = self._claimed(connection, self._sql.claim_these(connection, request, list(grants)))
        return [replace(row, grant=grants[row.id]) for row in rows]

    def _claim_any(self, connection: Connection, gate: Gate, request: ClaimRequest) -> Sequence[Any]:
        """What stands in front, and what has its turn."""
        in_turn = [row.id for row in self._walk.turns.rows(connection, gate)]
        rows = self._sql.claim_these(connection, request, in_turn)
        left = request.limit - len(rows)
        front = self._sql.claim(connection, replace(request, limit=left)) if left else ()
        self._walk.turns.seen(sorted(front, key=lambda row: row.priority), left)
        return [*rows, *front]

    def _enter(self, scopes: Collection[ScopeKey]) -> None:
        """Make sure that the scopes have their rows. One that was deleted since is entered again by the next claim."""
        new = set(scopes) - self._entered
        if new:
            self._write(lambda c: throttling.enter(c, new))
            self._entered |= new

    def orphans_of(self, silent: Collection[str], *, takeover: float) -> list[ClaimedRow]:
        """Rows in the hands of the `silent`, if the database agrees that their leases have ended."""
        if not silent:
            return []
        query = self._orphan_query(_ENDED.format(now=self._sql.now, long_ago=self._sql.moment(":ago")), ())
        return self._orphans(query.bindparams(sa.bindparam("names", [*silent], expanding=True), ago=-takeover))

    def own_orphans(self, *, beside: Collection[int] = ()) -> list[ClaimedRow]:
        """Rows that bear our name, but those in `beside`. At most ORPHANS_AT_ONCE."""
        return self._orphans(self._orphan_query("o.claimed_by = :me", beside).bindparams(me=self.worker))

    def look_up(self, ids: Collection[int]) -> dict[int, Found]:
        """Rows by id, as they are; a Message-ID that was never given is the one that will be."""
        given = recording.given_message_id

        def work(connection: Connection) -> dict[int, Found]:
            now = self._now_on(connection)
            message_id = given(connection, key=self._message_id_key(), domain=self._domain).label("message_id")
            columns = [message_id if column.name == "message_id" else column for column in CLAIM_COLUMNS]
            without = (sa.false().label("has_attachments"), sa.false().label("is_raw"))
            found = sa.select(*columns, *without, outbox.c.finished_at).where(outbox.c.id.in_(ids))
            rows = connection.execute(found).all()
            known = _known_recipients(connection, [row.id for row in rows]) if rows else {}
            return {row.id: self._as_found(row, known.get(row.id, {}), now) for row in rows}

        self._message_id_key()
        return self._read(work)

    def _as_found(self, row: Any, known: Mapping[str, RecipientState], now: datetime) -> Found:
        claimed = _as_claimed(row, known)
        is_held = row.claimed_by == self.worker and row.status in statuses.IN_HAND and row.finished_at is None
        first, last = row.first_attempt_at or now, row.claimed_at or now
        return Found(row=replace(claimed, holder=self.worker, first_attempt_at=first, claimed_at=last), is_held=is_held)

    def deaths(self, row_id: int) -> int:
        """How often composing this row has killed a worker, since it was last started again."""
        query = sa.select(attempt.c.outcome).where(attempt.c.outbox_id == row_id).order_by(attempt.c.id)
        outcomes = self._read(lambda c: list(c.execute(query).scalars()))
        since = max((n for n, outcome in enumerate(outcomes) if outcome == "retry"), default=-1)
        return outcomes[since + 1 :].count("died")

    def _orphans(self, query: Any) -> list[ClaimedRow]:
        return self._write(lambda c: self._claimed(c, c.execute(query).all()))

    def still_sending(self, ids: Collection[int]) -> set[int]:
        """Of `ids`, claimed by us, those that no operator has paused or cancelled; none while the outbox is off."""
        on = ~sa.exists().where(meta.c.name == "paused")
        query = sa.select(outbox.c.id).where(outbox.c.id.in_(ids), outbox.c.status == "sending", on)
        return self._read(lambda c: set(c.execute(query).scalars()))

    def attachments(self, row_id: int) -> list[Mapping[str, Any]]:
        """A row's attachments in order: name, content_type, content, content_id."""
        return attachments_of(self.engine, row_id)

    def raw(self, row_id: int) -> tuple[bytes | None, object]:
        """A row's raw message, and its DSN parameters."""
        return raw_of(self.engine, row_id)

    def suppresses_anyone(self) -> bool:
        """Whether there is anybody on the suppression list."""
        return self._read(suppression.has_any)

    def suppressed(self, addresses: Collection[str]) -> dict[tuple[str, str], str]:
        """Of `addresses`, those on the suppression list; see `poller.outbox.suppression`."""
        return self._read(lambda c: suppression.suppressed(c, addresses)) if addresses else {}

    # --- writing down ---

    def record(self, steps: Sequence[Step], *, holder: str | None = None, position: Position | None = None) -> Recorded:
        """Write down what became of rows that `holder` (default: we) had claimed; see `poller.outbox.recording`.

        `position` says how far our journal is written down, once the rows with these keys are.
        """
        writer = self._writer(holder, position)
        recorded = recording.record(self.engine, writer, steps)
        if recorded.applied is not None:
            self.belief.confirmed(recorded.applied)
        is_refused = writer.position is not None and recorded.applied is None and len(recorded.stubborn) < len(steps)
        return replace(recorded, is_older=is_refused)

    def note_position(self, position: int) -> bool:
        """Write down how far our journal is. False: somebody else has our name now, or the database is older."""
        writer = self._writer(None, lambda _: position)
        written = self._write(lambda c: recording.write_position(c, writer, ()))
        if written is not None:
            self.belief.confirmed(written)
        return written is not None

    def hand_back(self, rows: Iterable[ClaimedRow]) -> None:
        """Return rows that were not begun: as they were before the claim, but for `claim_seq`.

        One that somebody has locked, or all if the database is away, go back before the next claim (Rule 4).
        """
        given = {row.id: row for row in rows}
        if not given:
            return
        try:
            self._strays |= not self._hand_back(outbox.c.id.in_(list(given)), given)
        except DatabaseUnavailable:
            self._strays = True
            raise

    # --- inside ---

    def _read(self, work: Callable[[Connection], T]) -> T:
        return transaction(self.engine, work, reading=True)

    def _write(self, work: Callable[[Connection], T]) -> T:
        return transaction(self.engine, work)

    def _writer(self, holder: str | None, position: Position | None) -> recording.Writer:
        return recording.Writer(
            holder=holder or self.worker,
            message_id_key=self._message_id_key(),
            message_id_domain=self._domain,
            identity=self.belief.identity,
            incarnation=self.belief.incarnation,
            known=self.belief.position,
            position=position if holder in {None, self.worker} else None,
        )

    def _now_on(self, connection: Connection) -> datetime:
        now = connection.execute(sa.select(sa.literal_column(self._sql.now, type_=Utc()))).scalar_one()
        assert now is not None  # noqa: S101 - a clock always answers
        return now

    def _alive_for(self, lease: float, beat: float) -> dict[str, Any]:
        """Until when nobody may judge our rows, and from when we count as silent, by the database's clock."""
        after = {"lease_until": lease, "silent_from": min(BEATS_MISSED * beat, lease)}
        return {
            name: sa.text(self._sql.moment(f":{name}")).bindparams(**{name: seconds}) for name, seconds in after.items()
        }

    def _registration(self, connection: Connection, identity: str, now: datetime, *, may_be_alive: bool) -> Registered:
        query = sa.text(f"SELECT * FROM outbox_worker WHERE name = :name {self._sql.row_lock}").columns(*worker_table.c)
        row = connection.execute(query, {"name": self.worker}).first()
        if row is None:
            return Registered(incarnation=1, applied=0)
        is_ours = row.identity == identity
        if row.lease_until > now and not (is_ours and not may_be_alive):
            raise NameTaken(
                f"a worker named {self.worker!r} is alive on {row.host} (pid {row.pid})"
                f"{', and this state directory is a copy of its' if is_ours else ''}; give this one its own [worker]"
                f" name and state_dir, or wait for the other's lease to end at {row.lease_until:%H:%M:%S} UTC"
            )
        return Registered(incarnation=int(row.incarnation) + 1, applied=int(row.journal_applied) if is_ours else 0)

    def _message_id_key(self) -> str:
        if self._key is None:
            self._key = self._write(message_id_key)
        return self._key

    def _hand_back(self, chosen: sa.ColumnElement[bool], only: Mapping[int, ClaimedRow] | None = None) -> bool:
        """Hand back what is `chosen` among the rows we hold, and is of these claims if they are given.

        False: some are locked by others, and were left.
        """

        def work(connection: Connection) -> bool:
            query = sa.select(outbox.c.id, outbox.c.claim_seq, outbox.c.message_id).where(
                outbox.c.claimed_by == self.worker, IS_HELD, chosen
            )
            held = connection.execute(query).all()
            fences = [fence for fence in held if only is None or _fence(only.get(fence[0])) == fence]
            locked = recording.locked_by_others(connection, [fence[0] for fence in fences])
            free = [fence for fence in fences if fence[0] not in locked]
            returned = recording.hand_back(connection, self.worker, free, self._now_on(connection))
            throttling.give_back(connection, [row for row in (only or {}).values() if row.id in returned])
            return not locked

        return self._write(work)

    def _orphan_query(self, whose: str, beside: Collection[int]) -> Any:
        return (
            sa.text(f"""
            SELECT {claimed_list("o")} FROM outbox AS o LEFT JOIN outbox_worker AS w ON w.name = o.claimed_by
            WHERE o.claimed_by IS NOT NULL AND o.status IN ({_HELD}) AND o.finished_at IS NULL
              AND o.id NOT IN :beside AND {whose}
            ORDER BY +o.id LIMIT {ORPHANS_AT_ONCE}""")
            .bindparams(sa.bindparam("beside", [*beside] or [0], expanding=True))
            .columns(*CLAIMED)
        )

    def _claimed(self, connection: Connection, rows: Sequence[Any]) -> list[ClaimedRow]:
        if not rows:
            return []
        tried = [row.id for row in rows if row.claim_seq > 1 or row.attempts or row.doubts]
        known = _known_recipients(connection, tried) if tried else {}
        ordered = sorted(rows, key=lambda row: (row.priority, row.due_at, row.id))
        claimed = [_as_claimed(row, known.get(row.id, {})) for row in ordered]
        kept = kept_of(connection, tried) if tried else {}
        return [replace(row, kept=kept.get(row.id)) for row in claimed] if kept else claimed


def _is_wide_open(gate: Gate) -> bool:
    """Then the claim is one statement."""
    return gate == Gate(limit=gate.limit)


def _fence(row: ClaimedRow | None) -> Fence | None:
    return (row.id, row.claim_seq, row.message_id) if row is not None else None


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


_DRAFT = slice(CLAIM_COLUMNS.index(outbox.c[DRAFT_COLUMNS[0]]), CLAIM_COLUMNS.index(outbox.c[DRAFT_COLUMNS[-1]]) + 1)
_HEAD = slice(0, _DRAFT.start)
_TAIL = slice(_DRAFT.stop, _DRAFT.stop + 2)
_ATTACHED = len(CLAIM_COLUMNS)


def _as_claimed(row: Any, known: Mapping[str, RecipientState]) -> ClaimedRow:
    # By place, in the order of CLAIMED: to ask by name costs more than all the rest.
    row_id, claim_seq, message_id, attempts, doubts, setbacks, first, holder, claimed_at, *rest = row[_HEAD]
    expires_at, max_attempts, on_doubt, relay, status = rest
    batch, domain = row[_TAIL]
    return ClaimedRow(
        id=row_id,
        claim_seq=claim_seq,
        message_id=message_id,
        holder=holder,
        status=status,
        attempts=attempts,
        doubts=doubts,
        setbacks=setbacks,
        first_attempt_at=first,
        claimed_at=claimed_at,
        expires_at=expires_at,
        max_attempts=max_attempts,
        on_doubt=on_doubt,
        relay=relay,
        batch=batch,
        domain=domain,
        content=dict(zip(DRAFT_COLUMNS, row[_DRAFT], strict=True)),
        known=known,
        has_attachments=row[_ATTACHED],
        is_raw=row[_ATTACHED + 1],
    )
