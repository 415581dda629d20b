"""Pure: limits in words, as outbox_throttle, logs and people read them."""

from __future__ import annotations

import re

from poller.pacing.limits import Limit
from poller.units import format_duration, format_rate, parse_duration, parse_rate

NONE = "none"
"""The word for a limit that lets everything through."""
_BURST = re.compile(r"burst (\d{1,9})", re.ASCII)


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


def limit_of_words(words: str) -> Limit:
    """What `words_of_limit` wrote, or a person: "60/m", "2/s and 10000/d, burst 5", "none". Raises ValueError."""
    rates: tuple[str, ...] = ()
    more: dict[str, object] = {}
    for part in (part.strip() for part in words.split(",")):
        if part == "recipients counted":
            more["counts"] = "recipients"
        elif match := _BURST.fullmatch(part):
            more["burst"] = int(match[1])
        elif part.startswith("gap "):
            more["gap"] = parse_duration(part.removeprefix("gap ").strip())
        elif part != NONE:
            rates += tuple(part.split(" and "))
    return Limit(rates=tuple(parse_rate(rate.strip()) for rate in rates), **more)  # type: ignore[arg-type]


def override_of(words: str | None) -> Limit | None:
    """The limit that a row of outbox_throttle puts in the place of the configured one; None if none, or unreadable."""
    try:
        return limit_of_words(words) if words else None
    except ValueError:
        return None
