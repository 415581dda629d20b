"""The arrow: row, message, wire, outcome, row.

`Delivery.deliver` takes claimed rows and leaves each of them with an outcome in the recorder, or hands it back.

Rule 1. A row is begun (composed, put on the wire) only while the lease holds, no outcome is overdue, and no stop was
        asked for. What was not begun is handed back, at no cost to the row.
Rule 2. What can't become a message fails alone, with its reason (`poller.delivery.prepare`).
Rule 3. Trouble of the session goes to the relay's account (`poller.delivery.session`), and a destination's wish to the
        destination's (`poller.delivery.throttle`), not to a row's.
Rule 4. A row leaves at its slot, by the relay it was claimed for. One that missed its slot is handed back, and so are
        those of a relay that rests or of a destination that has just asked for a pause.
Rule 5. A short wait (for a slot, or for the only relay) is waited for with the rows in hand.
Rule 6. The journal hears of each step first: before composing, before the end of data leaves, when the answer is read.
        Where the lease has ended or the journal can't be written, the end of data does not leave.
Rule 7. While the relay deals with one message the acceptance of the one before is judged, and the next one composed:
        what costs us time costs the wire none. Any other answer is judged before another row is begun.
Rule 8. Whatever breaks a batch off, a row of it that was begun is handed back, or is in doubt if its end had left.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from poller.delivery.hand import Pending
from poller.delivery.prepare import Prepared, prepared_again, recipients_of, standing_of
from poller.delivery.session import refused_us
from poller.delivery.throttle import NOBODY
from poller.exchange import Phase, RelayTrouble
from poller.judgement.deferrals import is_voice
from poller.judgement.outcome import (
    Blame,
    Deferred,
    Failed,
    Heard,
    Sent,
    domain_of,
    heard_at_the_door,
    in_doubt_after_crash,
    judge,
)
from poller.judgement.retry import died, next_step, refused
from poller.log import shortened
from poller.message.draft import Unsendable
from poller.outbox.database import DatabaseUnavailable
from poller.pacing.gate import ScopeKey

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from datetime import datetime

    from poller.delivery.compose import Compose
    from poller.delivery.prefetch import Prefetch
    from poller.delivery.recorder import Recorder
    from poller.delivery.session import Line
    from poller.delivery.throttle import SharedLimits
    from poller.exchange import Exchange, Message, Reply
    from poller.journal import Journal
    from poller.judgement.outcome import Outcome, Rulebook, Verdict
    from poller.judgement.refusals import Belief, Refusals
    from poller.judgement.retry import RetrySettings, Standing, Step
    from poller.log import Logger
    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store

SHORT_REST_S = 5.0
LOOK_EVERY_S = 0.25  # between two looks at what an operator did: to rows not begun yet, to the suppression list
LOOK_SHARE = 10  # times as long as a look takes, nobody looks again
TURN_S = 5.0  # for one relay while others have rows
STEP_S = 0.05  # of a wait for a slot: new rows may come meanwhile


class LeaseEnded(Exception):  # noqa: N818 - named as the fact it is
    """Our rows may be others' by now."""


@dataclass(kw_only=True, slots=True)
class Delivery:
    """Everything the arrow passes through. Belongs to one thread."""

    store: Store
    lines: Mapping[str, Line]
    """The relays, by name."""
    shared_limits: SharedLimits
    rulebook: Rulebook
    composing: Compose
    recorder: Recorder
    ahead: Prefetch
    retry: RetrySettings
    refusals: Refusals[tuple[Prepared, Verdict]]
    """For what the journal tells of an earlier life."""
    journal: Journal
    clock: Callable[[], float]
    stop: threading.Event
    may_begin: Callable[[], bool]
    """Whether the lease lasts for one more transaction."""
    may_finish: Callable[[], bool]
    """Whether the rows are still ours: asked at the last moment before one can't be called back."""
    progressed: Callable[[], None]
    called: Callable[[], bool]
    """Whether new rows were announced."""
    log: Logger
    chance: Callable[[], float] = random.random
    held: str | None = None
    """What keeps mail from going out, in words, beside the relays."""
    pending: Pending = field(init=False)
    _begun: dict[int, Prepared] = field(default_factory=dict)
    _unweighed: tuple[Exchange, Line, datetime] | None = None
    """The last answer: in the journal, and not judged yet."""
    _last: Verdict | None = None
    """Of the turn."""
    _committed: set[int] = field(default_factory=set)
    _now: datetime = field(init=False)
    _now_at: float = field(init=False)
    _looked_at: float = 0.0
    _asked: tuple[frozenset[int], Future[set[int]]] | None = None
    """Which rows may still be sent, of those that were not begun then."""
    _returning: list[tuple[Sequence[ClaimedRow], Future[None]]] = field(default_factory=list)
    """Rows on their way back."""
    _turn_ended_at: dict[str, float] = field(default_factory=dict)
    _slots: Counter[ScopeKey] = field(default_factory=Counter)
    """That came with the last claim."""
    _slots_missed: Counter[ScopeKey] = field(default_factory=Counter)
    """When the wire came to them."""
    _slots_late: Counter[ScopeKey] = field(default_factory=Counter)
    """Missed before the wire had any."""
    _has_used_slots: bool = False

    def __post_init__(self) -> None:
        self.pending = Pending(relay_of=self._relay_of)

    # --- the arrow ---

    def deliver(self, rows: Iterable[ClaimedRow]) -> None:
        """Send `rows`, each at its slot, over one session after another, until all are settled or must wait."""
        rows = [*rows]
        self.pending.add(rows)
        self.ahead.begin(len(rows))
        try:
            self._set_clock(rows)
            self._count_slots(rows)
            self.composing.look_up(self.pending)
            while (line := self._next_line()) is not None:
                self._take_turn(line)
        except LeaseEnded:
            self.log.warning("worker.lease_lost", reason="the lease ended while a message was on its way")
        finally:
            self._count_slots(())
            self._break_off()

    def settle_withheld(self) -> None:
        """Nothing more is coming: believe the refusals that were withheld, and write everything down."""
        for refusals, line in self._cohorts():
            self._follow(refusals.release(), line)
        self.recorder.flush()

    def excuse_withheld(self) -> None:
        """We stop before it is known whether they are an incident: give them back, and write everything down."""
        for refusals, line in self._cohorts():
            released = refusals.release()
            self._follow(replace(released, settle=(), excuse=(*released.settle, *released.excuse)), line)
        self.recorder.flush()

    @property
    def in_hand(self) -> set[int]:
        """Ids of claimed rows that are not written down yet."""
        withheld = {begun.row.id for refusals, _ in self._cohorts() for begun, _ in refusals.withheld}
        return self.recorder.in_hand | withheld | set(self._begun)

    @property
    def trouble(self) -> str | None:
        """What keeps mail from going out, in words."""
        said = [self.held, *(line.trouble for line in self.lines.values())]
        return "; ".join(words for words in said if words) or None

    def usable(self) -> tuple[str, ...]:
        """The relays that need not rest."""
        return tuple(name for name, line in self.lines.items() if not line.resting)

    def recover(self, orphans: Iterable[ClaimedRow], why: str) -> int:
        """Judge rows whose worker is gone: nobody knows how far it came, so each is in doubt. Returns their number."""
        judged = 0
        for row in orphans:
            self._now, self._now_at = self.store.now(), self.clock()
            try:
                standing = standing_of(row, [r.address for r in recipients_of(row, self.composing.composer)])
            except Unsendable:  # it was readable when it was sent; what is written down still stands
                standing = standing_of(row, ())
            doubt = in_doubt_after_crash(why)
            outcomes = {state.address: doubt for state in standing.recipients if state.status == "queued"}
            step = self._next_step(standing, outcomes, None, self._now)
            if self.recorder.record_orphan(step, holder=row.holder):
                self._say(row, step, 0.0)
                judged += 1
        return judged

    def settle_again(self, row: ClaimedRow, exchange: Exchange, at: datetime) -> None:
        """What the journal knows of a row that is not written down yet takes the same road as news from the wire."""
        self._now, self._now_at = at, self.clock()
        self._begun[row.id] = prepared_again(row, exchange.message, self.composing.composer)
        self._weigh(exchange, None, at)

    def died(self, row: ClaimedRow, deaths: int) -> None:
        """Composing this row has killed the process, for the `deaths`-th time."""
        self._now, self._now_at = self.store.now(), self.clock()
        standing = standing_of(row, [*row.known])
        self._add(row, died(standing, deaths, now=self._now, chance=self.chance(), settings=self.retry))

    def commit(self, relay: str, message: Message, rcpt: Sequence[Reply | None]) -> None:
        """The courier is about to let the end of `message` go. Raises LeaseEnded, JournalTrouble: then it does not."""
        if not self.may_finish():
            raise LeaseEnded
        self.journal.commit(message, relay, rcpt)
        self._committed.add(message.row_id)

    # --- whose turn it is ---

    def _next_line(self) -> Line | None:
        """The relay to go on with, once a row is there whose time has come. None: nothing more goes in this batch."""
        while self.pending and self._may_go_on():
            self._release_what_cannot_go()
            lines = [self.lines[name] for name in self.pending.relays()]
            if not lines:
                return None
            ready = [line for line in lines if self._wait_for(line) <= 0]
            line = min(ready, key=lambda line: self._turn_ended_at.get(line.name, 0.0)) if ready else lines[0]
            wait = self._wait_for(line)
            if wait <= 0:
                return line
            self.progressed()
            # Not flushed: where the database answers late, slots would pass meanwhile.
            if wait > SHORT_REST_S or not self.recorder.flush_if_due() or self.stop.wait(min(wait, STEP_S)):
                return None
            self._has_more(afresh=self.called())
            self._take_back()  # now rather than at the slot
        return None

    def _wait_for(self, line: Line) -> float:
        return max(line.resting, self._until_slot(line))

    def _until_slot(self, line: Line) -> float:
        now = self._time()
        row = self.pending.first(line.name, now)
        return (row.grant.at - now).total_seconds() if row and row.grant.at else 0.0

    def _release_what_cannot_go(self) -> None:
        """Rule 4. The only relay, and a short rest, are waited for (Rule 5); for one of several, others take over."""
        now = self._time()
        bearable = SHORT_REST_S if len(self.lines) == 1 else 0.0
        away = {name for name, line in self.lines.items() if line.resting > bearable}
        gone = self.pending.remove(
            lambda row, relay: relay in away or _missed(row, now) or self.shared_limits.is_paused(row, relay)
        )
        others = {row.id: other for row in gone if (other := self._by_another(row, away, now)) is not None}
        self.pending.add(others.values())
        missed = self._slots_missed if self._has_used_slots else self._slots_late
        missed.update(_slots_of(row for row in gone if _missed(row, now)))
        self._let_go([row for row in gone if row.id not in others])

    def _by_another(self, row: ClaimedRow, away: Collection[str], now: datetime) -> ClaimedRow | None:
        """The same row for the next relay that may take it, and that counts nothing: no slot is lost by that."""
        pacing = self.shared_limits.pacing
        able = pacing.relays_for(relay=row.relay, domain=row.domain, sender=row.content.get("sender"))
        free = (name for name in able if name not in away and not pacing.paced([ScopeKey("relay", name)]))
        relay = next((name for name in free if not self.shared_limits.is_paused(row, name)), None)
        if relay is None or _missed(row, now):
            return None
        return replace(row, grant=replace(row.grant, relay=relay))

    def _take_turn(self, line: Line) -> None:
        """One session's worth of messages for one relay."""
        try:
            if line.open():
                self._one_session(line)
        except RelayTrouble as trouble:
            self.troubled(line, trouble)
        line.let_go()
        self._turn_ended_at[line.name] = self.clock()

    def troubled(self, line: Line, trouble: RelayTrouble) -> None:
        """A relay could not be used. What it asked for at the door holds for all workers."""
        line.troubled(trouble)
        line.let_go()
        heard = heard_at_the_door(trouble, self.rulebook)
        if heard is not None:
            self._obey([self.shared_limits.obey(ScopeKey("relay", line.name), heard)])

    def _one_session(self, line: Line) -> None:
        self._last = None
        in_vain = 0
        try:
            for exchange in line.courier.carry(self._messages(line)):
                if exchange.unanswered:
                    # First in the next session, where there is nobody before it to end it.
                    self.pending.put_back(line.name, in_vain, self._begun.pop(exchange.message.row_id).row)
                    in_vain += 1
                    continue
                self._settle(exchange, line)
                if not exchange.is_accepted or not exchange.message.content:
                    self._catch_up()  # it may ask for less; or a large message is to be let go, before another is made
        finally:
            self._catch_up()
        line.turn_ended(self._last)

    def meanwhile(self, line: Line) -> None:
        """The relay has been told all that it can be told now: what needs no wire is done while it answers.

        Nothing that may wait for the database: the answer would lie unread.
        """
        if self.recorder.is_prompt:
            self._catch_up()
        now = self._time()
        row = self.pending.first(line.name, now)
        if row is not None and not self.stop.is_set():
            self.composing.ahead(row, line.recipients_at_once, now)

    def _settle(self, exchange: Exchange, line: Line) -> None:
        """The answer is kept at once; what it means is found out as soon as the line can do without us."""
        self.progressed()
        at = self._time()
        self.journal.answer(exchange, at)
        self._committed.discard(exchange.message.row_id)
        before, self._unweighed = self._unweighed, (exchange, line, at)
        self._weigh_for(before)

    def _catch_up(self) -> None:
        """Weigh the last answer, if it has not been yet."""
        before, self._unweighed = self._unweighed, None
        self._weigh_for(before)

    def _weigh_for(self, answer: tuple[Exchange, Line, datetime] | None) -> None:
        if answer is not None:
            exchange, line, at = answer
            try:
                self._last = self._weigh(exchange, line, at)
            except Exception as error:
                error.add_note(f"row {exchange.message.row_id}")
                raise
            line.answered(self._last)

    def _weigh(self, exchange: Exchange, line: Line | None, at: datetime) -> Verdict:
        begun = self._begun.pop(exchange.message.row_id)
        verdict = judge(exchange, self.rulebook)
        destination = self.rulebook.destination(exchange.message.recipients)
        if line is not None:
            verdict = self._suspected(verdict, destination, line)
        age = (at - begun.standing.first_attempt_at).total_seconds()
        refusals = line.refusals if line is not None else self.refusals
        belief = refusals.weigh((begun, verdict), verdict, age=age, destination=destination, now=self.clock())
        self._follow(belief, line, at, exchange.seconds)
        if line is not None:
            if verdict.most_recipients is not None:
                line.takes_fewer(verdict.most_recipients)
            known = replace(verdict, heard=()) if line.tells_its_limit(verdict) else verdict
            self._obey(self.shared_limits.weigh(known, line.name))
        return verdict

    def _suspected(self, verdict: Verdict, destination: str, line: Line) -> Verdict:
        """Whose doing it was that a session ended early, or that one after another is put off."""
        row = str(verdict.message.row_id)
        if verdict.delivered:
            line.delivered()
            line.refused_rows.accepted(row)
            for wire, outcome in zip(verdict.message.recipients, verdict.outcomes, strict=True):
                if isinstance(outcome, Sent):
                    accepting = destination or self.rulebook.destination_of(wire)
                    line.dropped_sessions.accepted(accepting)
                    line.deferrals.accepted(accepting)
        if refused_us(verdict) and line.refused_rows.befell(row):
            return _laid_upon_row(verdict)
        if not destination or verdict.delivered_to_all:
            return verdict
        complains = self.shared_limits.complains(destination)
        if line.was_lowered:
            return verdict
        if verdict.ended and (line.dropped_sessions.befell(destination) or complains):
            line.excused()
            return _laid_upon(destination, verdict, "sessions end at it, and at no other")
        if any(map(is_voice, verdict.outcomes)) and line.deferrals.joined(destination, complains=complains):
            return _laid_upon(destination, verdict, "it puts off one recipient after another")
        return verdict

    def _obey(self, scopes: Collection[ScopeKey]) -> None:
        """What pauses holds for the rows in hand as well."""
        if scopes:
            self._let_go(self.pending.remove(lambda row, relay: self.shared_limits.falls_under(row, scopes, relay)))

    def _follow(
        self,
        belief: Belief[tuple[Prepared, Verdict]],
        line: Line | None,
        at: datetime | None = None,
        seconds: float = 0.0,
    ) -> None:
        for begun, verdict in belief.settle:
            self._record(begun, verdict, line, at, seconds=seconds)
        for begun, verdict in belief.excuse:
            self._record(begun, _excused(verdict, Blame.SESSION), line, at)
        whose = Blame.DESTINATION if belief.destination else Blame.SESSION
        for begun, verdict in belief.give_back:
            self._record(begun, _excused(verdict, whose), line, at)
        if belief.give_back and line is not None:
            self._incident(belief, line)

    def _incident(self, belief: Belief[tuple[Prepared, Verdict]], line: Line) -> None:
        said = _first_failure(belief.give_back[0][1])
        reason = said.reason if said else ""
        if belief.destination:
            many = len(belief.give_back)
            self._obey(
                [self.shared_limits.suspend(belief.destination, f"it refused {many} messages in a row alike: {reason}")]
            )
        else:
            line.incident(len(belief.give_back), reason)

    def _cohorts(self) -> list[tuple[Refusals[tuple[Prepared, Verdict]], Line | None]]:
        return [(self.refusals, None), *((line.refusals, line) for line in self.lines.values())]

    # --- from row to message ---

    def _messages(self, line: Line) -> Iterator[Message]:
        """The messages for one relay whose time has come, composed one by one as the wire asks for them."""
        began = self.clock()
        # The record first: it may wait for the database, and the lease may have ended meanwhile.
        while self._is_quiet() and self._may_go_on() and not line.resting and self._has_more():
            self.progressed()
            self._take_back(line)
            now = self._time()
            row = self.pending.first(line.name, now)
            if row is None or _is_early(row, now) or self._is_others_turn(line, began):
                return
            if _missed(row, now):
                self._release_what_cannot_go()
                continue
            message = self._message(row, line)
            self._has_used_slots = self._has_used_slots or row.grant.until is not None
            self.pending.take(line.name, row)  # only now: if the database goes away meanwhile, it is handed back
            if message is not None:
                yield message
                del message  # or it would be held on to while the next one is composed

    def _is_quiet(self) -> bool:
        """Nothing is overdue, so that another row may be begun. False as `Recorder.flush` says it."""
        if not self.pending:
            self._catch_up()  # now we may have to wait for rows
        return self.recorder.flush_if_due()

    def _is_others_turn(self, line: Line, began: float) -> bool:
        """Relays take turns; a row whose slot would pass has its turn at once."""
        if len(self.lines) == 1:
            return False
        others = [name for name in self.pending.relays() if name != line.name and not self.lines[name].resting]
        if not others:
            return False
        now = self._time()
        return self.clock() - began >= TURN_S or any(
            _is_pressing(self.pending.first(name, now), now) for name in others
        )

    def _has_more(self, *, afresh: bool = False) -> bool:
        """Whether there is a row to go on with; what was claimed ahead joins those in hand."""
        if rows := self.ahead.rows(len(self.pending), afresh=afresh):
            self.pending.add(rows)  # first: whatever is raised now, they are handed back
            self._set_clock(rows)
            self._count_slots(rows)
            self._release_what_cannot_go()  # what was heard since they were claimed holds for them too
            self.composing.look_up(self.pending)
        return bool(self.pending)

    def _take_back(self, using: Line | None = None) -> None:
        """Look now and then: has an operator paused or cancelled rows not begun, does a session lie idle?

        It is asked in the bookkeeper's thread, and heard at the next occasion.
        """
        if self._asked is not None and self._asked[1].done():
            (ids, answer), self._asked = self._asked, None
            held = answer.result()
            self._let_go(self.pending.remove(lambda row, _: row.id in ids and row.id not in held))
        if self._asked is not None or self.clock() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = self.clock()
        waiting = frozenset(row.id for row in self.pending)
        self._asked = waiting, self.ahead.bookkeeper.submit(self.store.still_sending, waiting)
        self.shared_limits.look()
        self._release_what_cannot_go()
        # Where the database answers late, slots would pass while we look.
        self._looked_at += LOOK_SHARE * (self.clock() - self._looked_at)
        if len(self.lines) > 1:
            for line in self.lines.values():
                if line is not using:
                    line.close_if_idle()

    def _message(self, row: ClaimedRow, line: Line) -> Message | None:
        """The row as a message for the recipients that are open; None when it was settled without one."""
        at_once = line.recipients_at_once
        try:
            prepared = self.composing.prepared(row, at_once, self._time())
            waiting = self.shared_limits.take_also(row, prepared.message.recipients) if prepared.message else NOBODY
            if waiting and prepared.message and len(waiting) < len(prepared.message.recipients):
                prepared, waiting = self.composing.prepared(row, at_once, self._time(), not_now=waiting), NOBODY
        except Unsendable as reason:
            self._refuse(row, str(reason))
            return None
        except Exception as error:
            error.add_note(f"row {row.id}")
            raise
        if prepared.message is None:
            self._add(row, self._next_step(prepared.standing, prepared.settled, line, self._time()))
        elif waiting:
            self._let_wait(row, waiting.values())
            return None
        else:
            self._begun[row.id] = prepared
        return prepared.message

    def _let_wait(self, row: ClaimedRow, scopes: Collection[ScopeKey]) -> None:
        """It falls under scopes that it was not claimed for, and has no slot there: it goes back, with its like.

        One of several recipients may be elsewhere, or what a domain belongs to was not known.
        """
        like = self.pending.remove(
            lambda other, _: other.id != row.id and self.shared_limits.falls_under(other, scopes, "")
        )
        self._let_go([row, *like])

    # --- from outcome to row ---

    def _record(
        self, begun: Prepared, verdict: Verdict, line: Line | None, at: datetime | None, *, seconds: float = 0.0
    ) -> None:
        pairs = zip(verdict.message.recipients, verdict.outcomes, strict=True)
        outcomes = dict(begun.settled)
        outcomes |= {address: outcome for wire, outcome in pairs for address in begun.wire[wire]}
        now = at or self._time()
        step = self._next_step(begun.standing, outcomes, line, now, phase=verdict.phase.value, relay=verdict.relay)
        self._add(begun.row, step, seconds=seconds)

    def _refuse(self, row: ClaimedRow, reason: str) -> None:
        standing = standing_of(row, ())
        self._add(row, refused(standing, reason, now=self._time(), settings=self.retry))

    def _next_step(
        self,
        standing: Standing,
        outcomes: Mapping[str, Outcome],
        line: Line | None,
        at: datetime,
        **where: str | None,
    ) -> Step:
        settings = line.retry if line is not None else self.retry
        return next_step(standing, outcomes, now=at, chance=self.chance(), settings=settings, **where)

    def _add(self, row: ClaimedRow, step: Step, *, seconds: float = 0.0) -> None:
        self._say(row, step, seconds)
        self.recorder.add(step)

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
        return not self.stop.is_set() and self.may_begin() and self.shared_limits.is_open

    def _relay_of(self, row: ClaimedRow) -> str:
        """By which relay it goes; one that names a relay that is not there fails by any."""
        if row.grant.relay:
            return row.grant.relay
        if len(self.lines) == 1:
            return next(iter(self.lines))
        sender = row.content.get("sender")
        able = self.shared_limits.pacing.relays_for(relay=row.relay, domain=row.domain, sender=sender) or tuple(
            self.lines
        )
        return next((name for name in able if not self.lines[name].resting), able[0])

    def _count_slots(self, rows: Iterable[ClaimedRow]) -> None:
        """How many came, once it is told how it went with those before."""
        if self._slots:
            self.shared_limits.pacing.served(self._slots, missed=self._slots_missed, late=self._slots_late)
        self._slots, self._slots_missed, self._slots_late = _slots_of(rows), Counter(), Counter()
        self._has_used_slots = False

    def _break_off(self) -> None:
        """Rule 8. After a batch that went to its end there is nothing left to do."""
        self._asked = None
        left = self.pending.clear()
        try:
            self._see_them_returned([*self._returning])
            for line in self.lines.values():
                if self._committed:  # what could not come out of the courier because something was raised
                    self._settle_the_rest(line)
        finally:
            begun = (prepared.row for prepared in self._begun.values())
            rows = [*begun, *left, *self.pending.clear(), *self.ahead.rest()]
            self._begun.clear()
            self._give_back(rows)

    def _settle_the_rest(self, line: Line) -> None:
        with suppress(RelayTrouble):  # of a relay that has nothing to tell, and whose session is over
            for exchange in line.courier.carry(iter(())):
                self._settle(exchange, line)
                self._catch_up()

    def _let_go(self, rows: Sequence[ClaimedRow]) -> None:
        """Hand back, in the bookkeeper's thread: others' slots would pass meanwhile."""
        if rows:
            self.journal.settled((row.id, row.claim_seq) for row in rows)
            self._returning.append((rows, self.ahead.bookkeeper.submit(self.store.hand_back, rows)))
            self._see_them_returned([pair for pair in self._returning if pair[1].done()])

    def _see_them_returned(self, some: Sequence[tuple[Sequence[ClaimedRow], Future[None]]]) -> None:
        for pair in some:
            self._returning.remove(pair)
            self._say_handed_back(pair[0], pair[1].result)

    def _give_back(self, rows: Sequence[ClaimedRow]) -> None:
        if rows:
            self.journal.settled((row.id, row.claim_seq) for row in rows)
            self._say_handed_back(rows, lambda: self.store.hand_back(rows))

    def _say_handed_back(self, rows: Sequence[ClaimedRow], done: Callable[[], object]) -> None:
        try:
            done()
        except DatabaseUnavailable as why:
            self.log.warning("database.unavailable", reason=str(why), waiting=len(rows))
            return
        self.log.info("rows.handed_back", rows=len(rows))

    def _set_clock(self, rows: Iterable[ClaimedRow]) -> None:
        """The database's clock, no earlier than the claim; it goes on by our monotonic one.

        Rows that were claimed ahead may have come long after their claim: that time is not now.
        """
        self._now = max((self.shared_limits.now(), *(row.claimed_at for row in rows)))
        self._now_at = self.clock()

    def _time(self) -> datetime:
        return self._now + timedelta(seconds=self.clock() - self._now_at)


def _is_early(row: ClaimedRow, now: datetime) -> bool:
    """Its slot is yet to come."""
    return row.grant.at is not None and now < row.grant.at


def _missed(row: ClaimedRow, now: datetime) -> bool:
    """Its slot is over."""
    return row.grant.until is not None and row.grant.until < now


def _slots_of(rows: Iterable[ClaimedRow]) -> Counter[ScopeKey]:
    """By scope; a quota alone has none."""
    return Counter(share.key for row in rows for share in row.grant.scopes if share.after is not None)


def _is_pressing(row: ClaimedRow | None, now: datetime) -> bool:
    """Its slot is there, and will not be for ever."""
    return row is not None and row.grant.until is not None and (row.grant.at is None or row.grant.at <= now)


def _first_failure(verdict: Verdict) -> Failed | None:
    return next((outcome for outcome in verdict.outcomes if isinstance(outcome, Failed)), None)


def _excused(verdict: Verdict, blame: Blame) -> Verdict:
    """The same refusal, as the relay's own trouble, or as the destination's, which pauses for it."""
    failure = _first_failure(verdict)
    who = "relay" if blame is Blame.SESSION else "destination"
    reason = f"given back, for the {who} refused one message after another alike: {failure.reason if failure else ''}"
    reply = failure.reply if failure else None
    excused = Deferred(blame=blame, reason=reason, reply=reply, paced=blame is Blame.DESTINATION)
    return replace(verdict, outcomes=(excused,) * len(verdict.outcomes))


def _laid_upon_row(verdict: Verdict) -> Verdict:
    """The relay refuses this one as if it were for our sake, and takes others: it costs attempts, and age ends it."""
    whose = Blame.RECIPIENT if verdict.phase is Phase.RCPT else Blame.MESSAGE
    outcomes = tuple(
        replace(outcome, blame=whose, heard=None, paced=False)
        if isinstance(outcome, Deferred) and outcome.blame is Blame.SESSION and outcome.reply
        else outcome
        for outcome in verdict.outcomes
    )
    return replace(verdict, outcomes=outcomes, heard=())


def _laid_upon(destination: str, verdict: Verdict, why: str) -> Verdict:
    """What is the destination's doing: it is asked less, and neither the relay nor the row is to blame."""
    said = next((o.reason for o in verdict.outcomes if isinstance(o, Deferred)), "the session ended")
    heard = Heard(
        about="destination",
        domain=domain_of(verdict.message.recipients[0]),
        action="slow_down",
        reason=f"{destination}: {why}: {said}",
        category="rate",
    )
    outcomes = tuple(
        replace(o, blame=Blame.DESTINATION, heard=heard, paced=True) if isinstance(o, Deferred) else o
        for o in verdict.outcomes
    )
    return replace(verdict, outcomes=outcomes, heard=(heard,), slow_down=False)


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
