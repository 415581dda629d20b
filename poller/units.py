"""Quantities as people write them in a configuration: durations, sizes, counts, rates. Standard library only.

The annotated types below are plain `float`, `int` and `str` to the rooms that use them. The objects in their
annotations carry pydantic's duck-typed hook (a core schema is a dict), so that `poller.config` can validate the very
dataclasses that the rooms define, and each key is declared once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KB|MB|GB)?")
_BYTES = {None: 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
_RATE = re.compile(r"(\d{1,12})/(\d{0,8})([smhd])", re.ASCII)
_LONGEST_S = 36500 * 86400.0  # a hundred years; a time beyond the year 9999 can't be written down
_WHOLE_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: object) -> float:
    """Seconds from "500ms", "5s", "10m", "2h", "5d"; a combination such as "1h30m" is fine.

    Raises ValueError with the remedy for anything else; a bare number is refused because it does not say its unit.
    """
    if not isinstance(value, str) or not re.fullmatch(rf"(?:{_DURATION.pattern})+", value):
        raise ValueError('not a duration; write it like "500ms", "5s", "10m", "2h" or "5d"')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(value))
    if seconds > _LONGEST_S:
        raise ValueError("too large; at most 36500d")
    return seconds


def format_duration(seconds: float) -> str:
    """A short spelling that `parse_duration` reads back: 90 -> "1m30s".

    Two neighbouring units at most, what is below the smaller one left out (3661 -> "1h1m"); three digits below a
    minute. `seconds` is finite and not negative.
    """
    total = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if total >= size:
            count = total % size // part
            return f"{total // size}{unit}{count}{smaller}" if count else f"{total // size}{unit}"
    milliseconds = float(f"{seconds * 1000:.3g}")
    return f"{_plain(milliseconds)}ms" if 0 < milliseconds < 1000 else f"{_plain(milliseconds / 1000)}s"  # noqa: PLR2004 - ms in a second


def _plain(number: float) -> str:
    """Without an exponent and without trailing zeros."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def parse_size(value: object) -> int:
    """Bytes from "25MB", "512KB", "1GB" (powers of ten) or a whole number of bytes. Raises ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError('not a size; write it like "25MB", "512KB" or a whole number of bytes')
    return int(match[1]) * _BYTES[match[2]]


class Misfit(ValueError):  # noqa: N818 - named by what is to blame
    """A value that does not fit those beside it; `key` is the one to change."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, order=True, slots=True)
class Rate:
    """So many in so many seconds; a period is a plain duration, whatever clocks and calendars do in it."""

    period: int
    """Seconds."""
    count: int

    def __str__(self) -> str:
        return format_rate(self)

    @property
    def span(self) -> str:
        """The period as it is written: "m", "15m"."""
        unit = next(unit for unit in "dhms" if self.period % _WHOLE_SECONDS[unit] == 0)
        number = self.period // _WHOLE_SECONDS[unit]
        return unit if number == 1 else f"{number}{unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        return {"type": "function-plain", "function": {"type": "no-info", "function": parse_rate}}


def parse_rate(value: object) -> Rate:
    """A rate from "30/m", "2/s", "1000/h", "10000/d", "100/15m". Raises ValueError with the remedy otherwise."""
    if isinstance(value, Rate):
        return value
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError('not a rate; write it like "2/s", "30/m", "100/15m", "1000/h" or "10000/d"')
    rate = Rate(period=int(match[2] or 1) * _WHOLE_SECONDS[match[3]], count=int(match[1]))
    if not rate.count:
        raise ValueError("a rate of zero would send nothing, ever; to stop mail use poller pause")
    if not 0 < rate.period <= _LONGEST_PERIOD_S or rate.count > _MOST_PER_PERIOD:
        raise ValueError("not a rate to hold: from 1 to 1000000000, in 1s to 366d")
    return rate


def format_rate(rate: Rate) -> str:
    """As `parse_rate` reads it back."""
    return f"{rate.count}/{rate.span}"


_LONGEST_PERIOD_S = 366 * 86400
_MOST_PER_PERIOD = 1_000_000_000


@dataclass(frozen=True)
class _Parsed:
    """An annotation: read the raw value with `parse`, then hold it to the bounds."""

    parse: Callable[[object], object] | None = None
    least: float | None = None
    most: float | None = None
    write: Callable[[float], str] = str

    def _read(self, value: object) -> object:
        return self.parse(value) if self.parse else value

    def _bounded(self, value: float) -> float:
        """Checked last, on the number itself: what comes from the environment is text until then."""
        if math.isnan(value):
            raise ValueError("not a number")
        if self.least is not None and value < self.least:
            raise ValueError(f"too small; at least {self.write(self.least)}")
        if self.most is not None and value > self.most:
            raise ValueError(f"too large; at most {self.write(self.most)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        reading = {"type": "no-info", "function": self._read}
        bounding = {"type": "no-info", "function": self._bounded}
        read = {"type": "function-before", "function": reading, "schema": handler(source)}
        return {"type": "function-after", "function": bounding, "schema": read}


@dataclass(frozen=True)
class Checked:
    """An annotation: what has the right type is held to a rule, which raises ValueError with the remedy."""

    check: Callable[[Any], object]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        function = {"type": "no-info", "function": self.check}
        return {"type": "function-after", "function": function, "schema": handler(source)}


Seconds = Annotated[float, _Parsed(parse_duration, least=0.001, write=format_duration)]
"""A duration above zero."""
SecondsOrZero = Annotated[float, _Parsed(parse_duration, write=format_duration)]
Bytes = Annotated[int, _Parsed(parse_size, least=1)]
Port = Annotated[int, _Parsed(least=1, most=65535)]
Count = Annotated[int, _Parsed(least=1, most=1_000_000_000)]
CountOrZero = Annotated[int, _Parsed(least=0, most=1_000_000_000)]
Factor = Annotated[float, _Parsed(least=1.0, most=100.0)]
Share = Annotated[float, _Parsed(least=0.0, most=1.0)]

SETTINGS: dict[str, Any] = {"extra": "forbid", "strict": False}
"""What every settings dataclass sets as `__pydantic_config__`: an unknown key is an error."""
