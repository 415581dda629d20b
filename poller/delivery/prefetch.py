"""The next rows, claimed by the bookkeeper while the last ones are being sent: the line need not fall silent between.

Rule 1. At most a batch and a half is claimed and not begun: the next batch is claimed when half of one has left.
Rule 2. Whatever was claimed ahead is had by `rows` or by `rest`; nobody forgets a claim.
Rule 3. A database that is away ends the batch, and is waited for by the next one who writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poller.outbox.database import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from poller.delivery.claiming import Claiming
    from poller.outbox.rows import ClaimedRow

HALF = 2
"""Of a batch, what is left when the next is claimed: time enough for a claim behind the recording of a group."""


@dataclass(kw_only=True, slots=True)
class Prefetch:
    """Belongs to the delivering thread; what is claimed ahead is claimed in the bookkeeper's."""

    bookkeeper: Executor
    claiming: Claiming
    may_claim: Callable[[], bool]
    unavailable: Callable[[DatabaseUnavailable], None]
    _claiming: Future[list[ClaimedRow]] | None = field(default=None)
    _dry: bool = False

    def begin(self, claimed: int) -> None:
        """So many rows were claimed: after as many as could be had more may be due."""
        self._dry = claimed < self._whole

    def rows(self, left: int, *, afresh: bool = False) -> list[ClaimedRow]:
        """Rows to go on with behind the `left` in hand: none yet, or none at all. Waits only when none are left.

        With `afresh` it is asked for again although there was nothing more a moment ago.
        """
        self._dry = self._dry and not afresh
        if self._claiming is not None and (not left or self._claiming.done()):
            return self.rest()
        if self._claiming is None and not self._dry and left * HALF <= self._whole and self.may_claim():
            self._claiming = self.bookkeeper.submit(self.claiming.claim())
            return self.rest() if not left else []
        return []

    def rest(self) -> list[ClaimedRow]:
        """What is being claimed, if anything is; waits for it."""
        claiming, self._claiming = self._claiming, None
        if claiming is None:
            return []
        try:
            found = claiming.result()
        except DatabaseUnavailable as why:
            self.unavailable(why)
            found = []
        self._dry = not found or len(found) * HALF < self._whole
        return found

    @property
    def _whole(self) -> int:
        return min(self.claiming.batch, self.claiming.asked)
