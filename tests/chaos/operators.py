"""Three workers, and people at them: everything that an operator and a DBA do on a bad day, all at once.

Kills, stops beyond the lease, broken lines to the database, forgotten locks, the switch; pause, resume, cancel, retry
and resolve; plain UPDATE and DELETE. At the end everything is let go and drained, and the books are compared: every row
that is still there has ended, what is `sent` was accepted, and each acceptance too many is owned up to in the row's
history.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from chaos.ground import NAMES, Ground, Line, drain
from chaos.recorder import Recorder
from service import zygote
from sqlalchemy.exc import DBAPIError

from poller.outbox.database import DatabaseUnavailable, transaction
from poller.outbox.operate import Action, Selection, change, pause_all, resume_all
from poller.outbox.tables import attempt, outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.bench import Bench
    from service.zygote import Process

WORKERS = ("w1", "w2", "w3")
LEASE_S = 2.0
SETTINGS: dict[str, dict[str, Any]] = {
    "worker": {"takeover": f"{LEASE_S:g}s", "heartbeat": "400ms", "stop_timeout": "3s"},
    "smtp": {"end_timeout": "1s"},
    "poll": {"batch_size": 20},
    "retry": {"max_doubts": 20},
}
ANSWER_S = 0.004  # a relay that takes its time: rows are in hand when something befalls them
ACT_EVERY_S = 0.06
ROWS_AT_ONCE = 25
BATCHES = 5
OWNED = ("in_doubt", "accepted_twice")
"""Lines of history by which a row owns up to one acceptance more."""
ENDED = {"sent", "cancelled", "in_doubt"}


def operators(ground: Ground, *, seconds: float) -> Iterator[Line]:
    """On each server."""
    for kind in ground.kinds:
        if kind == "sqlite":  # carries one worker
            continue
        with ground.bench(kind) as bench, Recorder(on_taken=lambda _: time.sleep(ANSWER_S) is None) as relay:
            bench.settings |= SETTINGS
            day = _BadDay(ground=ground, bench=bench, relay=relay, kind=kind)
            day.live(seconds)
            yield day.books()


@dataclass(kw_only=True)
class _BadDay:
    ground: Ground
    bench: Bench
    relay: Recorder
    kind: str
    committed: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    workers: dict[str, Process] = field(default_factory=dict)
    stopped: dict[str, float] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)

    def live(self, seconds: float) -> None:
        """Until the day is over; then everything is let go, and each worker drains what it holds."""
        try:
            for name in WORKERS:
                self._start(name)
            acts = self._acts()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                act = self.ground.chance.choice(acts)
                with contextlib.suppress(DatabaseUnavailable, DBAPIError):  # its own line may be the one that broke
                    act()
                    self.done[act.__name__.strip("_")] += 1
                self._wake()
                time.sleep(ACT_EVERY_S)
        finally:
            self._let_go()

    def _acts(self) -> list[Callable[[], None]]:
        often = [self._insert] * 6 + [self._pause, self._resume, self._cancel, self._retry, self._resolve] * 2
        return [
            *often,
            self._update,
            self._delete,
            self._kill,
            self._stop,
            self._break_a_line,
            self._lock,
            self._switch,
        ]

    # --- what happens ---

    def _insert(self) -> None:
        start = len(self.committed)
        batch = f"b{self.ground.chance.randrange(BATCHES)}"
        self.bench.insert(ROWS_AT_ONCE, recipients=f"r{start}.{{n}}@example.com", batch=batch)
        self.committed += [f"r{start}.{n}@example.com" for n in range(ROWS_AT_ONCE)]

    def _pause(self) -> None:
        self._change("pause")

    def _resume(self) -> None:
        self._change("resume")

    def _cancel(self) -> None:
        change(self.bench.engine, Selection(ids=self._some(3)), "cancel")

    def _retry(self) -> None:
        self._change("retry")

    def _resolve(self) -> None:
        self._change("resolve-resend")

    def _change(self, action: Action) -> None:
        change(self.bench.engine, Selection(batch=f"b{self.ground.chance.randrange(BATCHES)}"), action)

    def _update(self) -> None:
        """As a DBA types it."""
        chosen = outbox.c.id.in_(self._some(5))
        new = sa.update(outbox).where(chosen, outbox.c.status == "queued").values(status="cancelled", priority=1)
        transaction(self.bench.engine, lambda c: c.execute(new))

    def _delete(self) -> None:
        gone = sa.delete(outbox).where(outbox.c.id.in_(self._some(3)))
        transaction(self.bench.engine, lambda c: c.execute(gone))

    def _kill(self) -> None:
        name = self.ground.chance.choice(WORKERS)
        if name not in self.stopped:
            self.workers[name].kill()
            self.workers[name].wait()
            self._start(name)

    def _stop(self) -> None:
        name = self.ground.chance.choice(WORKERS)
        if name not in self.stopped:
            self.workers[name].send_signal(signal.SIGSTOP)
            self.stopped[name] = time.monotonic() + LEASE_S * self.ground.chance.uniform(0.5, 2.0)

    def _break_a_line(self) -> None:
        postgresql = """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 2"""
        mariadb = """
            SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()
            ORDER BY RAND() LIMIT 2"""
        with self.bench.engine.connect() as connection:
            if self.kind == "postgresql":
                connection.exec_driver_sql(postgresql)
                return
            for number in connection.exec_driver_sql(mariadb).scalars().all():
                with contextlib.suppress(DBAPIError):
                    connection.exec_driver_sql(f"KILL {number}")

    def _lock(self) -> None:
        """A transaction that somebody forgot."""
        ids, seconds = self._some(30), self.ground.chance.uniform(0.1, 1.5)

        def hold() -> None:
            with contextlib.suppress(DBAPIError), self.bench.engine.connect() as connection:
                query = sa.select(outbox.c.id).where(outbox.c.id.in_(ids)).with_for_update(skip_locked=True)
                connection.execute(query).all()
                time.sleep(seconds)

        if sum(thread.is_alive() for thread in self.threads) == 0:
            self.threads.append(threading.Thread(target=hold))
            self.threads[-1].start()

    def _switch(self) -> None:
        pause_all(self.bench.engine, "a bad day")
        time.sleep(ACT_EVERY_S)
        resume_all(self.bench.engine)

    def _some(self, count: int) -> tuple[int, ...]:
        """Ids of rows, or of what were rows."""
        most = max(len(self.committed), 1)
        return tuple(self.ground.chance.randint(1, most) for _ in range(count))

    # --- workers ---

    def _config(self, name: str) -> Path:
        return replace(self.bench, name=name).configure(self.relay.host, self.relay.port, smtp={"ehlo_name": name})

    def _start(self, name: str) -> None:
        log = self.bench.directory / f"{name}.log"
        self.workers[name] = zygote.start(["--config", str(self._config(name)), "run"], log)

    def _wake(self) -> None:
        for name, until in list(self.stopped.items()):
            if time.monotonic() >= until:
                self.workers[name].send_signal(signal.SIGCONT)
                del self.stopped[name]
        for name, process in self.workers.items():
            if process.poll() is not None:  # it refused to go on, as under a name that another has
                self._start(name)

    def _let_go(self) -> None:
        for name in list(self.stopped):
            self.workers[name].send_signal(signal.SIGCONT)
        for process in self.workers.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.workers.values():
            process.wait()
        for thread in self.threads:
            thread.join()
        resume_all(self.bench.engine)
        change(self.bench.engine, Selection(status="paused"), "resume")
        for name in WORKERS:
            drain(self.bench, self._config(name), seconds=30)

    # --- the books ---

    def books(self) -> Line:
        """What was committed, what the relay accepted, and what the rows say."""
        taken: Counter[str] = Counter(r for entry in self.relay.entries for r in entry.recipients)
        query = sa.select(outbox.c.id, outbox.c.recipients, outbox.c.status)
        rows = transaction(self.bench.engine, lambda c: c.execute(query).all(), reading=True)
        owned = self._owned()
        status = Counter(row.status for row in rows)
        doubtful = {row.recipients for row in rows if owned[row.id]}
        wrong = {
            "still open": sum(1 for row in rows if row.status not in ENDED),
            "sent and never accepted": sum(1 for r in rows if r.status == "sent" and not taken[r.recipients]),
            "accepted and not sent, without a doubt": sum(
                1 for r in rows if r.status != "sent" and taken[r.recipients] and r.recipients not in doubtful
            ),
            "accepted too often, without a doubt": sum(1 for row in rows if taken[row.recipients] - 1 > owned[row.id]),
        }
        twice = sum(count - 1 for count in taken.values())
        cells = {
            "database": NAMES[self.kind],
            "acts": sum(self.done.values()),
            "rows": len(self.committed),
            "deleted": len(self.committed) - len(rows),
            **{name: status[name] for name in sorted(ENDED)},
            "accepted": sum(taken.values()),
            "twice, and owned up to": twice,
            **wrong,
        }
        return Line(cells=cells, broken=tuple(f"{count} {what}" for what, count in wrong.items() if count))

    def _owned(self) -> Counter[int]:
        query = sa.select(attempt.c.outbox_id).where(attempt.c.outcome.in_(OWNED))
        return Counter(transaction(self.bench.engine, lambda c: list(c.execute(query).scalars()), reading=True))
