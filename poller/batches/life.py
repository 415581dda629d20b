"""Pure: what a look at a batch makes of what is known of it.

Rule 1. A batch is done when no row of it is open: queued, being sent, paused or in doubt. It settles first: what is
        added, or ends, meanwhile begins that anew.
Rule 2. It is done again when rows that were added or retried have ended: then its last end is a later one.
Rule 3. The verdict on its beginning is given once. It is bad as soon as so many have failed as the share of the first
        `of` allows, however few have ended by then.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from poller.batches.settings import BatchSettings
    from poller.outbox.batches import Known, Progress

FAILED = ("failed", "partial", "expired")
"""Not what somebody asked for: cancelled, suppressed."""


def is_over(progress: Progress) -> bool:
    """Rule 1."""
    return not (progress.open or progress.held)


def looked_at(known: Known, progress: Progress, settings: BatchSettings, now: datetime) -> Mapping[str, Any] | None:
    """The columns of outbox_batch after a look; None: nothing is to be written, nobody who tells is disturbed."""
    if progress.messages < settings.least and not known.version:
        return None
    if is_over(progress) and known.state != "open" and known.last_finished_at == progress.last_finished_at:
        return None
    counts = {
        name: getattr(progress, name)
        for name in ("messages", "open", "sent", "not_sent", "held", "first_attempt_at", "last_finished_at")
    }
    return counts | _state(known, progress, settings, now)


def _state(known: Known, progress: Progress, settings: BatchSettings, now: datetime) -> dict[str, Any]:
    if not is_over(progress):
        taken = known.taken_until if known.verdict == "pausing" else None
        return {"state": "open", "done_at": None, "taken_until": taken}
    state = "settling" if settings.concerns(known.batch) else "done"
    return {"state": state, "done_at": now, "taken_until": None}


def may_be_bad(known: Known, progress: Progress, settings: BatchSettings) -> bool:
    """Whether its first ends have to be looked at."""
    if settings.failed is None or known.verdict is not None or not settings.concerns(known.batch):
        return False
    return progress.ended >= settings.of or progress.not_sent >= too_many(settings)


def too_many(settings: BatchSettings) -> int:
    """So many failures among the first `of`."""
    return ceil((settings.failed or 1.0) * settings.of)


def verdict_on(ends: Sequence[str], settings: BatchSettings) -> str | None:
    """Rule 3; None: it is too early."""
    if sum(status in FAILED for status in ends) >= too_many(settings):
        return "pausing"
    return "passed" if len(ends) >= settings.of else None
