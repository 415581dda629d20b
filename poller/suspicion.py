"""Pure: whose doing it is when a session ends in the midst of an envelope: the relay's, or a destination's through it.

A 421, or a line that is lost before the end of data, names nobody. A relay that passes what destinations say on to us
ends the session when one of them does, and then a single destination would make it rest again and again.

Rule 1. One such event says nothing: it is taken for the relay's.
Rule 2. If it happens again to the same destination, and others were accepted by the same relay in between, and nothing
        of this one, it is the destination's.
Rule 3. An acceptance clears a destination; nothing that others do makes it a suspect.
Rule 4. MOST_SUSPECTS are remembered; of more, the one that was longest without an event is forgotten.

One `Suspicion` for each relay. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_SUSPECTS = 1000


@dataclass(kw_only=True, slots=True)
class Suspicion:
    """What is known of one relay's sessions that ended early."""

    _suspects: dict[str, int] = field(default_factory=dict)
    """By destination: how much had been accepted by anyone when a session ended at it."""
    _accepted: int = 0

    def accepted(self, destination: str) -> None:
        """The relay took a message for `destination`."""
        self._accepted += 1
        self._suspects.pop(destination, None)

    def ended(self, destination: str) -> bool:
        """A session ended at a message for `destination`. True: it is the destination's doing (Rule 2)."""
        before = self._suspects.pop(destination, self._accepted)
        self._suspects[destination] = self._accepted
        if len(self._suspects) > MOST_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        return self._accepted > before
