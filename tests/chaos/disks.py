"""The state directory fails: full, read-only, or gone, at the start or in mid-run. Needs root, to mount a disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos.ground import Ground, Line, Skipped, drain, fill, findings, is_open
from chaos.recorder import Recorder
from service import zygote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chaos.recorder import Entry
    from service.bench import Bench
    from service.zygote import Process

ROWS = 400
AFTER = 60  # accepted messages; then the directory fails
PAGE = 4096  # bytes: tmpfs counts in pages, and rounds its size up
SIZE = 24 * 1024 * 1024  # a segment of the journal is taken whole
LOOK_S = 20.0  # how long the worker is watched in trouble
STILL_S = 3.0  # without mail and without an end: it waits
SAID = ("state.", "journal.", "worker.", "relay.", "database.", "record.", "tick.", "outbox.")
USUAL = frozenset({"worker.started", "worker.stopping", "worker.stopped"})


READ_ONLY_FOR_NEW_FILES = "read-only for new files"
"""No file system can be made read-only while a file on it is open for writing; opening more can be refused."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens to the directory, and whether before the start."""

    what: str
    at_start: bool


TROUBLES = (
    Trouble(what="full", at_start=True),
    Trouble(what="full", at_start=False),
    Trouble(what="read-only", at_start=True),
    Trouble(what=READ_ONLY_FOR_NEW_FILES, at_start=False),
    Trouble(what="removed", at_start=False),
)


def state_dir(ground: Ground, *, troubles: tuple[Trouble, ...] = TROUBLES) -> Iterator[Line]:
    """Each trouble; the dialect has no part in it: one will do."""
    for trouble in troubles:
        with ground.bench(ground.kinds[-1]) as bench, _own_filesystem(bench.directory / "disk") as disk:
            with Recorder() as relay:
                yield _in_trouble(bench, relay, disk, trouble)
            ground.say(f"state-dir: {trouble.what}")


def _in_trouble(bench: Bench, relay: Recorder, disk: Path, trouble: Trouble) -> Line:
    committed = fill(bench, ROWS)
    state = disk / "state"
    config = bench.configure(relay.host, relay.port, worker={"state_dir": str(state)})
    if trouble.at_start:
        _spoil(disk, state, trouble.what)
    else:
        _spoil_at(relay, disk, state, trouble.what)
    process = zygote.start(["--config", str(config), "run"], bench.directory / f"{bench.name}.log")
    try:
        _watch(bench, relay, process)
        meanwhile, code = len(relay.entries), process.poll()
    finally:
        process.kill()
        process.wait()
    said = Counter(line["event"] for line in bench.log() if line["event"].startswith(SAID))
    words = sorted(set(said) - USUAL) or _last_words(bench)
    relay.on_taken = None
    relay.wait_until_quiet()
    relay.life += 1  # it was killed if it lived: what it had claimed may be in doubt
    _mend(disk, state)
    bench.run(config, "--once", timeout=60)
    drain(bench, config, seconds=60)
    found = findings(bench, committed, relay, crashes=1)
    cells = {
        "state directory": f"{trouble.what}, {'at the start' if trouble.at_start else 'in mid-run'}",
        "accepted meanwhile": f"{meanwhile} of {ROWS}",
        "the worker": f"ended with {code}" if code is not None else "went on",
        "says": "; ".join(words).replace(str(state), "DIRECTORY") or "nothing",
        "after mending: lost": len(found.lost),
        "stuck": len(found.stuck),
        "wrongly marked": len(found.wrongly_marked),
        "sent twice": len(found.duplicates),
        "doubts": found.doubts,
    }
    broken = (f"{len(found.duplicates)} sent twice",) if found.duplicates else ()
    return Line(cells=cells, broken=(*found.broken, *broken))


def _watch(bench: Bench, relay: Recorder, process: Process) -> None:
    """Until all is sent, the process has ended, or nothing moves any more."""
    deadline, seen, since = time.monotonic() + LOOK_S, -1, time.monotonic()
    while time.monotonic() < deadline and process.poll() is None and is_open(bench):
        if len(relay.entries) != seen:
            seen, since = len(relay.entries), time.monotonic()
        elif seen and time.monotonic() - since > STILL_S:
            return
        time.sleep(0.05)


def _spoil_at(relay: Recorder, disk: Path, state: Path, what: str) -> None:
    def spoil(entry: Entry) -> bool:
        if entry.number == AFTER:
            _spoil(disk, state, what)
        return True

    relay.on_taken = spoil


def _spoil(disk: Path, state: Path, what: str) -> None:
    match what:
        case "full":
            with (disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * PAGE)
        case "read-only":
            _mount("-o", "remount,ro", str(disk))
        case "read-only for new files":
            _mount("--bind", str(state), str(state))
            _mount("-o", "remount,bind,ro", str(state))
        case _:
            shutil.rmtree(state)


def _mend(disk: Path, state: Path) -> None:
    if state.is_mount():
        _unmount(state)
    _mount("-o", "remount,rw", str(disk))
    (disk / "ballast").unlink(missing_ok=True)


def _last_words(bench: Bench) -> list[str]:
    text = (bench.directory / f"{bench.name}.log").read_text().strip().splitlines()
    return [line for line in text[-1:] if not line.startswith("{")]


@contextlib.contextmanager
def _own_filesystem(where: Path) -> Iterator[Path]:
    """A small one in memory. Raises Skipped."""
    if os.geteuid() != 0:
        raise Skipped("mounting a small file system needs root")
    where.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(where))
    except subprocess.CalledProcessError as error:
        raise Skipped(f"mount: {error.stderr.decode().strip()}") from None
    try:
        yield where
    finally:
        _unmount(where)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=30)


def _unmount(where: Path) -> None:
    subprocess.run(["umount", "-l", str(where)], check=True, capture_output=True, timeout=30)
