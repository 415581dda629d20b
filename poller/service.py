"""The service: ticks, the lease, signals, shutdown. It wires the rooms together and decides nothing about a row.

Rule 1. A tick drains: it claims and delivers until nothing is due, the relay must rest, or a stop is asked for.
Rule 2. The heartbeat renews the lease only while the delivering thread progresses; without a lease nothing is begun,
        and when it ends in mid-transaction the line is cut.
Rule 3. A database or relay that is away is waited for, said once, and said again when it changes.
Rule 4. What nobody foresaw ends the process (exit 1): the next start judges what it held. It is never swallowed.
Rule 5. SIGTERM and SIGINT: the message in hand finishes within `stop_timeout`, the rest is handed back. A second one
        cuts the line.
Rule 6. An outbox that is not at home here is left alone (`poller.outbox.guard`).

The scheduler lives on the wall clock; the main thread watches the monotonic one.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor as Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from poller.ahead import Ahead
from poller.delivery import Delivery
from poller.exchange import RelayTrouble
from poller.journal import Journal, JournalTrouble
from poller.lease import Lease, Watch, boot_clock
from poller.ledger import Ledger
from poller.life import Life
from poller.log import OnChange, get_logger
from poller.message import Composer
from poller.outbox import report
from poller.outbox.database import DatabaseRefused, DatabaseUnavailable, connect
from poller.outbox.guard import home_of, stranger
from poller.outbox.listen import Ear
from poller.outbox.migrate import SchemaTrouble
from poller.outbox.rows import NameTaken
from poller.outbox.store import Store
from poller.recovery import Recovery
from poller.rest import Rest
from poller.smtp.courier import Courier
from poller.state import StateDirectory, boot, default_directory
from poller.throttle.gate import Gate

if TYPE_CHECKING:
    from collections import Counter

    from poller.config import Config
    from poller.exchange import Message, Reply
    from poller.log import Logger
    from poller.outbox.rows import ClaimedRow

Mode = Literal["forever", "once", "drain"]

TRANSACTION_SPARE_S = 60.0  # beyond the final reply's timeout: what a transaction needs besides
STEP_S = 1.0  # by which the wall clock must leave the monotonic one to count as set
WATCH_S = 0.5  # how often the main thread looks at the monotonic clock
CUT_GRACE_S = 5.0  # after the line was cut, for the delivering thread to write down what it knows
ORPHAN_CHECK_S = 30.0
UNFINISHED = frozenset({"failed", "partial", "in_doubt"})
"""Row statuses that make `--once` and `--drain` exit 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """How a run ended: rows written by status, whether work is left, and the exit code that follows."""

    written: Counter[str]
    left: int
    crashed: bool = False
    refused: str = ""
    """Why it could not begin at all, with the remedy."""

    @property
    def exit_code(self) -> int:
        """0 if nothing ended failed or in doubt and nothing is left to do, else 1."""
        return int(self.crashed or self.left > 0 or any(self.written[status] for status in UNFINISHED))


class Service:
    """One worker. `run` returns when it has stopped; `stop` may be called from a signal handler or another thread."""

    def __init__(self, config: Config, *, mode: Mode = "forever", limit: float | None = None) -> None:
        self.config = config
        self.mode = mode
        self._limit = limit
        self._clock = time.monotonic
        self._log: Logger = get_logger()
        self._say = OnChange(self._log)
        self._stop = threading.Event()
        self._abandon = threading.Event()
        self._wishes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._woken = threading.Event()
        self._name = config.worker.name or socket.gethostname()
        where = config.worker.state_dir
        self._state = StateDirectory(Path(where) if where else default_directory(self._name, os.environ))
        self._engine = connect(config.database)
        self._home = home_of(config.database)
        self._unsure = threading.Event()
        self._bookkeeper = Executor(1, thread_name_prefix="bookkeeper")
        self._lease = Lease(boot_clock, config.worker.takeover, spare=config.smtp.end_timeout + TRANSACTION_SPARE_S)
        self._claimed_in = 0
        self._cut = False
        self._progress_at = self._clock()
        self._orphans_at = 0.0
        self._left = 1  # until it was counted
        self._refused = ""
        self._was_paused = False
        self._database_away = False
        self._at_home = False
        self._wall_offset = time.time() - boot_clock()
        # Two threads: one delivers, one keeps us alive.
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"deliver": ThreadPoolExecutor(1), "heartbeat": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._wire_up()
        self._ear = Ear(self._engine, heard=self._wake, lost=self._ear_lost) if config.poll.listen else None

    def _wire_up(self) -> None:
        config = self.config
        composer = Composer(config.message, config.templates, host_name=socket.getfqdn())
        self.store = Store(self._engine, worker=self._name, message_id_domain=composer.message_id_domain)
        self.courier = self._courier()
        self.journal = Journal(
            self._state.path,
            boot=boot(),
            sync=config.worker.journal_sync,
            keep=config.worker.journal_keep,
            keep_size=config.worker.journal_keep_size,
        )
        self.ledger = Ledger(
            self.store,
            bookkeeper=self._bookkeeper,
            clock=self._clock,
            journal=self.journal,
            abandon=self._abandon,
            unsure=self._unsure,
            progressed=self._progressed,
            log=self._log,
        )
        self.delivery = Delivery(
            store=self.store,
            courier=self.courier,
            composer=composer,
            ledger=self.ledger,
            ahead=Ahead(
                bookkeeper=self._bookkeeper,
                claim=lambda limit: self.store.claim_ahead(Gate(limit=limit)),
                batch=config.poll.batch_size,
                may_claim=self._may_claim_ahead,
                unavailable=self._database_lost,
            ),
            rest=Rest(first=config.smtp.rest_first, longest=config.smtp.rest_longest),
            retry=replace(config.retry, on_doubt=config.smtp.on_doubt or config.retry.on_doubt),
            recipients_at_once=config.smtp.max_recipients_per_message,
            journal=self.journal,
            clock=self._clock,
            stop=self._stop,
            may_begin=lambda: self._lease.allows_another and self._is_same_claim and not self._unsure.is_set(),
            may_finish=lambda: not self._lease.ended and self._is_same_claim,
            progressed=self._progressed,
            log=self._log,
        )
        self.recovery = Recovery(
            store=self.store,
            journal=self.journal,
            ledger=self.ledger,
            delivery=self.delivery,
            watch=Watch(boot_clock, config.worker.takeover),
            takeover=config.worker.takeover,
            progressed=self._progressed,
            log=self._log,
        )
        self.life = Life(
            store=self.store,
            state=self._state,
            journal=self.journal,
            lease=self._lease,
            recovery=self.recovery,
            delivery=self.delivery,
            unsure=self._unsure,
            log=self._log,
        )

    def _courier(self) -> Courier:
        return Courier(
            self.config.smtp,
            committing=self._committing,
            session_events=self._session_event,
        )

    def _committing(self, message: Message, rcpt: tuple[Reply | None, ...]) -> None:
        self.delivery.commit(message, rcpt)

    @property
    def _is_same_claim(self) -> bool:
        """The lease under which the rows in hand were claimed has not ended meanwhile."""
        return self._lease.epoch == self._claimed_in

    # --- the main thread ---

    def run(self, *, signals: bool = True) -> Finished:
        """Work until stopped, or until the mode's end."""
        if signals:
            self._listen_to_signals()
        self._schedule(self._scheduler)
        self._scheduler.start()
        if self._ear is not None:
            self._ear.start()
        try:
            crashed = self._watch()
        finally:
            self._shut_down(self._scheduler)
        return Finished(written=self.ledger.written, left=self._left, crashed=crashed, refused=self._refused)

    def stop(self) -> None:
        """Ask for an orderly end; a second time: cut the line. Safe in a signal handler."""
        self._wishes.put("stop")

    def _listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._wishes.put("stop"))

    def _schedule(self, scheduler: BackgroundScheduler) -> None:
        scheduler.add_listener(self._crashed, EVENT_JOB_ERROR)
        now = datetime.now(UTC)
        poll, beat = self.config.poll.interval, self.config.worker.heartbeat
        scheduler.add_job(self._tick, "interval", seconds=poll, id="tick", executor="deliver", next_run_time=now)
        scheduler.add_job(self._beat, "interval", seconds=beat, id="heartbeat", executor="heartbeat")

    def _crashed(self, event: JobExecutionEvent) -> None:
        self._log.error("tick.failed", job=event.job_id, reason=repr(event.exception), traceback=event.traceback)
        self._wishes.put("crashed")

    def _watch(self) -> bool:
        """Wait for a wish; look at the clock meanwhile. Returns whether the service crashed."""
        deadline = self._clock() + self._limit if self._limit else None
        while True:
            try:
                wish = self._wishes.get(timeout=WATCH_S)
            except queue.Empty:
                if deadline is not None and self._clock() >= deadline:
                    return False
                self._cut_if_the_lease_ended()
                self._follow_the_wall_clock()
                continue
            return wish == "crashed"

    def _follow_the_wall_clock(self) -> None:
        """The scheduler lives by it: when it is set back, everything would wait until it has caught up."""
        offset = time.time() - boot_clock()
        stepped, self._wall_offset = abs(offset - self._wall_offset) > STEP_S, offset
        if stepped:
            for job in ("tick", "heartbeat"):
                self._scheduler.modify_job(job, next_run_time=datetime.now(UTC))

    def _cut_if_the_lease_ended(self) -> None:
        if self.life.incarnation is None or not self._lease.ended:
            return
        if not self._idle.is_set() and not self._cut:
            self._cut = True
            self.courier.interrupt()
        self._say.say("error", "worker.lease_lost", about="lease")

    def _shut_down(self, scheduler: BackgroundScheduler) -> None:
        self._log.info("worker.stopping", worker=self._name)
        self._stop.set()
        if self._ear is not None:
            self._ear.stop()
        scheduler.pause()
        if not self._wait_until_idle(self.config.worker.stop_timeout):
            self._abandon.set()
            self.courier.interrupt()
            self._wait_until_idle(CUT_GRACE_S)
        scheduler.shutdown(wait=self._idle.is_set())
        self.courier.close()
        self._sign_off()
        self._bookkeeper.shutdown(wait=self._idle.is_set())
        self.journal.close()
        self._engine.dispose()
        self._state.release()
        self._log.info("worker.stopped", worker=self._name, **dict(self.ledger.written))

    def _wait_until_idle(self, seconds: float) -> bool:
        deadline = self._clock() + seconds
        while not self._idle.is_set() and self._clock() < deadline:
            try:
                self._wishes.get(timeout=0.05)
            except queue.Empty:
                continue
            return False
        return self._idle.is_set()

    def _sign_off(self) -> None:
        try:
            if self.mode != "forever":
                self._count_left()
            self.life.end()
        except DatabaseUnavailable as why:
            self._log.warning("database.unavailable", reason=str(why))

    # --- the delivering thread ---

    def _wake(self) -> None:
        """New rows may be there: look at once.

        By a job of its own: to move the tick forward while it is just ending would be in vain. A look that is still
        waiting for its turn is enough.
        """
        self._woken.set()
        if self._idle.is_set() and not self._stop.is_set():
            now = datetime.now(UTC)
            look = self._scheduler.add_job
            look(
                self._tick, "date", run_date=now, id="look", executor="deliver", replace_existing=True, max_instances=2
            )

    def _ear_lost(self, why: str) -> None:
        self._say.say("warning", "database.unavailable", about="ear", fingerprint=why, reason=why)

    def _tick(self) -> None:
        self._idle.clear()  # before looking at `stop`: who stops us waits for this
        self._woken.clear()
        try:
            if not self._stop.is_set():
                self._drain()
        except DatabaseUnavailable as why:
            self._database_lost(why)
            if self.mode == "once":
                self._wishes.put("done")
        except JournalTrouble as why:
            self._cannot_journal(why)
        except (NameTaken, SchemaTrouble, DatabaseRefused) as why:
            self._refused = str(why)
            self._wishes.put("crashed")
        finally:
            if not self._stop.is_set():  # the scheduler's own lock is held while it shuts down
                self._leave_the_line()
            self._idle.set()
            if self._woken.is_set():  # somebody called while nobody listened
                self._wake()

    def _leave_the_line(self) -> None:
        """The session may be of use to the next tick for `idle_close` seconds, and no longer."""
        if self.courier.is_open:
            left = max(0.0, self.config.smtp.idle_close - self.courier.idle_seconds)
            when = datetime.now(UTC) + timedelta(seconds=left)
            close = self.courier.close_if_idle
            self._scheduler.add_job(close, "date", run_date=when, id="idle", executor="deliver", replace_existing=True)

    def _drain(self) -> None:
        self.life.begin()
        nothing_more = False
        try:
            while not self._stop.is_set() and (self._batch() or self._called_again()):
                self._breathe()
            nothing_more = not self._stop.is_set()
        finally:
            conclude = self.delivery.settle_withheld if nothing_more else self.delivery.excuse_withheld
            conclude()
        self._end_if_done()

    def _called_again(self) -> bool:
        """New rows came while we looked."""
        was_called = self._woken.is_set()
        self._woken.clear()
        return was_called

    def _breathe(self) -> None:
        """Wait between two batches, with nothing unwritten meanwhile."""
        if self.config.poll.batch_pause:
            self.ledger.flush()
            self._progressed()
            self._stop.wait(self.config.poll.batch_pause)

    def _cannot_journal(self, why: JournalTrouble) -> None:
        """Nothing is sent until it can be written; where it was taken away, another process has to begin anew."""
        self.delivery.trouble = str(why)
        self._say.say("error", "journal.unavailable", about="journal", fingerprint=str(why), reason=str(why))
        if why.is_gone or self.mode == "once":
            self._wishes.put("crashed")

    def _recover(self) -> None:
        """Look now and then after the rows of others, however busy we are."""
        if self._clock() >= self._orphans_at:
            self._orphans_at = self._clock() + min(ORPHAN_CHECK_S, self.config.worker.takeover / 4)
            self.recovery.others()

    def _batch(self) -> bool:
        """One batch. False: nothing to do now."""
        self._progressed()
        self._renew_courier()
        self.life.make_sure()
        self._recover()
        if not self._lease.allows_another or self._is_paused() or self._is_elsewhere() or not self._rested():
            return False
        self._require_journal()
        try:
            self.store.take_back_strays(in_hand=self.delivery.in_hand)  # they may be all that is due
            if not self.courier.is_open and not self.store.anything_due():
                return False
            self.courier.open()
        except RelayTrouble as trouble:
            self.delivery.troubled(trouble)
            return self.mode != "once"
        rows = self._claim()
        if not rows and self.ledger.in_hand and self.ledger.flush():
            rows = self._claim()  # what was written just now may be due at once
        if not rows:
            return False
        self._log.debug("batch.claimed", rows=len(rows))
        self.delivery.deliver(rows)
        return True

    def _may_claim_ahead(self) -> bool:
        """A batch ends when a pause is to follow, or when it is time to look after others. Raises JournalTrouble."""
        self.journal.require()
        may_go_on = not self.config.poll.batch_pause and self._clock() < self._orphans_at
        return may_go_on and self.store.may_claim_ahead and self.delivery.may_begin()

    def _database_lost(self, why: DatabaseUnavailable) -> None:
        self._say.say("error", "database.unavailable", about="database", fingerprint=str(why), reason=str(why))
        self._database_away = True
        self._unsure.set()

    def _renew_courier(self) -> None:
        """One whose line was cut when the lease ended is done for."""
        if self._cut and self._lease.allows_another:
            self.courier = self._courier()
            self.delivery.courier = self.courier
            self._cut = False

    def _claim(self) -> list[ClaimedRow]:
        self._claimed_in = self._lease.epoch
        return self.store.claim(Gate(limit=self.config.poll.batch_size), in_hand=self.delivery.in_hand)

    def _rested(self) -> bool:
        """Wait until the relay may be used again. False: a stop was asked for, or the mode does not wait."""
        remaining = self.delivery.rest.remaining(self._clock())
        if not remaining:
            return True
        self.ledger.flush()
        self.courier.close()
        while remaining := self.delivery.rest.remaining(self._clock()):
            self._progressed()
            if self._stop.wait(min(remaining, WATCH_S)):
                return False
        return True

    def _is_paused(self) -> bool:
        why = self.store.paused()
        self._say_database_is_back()
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
        why = stranger(self._engine, self._home)
        self._at_home = not why
        if why:
            self.delivery.trouble = why
            self._say.say("error", "outbox.held", about="home", reason=why)
        elif self._say.said("outbox.held", about="home"):
            self._say.say("info", "outbox.resumed", about="home")
            self.delivery.trouble = None
        return bool(why)

    def _require_journal(self) -> None:
        self.journal.require()
        if self._say.said("journal.unavailable", about="journal"):
            self._say.say("info", "journal.available", about="journal")
            self.delivery.trouble = None

    def _end_if_done(self) -> None:
        if self.mode == "forever" or self._stop.is_set():
            return
        self._count_left()
        if self.mode == "once" or not self._left:
            self._log.info("drain.finished", left=self._left, **dict(self.ledger.written))
            self._wishes.put("done")

    def _count_left(self) -> None:
        self._left = report.open_rows(self._engine, retries=self.mode == "drain")

    def _say_database_is_back(self) -> None:
        if self._database_away:
            self._say.say("info", "database.available", about="database")
            self._database_away = False

    def _progressed(self) -> None:
        self._progress_at = self._clock()

    # --- the heartbeat's thread ---

    def _beat(self) -> None:
        stuck = not self._idle.is_set() and self._clock() - self._progress_at > self.config.worker.takeover
        if stuck or self.life.beat():  # Rule 2: alive is not enough
            return
        self._log.error("worker.lease_lost", reason=f"another process works under the name {self._name!r}")
        self._wishes.put("crashed")

    def _session_event(self, event: str, facts: dict[str, Any]) -> None:
        self._log.info(event, **facts)
