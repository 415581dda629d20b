"""A clone of the outbox, or of a worker's state directory, comes to life beside the original.

The same URL on another server, the same address on another machine, and a state directory that was copied while its
worker was sending, and put in the place of the original.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import databases
from chaos.crashes import AGAIN_S, TAKEN
from chaos.ground import NAMES, Ground, Line, Skipped, drain, fill, is_open, says, wait_until
from chaos.outages import instead
from chaos.recorder import Recorder
from chaos.restores import LOOK_S, Copy, let_it_run
from chaos.stalls import SHORTEST
from service import zygote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.bench import Bench

ROWS = 60
ANSWER_S = 0.005
AWAY = "aside"


OTHER_MACHINE = "0123456789abcdef0123456789abcdef"
"""For one process and those it starts: a file system of its own, in which /etc/machine-id is another file."""
_THERE = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/machine-id && exec "$@"')


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the program runs: here, or as if on another machine."""

    is_another: bool = False

    @contextlib.contextmanager
    def running(self, bench: Bench, config: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The program, with its log where the bench's is; killed at the end if it still runs."""
        command = [sys.executable, "-m", "poller", "--config", str(config), *arguments]
        if self.is_another:
            identity = bench.directory / "machine-id"
            identity.write_text(f"{OTHER_MACHINE}\n")
            command = [*_THERE, str(identity), *command]
        with (bench.directory / f"{bench.name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=zygote.environment())
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def run(self, bench: Bench, config: Path, *arguments: str) -> int:
        """The program to its end; its exit code."""
        with self.running(bench, config, *arguments) as process:
            return process.wait(90)


def clone(ground: Ground) -> Iterator[Line]:
    """Each database: its clone elsewhere, and a worker's directory that was copied."""
    for kind in ground.kinds:
        yield _on_another_server(ground) if kind == "postgresql" else _on_another_machine(ground, kind)
        yield _copied_directory(ground, kind)


def _on_another_server(ground: Ground) -> Line:
    """A dump is restored into another cluster, which then answers at the address of the first."""
    try:
        first = databases.EmbeddedPostgres()
    except (databases.Missing, subprocess.CalledProcessError) as why:
        raise Skipped(f"no PostgreSQL of our own to clone: {why}") from None
    with contextlib.ExitStack() as stack:
        stack.callback(first.stop)
        stack.enter_context(instead(first.url))
        with ground.bench("postgresql") as bench, Recorder() as relay:
            copy = _dumped(bench, relay, "postgresql", programs=first.binaries / "bin")
            bench.engine.dispose()
            first.kill()
            stack.callback(databases.EmbeddedPostgres(port=first.port).stop)
            copy.load_anew()
            return _met(bench, relay, "postgresql", "same URL, another server", Machine())


def _on_another_machine(ground: Ground, kind: str) -> Line:
    """The outbox as the dump has it, at the same address, and a worker on a machine of another id."""
    if os.geteuid() or shutil.which("unshare") is None:
        raise Skipped("another /etc/machine-id for one process wants root and unshare")
    with ground.bench(kind) as bench, Recorder() as relay:
        copy = _dumped(bench, relay, kind)
        bench.engine.dispose()
        copy.load_anew()
        return _met(bench, relay, kind, "same address, another machine", Machine(is_another=True))


def _dumped(bench: Bench, relay: Recorder, kind: str, *, programs: Path | None = None) -> Copy:
    """An outbox that is at home here; since the dump its worker has sent all rows, and left with its directory."""
    config = bench.configure(relay.host, relay.port)
    bench.insert(5, recipients="first{n}@example.com")
    drain(bench, config, seconds=60)
    bench.insert(ROWS, recipients="later{n}@example.com")
    copy = Copy(bench, kind, programs)
    copy.dump()
    drain(bench, config, seconds=60)
    (bench.directory / f"state-{bench.name}").rename(bench.directory / AWAY)
    return copy


def _met(bench: Bench, relay: Recorder, kind: str, what: str, machine: Machine) -> Line:
    """What a worker does that meets it, and then when a person says that it is right."""
    config = bench.configure(relay.host, relay.port)
    asked, said = let_it_run(bench, config, relay, LOOK_S, running=machine.running(bench, config, "run"))
    before = len(relay.entries)
    code = machine.run(bench, config, "adopt", "--yes")
    machine.run(bench, config, "run", "--drain", "--for", "60s")
    after = len(relay.entries) - before
    broken = [f"{asked} sent without being asked"] if asked else []
    broken += [] if (code, after) == (0, ROWS) else [f"{after} and not {ROWS} sent after poller adopt ({code})"]
    broken += [] if "outbox.held" in said else ["nobody says why"]
    return _line(kind, what, asked=asked, said=said, after=after, broken=broken)


def _copied_directory(ground: Ground, kind: str) -> Line:
    """Copied while its worker was sending, which goes on and is killed; the copy stands where it stood."""
    with ground.bench(kind) as bench, Recorder(on_taken=lambda _: time.sleep(ANSWER_S) is None) as relay:
        committed = fill(bench, ROWS, on_doubt="hold")
        config = bench.configure(relay.host, relay.port, **{**SHORTEST, "poll": {"batch_size": ROWS}})
        state = bench.directory / f"state-{bench.name}"
        with bench.running(config) as process:
            wait_until(lambda: len(relay.entries) >= ROWS // 4, "some were sent")
            shutil.copytree(state, bench.directory / AWAY)
            wait_until(lambda: len(relay.entries) >= ROWS // 2, "more were sent")
            process.kill()
            process.wait(30)
        relay.wait_until_quiet()
        shutil.rmtree(state)
        (bench.directory / AWAY).rename(state)
        before = len(relay.entries)
        wait_until(lambda: drain(bench, config) != TAKEN, "the copy is let in", every=AGAIN_S)
        sent = Counter(address for entry in relay.entries for address in entry.recipients)
        found = says(bench)
        open_left = is_open(bench)
    twice = sum(sent.values()) - len(sent)
    lost = [address for address in committed if address not in sent and found[address].status != "in_doubt"]
    doubts = sum(row.status == "in_doubt" for row in found.values())
    broken = [f"{twice} sent twice"] if twice else []
    broken += [f"{len(lost)} lost"] if lost else []
    broken += [f"{open_left} left"] if open_left else []
    return _line(
        kind,
        "a state directory, of a while ago",
        asked=twice,
        said=f"{doubts} in doubt (`hold`)",
        after=len(relay.entries) - before,
        broken=broken,
    )


def _line(kind: str, what: str, *, asked: int, said: str, after: int, broken: list[str]) -> Line:
    cells = {
        "database": NAMES[kind],
        "clone": what,
        "rows": ROWS,
        "sent without being asked, or twice": asked,
        "says": said,
        "then sent": after,
    }
    return Line(cells=cells, broken=tuple(broken))
