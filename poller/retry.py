"""Pure: what becomes of a row. (settings first; the rest follows)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from poller.units import SETTINGS, Count, CountOrZero, Factor, Seconds, Share


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """When a message that was deferred is tried again, and when it is given up: the `[retry]` section."""

    __pydantic_config__: ClassVar = SETTINGS

    first: Seconds = 60.0
    factor: Factor = 2.0
    longest: Seconds = 4 * 3600.0
    jitter: Share = 0.2
    """Each delay is lengthened or shortened by up to this share."""
    max_attempts: Count = 50
    give_up_after: Seconds = 5 * 86400.0
    """Counted from the first attempt."""
    on_doubt: Literal["resend", "hold"] = "resend"
    max_doubts: CountOrZero = 3
    cohort: Count = 10
    """So many identical 5xx replies in a row over different rows are an incident of the relay, not bad addresses."""
    cohort_patience: Seconds = 3600.0
    """After so long since a row's first attempt such a refusal is believed all the same."""
