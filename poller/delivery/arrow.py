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

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poller.delivery.hand import Pending
from poller.delivery.prepare import Prepared, beside, prepared_again
from poller.delivery.routes import Routes, Slots, is_early, is_missed, is_pressing
from poller.delivery.throttle import NOBODY
from poller.exchange import RelayTrouble
from poller.message.draft import NotNow, Unsendable

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from poller.delivery.clock import DatabaseTime
    from poller.delivery.compose import Compose
    from poller.delivery.outcomes import Outcomes
    from poller.delivery.prefetch import Prefetch
    from poller.delivery.returns import Returns
    from poller.delivery.session import Line
    from poller.delivery.throttle import SharedLimits, Waiting
    from poller.delivery.weigh import Decision, Weigh
    from poller.exchange import Exchange, Message, Reply
    from poller.journal import Journal
    from poller.judgement.outcome import Verdict
    from poller.judgement.retry import RetrySettings
    from poller.log import Logger
    from poller.outbox.rows import ClaimedRow
    from poller.pacing.gate import ScopeKey

SHORT_REST_S = 5.0
LOOK_EVERY_S = 0.25  # between two looks at what an operator did: to rows not begun yet, to the suppression list
LOOK_SHARE = 10  # times as long as a look takes, nobody looks again
TURN_S = 5.0  # for one relay while others have rows
STEP_S = 0.05  # of a wait for a slot: new rows may come meanwhile


class LeaseEnded(Exception):  # noqa: N818 - named as the fact it is
    """Our rows may be others' by now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What the worker allows a batch, asked at each step."""

    stop: threading.Event
    may_begin: Callable[[], bool]
    """Whether the lease lasts for one more transaction."""
    may_finish: Callable[[], bool]
    """Whether the rows are still ours: asked at the last moment before one can't be called back."""
    progressed: Callable[[], None]
    called: Callable[[], bool]
    """Whether new rows were announced."""


@dataclass(kw_only=True, slots=True)
class _Begun:
    """The rows on the wire, and the answer that is not judged yet."""

    rows: dict[int, Prepared] = field(default_factory=dict)
    committed: set[int] = field(default_factory=set)
    """The end of their data has left."""
    answer: tuple[Exchange, Line, datetime] | None = None
    """The last one: in the journal, and not weighed yet."""
    verdict: Verdict | None = None
    """The last of the turn."""


@dataclass(kw_only=True, slots=True)
class Delivery:
    """One batch after another. Belongs to one thread."""

    weigh: Weigh
    outcomes: Outcomes
    composing: Compose
    ahead: Prefetch
    returns: Returns
    journal: Journal
    bounds: Bounds
    log: Logger
    time: DatabaseTime
    held: str | None = None
    """What keeps mail from going out, in words, beside the relays."""
    lines: Mapping[str, Line] = field(init=False)
    """The relays, by name."""
    shared_limits: SharedLimits = field(init=False)
    """What is paced, for all workers."""
    pending: Pending = field(init=False)
    _routes: Routes = field(init=False)
    _slots: Slots = field(init=False)
    _begun: _Begun = field(default_factory=_Begun)
    _looked_at: float = 0.0
    _turn_ended_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lines, self.shared_limits = self.weigh.lines, self.weigh.shared_limits
        self._routes = Routes(lines=self.lines, shared_limits=self.shared_limits)
        self._slots = Slots(shared_limits=self.shared_limits)
        self.pending = Pending(relay_of=self._routes.relay_of)

    # --- the arrow ---

    def deliver(self, rows: Iterable[ClaimedRow]) -> None:
        """Send `rows`, each at its slot, over one session after another, until all are settled or must wait."""
        rows = [*rows]
        self.pending.add(rows)
        self.ahead.begin(len(rows))
        try:
            self._came(rows)
            while (line := self._next_line()) is not None:
                self._take_turn(line)
        except LeaseEnded:
            self.log.warning("worker.lease_lost", reason="the lease ended while a message was on its way")
        finally:
            self._slots.count(())
            self._break_off()

    def _take_turn(self, line: Line) -> None:
        """One session's worth of messages for one relay."""
        try:
            if line.open():
                self._one_session(line)
        except RelayTrouble as trouble:
            self.troubled(line, trouble)
        line.let_go()
        self._turn_ended_at[line.name] = self.time.seconds()

    def _one_session(self, line: Line) -> None:
        self._begun.verdict = None
        in_vain = 0
        try:
            for exchange in self._carried(line, self._messages(line)):
                if exchange.unanswered:
                    # First in the next session, where there is nobody before it to end it.
                    self.pending.put_back(line.name, in_vain, self._begun.rows.pop(exchange.message.row_id).row)
                    in_vain += 1
                    continue
                self._answered(exchange, line)
                if not exchange.is_accepted or not exchange.message.content:
                    self._catch_up()  # it may ask for less; or a large message is to be let go, before another is made
        finally:
            self._catch_up()
        line.turn_ended(self._begun.verdict)

    def _carried(self, line: Line, messages: Iterator[Message]) -> Iterator[Exchange]:
        def committing(message: Message, rcpt: Sequence[Reply | None]) -> None:
            self._commit(line.courier.relay, message, rcpt)

        return line.courier.carry(messages, committing=committing, meanwhile=lambda: self._meanwhile(line))

    def _messages(self, line: Line) -> Iterator[Message]:
        """The messages for one relay whose time has come, composed one by one as the wire asks for them."""
        began = self.time.seconds()
        # The record first: it may wait for the database, and the lease may have ended meanwhile.
        while self._is_quiet() and self._may_go_on() and not line.resting and self._has_more():
            self.bounds.progressed()
            self._look(line)
            now = self.time.now()
            row = self.pending.first(line.name, now)
            if row is None or is_early(row, now) or self._is_others_turn(line, began):
                return
            if is_missed(row, now):
                self._release_what_cannot_go()
                continue
            message = self._message(row, line)
            self._slots.used(row)
            self.pending.take(line.name, row)  # only now: if the database goes away meanwhile, it is handed back
            if message is not None:
                yield message
                del message  # or it would be held on to while the next one is composed

    def _message(self, row: ClaimedRow, line: Line) -> Message | None:
        """The row as a message for the recipients that are open; None when it was settled without one."""
        at_once = line.recipients_at_once
        limits = self.shared_limits
        try:
            prepared = self.composing.prepared(row, at_once, self.time.now())
            waiting = limits.take_also(row, prepared.message.recipients) if prepared.message else NOBODY
            if waiting and prepared.message and len(waiting) < len(prepared.message.recipients):
                prepared, waiting = self.composing.prepared(row, at_once, self.time.now(), not_now=waiting), NOBODY
            elif waiting and prepared.others:
                prepared, waiting = self._another(row, prepared, waiting)
        except NotNow as reason:
            self.outcomes.put_off(row, str(reason), self.time.now())
            return None
        except Unsendable as reason:
            self.outcomes.refused(row, str(reason), self.time.now())
            return None
        except Exception as error:
            error.add_note(f"row {row.id}")
            raise
        if prepared.message is None:
            self.outcomes.without_message(prepared, line.retry, self.time.now())
        elif waiting:
            self._let_wait(row, waiting.values())
            return None
        else:
            self._begun.rows[row.id] = prepared
        return prepared.message

    def _another(self, row: ClaimedRow, prepared: Prepared, waiting: Waiting) -> tuple[Prepared, Waiting]:
        """Where each recipient has a message of their own: that of the first who need not wait, if there is one."""
        while True:
            passed = beside(waiting, prepared.others)
            following = self.composing.prepared(row, 1, self.time.now(), not_now=passed)
            if following.message is None:
                return prepared, waiting
            also = self.shared_limits.take_also(row, following.message.recipients)
            if not also:
                self.shared_limits.pacing.unskip(row.id)
                return following, NOBODY
            waiting = {**waiting, **also}

    def _commit(self, relay: str, message: Message, rcpt: Sequence[Reply | None]) -> None:
        """Rule 6. The end of `message` is about to leave. Raises LeaseEnded, JournalTrouble: then it does not."""
        if not self.bounds.may_finish():
            raise LeaseEnded
        self.journal.commit(message, relay, rcpt)
        self._begun.committed.add(message.row_id)

    def _meanwhile(self, line: Line) -> None:
        """The relay has been told all that it can be told now: what needs no wire is done while it answers.

        Nothing that may wait for the database: the answer would lie unread.
        """
        if self.outcomes.recorder.is_prompt:
            self._catch_up()
        now = self.time.now()
        row = self.pending.first(line.name, now)
        if row is not None and not self.bounds.stop.is_set():
            self.composing.ahead(row, line.recipients_at_once, now)

    def _answered(self, exchange: Exchange, line: Line) -> None:
        """The answer is kept at once; what it means is found out as soon as the line can do without us."""
        self.bounds.progressed()
        at = self.time.now()
        self.journal.answer(exchange, at)
        self._begun.committed.discard(exchange.message.row_id)
        before, self._begun.answer = self._begun.answer, (exchange, line, at)
        self._weigh(before)

    def _catch_up(self) -> None:
        """Weigh the last answer, if it has not been yet."""
        before, self._begun.answer = self._begun.answer, None
        self._weigh(before)

    def _weigh(self, answer: tuple[Exchange, Line, datetime] | None) -> None:
        if answer is None:
            return
        exchange, line, at = answer
        try:
            verdict = self._settle(exchange, line, at)
        except Exception as error:
            error.add_note(f"row {exchange.message.row_id}")
            raise
        self._begun.verdict = verdict
        if verdict is not None:
            line.answered(verdict)

    def _settle(self, exchange: Exchange, line: Line | None, at: datetime) -> Verdict | None:
        begun = self._begun.rows.pop(exchange.message.row_id)
        decision = self.weigh.exchange(begun, exchange, line, at)
        self._carry_out(decision, line, at, begun, exchange.seconds)
        return decision.verdict

    def _carry_out(
        self,
        decision: Decision,
        line: Line | None,
        at: datetime,
        just_now: Prepared | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Record first; then what pauses holds for the rows in hand as well."""
        retry = self._retry_of(line)
        for begun, verdict in decision.record:
            self.outcomes.judged(begun, verdict, retry, at, seconds=seconds if begun is just_now else 0.0)
        if line is not None:
            self._pause(self.weigh.pauses(decision, line))

    def _retry_of(self, line: Line | None) -> RetrySettings:
        return line.retry if line is not None else self.outcomes.retry

    # --- what the worker asks and tells ---

    def settle_withheld(self) -> None:
        """Nothing more is coming: record the withheld refusals as genuine, and write everything down."""
        self._release(as_judged=True)

    def excuse_withheld(self) -> None:
        """We stop before it is known whether they are an incident: give them back, and write everything down."""
        self._release(as_judged=False)

    def _release(self, *, as_judged: bool) -> None:
        for decision, line in self.weigh.released(as_judged=as_judged):
            if decision.record:
                self._carry_out(decision, line, self.time.now())
        self.outcomes.recorder.flush()

    @property
    def in_hand(self) -> set[int]:
        """Ids of claimed rows that are not written down yet."""
        return self.outcomes.recorder.in_hand | self.weigh.withheld | set(self._begun.rows)

    @property
    def trouble(self) -> str | None:
        """What keeps mail from going out, in words."""
        said = [self.held, *(line.trouble for line in self.lines.values())]
        return "; ".join(words for words in said if words) or None

    def troubled(self, line: Line, trouble: RelayTrouble) -> None:
        """A relay could not be used."""
        line.troubled(trouble)
        line.let_go()
        self._pause(self.weigh.at_the_door(line, trouble))

    def settle_again(self, row: ClaimedRow, exchange: Exchange, at: datetime) -> None:
        """What the journal knows of a row that is not written down yet takes the same road as news from the wire."""
        self.time.set(at)
        self._begun.rows[row.id] = prepared_again(row, exchange.message, self.composing.composer)
        self._settle(exchange, None, at)

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
            if wait > SHORT_REST_S or not self._waited(min(wait, STEP_S)):
                return None
        return None

    def _waited(self, seconds: float) -> bool:
        """For a slot, or for the only relay (Rule 5). False: nothing more may be begun."""
        self.bounds.progressed()
        # Not flushed: where the database answers late, slots would pass meanwhile.
        if not self.outcomes.recorder.flush_if_due() or self.bounds.stop.wait(seconds):
            return False
        self._has_more(afresh=self.bounds.called())
        self._look()  # now rather than at the slot
        return True

    def _wait_for(self, line: Line) -> float:
        return max(line.resting, self._until_slot(line))

    def _until_slot(self, line: Line) -> float:
        now = self.time.now()
        row = self.pending.first(line.name, now)
        return (row.grant.at - now).total_seconds() if row and row.grant.at else 0.0

    def _is_quiet(self) -> bool:
        """Nothing is overdue, so that another row may be begun. False as `Recorder.flush` says it."""
        if not self.pending:
            self._catch_up()  # now we may have to wait for rows
        return self.outcomes.recorder.flush_if_due()

    def _may_go_on(self) -> bool:
        return not self.bounds.stop.is_set() and self.bounds.may_begin() and self.shared_limits.is_open

    def _is_others_turn(self, line: Line, began: float) -> bool:
        """Relays take turns; a row whose slot would pass has its turn at once."""
        if len(self.lines) == 1:
            return False
        others = [name for name in self.pending.relays() if name != line.name and not self.lines[name].resting]
        if not others:
            return False
        now = self.time.now()
        return self.time.seconds() - began >= TURN_S or any(
            is_pressing(self.pending.first(name, now), now) for name in others
        )

    # --- the rows in hand ---

    def _came(self, rows: Sequence[ClaimedRow]) -> None:
        """More rows are in hand."""
        # No earlier than the claim: rows that were claimed ahead may have come long after it.
        self.time.set(max((self.shared_limits.now(), *(row.claimed_at for row in rows))))
        self._slots.count(rows)
        self.composing.look_up(self.pending)

    def _has_more(self, *, afresh: bool = False) -> bool:
        """Whether there is a row to go on with; what was claimed ahead joins those in hand."""
        if rows := self.ahead.rows(len(self.pending), afresh=afresh):
            self.pending.add(rows)  # first: whatever is raised now, they are handed back
            self._came(rows)
            self._release_what_cannot_go()  # what was heard since they were claimed holds for them too
        return bool(self.pending)

    def _look(self, using: Line | None = None) -> None:
        """Now and then: has an operator paused or cancelled rows not begun, does a session lie idle?"""
        if withdrawn := self.returns.withdrawn():
            self.returns.let_go(self.pending.remove(lambda row, _: row.id in withdrawn))
        if self.returns.is_asking or self.time.seconds() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = self.time.seconds()
        self.returns.ask(self.pending)
        self.shared_limits.look()
        self._release_what_cannot_go()
        # Where the database answers late, slots would pass while we look.
        self._looked_at += LOOK_SHARE * (self.time.seconds() - self._looked_at)
        if len(self.lines) > 1:
            for line in self.lines.values():
                if line is not using:
                    line.close_if_idle()

    def _release_what_cannot_go(self) -> None:
        """Rule 4. The only relay, and a short rest, are waited for (Rule 5); for one of several, others take over."""
        now = self.time.now()
        bearable = SHORT_REST_S if len(self.lines) == 1 else 0.0
        away = {name for name, line in self.lines.items() if line.resting > bearable}
        gone = self.pending.remove(
            lambda row, relay: relay in away or is_missed(row, now) or self.shared_limits.is_paused(row, relay)
        )
        late = [row for row in gone if is_missed(row, now)]
        found = {row.id: self._routes.by_another(row, away) for row in gone if not is_missed(row, now)}
        others = {row_id: other for row_id, other in found.items() if other is not None}
        self.pending.add(others.values())
        self._slots.missed(late)
        self.returns.let_go([row for row in gone if row.id not in others])

    def _pause(self, scopes: Collection[ScopeKey]) -> None:
        """What falls under these waits."""
        if scopes:
            limits = self.shared_limits
            self.returns.let_go(self.pending.remove(lambda row, relay: limits.falls_under(row, scopes, relay)))

    def _let_wait(self, row: ClaimedRow, scopes: Collection[ScopeKey]) -> None:
        """It falls under scopes that it was not claimed for, and has no slot there: it goes back, with its like.

        One of several recipients may be elsewhere, or what a domain belongs to was not known.
        """
        like = self.pending.remove(
            lambda other, _: other.id != row.id and self.shared_limits.falls_under(other, scopes, "")
        )
        self.returns.let_go([row, *like])

    def _break_off(self) -> None:
        """Rule 8. After a batch that went to its end there is nothing left to do."""
        left = self.pending.clear()
        try:
            self.returns.see_all()
            for line in self.lines.values():
                if self._begun.committed:  # what could not come out of the courier because something was raised
                    self._settle_the_rest(line)
        finally:
            begun = (prepared.row for prepared in self._begun.rows.values())
            rows = [*begun, *left, *self.pending.clear(), *self.ahead.rest()]
            self._begun.rows.clear()
            self.returns.give_back(rows)

    def _settle_the_rest(self, line: Line) -> None:
        with suppress(RelayTrouble):  # of a relay that has nothing to tell, and whose session is over
            for exchange in self._carried(line, iter(())):
                self._answered(exchange, line)
                self._catch_up()
