"""Limits that hold, and slowing down when it is asked for. Pure, but for `mx`.

limits      what may go, and when
complaints  what a scope does when it is asked to slow down, and when it is well again
state_row   its state as it stands in the database, where people read and change it
gate        what a claim is asked to let through
hours       sending windows and quiet hours
mx          whose machines take a domain's mail, from the DNS
words       limits as a person reads them
"""

from __future__ import annotations

from poller.pacing.complaints import Hearing, accepted, paused, slow_down
from poller.pacing.limits import (
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
from poller.pacing.state_row import as_row, repaired

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
