"""Pure: how much each destination has accepted of late: in the last minute, unless another window is asked for.

Rule 1. Counts are kept by the second, and leave the window when it has passed over them.
Rule 2. MOST_DESTINATIONS are counted at a time; of more, the one that was longest without an acceptance is forgotten.

Time is passed in, in seconds of any clock that goes forward. Raises nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from poller.units import Rate

MOST_DESTINATIONS = 1000


@dataclass(kw_only=True, slots=True)
class AcceptedLately:
    """What was accepted of late, by destination."""

    window: int = 60
    """Seconds."""
    _seconds: dict[str, deque[list[int]]] = field(default_factory=dict)
    """Pairs of a second and a count, by destination, the one counted last at the end."""

    def accepted(self, destination: str, now: float, count: int = 1) -> None:
        """`count` messages for `destination` were accepted."""
        counts = self._seconds.pop(destination, None)
        if counts is None:
            counts = deque(maxlen=self.window)
            if len(self._seconds) >= MOST_DESTINATIONS:
                del self._seconds[next(iter(self._seconds))]
        self._seconds[destination] = counts
        second = int(now)
        if counts and counts[-1][0] >= second:
            counts[-1][1] += count
        else:
            counts.append([second, count])

    def seen(self, destination: str, now: float) -> Rate | None:
        """What it accepted within the window; None if nothing."""
        oldest = int(now) - self.window
        count = sum(count for second, count in self._seconds.get(destination, ()) if second > oldest)
        return Rate(count=count, period=self.window) if count else None
