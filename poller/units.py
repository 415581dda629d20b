"""Quantities as people write them in a configuration: durations, sizes, counts. Standard library only.

The annotated types below are plain `float`, `int` and `str` to the rooms that use them. The objects in their
annotations carry pydantic's duck-typed hook (a core schema is a dict), so that `poller.config` can validate the very
dataclasses that the rooms define, and each key is declared once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KB|MB|GB)?")
_BYTES = {None: 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def parse_duration(value: object) -> float:
    """Seconds from "500ms", "5s", "10m", "2h", "5d"; a combination such as "1h30m" is fine.

    Raises ValueError with the remedy for anything else; a bare number is refused because it does not say its unit.
    """
    if not isinstance(value, str) or not re.fullmatch(rf"(?:{_DURATION.pattern})+", value):
        raise ValueError('not a duration; write it like "500ms", "5s", "10m", "2h" or "5d"')
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(value))


def format_duration(seconds: float) -> str:
    """The shortest exact spelling that `parse_duration` reads back, two units at most: 90 -> "1m30s"."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            whole, rest = divmod(round(seconds), size)
            smaller = {"d": "h", "h": "m", "m": "s"}[unit]
            count = int(rest // _SECONDS[smaller])
            return f"{whole}{unit}{count}{smaller}" if count else f"{whole}{unit}"
    return f"{seconds:.3g}s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:.3g}ms"


def parse_size(value: object) -> int:
    """Bytes from "25MB", "512KB", "1GB" (powers of ten) or a whole number of bytes. Raises ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError('not a size; write it like "25MB", "512KB" or a whole number of bytes')
    return int(match[1]) * _BYTES[match[2]]


@dataclass(frozen=True)
class _Parsed:
    """An annotation: read the raw value with `parse`, then hold it to the bounds."""

    parse: Callable[[object], object] | None = None
    least: float | None = None
    most: float | None = None
    write: Callable[[float], str] = str

    def _checked(self, value: object) -> object:
        parsed = self.parse(value) if self.parse else value
        if isinstance(parsed, int | float) and not isinstance(parsed, bool):
            if self.least is not None and parsed < self.least:
                raise ValueError(f"too small; at least {self.write(self.least)}")
            if self.most is not None and parsed > self.most:
                raise ValueError(f"too large; at most {self.write(self.most)}")
        return parsed

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        function = {"type": "no-info", "function": self._checked}
        return {"type": "function-before", "function": function, "schema": handler(source)}


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
