"""The database server is killed, alone and together with the worker, and comes back; nobody helps."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from typing import TYPE_CHECKING

import databases
from chaos.crashes import BATCH, LIFE_S, MOST_MESSAGES, cells, per_crash
from chaos.ground import Ground, Line, Skipped, Trap, fill, findings, is_open, wait_until
from chaos.recorder import Recorder
from service import zygote
from service.bench import terminate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from service.bench import Bench
    from service.zygote import Process

START_S = 60.0
"""Bound on PostgreSQL's own recovery."""


def kill_db(ground: Ground, *, crashes: int) -> Iterator[Line]:
    """`kill -9` of PostgreSQL; then of both."""
    if "postgresql" not in ground.kinds:
        raise Skipped("only PostgreSQL can be brought up here to be killed")
    try:
        server = databases.EmbeddedPostgres()
    except (databases.Missing, subprocess.CalledProcessError) as why:
        raise Skipped(f"no PostgreSQL of our own to kill: {why}") from None
    try:
        with instead(server.url):
            for together in (False, True):
                with ground.bench("postgresql") as bench, Recorder() as relay:
                    yield _outages(ground, bench, relay, server, crashes=crashes, together=together)
    finally:
        server.stop()


@contextlib.contextmanager
def instead(url: str) -> Iterator[None]:
    """Let `databases` use this server."""
    name = "POLLER_TEST_POSTGRESQL"
    before = os.environ.get(name)
    os.environ[name] = url
    try:
        yield
    finally:
        del os.environ[name]
        if before:
            os.environ[name] = before


def _outages(
    ground: Ground, bench: Bench, relay: Recorder, server: databases.EmbeddedPostgres, *, crashes: int, together: bool
) -> Line:
    committed = fill(bench, (crashes + 1) * BATCH * 2)
    config = bench.configure(relay.host, relay.port, retry={"max_doubts": crashes + 1})
    trap = Trap(relay, ground.chance, before=0.5 if together else 0.0)
    process = _start(bench, config)
    waits: list[float] = []
    try:
        for crash in range(crashes):
            victim = process

            def kill(victim: Process = victim) -> None:
                if together:
                    victim.kill()
                server.kill()

            trap.set(ground.chance.randint(1, MOST_MESSAGES), kill)
            assert trap.wait(LIFE_S), f"nothing to kill: {bench.log()[-3:]}"
            process, wait = _come_back(bench, config, relay, server, process, together=together)
            waits.append(wait)
            ground.say(f"kill-db: {crash + 1} of {crashes}")
        wait_until(lambda: not is_open(bench), "the end of the queue", 120, every=0.2)
        terminate(process)
    finally:
        process.kill()
        process.wait()
    found = findings(bench, committed, relay, crashes=crashes)
    allowed = per_crash(ground) if together else 0
    worst = found.per_crash[2]
    broken = (f"{worst} sent twice by one crash, at most {allowed} may be",) if worst > allowed else ()
    what = {"killed": "PostgreSQL and the worker" if together else "PostgreSQL"}
    back = {"first mail after it answers again, median / max": f"{statistics.median(waits):.2f} / {max(waits):.2f} s"}
    return Line(cells=what | cells(found) | back, broken=(*found.broken, *broken), twice=found.duplicates)


def _start(bench: Bench, config: Path) -> Process:
    return zygote.start(["--config", str(config), "run"], bench.directory / f"{bench.name}.log")


def _come_back(
    bench: Bench, config: Path, relay: Recorder, server: databases.EmbeddedPostgres, process: Process, *, together: bool
) -> tuple[Process, float]:
    """Both come up again, the worker first; returns it, and how long mail waited once the server answered."""
    if together:
        process.wait(30)
        relay.wait_until_quiet()
        process = _start(bench, config)
    relay.life += 1
    _until_it_starts(server.start)
    bench.engine.dispose()
    answers = time.monotonic()
    wait_until(lambda: relay.entries[-1].at > answers, f"mail; {bench.log()[-2:]}", LIFE_S, every=0.005)
    return process, next(entry.at for entry in relay.entries if entry.at > answers) - answers


def _until_it_starts(start: Callable[[], None]) -> None:
    """As a supervisor does: what the crash left in shared memory may stand in the way for a moment."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            return start()
        except subprocess.CalledProcessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
