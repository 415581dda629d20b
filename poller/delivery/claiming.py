"""How the next rows are claimed: decided in the delivering thread, done in any.

Rule 1. What a claim may take is what is known when it is asked for: limits, pauses, relays that rest.
Rule 2. A row that the database does not let us claim is said, once for each reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poller.delivery.session import Line
    from poller.delivery.throttle import SharedLimits
    from poller.log import OnChange
    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store
    from poller.pacing.gate import Gate

Claim = Callable[[], "list[ClaimedRow]"]


@dataclass(kw_only=True, slots=True)
class Claiming:
    """Belongs to the delivering thread. `batch` is the most rows of one claim; `lines` are the relays, by name."""

    store: Store
    shared_limits: SharedLimits
    lines: Mapping[str, Line]
    batch: int
    clock: Callable[[], float]
    say: OnChange
    afresh: bool = True
    """Somebody called: a destination that had nothing a moment ago is asked again."""
    asked: int = 0
    """How many the last claim could have had at most: where a limit is in force, fewer than a batch."""

    @property
    def usable(self) -> tuple[str, ...]:
        """The relays that need not rest."""
        return tuple(name for name, line in self.lines.items() if not line.resting)

    def gate(self) -> Gate:
        """What a claim may take now."""
        return self.shared_limits.gate(self.batch, usable=self.usable, afresh=self.afresh)

    def claim(self) -> Claim:
        """How to claim up to a batch, to be done in any thread. Raises nothing itself."""
        gate, choose = self.gate(), self.shared_limits.choose(self.usable)
        self.afresh, self.asked = False, gate.limit

        def claim() -> list[ClaimedRow]:
            began = self.clock()
            rows = self.store.claim_ahead(gate, choose)
            self._say_refused()
            if gate.scopes:
                pacing = self.shared_limits.pacing
                pacing.claimed_in(self.clock() - began)
                pacing.asked(gate, {row.domain for row in rows}, self.shared_limits.now())
            return rows

        return claim if gate.limit else list

    def _say_refused(self) -> None:
        for row_id, refused in self.store.refused.items():
            why = refused.reason
            self.say.say("error", "row.unclaimable", about=f"row {row_id}", fingerprint=why, id=row_id, reason=why)
