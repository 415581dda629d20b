"""The delivering thread: what a tick does.

Rule 1. A tick drains: it claims and delivers until nothing is due, the relays must rest, or a stop is asked for.
Rule 2. A database or relay that is away is waited for, said once, and said again when it changes.
Rule 3. An outbox that is not at home here is left alone (`poller.outbox.guard`).
Rule 4. What has to wait for its time, a slot or a window, is looked for when that time comes: `look_at` says when.
Rule 5. Without a lease nothing is begun. Where it has ended in mid-transaction the line was cut, and is made anew.

Raises DatabaseUnavailable, JournalTrouble, NameTaken, SchemaTrouble, DatabaseRefused from `run`: the service knows what
follows.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, Literal

from poller.delivery.throttle import LOOK_EVERY_S
from poller.exchange import RelayTrouble
from poller.log import OnChange
from poller.outbox import report
from poller.outbox.guard import home_of, stranger
from poller.pacing.gate import Gate
from poller.worker.lease import Lease, boot_clock
from poller.worker.wiring import Asks, Ground, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Executor

    from poller.config.load import Config
    from poller.delivery.session import Line
    from poller.log import Logger
    from poller.outbox.database import DatabaseUnavailable, Engine
    from poller.outbox.rows import ClaimedRow
    from poller.worker.state import StateDirectory
    from poller.worker.wiring import Flags, Parts

Mode = Literal["forever", "once", "drain"]

TRANSACTION_SPARE_S: Final = 60.0  # beyond the final reply's timeout: what a transaction needs besides
REST_STEP_S: Final = 0.5  # of a wait for the relay
ORPHAN_CHECK_S: Final = 30.0
LONGEST_WAIT_S: Final = 60.0  # that `--once` waits for a slot
RESTS_WAITED_FOR: Final = 3  # in a row, by `--once`, of one relay while another is there


class Tick:
    """All that belongs to the delivering thread. `run` is one tick; `left` what was left to do after the last one."""

    def __init__(
        self,
        config: Config,
        *,
        name: str,
        engine: Engine,
        state: StateDirectory,
        bookkeeper: Executor,
        flags: Flags,
        mode: Mode,
        log: Logger,
        look_at: Callable[[float], None],
    ) -> None:
        self.config = config
        self.mode = mode
        self.left = 1  # until it was counted
        self.done = False
        """Nothing is left that this mode waits for."""
        self.progress_at = time.monotonic()
        self.flags = flags
        spare = max(relay.end_timeout for relay in (config.smtp, *config.relays.values())) + TRANSACTION_SPARE_S
        self.lease = Lease(boot_clock, config.worker.takeover, spare=spare)
        self._engine = engine
        self._clock = time.monotonic
        self._log = log
        self._say = OnChange(log)
        self._look_at = look_at
        self._claimed_in = 0
        self._cut = False
        self._orphans_at = 0.0
        self._was_paused = False
        self._database_away = False
        self._at_home = False
        asks = Asks(
            is_same_claim=lambda: self.lease.epoch == self._claimed_in,
            may_claim_ahead=self._may_claim_ahead,
            database_lost=self.database_lost,
            progressed=self._progressed,
        )
        ground = Ground(
            config=config,
            name=name,
            engine=engine,
            state=state,
            bookkeeper=bookkeeper,
            flags=flags,
            lease=self.lease,
            asks=asks,
            log=log,
            say=self._say,
        )
        self._take(parts_of(ground))

    def _take(self, parts: Parts) -> None:
        self.store, self.journal, self.exchangers = parts.store, parts.journal, parts.exchangers
        self.delivery, self.recorder, self.shared_limits = parts.delivery, parts.recorder, parts.shared_limits
        self.recovery, self.life = parts.recovery, parts.life
        self._claiming = parts.claiming

    @property
    def lines(self) -> Collection[Line]:
        """The relays."""
        return self.delivery.lines.values()

    # --- from other threads ---

    def cut_if_the_lease_ended(self) -> None:
        """Others may judge our rows now: end whatever is being sent."""
        if self.life.incarnation is None or not self.lease.ended:
            return
        if not self.flags.idle.is_set() and not self._cut:
            self._cut = True
            self.interrupt()
        self._say.say("error", "worker.lease_lost", about="lease")

    def interrupt(self) -> None:
        """End every wait for a relay."""
        for line in self.lines:
            line.courier.interrupt()

    @property
    def is_stuck(self) -> bool:
        """The delivering thread is at work, and has not come on for as long as a takeover."""
        return not self.flags.idle.is_set() and self._clock() - self.progress_at > self.config.worker.takeover

    # --- the delivering thread ---

    def run(self) -> None:
        """Drain (Rule 1)."""
        self.flags.woken.clear()
        self._claiming.afresh = True
        self.life.begin()
        self.shared_limits.begin()
        nothing_more = False
        try:
            while not self.flags.stop.is_set() and (self._batch() or self._called_again() or self._waited_a_moment()):
                self._breathe()
            nothing_more = not self.flags.stop.is_set()
        finally:
            conclude = self.delivery.settle_withheld if nothing_more else self.delivery.excuse_withheld
            conclude()
        self._say_database_is_back()
        self._end_if_done()

    def _called_again(self) -> bool:
        """New rows came while we looked."""
        was_called = self.flags.woken.is_set()
        self.flags.woken.clear()
        self._claiming.afresh |= was_called
        return was_called

    def _waited_a_moment(self) -> bool:
        """Rule 4: have somebody look when the time of what waits has come; `--once` waits for it, if not for long."""
        seconds = self._until_something_may_go()
        if seconds is None or self.flags.stop.is_set():
            return False
        if self.mode == "once" and seconds <= LONGEST_WAIT_S and self.store.anything_due(Gate(limit=1)):
            self.recorder.flush()
            self._progressed()
            return not self.flags.stop.wait(seconds)
        soon = min(seconds, LOOK_EVERY_S)  # a person may have changed a limit, or ended a rest
        if soon < self.config.poll.interval:
            self._look_at(soon)
        return False

    def _until_something_may_go(self) -> float | None:
        """Seconds until a slot, a window, or the end of a rest; `--once` gives up a relay that only has troubles."""
        most = RESTS_WAITED_FOR if self.mode == "once" else sys.maxsize
        waits = [line.resting for line in self.lines if line.resting and line.rest.troubles <= most]
        when = self.shared_limits.next_at()
        if when is not None:
            waits.append(max(0.0, (when - self.shared_limits.now()).total_seconds()))
        return min(waits, default=None)

    def _breathe(self) -> None:
        """Wait between two batches, with nothing unwritten meanwhile."""
        if self.config.poll.batch_pause:
            self.recorder.flush()
            self._progressed()
            self.flags.stop.wait(self.config.poll.batch_pause)

    def cannot_journal(self, why: str) -> None:
        """Nothing is sent until it can be written."""
        self.delivery.held = why
        self._say.say("error", "journal.unavailable", about="journal", fingerprint=why, reason=why)

    def _recover(self) -> None:
        """Look now and then after the rows of others, however busy we are."""
        if self._clock() >= self._orphans_at:
            self._orphans_at = self._clock() + min(ORPHAN_CHECK_S, self.config.worker.takeover / 4)
            self.recovery.others()

    def _batch(self) -> bool:
        """One batch. False: nothing to do now."""
        self._progressed()
        self._renew_courier()
        self._at_home &= self.life.make_sure()
        self._recover()
        if not self.lease.allows_another or self._is_paused() or self._is_elsewhere() or not self._rested():
            return False
        self._require_journal()
        self.store.take_back_strays(in_hand=self.delivery.in_hand)  # they may be all that is due
        self._look()
        if self._is_closed():
            return False
        if not any(line.courier.is_open for line in self.lines):
            gate = self._claiming.gate()
            if not (gate.limit and self.store.anything_due(gate)):
                return False
            if len(self.lines) == 1 and not self._reached(*self.lines):
                return self.mode != "once" and not self.flags.stop.is_set()
        rows = self._claim()
        self._say_database_is_back()  # not before: one that only reads is still away
        if not rows and self.recorder.in_hand and self.recorder.flush():
            rows = self._claim()  # what was written just now may be due at once
        if not rows:
            return False
        self._log.debug("batch.claimed", rows=len(rows))
        self.delivery.deliver(rows)
        return True

    def _reached(self, line: Line) -> bool:
        """Where there is but one relay nothing is claimed before it is known to be there."""
        try:
            return line.open()
        except RelayTrouble as trouble:
            self.delivery.troubled(line, trouble)
            return False

    def _is_closed(self) -> bool:
        """Outside the windows nothing is claimed; said once."""
        if self.shared_limits.is_open:
            if self._say.said("outbox.closed", about="hours"):
                self._say.say("info", "outbox.opened", about="hours")
            return False
        opens = self.shared_limits.opens_at().isoformat(timespec="minutes")
        self._say.say("info", "outbox.closed", about="hours", fingerprint=opens, until=opens)
        return True

    def _may_claim_ahead(self) -> bool:
        """A batch ends when a pause is to follow, or when it is time to look after others. Raises JournalTrouble."""
        self.journal.require()
        may_go_on = not self.config.poll.batch_pause and self._clock() < self._orphans_at
        return may_go_on and self.store.may_claim_ahead and self.delivery.bounds.may_begin()

    def database_lost(self, why: DatabaseUnavailable) -> None:
        """Say so, and make sure of everything when it is back."""
        words, remedy = str(why), why.remedy
        self._say.say("error", "database.unavailable", about="database", fingerprint=words, reason=words, remedy=remedy)
        self._database_away = True
        self.flags.unsure.set()

    def _renew_courier(self) -> None:
        """One whose line was cut when the lease ended is done for."""
        if self._cut and self.lease.allows_another:
            for line in self.lines:
                line.renew()
            self._cut = False

    def _claim(self) -> list[ClaimedRow]:
        self._claimed_in = self.lease.epoch
        self.store.take_back_strays(in_hand=self.delivery.in_hand)
        return self._claiming.claim()()

    def _rested(self) -> bool:
        """Wait until a relay may be used again. False: a stop was asked for, or the mode does not wait."""
        if not self._all_rest:
            return True
        self.recorder.flush()
        for line in self.lines:
            line.close()
        while self._all_rest:
            self._progressed()
            if self.flags.stop.wait(min(self._all_rest, REST_STEP_S)):
                return False
            self._look()
        return True

    def _look(self) -> None:
        """What all workers know of limits and relays: a person may have ended a rest."""
        self.shared_limits.look()
        for line in self.lines:
            line.take_in(self.shared_limits.learnt.get(line.name))

    @property
    def _all_rest(self) -> float:
        """Seconds until the first relay may be used again; 0 if one may be used now."""
        return min(line.resting for line in self.lines)

    def _is_paused(self) -> bool:
        why = self.store.paused()
        if why is not None:
            self._say.say("warning", "outbox.paused", about="switch", fingerprint=why, reason=why)
        elif self._was_paused:
            self._say.say("info", "outbox.resumed", about="switch")
        self._was_paused = why is not None
        return self._was_paused

    def _is_elsewhere(self) -> bool:
        """Leave an outbox alone that looks like a copy of another, until it is adopted."""
        if self._at_home:
            return False
        why = stranger(self._engine, home_of(self.config.database, self._engine))
        self._at_home = not why
        if why:
            self.delivery.held = why
            self._say.say("error", "outbox.held", about="home", reason=why)
        elif self._say.said("outbox.held", about="home"):
            self._say.say("info", "outbox.resumed", about="home")
            self.delivery.held = None
        return bool(why)

    def _require_journal(self) -> None:
        self.journal.require()
        if self._say.said("journal.unavailable", about="journal"):
            self._say.say("info", "journal.available", about="journal")
            self.delivery.held = None

    def _end_if_done(self) -> None:
        if self.mode == "forever" or self.flags.stop.is_set():
            return
        self.count_left()
        if self.mode == "once" or not self.left:
            self._log.info("drain.finished", left=self.left, **dict(self.recorder.written))
            self.done = True

    def count_left(self) -> None:
        """How much is left that this mode waits for."""
        self.left = report.open_rows(self._engine, retries=self.mode == "drain")

    def _say_database_is_back(self) -> None:
        if self._database_away:
            self._say.say("info", "database.available", about="database")
            self._database_away = False

    def _progressed(self) -> None:
        self.progress_at = self._clock()
