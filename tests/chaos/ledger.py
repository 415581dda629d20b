"""Pure: three books side by side. What was committed, what the relay accepted, what the rows say in the end.

Rule 1. A row is known by its recipient, of which each scenario gives every row one of its own: peers give a message
        that they send again another Message-ID.
Rule 2. `lost`: never accepted, and nobody will send it: the row is gone, or has ended.
Rule 3. `stuck`: still open after the final drain.
Rule 4. `wrongly_marked`: the status contradicts the relay: sent and never accepted, or ended otherwise though accepted.
Rule 5. A duplicate is each acceptance of a row after its first. It belongs to the crash that ended the life in which
        the one before it was accepted; one within a life belongs to none.
Rule 6. `unowned`: duplicates beyond the doubts that the row owns up to. Doubt must be visible.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from chaos.recorder import Entry

OPEN = frozenset({"queued", "sending"})
HELD = frozenset({"in_doubt", "paused"})
SENT = "sent"


@dataclass(frozen=True, kw_only=True)
class RowSays:
    """A row in the end. `doubts` is None where the program counts none."""

    status: str
    doubts: int | None = None


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """One acceptance too many; `crash` counts from 0, None: no crash lies between."""

    recipient: str
    first_id: str
    again_id: str
    crash: int | None
    was_answered: bool
    """The relay had written its 250 to the acceptance before."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the comparison says; the recipients of the rows concerned."""

    committed: int
    accepted: int
    crashes: int
    doubts: int
    lost: tuple[str, ...]
    stuck: tuple[str, ...]
    in_doubt: tuple[str, ...]
    delivered_in_doubt: int
    wrongly_marked: tuple[str, ...]
    unowned: tuple[str, ...]
    duplicates: tuple[Duplicate, ...]

    @property
    def per_crash(self) -> tuple[int, float, int]:
        """Duplicates for each crash: least, median, most."""
        by_crash = Counter(duplicate.crash for duplicate in self.duplicates)
        counts = [by_crash[crash] for crash in range(self.crashes)] or [0]
        return min(counts), statistics.median(counts), max(counts)

    @property
    def same_id(self) -> int:
        """Duplicates that carried the Message-ID of the first, so that a mailbox can tell."""
        return sum(1 for duplicate in self.duplicates if duplicate.again_id == duplicate.first_id)

    @property
    def broken(self) -> tuple[str, ...]:
        """The promises that hold for every scenario and did not here."""
        never = {
            "lost": len(self.lost),
            "stuck": len(self.stuck),
            "wrongly marked": len(self.wrongly_marked),
            "duplicates that no doubt owns up to": len(self.unowned),
            "duplicates with another Message-ID": len(self.duplicates) - self.same_id,
            "duplicates without a crash": sum(1 for d in self.duplicates if d.crash is None) if self.crashes else 0,
        }
        return tuple(f"{count} {what}" for what, count in never.items() if count)


def compare(
    committed: Iterable[str], entries: Iterable[Entry], rows: Mapping[str, RowSays], *, crashes: int = 0
) -> Findings:
    """`committed` are recipients, `rows` what each row says, by recipient."""
    everyone = list(committed)
    taken: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        for recipient in entry.recipients:
            taken[recipient].append(entry)
    status = {recipient: rows[recipient].status if recipient in rows else "gone" for recipient in everyone}
    duplicates = tuple(
        Duplicate(
            recipient=recipient,
            first_id=accepted[0].message_id,
            again_id=again.message_id,
            crash=before.life if again.life > before.life else None,
            was_answered=before.answered,
        )
        for recipient, accepted in taken.items()
        for before, again in pairwise(accepted)
    )
    return Findings(
        committed=len(everyone),
        accepted=sum(map(len, taken.values())),
        crashes=crashes,
        doubts=sum(row.doubts or 0 for row in rows.values()),
        lost=tuple(r for r in everyone if r not in taken and status[r] not in OPEN | HELD),
        stuck=tuple(r for r in everyone if status[r] in OPEN),
        in_doubt=tuple(r for r in everyone if status[r] == "in_doubt"),
        delivered_in_doubt=sum(1 for r in everyone if status[r] == "in_doubt" and r in taken),
        wrongly_marked=tuple(r for r in everyone if _contradicts(status[r], accepted=r in taken)),
        unowned=tuple(r for r, row in rows.items() if row.doubts is not None and len(taken[r]) - 1 > row.doubts),
        duplicates=duplicates,
    )


def _contradicts(status: str, *, accepted: bool) -> bool:
    if status in OPEN | HELD:
        return False
    return (status == SENT) != accepted
