"""Pure: pacing. Limits that hold.

limits.py  what may go, and when
heard.py   what a scope does when it is asked to slow down, and when it is well again
row.py     its state as it stands in the database, where people read and change it
"""

from __future__ import annotations

from poller.throttle.heard import Hearing, accepted, paused, slow_down
from poller.throttle.limits import (
    Limit,
    Scope,
    Slot,
    Taken,
    Used,
    allowance,
    given_back,
    good_for,
    is_unlimited,
    next_at,
    take,
)
from poller.throttle.row import as_row, repaired

__all__ = [
    "Hearing",
    "Limit",
    "Scope",
    "Slot",
    "Taken",
    "Used",
    "accepted",
    "allowance",
    "as_row",
    "given_back",
    "good_for",
    "is_unlimited",
    "next_at",
    "paused",
    "repaired",
    "slow_down",
    "take",
]
