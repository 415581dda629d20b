"""Workers of one outbox, each a real process under a name of its own, and the scale of time they live in."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from service import zygote

from poller.outbox.database import transaction
from poller.outbox.tables import outbox
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from servers.provider import ProviderServer
    from service.bench import Bench
    from service.zygote import Process

Settings = dict[str, dict[str, Any]]

DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "throttle": {"first_pause": "1m", "longest_pause": "1h", "raise_every": "15m"},
    "retry": {"first": "1m", "longest": "4h", "cohort_patience": "1h"},
    "poll": {"interval": "5s"},
    "smtp": {"rest_first": "1s", "rest_longest": "5m"},
}
"""The defaults that are durations of waiting: what is scaled when time is."""
IN_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
STOP_S = 30.0
ASK_EVERY_S = 0.05
ENDING = threading.Event()
"""Set, it ends every wait: anyone who ends the measuring sets it, since threads can't be interrupted."""
_STARTING = threading.Lock()  # several crews may work at once, and there is one zygote


def scaled(factor: float) -> Settings:
    """The defaults, `factor` times as fast."""
    return {
        section: {name: format_duration(_seconds(value) / factor) for name, value in values.items()}
        for section, values in DEFAULTS.items()
    }


def _seconds(duration: str) -> float:
    unit = duration.lstrip("0123456789")
    return int(duration.removesuffix(unit)) * IN_SECONDS[unit]


def merged(*several: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Sections of settings over each other, the last one on top."""
    result: Settings = {}
    for settings in several:
        for section, values in settings.items():
            result.setdefault(section, {}).update(values)
    return result


@dataclass(kw_only=True)
class Crew:
    """The workers of `bench` that send to `server`; a context manager that ends them."""

    bench: Bench
    server: ProviderServer
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    """time.monotonic() of the first start."""
    _processes: dict[str, Process] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *names: str) -> None:
        """Start workers of these names; one that was killed goes on with its state directory."""
        if not self._processes:
            self.began = time.monotonic()
        for name in names:
            self.bench.name = name
            config = self.bench.configure(self.server.host, self.server.port, **self.settings)
            log = self.bench.directory / f"{name}.log"
            with _STARTING:
                self._processes[name] = zygote.start(["--config", str(config), "run"], log)

    def kill(self, name: str) -> None:
        """`kill -9`."""
        self._processes[name].kill()
        self._processes[name].wait(STOP_S)

    def stop(self) -> None:
        """SIGTERM to all, and SIGKILL to those that do not go."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)

    def ended(self) -> list[str]:
        """Who is not there any more: none should be."""
        return [name for name, process in self._processes.items() if process.poll() is not None]


def mixed(bench: Bench, count: int, domains: Iterable[str], **columns: Any) -> None:
    """`count` rows to each of `domains` in turn, in one transaction: r0@a, r0@b, r1@a, …"""
    base = {"subject": "Hello", "body_text": "Hello\n", **columns}
    rows = [{**base, "recipients": f"r{number}@{domain}"} for number in range(count) for domain in domains]
    transaction(bench.engine, lambda connection: connection.execute(sa.insert(outbox), rows))


def count_of(bench: Bench, *statuses: str) -> int:
    """How many rows have one of these statuses."""
    query = sa.select(sa.func.count()).where(outbox.c.status.in_(statuses))
    return int(transaction(bench.engine, lambda c: c.execute(query).scalar_one(), reading=True))


def is_done(bench: Bench) -> bool:
    """Nothing waits, and nothing is on its way."""
    return not count_of(bench, "queued", "sending")


def until(condition: Callable[[], object], seconds: float, every: float = ASK_EVERY_S) -> bool:
    """Ask until it holds, or the time is over; whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline or ENDING.wait(every):
            return False
    return True


@contextlib.contextmanager
def in_name(bench: Bench, name: str) -> Any:
    """A bench under another name for a moment: for its log."""
    before, bench.name = bench.name, name
    try:
        yield bench
    finally:
        bench.name = before
