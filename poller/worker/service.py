"""The service: ticks, the lease, signals, shutdown. It decides nothing about a row.

Rule 1. A tick (`poller.worker.loop`) runs every `interval`, and whenever new rows are announced or something's time
        has come.
Rule 2. The heartbeat renews the lease only while the delivering thread progresses; without a lease nothing is begun,
        and when it ends in mid-transaction the line is cut.
Rule 3. What nobody foresaw ends the process (exit 1): the next start judges what it held. It is never swallowed. What
        the database says is waited for, whatever it is.
Rule 4. SIGTERM and SIGINT: the message in hand finishes within `stop_timeout`, the rest is handed back. A second one
        cuts the line.

The scheduler lives on the wall clock; the main thread watches the monotonic one.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor as Executor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from poller.journal import JournalTrouble
from poller.log import OnChange, get_logger
from poller.outbox.database import DatabaseRefused, DatabaseUnavailable, connect
from poller.outbox.listen import Ear
from poller.outbox.migrate import SchemaTrouble
from poller.outbox.retention import purge
from poller.outbox.rows import NameTaken
from poller.statuses import FAILS_A_RUN
from poller.worker.lease import boot_clock
from poller.worker.loop import Mode, Tick
from poller.worker.notify import Supervisor
from poller.worker.state import StateDirectory, default_directory
from poller.worker.wiring import Flags

if TYPE_CHECKING:
    from collections import Counter

    from poller.config.load import Config
    from poller.log import Logger

STEP_S = 1.0  # by which the wall clock must leave the monotonic one to count as set
WATCH_S = 0.5  # how often the main thread looks at the monotonic clock
PURGE_EVERY_S = 600.0
CUT_GRACE_S = 5.0  # after the line was cut, for the delivering thread to write down what it knows
BESIDE = frozenset({"purge", "alerts", "batches"})
"""Jobs beside the mail: an error in one of them is told, and stops no mail. It runs again at its next time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """How a run ended: rows written by status, whether work is left, and the exit code that follows."""

    written: Counter[str]
    left: int
    crashed: bool = False
    refused: str = ""
    """Why it could not begin at all, with the remedy."""
    unwritten: int = 0
    """Rows whose outcome is known, and could not be written down."""

    @property
    def exit_code(self) -> int:
        """0 if nothing ended failed or in doubt, nothing is left to do and all of it is written down, else 1."""
        left = self.left + self.unwritten
        return int(self.crashed or left > 0 or any(self.written[status] for status in FAILS_A_RUN))


class Service:
    """One worker. `run` returns when it has stopped; `stop` may be called from a signal handler or another thread."""

    def __init__(self, config: Config, *, mode: Mode = "forever", limit: float | None = None) -> None:
        self.config = config
        self.mode = mode
        self._limit = limit
        self._clock = time.monotonic
        self._log: Logger = get_logger()
        self._say = OnChange(self._log)
        self._flags = Flags()
        self._flags.idle.set()
        self._wishes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.name = config.worker.name or socket.gethostname()
        where = config.worker.state_dir
        self._state = StateDirectory(Path(where) if where else default_directory(self.name, os.environ))
        self._engine = connect(config.database)
        self._bookkeeper = Executor(1, thread_name_prefix="bookkeeper")
        self._refused = ""
        self._wall_offset = time.time() - boot_clock()
        # Four threads: one delivers, one keeps us alive, one deletes what is past its time, one raises alarms.
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={name: ThreadPoolExecutor(1) for name in ("deliver", "heartbeat", "purge", "alerts", "batches")},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self.tick = Tick(
            config,
            name=self.name,
            engine=self._engine,
            state=self._state,
            bookkeeper=self._bookkeeper,
            flags=self._flags,
            mode=mode,
            log=self._log,
            look_at=lambda seconds: self._look_in(seconds, "slot"),
        )
        ear = Ear(self._engine, config.database, heard=self._wake, lost=self._ear_lost)
        self._ear = ear if config.poll.listen else None
        self._supervisor = Supervisor(os.environ)

    # --- the main thread ---

    def run(self, *, signals: bool = True) -> Finished:
        """Work until stopped, or until the mode's end."""
        if signals:
            self._listen_to_signals()
        self._schedule(self._scheduler)
        self._scheduler.start()
        if self._ear is not None:
            self._ear.start()
        self._supervisor.ready()
        try:
            crashed = self._watch()
        finally:
            self._shut_down(self._scheduler)
        return Finished(
            written=self.tick.recorder.written,
            left=self.tick.left,
            crashed=crashed,
            refused=self._refused,
            unwritten=len(self.tick.recorder.in_hand),
        )

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
        if self.config.retention.is_set and self.mode == "forever":
            soon = now + timedelta(seconds=min(PURGE_EVERY_S, poll))
            every = {"seconds": PURGE_EVERY_S, "next_run_time": soon}
            scheduler.add_job(self._purge, "interval", id="purge", executor="purge", **every)
        if self.config.alerts.is_set and self.mode == "forever":
            self._schedule_alerts(scheduler)
        if self.config.batches.watch and self.mode == "forever":
            self._schedule_batches(scheduler)

    def _schedule_alerts(self, scheduler: BackgroundScheduler) -> None:
        from poller.worker.alerting import alert_watch  # noqa: PLC0415 - few want it

        watch = alert_watch(self.config, self._engine, self.name, self._log, self._flags.stop.is_set)
        every = self.config.alerts.every
        scheduler.add_job(watch.round, "interval", seconds=every, id="alerts", executor="alerts")

    def _schedule_batches(self, scheduler: BackgroundScheduler) -> None:
        from poller.worker.alerting import batch_watch  # noqa: PLC0415 - it takes a while to import

        watch = batch_watch(self.config, self._engine, self.name, self._log, self._flags.stop.is_set)
        every = self.config.batches.every
        scheduler.add_job(watch.round, "interval", seconds=every, id="batches", executor="batches")

    def _crashed(self, event: JobExecutionEvent) -> None:
        error = event.exception
        if event.job_id in BESIDE:
            self._log.error("job.failed", job=event.job_id, reason=repr(error), traceback=event.traceback)
            return
        about = ", ".join(getattr(error, "__notes__", ())) or None  # the row that it happened with
        self._log.error("tick.failed", job=event.job_id, about=about, reason=repr(error), traceback=event.traceback)
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
                if not self.tick.is_stuck:
                    self._supervisor.alive()
                self.tick.cut_if_the_lease_ended()
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

    def _shut_down(self, scheduler: BackgroundScheduler) -> None:
        self._log.info("worker.stopping", worker=self.name)
        self._supervisor.stopping()
        self._flags.stop.set()
        if self._ear is not None:
            self._ear.stop()
        self.tick.exchangers.close()
        scheduler.pause()
        if not self._wait_until_idle(self.config.worker.stop_timeout):
            self._flags.abandon.set()
            self.tick.interrupt()
            self._wait_until_idle(CUT_GRACE_S)
        scheduler.shutdown(wait=self._flags.idle.is_set())
        for line in self.tick.lines:
            line.courier.close()
        self._sign_off()
        self._bookkeeper.shutdown(wait=self._flags.idle.is_set())
        self.tick.journal.close()
        self._engine.dispose()
        self._state.release()
        unwritten = {"unwritten": sorted(self.tick.recorder.in_hand)} if self.tick.recorder.in_hand else {}
        self._log.info("worker.stopped", worker=self.name, **dict(self.tick.recorder.written), **unwritten)

    def _wait_until_idle(self, seconds: float) -> bool:
        deadline = self._clock() + seconds
        while not self._flags.idle.is_set() and self._clock() < deadline:
            try:
                self._wishes.get(timeout=0.05)
            except queue.Empty:
                continue
            return False
        return self._flags.idle.is_set()

    def _sign_off(self) -> None:
        try:
            if self.mode != "forever":
                self.tick.count_left()
            self.tick.life.end()
        except DatabaseUnavailable as why:
            self._log.warning("database.unavailable", reason=str(why))

    # --- the delivering thread ---

    def _wake(self) -> None:
        """New rows may be there: look at once.

        By a job of its own: to move the tick forward while it is just ending would be in vain. A look that is still
        waiting for its turn is enough.
        """
        self._flags.woken.set()
        if self._flags.idle.is_set() and not self._flags.stop.is_set():
            self._look_in(0.0, "look")

    def _look_in(self, seconds: float, name: str) -> None:
        when = datetime.now(UTC) + timedelta(seconds=seconds)
        look = self._scheduler.add_job
        look(self._tick, "date", run_date=when, id=name, executor="deliver", replace_existing=True, max_instances=2)

    def _ear_lost(self, why: str) -> None:
        self._say.say("warning", "database.unavailable", about="ear", fingerprint=why, reason=why)

    def _tick(self) -> None:
        self._flags.idle.clear()  # before looking at `stop`: who stops us waits for this
        try:
            if not self._flags.stop.is_set():
                self.tick.run()
            if self.tick.done:
                self._wishes.put("done")
        except DatabaseUnavailable as why:
            self.tick.database_lost(why)
            if self.mode == "once":
                self._wishes.put("done")
        except JournalTrouble as why:
            self.tick.cannot_journal(str(why))
            if why.is_gone or self.mode == "once":  # where it was taken away, another process has to begin anew
                self._wishes.put("crashed")
        except (NameTaken, SchemaTrouble, DatabaseRefused) as why:
            self._refused = str(why)
            self._wishes.put("crashed")
        finally:
            if not self._flags.stop.is_set():  # the scheduler's own lock is held while it shuts down
                self._leave_the_lines()
            self._flags.idle.set()
            if self._flags.woken.is_set():  # somebody called while nobody listened
                self._wake()

    def _leave_the_lines(self) -> None:
        """A session may be of use to the next tick for `idle_close` seconds, and no longer."""
        for line in (line for line in self.tick.lines if line.courier.is_open):
            left = max(0.0, line.idle_close - line.courier.idle_seconds)
            when = datetime.now(UTC) + timedelta(seconds=left)
            close, name = line.close_if_idle, f"idle {line.name}"
            self._scheduler.add_job(close, "date", run_date=when, id=name, executor="deliver", replace_existing=True)

    # --- the purging thread ---

    def _purge(self) -> None:
        try:
            done = purge(self._engine, self.config.retention, wait=self._flags.stop.wait)
        except DatabaseUnavailable as why:  # the next time is soon enough
            self._say.say("warning", "database.unavailable", about="purge", fingerprint=str(why), reason=str(why))
            return
        if done.rows or done.attempts or done.suppressions:
            counts = {"rows": done.rows, "attempts": done.attempts, "suppressions": done.suppressions}
            self._log.info("rows.purged", **counts)

    # --- the heartbeat's thread ---

    def _beat(self) -> None:
        if self.tick.is_stuck or self.tick.life.beat():  # Rule 2: alive is not enough
            return
        self._log.error("worker.lease_lost", reason=f"another process works under the name {self.name!r}")
        self._wishes.put("crashed")
