"""Where a worker's time goes: py-spy looks at its stacks while it drains, from outside.

It slows the worker down, system calls most of all: the shares are for telling large from small.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

from bench.processes import LIMIT_S, WORKER, log_of
from servers.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.scene import Scene

SAMPLER = ("uvx", "-q", "--from", "py-spy==0.4.*", "py-spy", "record", "--rate", "250", "--format", "raw")
DELIVERING = "Delivery._one_session"
BOOKKEEPING = re.compile(r"Store\.(record|claim_ahead|hand_back)\b")
PARTS = (
    ("waiting for the relay", re.compile(r"Connection\._wait\b")),
    ("the socket: send and receive", re.compile(r"Connection\._(write_some|receive)\b")),
    ("the journal", re.compile(r"Journal\.")),
    ("the log line", re.compile(r"\(poller/log\.py")),
    ("waiting for the database", re.compile(r"transaction \(poller/outbox|Prefetch\.rest\b|Recorder\._harvest\b")),
    ("composing the next message", re.compile(r"Compose\._make\b")),
    ("judging an answer, and the step that follows", re.compile(r"Delivery\._weigh\b")),
    ("choosing the next row", re.compile(r"Delivery\._messages\b")),
    ("the conversation: commands and replies", re.compile(r"Courier\._next\b")),
    ("the rest", re.compile(DELIVERING)),
)
"""Of the delivering thread. A stack counts for the innermost of these that it is in."""


def profile(scene: Scene) -> None:
    """Where the time of a drain goes: the delivering thread's parts, and who holds the interpreter."""
    rows = scene.scale(20_000, 3_000)
    scene.book.say("profile.rows", f"{rows:,}")
    parts: Counter[str] = Counter()
    for stack, count in _stacks(scene, rows, "--idle"):
        if any(DELIVERING in frame for frame in stack):
            parts[_part_of(stack)] += count
    holders: Counter[str] = Counter()
    for stack, count in _stacks(scene, rows, "--gil"):
        if any(DELIVERING in frame for frame in stack):
            holders["the delivering thread"] += count
        elif any(BOOKKEEPING.search(frame) for frame in stack):
            holders["the bookkeeper"] += count
    for kind, found in (("part", parts), ("holds", holders)):
        for name, count in found.items():
            scene.book.add(f"profile.{kind}.{name}", count / found.total() * 100)
    scene.tell(", ".join(f"{name} {count / parts.total():.0%}" for name, count in parts.most_common()))


def _part_of(stack: list[str]) -> str:
    return next(name for frame in reversed(stack) for name, known in PARTS if known.search(frame))


def _stacks(scene: Scene, rows: int, *options: str) -> Iterator[tuple[list[str], int]]:
    """Each stack that was seen, outermost first, and how often."""
    with scene.outbox("postgresql") as outbox, Sink() as sink:
        outbox.fill(rows)
        outbox.settle()
        config, found = outbox.configure(sink.port), scene.directory / "stacks"
        _sampled(config, found, *options)
        for line in found.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            yield stack.split(";"), int(count)


def _sampled(config: Path, found: Path, *options: str) -> None:
    """A drain, looked at."""
    command = [*SAMPLER, *options, "--output", str(found), "--", *WORKER, "--config", str(config), "run", "--drain"]
    with log_of(config).open("wb") as output:
        subprocess.run(command, check=True, timeout=LIMIT_S, stdout=output, stderr=subprocess.STDOUT)
