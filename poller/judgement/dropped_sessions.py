"""Pure: whose doing it is when a relay ends a session, or refuses us: its own, or that of what it was about.

A 421, or a line that is lost before the end of data, names nobody. A relay that passes what destinations say on to us
ends the session when one of them does, and then a single destination would make it rest again and again. So with a
refusal of us: "Relay access denied" may be meant for one row's recipient alone, which would then wait for ever.

Rule 1. One such event says nothing: it is taken for the relay's.
Rule 2. If it happens again to the same destination (or row), and others were accepted by the same relay in between, and
        nothing of this one, it is the destination's (or the row's).
Rule 3. An acceptance clears it; nothing that others do makes it a suspect.
Rule 4. MOST_SUSPECTS are remembered; of more, the one that was longest without an event is forgotten.

One `DroppedSessions` for each relay and kind of suspect. Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_SUSPECTS = 1000


@dataclass(kw_only=True, slots=True)
class DroppedSessions:
    """What is known of one relay's sessions that ended early, or of whom it refused because of us."""

    _suspects: dict[str, int] = field(default_factory=dict)
    """By suspect: how much had been accepted by anyone when it happened last."""
    _accepted: int = 0

    def accepted(self, whose: str) -> None:
        """The relay took a message of `whose`."""
        self._accepted += 1
        self._suspects.pop(whose, None)

    def befell(self, whom: str) -> bool:
        """It happened at a message of `whom`. True: it is `whom`'s doing (Rule 2)."""
        before = self._suspects.pop(whom, self._accepted)
        self._suspects[whom] = self._accepted
        if len(self._suspects) > MOST_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        return self._accepted > before
