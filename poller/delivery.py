"""The arrow: row, message, wire, outcome, row.

`Delivery.deliver` takes claimed rows and leaves each of them with an outcome in the ledger, or hands it back.

Rule 1. A row is begun (composed, put on the wire) only while the lease holds, no outcome is overdue, and no stop was
        asked for. What was not begun is handed back, at no cost to the row.
Rule 2. What can't become a message fails alone, with its reason (`poller.prepare`).
Rule 3. Trouble of the session goes to the relay's account (`poller.rest`), not to a row's.
Rule 4. A session that delivered something is replaced at once when it breaks; one that did not gives the relay a rest,
        and so do a 421 and refusals of us in a row. A single refusal of us does not: it may depend on the row's sender
        or recipient, and must not stand in everyone's way.
Rule 5. A short rest is waited for with the rows in hand; for a long one they are handed back.
Rule 6. The journal hears of each step first: before composing, before the end of data leaves, when the answer is read.
        Where the lease has ended or the journal can't be written, the end of data does not leave.
Rule 7. Whatever breaks a batch off, a row of it that was begun is handed back, or is in doubt if its end had left.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from poller.cohort import Belief, Cohort
from poller.exchange import RelayTrouble
from poller.log import OnChange, shortened
from poller.message import Attachment, Unsendable
from poller.outbox.database import DatabaseUnavailable
from poller.outcome import Blame, Deferred, Failed, InDoubt, Verdict, in_doubt_after_crash, judge
from poller.prepare import Prepared, prepare, prepared_again, recipients_of, standing_of
from poller.retry import died, next_step, refused

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from poller.ahead import Ahead
    from poller.exchange import Exchange, Message, Reply
    from poller.journal import Journal
    from poller.ledger import Ledger
    from poller.log import Logger
    from poller.message import Composer
    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store
    from poller.outcome import Outcome
    from poller.rest import Rest
    from poller.retry import RetrySettings, Standing, Step
    from poller.smtp.courier import Courier

FRUITLESS_SESSIONS = 2  # So many in a row without a delivery, though none blames the relay, and it rests all the same.
REFUSALS_OF_US = 3  # So many rows in a row that the relay refuses because of us, and it rests.
SHORT_REST_S = 5.0
LOOK_EVERY_S = 0.25  # between two looks at what an operator did: to rows not begun yet, to the suppression list


class LeaseEnded(Exception):  # noqa: N818 - named as the fact it is
    """Our rows may be others' by now."""


@dataclass(kw_only=True, slots=True)
class Delivery:
    """Everything the arrow passes through. Belongs to one thread."""

    store: Store
    courier: Courier
    composer: Composer
    ledger: Ledger
    ahead: Ahead
    rest: Rest
    retry: RetrySettings
    recipients_at_once: int
    journal: Journal
    clock: Callable[[], float]
    stop: threading.Event
    may_begin: Callable[[], bool]
    """Whether the lease lasts for one more transaction."""
    may_finish: Callable[[], bool]
    """Whether the rows are still ours: asked at the last moment before one can't be called back."""
    progressed: Callable[[], None]
    log: Logger
    chance: Callable[[], float] = random.random
    trouble: str | None = None
    """What keeps mail from going out, in words."""
    cohort: Cohort[tuple[Prepared, Verdict]] = field(init=False)
    _say_relay: OnChange = field(init=False)
    _begun: dict[int, Prepared] = field(default_factory=dict)
    _committed: set[int] = field(default_factory=set)
    _suppresses: dict[str, str] = field(default_factory=dict)
    _suppresses_anyone: bool = True
    _suppresses_at: float = float("-inf")
    _now: datetime = field(init=False)
    _now_at: float = field(init=False)
    _delivered: bool = False
    _fruitless: int = 0
    _refusals: int = 0
    _looked_at: float = 0.0

    def __post_init__(self) -> None:
        self.cohort = Cohort(limit=self.retry.cohort, patience=self.retry.cohort_patience)
        self._say_relay = OnChange(self.log)

    # --- the arrow ---

    def deliver(self, rows: Iterable[ClaimedRow]) -> None:
        """Send `rows` in order, over one session after another, until all are settled or the relay must rest."""
        pending = deque(rows)
        self.ahead.begin(len(pending))
        try:
            self._set_clock(pending)
            self._suppresses = self._suppressed(pending)
            while pending and self._may_go_on() and self._rested():
                self.courier.open()
                self._one_session(pending, self._messages(pending))
        except RelayTrouble as trouble:
            self.troubled(trouble)
        except LeaseEnded:
            self.log.warning("worker.lease_lost", reason="the lease ended while a message was on its way")
        finally:
            self._break_off(pending)

    def settle_withheld(self) -> None:
        """Nothing more is coming: believe the refusals that were withheld, and write everything down."""
        self._follow(self.cohort.release())
        self.ledger.flush()

    def excuse_withheld(self) -> None:
        """We stop before it is known whether they are an incident: give them back, and write everything down."""
        released = self.cohort.release()
        self._follow(replace(released, settle=(), excuse=(*released.settle, *released.excuse)))
        self.ledger.flush()

    @property
    def in_hand(self) -> set[int]:
        """Ids of claimed rows that are not written down yet."""
        return self.ledger.in_hand | {begun.row.id for begun, _ in self.cohort.withheld} | set(self._begun)

    def troubled(self, trouble: RelayTrouble) -> None:
        """The relay could not be used at all: let it rest."""
        self._relay_is_away(f"at {trouble.phase.value}: {trouble.reason}")

    def recover(self, orphans: Iterable[ClaimedRow], why: str) -> int:
        """Judge rows whose worker is gone: nobody knows how far it came, so each is in doubt. Returns their number."""
        judged = 0
        for row in orphans:
            self._now, self._now_at = self.store.now(), self.clock()
            try:
                standing = standing_of(row, [r.address for r in recipients_of(row, self.composer)])
            except Unsendable:  # it was readable when it was sent; what is written down still stands
                standing = standing_of(row, ())
            doubt = in_doubt_after_crash(why)
            outcomes = {state.address: doubt for state in standing.recipients if state.status == "queued"}
            step = self._next_step(standing, outcomes)
            if self.ledger.record_orphan(step, holder=row.holder):
                self._say(row, step, 0.0)
                judged += 1
        return judged

    def settle_again(self, row: ClaimedRow, exchange: Exchange, at: datetime) -> None:
        """What the journal knows of a row that is not written down yet takes the same road as news from the wire."""
        self._now, self._now_at = at, self.clock()
        self._begun[row.id] = prepared_again(row, exchange.message, self.composer)
        self._weigh(exchange)

    def died(self, row: ClaimedRow, deaths: int) -> None:
        """Composing this row has killed the process, for the `deaths`-th time."""
        self._now, self._now_at = self.store.now(), self.clock()
        standing = standing_of(row, [*row.known])
        self._add(row, died(standing, deaths, now=self._now, chance=self.chance(), settings=self.retry))

    def commit(self, message: Message, rcpt: Sequence[Reply | None]) -> None:
        """The courier is about to let the end of `message` go. Raises LeaseEnded, JournalTrouble: then it does not."""
        if not self.may_finish():
            raise LeaseEnded
        self.journal.commit(message, self.courier.relay, rcpt)
        self._committed.add(message.row_id)

    # --- one session ---

    def _one_session(self, pending: deque[ClaimedRow], messages: Iterator[Message]) -> None:
        last: Verdict | None = None
        in_vain = 0
        for exchange in self.courier.carry(messages):
            if exchange.unanswered:
                # First in the next session, where there is nobody before it to end it.
                pending.insert(in_vain, self._begun.pop(exchange.message.row_id).row)
                in_vain += 1
                continue
            last = self._settle(exchange)
            self._refusals = self._refusals + 1 if _refused_us(last) else 0
            if self._refusals >= REFUSALS_OF_US:
                self.courier.close()
        if self.courier.is_open:
            return  # and what it has delivered counts for it in the next batch
        if not self.rest.remaining(self.clock()):
            self._session_ended(last)
        self._delivered = False

    def _session_ended(self, last: Verdict | None) -> None:
        """Rule 4: go on at once, or let the relay rest. `last` is None when not even one message was taken."""
        self._fruitless = 0 if self._delivered else self._fruitless + 1
        slow_down = last is not None and last.slow_down
        broke = last is not None and last.blames_session and not self._delivered
        if slow_down or broke or self._refusals >= REFUSALS_OF_US or self._fruitless >= FRUITLESS_SESSIONS:
            outcomes = last.outcomes if last else ()
            reason = next((o.reason for o in outcomes if isinstance(o, Deferred | InDoubt)), "the session ended")
            self._relay_is_away(reason)
            self._refusals = 0

    def _relay_is_away(self, reason: str) -> None:
        """Let it rest; say so once, and again when the reason changes."""
        pause = self.rest.trouble(self.clock())
        relay = self.courier.relay
        self.trouble = f"the relay {relay} is not available: {reason}"
        facts = {"relay": relay, "reason": reason, "rests": round(pause, 1)}
        self._say_relay.say("warning", "relay.unavailable", about="relay", fingerprint=reason, **facts)

    def _settle(self, exchange: Exchange) -> Verdict:
        self.progressed()
        self.journal.answer(exchange, self._time())
        self._committed.discard(exchange.message.row_id)
        return self._weigh(exchange)

    def _weigh(self, exchange: Exchange) -> Verdict:
        begun = self._begun.pop(exchange.message.row_id)
        verdict = judge(exchange)
        if verdict.delivered:
            self._delivered = True
            if self.trouble:
                self._say_relay.say("info", "relay.available", about="relay", relay=self.courier.relay)
                self.trouble = None
            self.rest.well()
        age = (self._time() - begun.standing.first_attempt_at).total_seconds()
        belief = self.cohort.weigh((begun, verdict), verdict, age=age)
        self._follow(belief, exchange.seconds)
        return verdict

    def _follow(self, belief: Belief[tuple[Prepared, Verdict]], seconds: float = 0.0) -> None:
        for begun, verdict in belief.settle:
            self._record(begun, verdict, seconds=seconds)
        for begun, verdict in (*belief.excuse, *belief.give_back):
            self._record(begun, _excused(verdict))
        if belief.give_back:
            self._incident(belief.give_back)

    def _incident(self, given_back: tuple[tuple[Prepared, Verdict], ...]) -> None:
        """The relay refuses everyone alike: nobody's row is at fault."""
        pause = self.rest.trouble(self.clock())
        self.courier.close()
        said = _first_failure(given_back[0][1])
        self.trouble = f"the relay refuses one message after another: {said.reason if said else ''}"
        self.log.error(
            "relay.incident",
            relay=self.courier.relay,
            messages=len(given_back),
            reason=said.reason if said else None,
            rests=round(pause, 1),
        )

    # --- from row to message ---

    def _messages(self, pending: deque[ClaimedRow]) -> Iterator[Message]:
        """The messages of `pending`, composed one by one as the wire asks for them."""
        # The record first: it may wait for the database, and the lease may have ended meanwhile.
        while self.ledger.flush_if_due() and self._may_go_on() and not self._must_rest() and self._has_more(pending):
            self.progressed()
            if self._taken_back(pending):
                return
            message = self._message(pending[0])
            pending.popleft()  # only now: a database that goes away meanwhile leaves the row to be handed back
            if message is not None:
                yield message

    def _has_more(self, pending: deque[ClaimedRow]) -> bool:
        """Whether there is a row to go on with; what was claimed ahead joins those in hand."""
        if rows := self.ahead.rows(len(pending)):
            pending.extend(rows)  # first: whatever is raised now, they are handed back
            self._set_clock(rows)
            self._suppresses = self._suppressed(pending)
        return bool(pending)

    def _taken_back(self, pending: deque[ClaimedRow]) -> bool:
        """Look now and then whether an operator has paused or cancelled rows not begun. True: none are left."""
        if self.clock() - self._looked_at < LOOK_EVERY_S:
            return False
        self._looked_at = self.clock()
        held = self.store.still_sending([row.id for row in pending])
        taken = [row for row in pending if row.id not in held]
        if taken:
            self._give_back(deque(taken))
            remaining = [row for row in pending if row.id in held]
            pending.clear()
            pending.extend(remaining)
        return not pending

    def _message(self, row: ClaimedRow) -> Message | None:
        """The row as a message for the recipients that are open; None when it was settled without one."""
        self.journal.begin(row.id, row.claim_seq)
        try:
            files = tuple(map(_attachment, self.store.attachments(row.id))) if row.has_attachments else ()
            prepared = prepare(
                row,
                files,
                composer=self.composer,
                suppressed=self._suppresses,
                now=self._time(),
                at_once=self.recipients_at_once,
            )
        except Unsendable as reason:
            self.journal.end(row.id, row.claim_seq)
            self._refuse(row, str(reason))
            return None
        except DatabaseUnavailable:
            self.journal.end(row.id, row.claim_seq)
            raise
        if prepared.message is None:
            self.journal.end(row.id, row.claim_seq)
            self._add(row, self._next_step(prepared.standing, prepared.settled))
        else:
            self.journal.compose(prepared.message)
            self._begun[row.id] = prepared
        return prepared.message

    # --- from outcome to row ---

    def _record(self, begun: Prepared, verdict: Verdict, *, seconds: float = 0.0) -> None:
        pairs = zip(verdict.message.recipients, verdict.outcomes, strict=True)
        outcomes = dict(begun.settled)
        outcomes |= {address: outcome for wire, outcome in pairs for address in begun.wire[wire]}
        step = self._next_step(begun.standing, outcomes, phase=verdict.phase.value, relay=verdict.relay)
        self._add(begun.row, step, seconds=seconds)

    def _refuse(self, row: ClaimedRow, reason: str) -> None:
        standing = standing_of(row, ())
        self._add(row, refused(standing, reason, now=self._time(), settings=self.retry))

    def _next_step(self, standing: Standing, outcomes: Mapping[str, Outcome], **where: str | None) -> Step:
        return next_step(standing, outcomes, now=self._time(), chance=self.chance(), settings=self.retry, **where)

    def _add(self, row: ClaimedRow, step: Step, *, seconds: float = 0.0) -> None:
        self._say(row, step, seconds)
        self.ledger.add(step)

    def _say(self, row: ClaimedRow, step: Step, seconds: float) -> None:
        """One canonical line for each attempt."""
        event = _event(step)
        level = self.log.info if event == "attempt.sent" else self.log.warning
        addresses = [state.address for state in step.recipients] or [row.content.get("recipients") or ""]
        facts = {
            "to": shortened(addresses[0]),
            "recipients": len(step.recipients) or None,
            "reply": str(step.reply) if step.reply else None,
            "queue_id": step.queue_id,
            "message_id": row.message_id,
            "error": step.error,
            "due_at": step.due_at.isoformat(timespec="seconds") if step.due_at else None,
            "seconds": round(seconds, 4) if seconds else None,
            "batch": row.batch,
        }
        said = {name: value for name, value in facts.items() if value is not None}
        level(event, id=row.id, attempt=row.attempts + step.attempts, **said)

    # --- small ---

    def _may_go_on(self) -> bool:
        return not self.stop.is_set() and self.may_begin()

    def _must_rest(self) -> bool:
        return self.rest.remaining(self.clock()) > 0

    def _rested(self) -> bool:
        """Rule 5. False: it is too long to wait for, or a stop was asked for."""
        remaining = self.rest.remaining(self.clock())
        if remaining > SHORT_REST_S:
            return False
        self.ledger.flush()
        self.progressed()
        return not (remaining and self.stop.wait(remaining))

    def _suppressed(self, rows: Iterable[ClaimedRow]) -> dict[str, str]:
        """Of all addresses in `rows`, those on the suppression list: one question for the batch."""
        if self.clock() - self._suppresses_at >= LOOK_EVERY_S:
            self._suppresses_anyone = self.store.suppresses_anyone()
            self._suppresses_at = self.clock()
        if not self._suppresses_anyone:
            return {}
        addresses: set[str] = set()
        for row in rows:
            try:
                addresses.update(recipient.address for recipient in recipients_of(row, self.composer))
            except Unsendable:
                continue  # said when it is its turn
        return self.store.suppressed(addresses)

    def _break_off(self, pending: deque[ClaimedRow]) -> None:
        """Rule 7. After a batch that went to its end there is nothing left to do."""
        if self._committed:  # what could not come out of the courier because something was raised
            for exchange in self.courier.carry(iter(())):
                self._settle(exchange)
        pending.extendleft(left.row for left in reversed(self._begun.values()))
        self._begun.clear()
        pending.extend(self.ahead.rest())
        self._give_back(pending)

    def _give_back(self, pending: deque[ClaimedRow]) -> None:
        if not pending:
            return
        self.journal.settled((row.id, row.claim_seq) for row in pending)
        try:
            self.store.hand_back(pending)
        except DatabaseUnavailable as why:
            self.log.warning("database.unavailable", reason=str(why), waiting=len(pending))
            return
        self.log.info("rows.handed_back", rows=len(pending))

    def _set_clock(self, rows: Iterable[ClaimedRow]) -> None:
        """The database's clock, as of the claim; it goes on by our monotonic one."""
        self._now = max((row.claimed_at for row in rows), default=None) or self.store.now()
        self._now_at = self.clock()

    def _time(self) -> datetime:
        return self._now + timedelta(seconds=self.clock() - self._now_at)


def _attachment(found: Mapping[str, Any]) -> Attachment:
    return Attachment(**found)


def _first_failure(verdict: Verdict) -> Failed | None:
    return next((outcome for outcome in verdict.outcomes if isinstance(outcome, Failed)), None)


def _excused(verdict: Verdict) -> Verdict:
    """The same refusal, as the relay's own trouble."""
    failure = _first_failure(verdict)
    reason = f"given back, for the relay refused one message after another alike: {failure.reason if failure else ''}"
    excused = Deferred(blame=Blame.SESSION, reason=reason, reply=failure.reply if failure else None)
    return replace(verdict, outcomes=(excused,) * len(verdict.outcomes))


def _refused_us(verdict: Verdict) -> bool:
    """The relay answered, and did not merely go away."""
    return any(isinstance(o, Deferred) and o.blame is Blame.SESSION and o.reply for o in verdict.outcomes)


_EVENTS = {
    "sent": "attempt.sent",
    "partial": "attempt.sent",
    "queued": "attempt.deferred",
    "in_doubt": "attempt.in_doubt",
    "expired": "row.expired",
    "suppressed": "row.suppressed",
}


def _event(step: Step) -> str:
    if step.doubts:
        return "attempt.in_doubt"  # whether it is held or will be resent
    return _EVENTS.get(step.status) or ("attempt.failed" if step.phase else "row.unsendable")
