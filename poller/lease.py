"""Pure but for the clock: how long a worker may still act on what it claimed.

Rule 1. A renewal counts from when it was asked for, not from when it was answered.
Rule 2. The clock goes on while the machine is suspended, as everybody else's does.
Rule 3. A lease that had ended and is had again is another one: rows claimed before may be others' by now.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


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
    def ended(self) -> bool:
        """Others may judge our rows now."""
        return self._clock() >= self._until
