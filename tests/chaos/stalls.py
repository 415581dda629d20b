"""Workers that stand still and go on, and clocks that jump: two workers on one PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from chaos.crashes import BATCH, LIFE_S
from chaos.ground import Ground, Line, Skipped, fill, findings, is_open, wait_until
from chaos.recorder import Recorder
from service import zygote
from service.bench import Bench, terminate

from poller.outbox.database import transaction
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.recorder import Entry
    from service.zygote import Process

SHORTEST: dict[str, dict[str, Any]] = {
    "smtp": {"end_timeout": "1s"},
    "worker": {"takeover": "3s", "heartbeat": "500ms"},
    "poll": {"batch_size": BATCH},
}
"""A short lease, openly: in production it is a quarter of an hour."""
TAKEOVER_S = 3.0
ROUND = 20 * BATCH
"""Rows of a round: so many that one worker does not send them all before the other looks."""
DRAINED_S = 0.5  # what the stopped worker had written is still read by the relay, and belongs to its former life
SETTLE_S = 5.0  # for a worker that was woken, to do what harm it can
ENDED = ("sent", "partial", "failed", "in_doubt", "expired", "suppressed", "cancelled")
WATCHED = ("status", "claim_seq", "claimed_by", "reply_code", "queue_id", "error", "sent_at", "finished_at")


def sigstop(ground: Ground, *, rounds: int) -> Iterator[Line]:
    """One of the two is stopped past its lease, and goes on when the other has done its work."""
    _need_postgresql(ground)
    with ground.bench("postgresql") as one, Recorder() as relay:
        pair = _Pair(one=one, two=replace(one, name="w2"), relay=relay)
        with _running(pair.one, relay, SHORTEST) as first, _running(pair.two, relay, SHORTEST) as second:
            for number in range(rounds):
                pair.one_round(first, f"round{number}", after=ground.chance.randint(1, BATCH - 10))
                ground.say(f"sigstop: {number + 1} of {rounds}")
            for process in (first, second):
                terminate(process)
        found = findings(one, pair.committed, relay, crashes=rounds)
        twice = [line for bench in (one, pair.two) for line in bench.log() if line["event"] == "row.accepted_twice"]
    least, median, most = found.per_crash
    cells = {
        "rounds": rounds,
        "rows": found.committed,
        "accepted": found.accepted,
        "lost": len(found.lost),
        "stuck": len(found.stuck),
        "wrongly marked": len(found.wrongly_marked),
        "settled rows overwritten": len(pair.overwritten),
        "sent twice": len(found.duplicates),
        "per round, min / median / max": f"{least} / {median:g} / {most}",
        "doubts": found.doubts,
        "noted as accepted twice": len(twice),
        "taken over after": f"{min(pair.taken_after):.0f} to {max(pair.taken_after):.0f} s",
    }
    wrong = {
        "settled rows overwritten": len(pair.overwritten),
        "taken over before the lease had ended": sum(1 for after in pair.taken_after if after < TAKEOVER_S - 1),
        "sent twice in one round beyond what was claimed": max(0, most - BATCH),
    }
    broken = (*found.broken, *(f"{count} {what}" for what, count in wrong.items() if count))
    yield Line(cells=cells, broken=broken, twice=found.duplicates)


@dataclass(kw_only=True)
class _Pair:
    """Two workers on one outbox, and what was seen of them."""

    one: Bench
    two: Bench
    relay: Recorder
    committed: list[str] = field(default_factory=list)
    overwritten: list[int] = field(default_factory=list)
    taken_after: list[float] = field(default_factory=list)

    def one_round(self, first: Process, label: str, *, after: int) -> None:
        """Rows of its own; the first worker is stopped when it has sent so many of them."""
        stopped = threading.Event()
        left = iter(range(after))

        def stop_at(entry: Entry) -> bool:
            if entry.client == self.one.name and next(left, None) == after - 1:
                first.send_signal(signal.SIGSTOP)
                stopped.set()
            return True

        self.relay.on_taken = stop_at
        self.one.insert(ROUND, recipients=f"{label}.{{n}}@example.com")
        self.committed += [f"{label}.{n}@example.com" for n in range(ROUND)]
        assert stopped.wait(LIFE_S), "nothing was sent"
        began = time.monotonic()
        time.sleep(DRAINED_S)
        self.relay.life += 1
        wait_until(lambda: not is_open(self.two), "the takeover", TAKEOVER_S + LIFE_S, every=0.25)
        self.taken_after.append(time.monotonic() - began)
        before = _settled(self.two)
        first.send_signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        now = _settled(self.two)
        self.overwritten += [row_id for row_id, row in before.items() if now.get(row_id) != row]


def _settled(bench: Bench) -> dict[int, tuple[object, ...]]:
    columns = [outbox.c[name] for name in WATCHED]
    query = sa.select(outbox.c.id, *columns).where(outbox.c.status.in_(ENDED))
    return {row[0]: tuple(row[1:]) for row in transaction(bench.engine, lambda c: c.execute(query).all(), reading=True)}


@contextlib.contextmanager
def _running(bench: Bench, relay: Recorder, settings: dict[str, dict[str, Any]]) -> Iterator[Process]:
    smtp = {**settings.get("smtp", {}), "ehlo_name": bench.name}
    config = bench.configure(relay.host, relay.port, **{**settings, "smtp": smtp})
    process = zygote.start(["--config", str(config), "run"], bench.directory / f"{bench.name}.log")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# Clocks ---------------------------------------------------------------------------------------------------------------

STEPS = ("+600", "-600")  # seconds
PICKED_UP_S = 15.0  # within which a worker whose clock has jumped must send a new row; it polls every 0.2 s
PACE_S = 0.004  # for each message: so that the step falls into the middle


def clock(ground: Ground, *, steps: tuple[str, ...] = STEPS) -> Iterator[Line]:
    """The wall clock of one of two workers jumps in mid-run."""
    _need_postgresql(ground)
    library = _faketime()
    for step in steps:
        yield _stepped(ground, library, step)


def _stepped(ground: Ground, library: Path, step: str) -> Line:
    with ground.bench("postgresql") as one, Recorder(on_taken=_slowly) as relay:
        two = replace(one, name="w2")
        committed = fill(one, 1000)
        offset = one.directory / "offset"
        offset.write_text("+0")
        with _with_a_clock(one, relay, library, offset) as first, _running(two, relay, {}) as second:
            wait_until(lambda: len(relay.entries) > 200, "some mail", LIFE_S)
            _write_at_once(offset, step)
            ground.say(f"clock: {step} s")
            wait_until(lambda: not is_open(two), "the end of the queue", LIFE_S)
            terminate(second)
            pause = _picks_up(one, relay, committed)
            first.terminate()
            first.wait(60)
        stolen = [line for bench in (one, two) for line in bench.log() if line["event"] == "rows.recovered"]
        found = findings(one, committed, relay)
    cells = {
        "step of one worker's clock": f"{step} s",
        "rows": found.committed,
        "accepted": found.accepted,
        "claims stolen": len(stolen),
        "lost": len(found.lost),
        "stuck": len(found.stuck),
        "sent twice": len(found.duplicates),
        "doubts": found.doubts,
        "then a new row is sent within": f"{pause:.1f} s" if pause else f"not in {PICKED_UP_S:g} s",
    }
    wrong = {"claims stolen": len(stolen), "sent twice": len(found.duplicates), "doubts": found.doubts}
    broken = [f"{count} {what}" for what, count in wrong.items() if count]
    late = [] if pause else ["the worker does nothing after the step"]
    return Line(cells=cells, broken=(*(found.broken if pause else ()), *broken, *late))


def _picks_up(bench: Bench, relay: Recorder, committed: list[str]) -> float:
    """The worker is alone now; seconds until it sends a new row, 0: it does not in time."""
    began = time.monotonic()
    bench.insert(recipients="new@example.com")
    committed.append("new@example.com")
    with contextlib.suppress(AssertionError):
        wait_until(lambda: relay.entries[-1].recipients == ("new@example.com",), "the new row", PICKED_UP_S)
        return time.monotonic() - began
    return 0.0


def _slowly(_: Entry) -> bool:
    time.sleep(PACE_S)
    return True


def _write_at_once(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


@contextlib.contextmanager
def _with_a_clock(bench: Bench, relay: Recorder, library: Path, offset: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Not forked: what fakes the clock is loaded when a program starts. Only the wall clock is changed."""
    config = bench.configure(relay.host, relay.port)
    fake = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-m", "poller", "--config", str(config), "run"]
    with (bench.directory / f"{bench.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=zygote.environment() | fake)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _faketime() -> Path:
    """Where libfaketime lies. Raises Skipped."""
    if shutil.which("faketime") is None or os.name != "posix":
        raise Skipped("faketime is not installed")
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        raise Skipped("libfaketimeMT.so.1 is not below /usr/lib")
    return found


def _need_postgresql(ground: Ground) -> None:
    if "postgresql" not in ground.kinds:
        raise Skipped("two workers are tried on PostgreSQL")
