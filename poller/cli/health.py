"""`poller status --check`: one line and an exit code, for cron, Nagios and what works like it.

OK 0, WARNING 1, CRITICAL 2, UNKNOWN 3 (the monitoring plugins' guidelines). Critical is what keeps all mail from going
and nobody has asked for; a warning is what a person should look at. Numbers stand behind the bar.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from poller.answers.foresight import in_the_way, switched_off
from poller.outbox.report import Pulse, glance, pulse, silent
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.outbox.report import Glance


class Level(IntEnum):
    """Exit codes."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Verdict(NamedTuple):
    """What a monitoring system is told."""

    level: Level
    text: str


def verdict(config: Config, engine: Engine, *, max_age: float) -> Verdict:
    """How it stands. Raises DatabaseUnavailable."""
    seen, beat = glance(engine), pulse(engine)
    found = sorted(_found(config, engine, seen, beat, max_age), reverse=True)
    level = found[0][0] if found else Level.OK
    words = "; ".join(text for _, text in found) or f"{beat.due} due, {len(seen.alive)} workers alive"
    return Verdict(level, f"{level.name} - {words} | {_numbers(seen, beat)}")


def unknown(why: str) -> Verdict:
    """Nobody could look."""
    return Verdict(Level.UNKNOWN, f"{Level.UNKNOWN.name} - {why}")


def _found(config: Config, engine: Engine, seen: Glance, beat: Pulse, max_age: float) -> Iterator[tuple[Level, str]]:
    if off := switched_off(seen):
        yield Level.WARNING, off
    yield from ((Level.CRITICAL, reason) for reason in in_the_way(config, engine, seen))
    if seen.alive and (gone := silent(seen.workers)):
        yield Level.WARNING, gone
    if seen.paused is None and beat.is_stuck(max_age):
        oldest = format_duration(beat.oldest_due_seconds)
        yield Level.CRITICAL, f"{beat.due} due, the oldest for {oldest}, and {beat.last_sent}"
    if beat.in_doubt:
        yield Level.WARNING, f"{beat.in_doubt} in doubt: poller resolve"


def _numbers(seen: Glance, beat: Pulse) -> str:
    numbers = {
        "due": beat.due,
        "oldest_due": f"{beat.oldest_due_seconds:.0f}s",
        "in_doubt": beat.in_doubt,
        "workers_alive": len(seen.alive),
    }
    return " ".join(f"{name}={number}" for name, number in numbers.items())
