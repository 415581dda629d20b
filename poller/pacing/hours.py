"""Pure: sending windows and quiet hours, in a time zone.

Rule 1. It is open when a window is open, or none is given, and no quiet hours are on.
Rule 2. Hours are what the clock on the wall shows. An hour that a change of the clocks skips does not come; one that it
        repeats comes twice.
Rule 3. A span that ends before it begins runs over midnight: its days are those on which it begins.
Rule 4. Hours that never open, or a zone that nobody knows, are refused when they are made.

"Mon-Fri 08:00-18:00", "22:00-07:00" (every day), "Sat,Sun 10:00-24:00". Time is passed in, aware.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPAN: Final = re.compile(r"(?:([A-Za-z,-]+) )?(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_DAY_MINUTES: Final = 24 * 60
_WEEK_MINUTES: Final = 7 * _DAY_MINUTES
_LOOK_AHEAD_DAYS: Final = 23
"""A weekly hour that a change of the clocks skips comes a week later; two changes in a row have been seen."""
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Some hours of some days. `start` and `end` are minutes from midnight; an `end` below `start` is next day's."""

    days: frozenset[int]
    """0 is Monday."""
    start: int
    end: int

    def __str__(self) -> str:
        days = (
            "" if len(self.days) == len(DAYS) else ",".join(DAYS[day].capitalize() for day in sorted(self.days)) + " "
        )
        return f"{days}{_clock(self.start)}-{_clock(self.end)}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        return {"type": "function-plain", "function": {"type": "no-info", "function": parse_span}}

    def covers(self, day: int, minute: int) -> bool:
        """Whether it is on at this minute of this weekday."""
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """When mail may go. Raises ValueError if never."""

    windows: tuple[Span, ...] = ()
    quiet: tuple[Span, ...] = ()
    zone: ZoneInfo | None = None
    """None is UTC."""

    def __post_init__(self) -> None:
        """Raise ValueError if there is no minute in the week at which it is open."""
        if not any(_is_on(self, *divmod(minute, _DAY_MINUTES)) for minute in _edges(self)):
            raise ValueError("these windows and quiet hours never open")


def parse_span(value: object) -> Span:
    """A span from "Mon-Fri 08:00-18:00" or "22:00-07:00". Raises ValueError with the remedy."""
    if isinstance(value, Span):
        return value
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError('not hours; write them like "Mon-Fri 08:00-18:00", "Sat,Sun 10:00-16:00" or "22:00-07:00"')
    start, end = (_minutes(match[hour], match[hour + 1]) for hour in (2, 4))
    if start == end:
        raise ValueError("begins when it ends; the whole day is 00:00-24:00")
    if start == _DAY_MINUTES:
        raise ValueError("nothing begins at 24:00; write 00:00 of the next day")
    return Span(days=_days(match[1]), start=start, end=end)


def parse_zone(name: object) -> ZoneInfo:
    """A time zone by its name, such as "Europe/Berlin". Raises ValueError with the remedy."""
    try:
        return ZoneInfo(name if isinstance(name, str) else "")
    except (KeyError, ValueError, OSError):  # unknown; not a name; the name of a directory
        raise ValueError('not a time zone that is known here; write it like "Europe/Berlin" or "UTC"') from None


def is_open(hours: Hours, now: datetime) -> bool:
    """Whether mail may go now."""
    wall = now.astimezone(hours.zone or UTC)
    return _is_on(hours, wall.weekday(), wall.hour * 60 + wall.minute)


def opens_at(hours: Hours, now: datetime) -> datetime:
    """When mail may go next, in UTC; `now` if it may now."""
    now = now.astimezone(UTC)
    if is_open(hours, now):
        return now
    return next(moment for moment in _moments(hours, now) if is_open(hours, moment))


def closes_at(hours: Hours, now: datetime) -> datetime | None:
    """When mail may go no more, in UTC; `now` if it may not now; None if it always may."""
    now = now.astimezone(UTC)
    if not is_open(hours, now):
        return now
    return next((moment for moment in _moments(hours, now) if not is_open(hours, moment)), None)


# ---- the week


def _is_on(hours: Hours, day: int, minute: int) -> bool:
    opened = not hours.windows or any(span.covers(day, minute) for span in hours.windows)
    return opened and not any(span.covers(day, minute) for span in hours.quiet)


def _edges(hours: Hours) -> Iterator[int]:
    """The minutes of the week at which something may begin or end."""
    yield 0
    for span in (*hours.windows, *hours.quiet):
        for day in span.days:
            yield day * _DAY_MINUTES + span.start
            over = span.end if span.start < span.end else span.end + _DAY_MINUTES
            yield (day * _DAY_MINUTES + over) % _WEEK_MINUTES


def _moments(hours: Hours, now: datetime) -> list[datetime]:
    """Every moment after `now`, in order, at which it may open or close: an edge on the wall, or a change of clocks."""
    zone = hours.zone or UTC
    minutes = {edge % _DAY_MINUTES for edge in _edges(hours)}
    midnight = datetime.combine(now.astimezone(zone).date(), time(), zone)
    moments = set(_changes(zone, now))
    for later in range(-1, _LOOK_AHEAD_DAYS):
        day = midnight + timedelta(days=later)  # on the wall
        for minute in minutes:
            edge = day.replace(hour=minute // 60, minute=minute % 60)
            moments |= {edge.astimezone(UTC), edge.replace(fold=1).astimezone(UTC)}
    return sorted(moment for moment in moments if moment > now)


def _changes(zone: tzinfo, start: datetime) -> Iterator[datetime]:
    """When the clocks of a zone change within the days that are looked at, to the minute."""
    before = start.replace(second=0, microsecond=0)
    for _ in range(24 * _LOOK_AHEAD_DAYS):
        after = before + _HOUR
        if _offset(zone, before) != _offset(zone, after):
            minutes = (before + minute * _MINUTE for minute in range(1, 61))
            yield next(minute for minute in minutes if _offset(zone, minute) != _offset(zone, before))
        before = after


def _offset(zone: tzinfo, moment: datetime) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()


# ---- reading


def _minutes(hours: str, minutes: str) -> int:
    total = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or total > _DAY_MINUTES:  # noqa: PLR2004 - minutes of an hour
        raise ValueError("not a time of day; from 00:00 to 24:00")
    return total


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


@lru_cache(maxsize=64)
def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start, end = _day(first), _day(last) if dash else _day(first)
        days.update((start + step) % 7 for step in range((end - start) % 7 + 1))
    return frozenset(days)


def _day(name: str) -> int:
    day = name.lower()
    if day not in _NAMES:
        raise ValueError("not a day; they are Mon, Tue, Wed, Thu, Fri, Sat, Sun")
    return DAYS.index(day[:3])


_NAMES = frozenset({*DAYS, "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"})
