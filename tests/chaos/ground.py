"""What every scenario stands on: a fresh outbox, the recorder, the real program, and chance with a seed.

A scenario yields `Line`s: the cells of its table and the promises that were broken. It raises `Skipped` with a reason
where it can't be had.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import databases
import sqlalchemy as sa
from chaos.ledger import RowSays, compare
from service.bench import Bench

from poller.outbox.database import transaction
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

    from chaos.ledger import Duplicate, Findings
    from chaos.recorder import Entry, Recorder
    from service.zygote import Process

NAMES = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
DRAIN_S = 300.0
"""Bound on the final drain of the longest scenario."""
CHUNK = 2000  # rows in one INSERT


class Skipped(Exception):  # noqa: N818 - a fact about this machine
    """This scenario, or this line of it, can't be had here; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a scenario's table."""

    cells: Mapping[str, object]
    broken: tuple[str, ...] = ()
    """Promises that did not hold, in words."""
    twice: tuple[Duplicate, ...] = ()


@dataclass(kw_only=True)
class Ground:
    """Chance, place and settings. `settings` go into every configuration of the program."""

    directory: Path
    seed: int = 1
    kinds: tuple[str, ...] = databases.KINDS
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @contextlib.contextmanager
    def bench(self, kind: str, *, name: str = "w1") -> Iterator[Bench]:
        """A fresh outbox of this kind. Raises Skipped."""
        directory = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=self.directory))
        try:
            with databases.database(kind, directory) as settings:
                bench = Bench(database=settings, directory=directory, name=name)
                bench.settings = {section: dict(values) for section, values in self.settings.items()}
                try:
                    yield bench
                finally:
                    bench.close()
        except databases.Missing as why:
            raise Skipped(str(why)) from None
        shutil.rmtree(directory, ignore_errors=True)  # kept when something was raised: there is the log


def fill(bench: Bench, count: int, **columns: Any) -> list[str]:
    """Commit `count` rows, each to a recipient of its own; returns the recipients."""
    everyone: list[str] = []
    while len(everyone) < count:
        start, number = len(everyone), min(CHUNK, count - len(everyone))
        bench.insert(number, **{"recipients": f"r{start}.{{n}}@example.com", **columns})
        everyone += [f"r{start}.{n}@example.com" for n in range(number)]
    return everyone


def says(bench: Bench) -> dict[str, RowSays]:
    """What the rows say, by recipient."""
    query = sa.select(outbox.c.recipients, outbox.c.status, outbox.c.doubts)
    found = transaction(bench.engine, lambda c: c.execute(query).all(), reading=True)
    return {row.recipients: RowSays(status=row.status, doubts=row.doubts) for row in found}


def findings(bench: Bench, committed: list[str], relay: Recorder, *, crashes: int = 0) -> Findings:
    """The three books."""
    return compare(committed, relay.entries, says(bench), crashes=crashes)


def is_open(bench: Bench) -> int:
    """Rows that still wait or are on their way."""
    query = sa.select(sa.func.count()).where(outbox.c.status.in_(("queued", "sending")))
    return int(transaction(bench.engine, lambda c: c.execute(query).scalar_one(), reading=True))


def drain(bench: Bench, config: Path, *, seconds: float = DRAIN_S) -> int:
    """The final drain."""
    return bench.run(config, "--drain", "--for", f"{seconds:.0f}s", timeout=seconds + 60)


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60, every: float = 0.01) -> None:
    """Ask until it holds. Raises AssertionError naming `what`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(every)


class Trap:
    """Kills a process when the relay has accepted its so-manieth message since the trap was set.

    With a share of `before` this happens before that message is answered, and it never is; else a moment (up to
    `scatter` seconds) after: then what was answered may or may not have been read, and written down.
    """

    def __init__(self, relay: Recorder, chance: random.Random, *, before: float = 0.5, scatter: float = 0.03) -> None:
        self._relay = relay
        self._chance = chance
        self._share = before
        self._scatter = scatter
        self._left = 0
        self._counting = threading.Lock()  # a client may have several lines
        self._before = False
        self._kill: Callable[[], None] = lambda: None
        self._sprung = threading.Event()
        relay.on_taken = self._taken

    def set(self, after: int, kill: Callable[[], None]) -> None:
        """Arm it."""
        self._before = self._chance.random() < self._share
        self._kill, self._left = kill, after
        self._sprung.clear()

    def disarm(self) -> None:
        """It kills nobody any more."""
        self._left = 0

    def wait(self, seconds: float) -> bool:
        """Until it has sprung; then the process was killed. False: not in that time, and it is still armed."""
        if not self._sprung.wait(seconds):
            return False
        if not self._before:
            time.sleep(self._chance.random() * self._scatter)
            self._kill()
        return True

    def _taken(self, _: Entry) -> bool:
        with self._counting:
            if not self._left:
                return True
            self._left -= 1
            if self._left:
                return True
        if self._before:
            self._kill()
        self._sprung.set()
        return not self._before


def bury(process: Process | subprocess.Popen[bytes], relay: Recorder) -> None:
    """Wait for the end of a killed process and of what it left on its line; a new life begins."""
    process.wait(30)
    relay.wait_until_quiet()
    relay.life += 1
