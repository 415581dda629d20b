"""Pure: when one recipient after another is put off without a reason that is known.

A single 450 or 451 is that recipient's. But who has enough of us often says nothing more than that, to everybody; and
to go on asking is what makes it worse.

Rule 1. MOST_VOICES deferrals in a row at one destination, and nothing accepted there between, are the destination's own
        wish. What is said of one mailbox or address (X.1, X.2 of RFC 3463) is no voice, nor are known words.
Rule 2. Where the destination has complained and accepted nothing since, one voice is enough.
Rule 3. MOST_DESTINATIONS are listened to; of more, the one that was longest silent is forgotten.

Raises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poller.judgement.outcome import Blame, Deferred

if TYPE_CHECKING:
    from poller.judgement.outcome import Outcome

MOST_VOICES = 5
MOST_DESTINATIONS = 1000
_OF_A_MAILBOX = ("4.1.", "4.2.")


@dataclass(kw_only=True, slots=True)
class Deferrals:
    """The deferrals in a row, by destination."""

    _voices: dict[str, int] = field(default_factory=dict)

    def accepted(self, destination: str) -> None:
        """Something was taken there."""
        self._voices.pop(destination, None)

    def joined(self, destination: str, *, complains: bool = False) -> bool:
        """One more was put off. True: it is the destination's doing; `complains` says that it has said so before."""
        voices = self._voices.pop(destination, 0) + 1
        if complains or voices >= MOST_VOICES:
            return True
        self._voices[destination] = voices
        if len(self._voices) > MOST_DESTINATIONS:
            del self._voices[next(iter(self._voices))]
        return False


def is_voice(outcome: Outcome) -> bool:
    """Whether somebody was put off, and nobody knows why."""
    return (
        isinstance(outcome, Deferred)
        and outcome.unexplained
        and outcome.blame in {Blame.RECIPIENT, Blame.MESSAGE}
        and outcome.reply is not None
        and not outcome.reply.status.startswith(_OF_A_MAILBOX)
    )
