"""Pure: limits in words, as outbox_throttle, logs and people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.units import format_duration, format_rate

if TYPE_CHECKING:
    from poller.pacing.limits import Limit


def words_of_limit(limit: Limit) -> str:
    """Such as "30/m and 10000/d, recipients counted, burst 5, gap 2s"; "" for none."""
    rates = " and ".join(format_rate(rate) for rate in sorted(limit.rates))
    parts = [
        rates,
        "recipients counted" if rates and limit.counts == "recipients" else "",
        f"burst {limit.burst}" if limit.burst > 1 else "",
        f"gap {format_duration(limit.gap)}" if limit.gap else "",
    ]
    return ", ".join(part for part in parts if part)
