"""Pure: the state of a scope as it stands in a database row, which people read and change.

`paused_until`, `reason` and `pace` are columns of their own: a DBA pauses, resumes and unbrakes with a plain UPDATE.
All the rest is `slots`, a short JSON text; NULL there forgets what was taken:

    {"next": "2026-11-22T10:00:02.000000Z", "h": {"since": "2026-11-22T09:57:00.000000Z", "used": [12, 31]}}

`next` is when the pace has made up for what was taken, `gap` when the gap ends, a span ("h", "d", "15m") what was used
of that quota, by twentieths of its period. For a scope that was told to slow down: `of`, `since`, `accepted`,
`complaints`, `too_fast`, `hits`.

Rule 1. What was written is read back as it was.
Rule 2. Nonsense is repaired, in favour of the limit where that can be told, and said in words; nothing is raised.
Rule 3. Nothing in a row can stop a scope for longer than its own limit could, but a pause: that one somebody may mean,
        and it is seen in its column.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from poller.pacing.complaints import least_pace
from poller.pacing.limits import AHEAD, Scope, Used, longest_debt, part_of, without
from poller.units import Rate, format_rate, parse_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poller.pacing.gate import Share
    from poller.pacing.limits import Limit

COLUMNS = ("slots", "paused_until", "reason", "pace")
"""Text, UTC time, text, number; each may be NULL."""
MOST_TEXT = 1000
"""Characters of a reason."""

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)  # room to reckon: datetime ends with the year 9999
_MOST_COUNTED = 10**12
_MOST_PARTS = 64  # far more than `limits` ever writes


def as_row(state: Scope) -> dict[str, Any]:
    """The values of COLUMNS."""
    slots: dict[str, Any] = {
        "next": _text(state.free_at),
        "gap": _text(state.gap_until),
        "of": format_rate(state.pace_of) if state.pace_of else None,
        "since": _text(state.pace_since),
        "accepted": state.accepted,
        "complaints": state.complaints,
        "too_fast": state.too_fast if state.too_fast < 1 else None,
        "hits": state.hits,
        **{span: {"since": _text(used.since), "used": used.counts} for span, used in state.used.items()},
    }
    kept = {name: value for name, value in slots.items() if value}
    return {
        "slots": json.dumps(kept) if kept else None,
        "paused_until": state.paused_until,
        "reason": state.reason[:MOST_TEXT] or None,
        "pace": state.pace,
    }


def repaired(limit: Limit, row: Mapping[str, Any], now: datetime) -> tuple[Scope, str]:
    """The state that a row holds, and what had to be repaired in it; "" if nothing. Missing columns count as NULL."""
    faults: list[str] = []
    slots = _slots(row.get("slots"), faults)
    pace_of = _rate(slots.get("of"), faults)
    pace = _pace(row.get("pace"), least_pace(limit, pace_of), faults)
    slow = pace < 1
    known = Scope(
        pace=pace,
        too_fast=_too_fast(slots.get("too_fast"), pace, faults) if slow else 1.0,
        hits=_count(slots.get("hits"), "hits", faults),
        pace_of=pace_of if slow else None,
        pace_since=_not_after(now, _time(slots.get("since"), "since", faults), "since", faults) if slow else None,
        accepted=_count(slots.get("accepted"), "accepted", faults) if slow else 0,
        complaints=_count(slots.get("complaints"), "complaints", faults),
        paused_until=_time(row.get("paused_until"), "paused_until", faults),
        reason=str(row.get("reason") or "")[:MOST_TEXT],
        gap_until=_not_after(
            now + timedelta(seconds=limit.gap) + AHEAD, _time(slots.get("gap"), "gap", faults), "gap", faults
        ),
        used={
            quota.span: used
            for quota in limit.quotas
            if (used := _used(quota, slots.get(quota.span), now, faults)) is not None
        },
    )
    free_at = _time(slots.get("next"), "next", faults)
    return replace(known, free_at=_not_after(now + longest_debt(limit, known), free_at, "next", faults)), "; ".join(
        faults
    )


def unsent(slots: Any, lost: Sequence[tuple[datetime, Share]]) -> Any:
    """`slots` of a row, when messages that took these shares, for these slots, have not been sent and will not be.

    The quotas get them back; the pace does if nobody has taken since, the last one first. It needs no limit, and what
    it can't read stays as it is.
    """
    kept = _slots(slots, [])
    weights = [(at, share.weight) for at, share in lost]
    for span, used in kept.items():
        try:
            quota = parse_rate(f"1/{span}")
        except ValueError:
            continue
        known = _used(quota, used, _LATEST, [])
        if known is not None:
            kept[span] = {"since": _text(known.since), "used": without(quota, known, weights).counts}
    shares = [share for _, share in lost if share.after is not None]
    for share in sorted(shares, key=lambda share: share.after or _EARLIEST, reverse=True):
        if kept.get("next") == _text(share.after):
            kept["next"] = _text(share.before)
    kept = {name: value for name, value in kept.items() if value is not None}
    return json.dumps(kept) if kept or slots else slots


def _slots(value: Any, faults: list[str]) -> dict[str, Any]:
    if value is None or value == "":
        return {}
    try:
        found = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    faults.append("slots can't be read: what was taken is forgotten")
    return {}


def _time(value: Any, name: str, faults: list[str]) -> datetime | None:
    if value is None:
        return None
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        at = None
    if at is None or not _EARLIEST <= at <= _LATEST:
        faults.append(f"{name} is no time to go by: left out")
        return None
    return at


def _not_after(latest: datetime, at: datetime | None, name: str, faults: list[str]) -> datetime | None:
    if at is None or at <= latest:
        return at
    faults.append(f"{name} lay further ahead than it can: brought back")
    return latest


def _count(value: Any, name: str, faults: list[str]) -> int:
    if value is None:
        return 0
    if _is_count(value):
        return int(value)
    faults.append(f"{name} is no count: set to 0")
    return 0


def _rate(value: Any, faults: list[str]) -> Rate | None:
    if value is None:
        return None
    try:
        return parse_rate(value)
    except ValueError:
        faults.append('"of" is no rate: left out')
        return None


def _pace(value: Any, least: float, faults: list[str]) -> float:
    if value is None:
        return 1.0
    try:
        pace = float(value)
    except (ValueError, TypeError, OverflowError):
        pace = math.nan
    if not 0 < pace <= 1:
        faults.append("pace is not above 0 and at most 1: set to 1")
        return 1.0
    if pace < least:
        faults.append(f"pace is below the least, {least:.2g}: raised to it")
        return least
    return pace


def _too_fast(value: Any, pace: float, faults: list[str]) -> float:
    """Never below the pace: what goes well is not too fast."""
    if value is None:
        return 1.0
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return max(float(value), pace)
    faults.append("too_fast is not above 0 and at most 1: set to 1")
    return 1.0


def _used(quota: Rate, value: Any, now: datetime, faults: list[str]) -> Used | None:
    if value is None:
        return None
    counts = value.get("used") if isinstance(value, dict) else None
    since = _time(value.get("since"), quota.span, []) if isinstance(value, dict) else None
    if since is None or not isinstance(counts, list) or not all(_is_count(count) for count in counts):
        faults.append(f"what was used of {quota} can't be read: begun anew")
        return None
    end = since + len(counts[:_MOST_PARTS]) * part_of(quota)
    if len(counts) >= _MOST_PARTS or end > now + AHEAD + 2 * part_of(quota):
        faults.append(f"what was used of {quota} lay further ahead than it can: counted as of now")
        return Used(since=now, counts=(min(sum(counts), quota.count),))
    return Used(since=since, counts=tuple(counts))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_COUNTED


def _text(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z") if at else None
