"""Pure: how long a relay in trouble is left alone.

Rule 1. Pauses double from `first` to `longest`, and begin anew after an acceptance.
Rule 2. A session that ended without its fault being clear, but that had delivered something, is replaced at once.
Rule 3. A relay that says 421 is always given a pause: it asked for one.

Time is passed in, as seconds of a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Rest:
    """The state of one relay: healthy, or resting `until`."""

    first: float
    longest: float
    troubles: int = 0
    until: float = 0.0

    def trouble(self, now: float) -> float:
        """It can't be used, or used any longer: leave it alone from now on. Returns the seconds."""
        pause = min(self.first * 2.0 ** min(self.troubles, 30), self.longest)
        self.troubles += 1
        self.until = now + pause
        return pause

    def well(self) -> None:
        """It accepted a message."""
        self.troubles = 0
        self.until = 0.0

    def remaining(self, now: float) -> float:
        """Seconds that it still rests."""
        return max(0.0, self.until - now)
