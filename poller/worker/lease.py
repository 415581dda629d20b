"""Pure but for the clock: how long a worker may still act on what it claimed, and when others may judge its rows.

Rule 1. A renewal counts from when it was asked for, not from when it was answered.
Rule 2. The clock goes on while the machine is suspended, as everybody else's does.
Rule 3. A lease that had ended and is had again is another one: rows claimed before may be others' by now.
Rule 4. Another worker is silent only when we have watched its heartbeat stand still for the whole time ourselves: no
        clock that is set forward, neither ours nor the database's, makes a living worker's rows anybody else's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def boot_clock() -> float:
    """Seconds, and they go on while the machine is suspended: others' clocks do."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Lease:
    """How long we may still act, on our own monotonic clock."""

    def __init__(self, clock: Callable[[], float], length: float, spare: float) -> None:
        self._clock = clock
        self.length = length
        self._spare = min(spare, length / 2)
        self._until = 0.0
        self.epoch = 0
        """Grows when the lease is had anew: rows claimed in an earlier one may be others' by now."""

    def now(self) -> float:
        """The lease's clock, in seconds."""
        return self._clock()

    def renewed(self, asked_at: float) -> None:
        """It was renewed by a statement that we sent at `asked_at`. After it had ended this is another lease."""
        if self.ended:
            self.epoch += 1
        self._until = asked_at + self.length

    @property
    def allows_another(self) -> bool:
        """There is time for one more transaction."""
        return self._clock() < self._until - self._spare

    @property
    def age(self) -> float | None:
        """Seconds since it was renewed; None before the first time."""
        return self._clock() - (self._until - self.length) if self._until else None

    @property
    def ended(self) -> bool:
        """Others may judge our rows now."""
        return self._clock() >= self._until


class Watch:
    """Who has been silent for `length` seconds, as we saw it ourselves (Rule 4)."""

    def __init__(self, clock: Callable[[], float], length: float) -> None:
        self._clock = clock
        self._length = length
        self._seen: dict[str, tuple[object, float]] = {}

    def silent(self, holders: Mapping[str, tuple[object, bool]]) -> set[str]:
        """Of `holders`, those that said that they stopped, or whose mark has stood still for long enough.

        By name, what changes while the worker lives, and whether it has stopped.
        """
        now = self._clock()
        self._seen = {name: self._since(name, mark, now) for name, (mark, _) in holders.items()}
        return {
            name
            for name, (_, has_stopped) in holders.items()
            if has_stopped or now - self._seen[name][1] >= self._length
        }

    def _since(self, name: str, mark: object, now: float) -> tuple[object, float]:
        before = self._seen.get(name)
        return before if before is not None and before[0] == mark else (mark, now)
