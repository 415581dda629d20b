"""What a database gives as text or JSON and may not be readable: shown as well as can be, and marked."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from poller.frozen import Unreadable

MOST_LEVELS = 100  # of JSON; what walks through it may take many calls for each
_TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"
MOST_DIGITS = 4300  # of a whole number; Python writes no longer one


def readable_text(raw: bytes) -> str:
    """The text. What is not UTF-8 is shown as well as can be, and marked."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        text = raw.decode(errors="replace")
        return Unreadable(text, f"not UTF-8: {error.reason} at byte {error.start + 1}; write it as UTF-8")


def readable_json(text: str | bytes) -> Any:
    """The JSON value. What the database takes for JSON and we can't read is given as its text, and marked."""
    if isinstance(text, Unreadable):
        return text
    text = text if isinstance(text, str) else text.decode(errors="replace")
    try:
        value = _JSON.decode(text)
    except RecursionError:
        value, reason = None, _TOO_DEEP
    except ValueError as error:
        value, reason = None, f"JSON to the database, but not to be read here: {error}"
    else:
        may_be_deep = text.count("[") + text.count("{") > MOST_LEVELS
        reason = _TOO_DEEP if may_be_deep and _is_deep(value) else ""
    return Unreadable(text, f"{reason}; write it anew") if reason else value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits, more than {MOST_DIGITS:,}")
    return int(digits)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is beyond every number that we know")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_JSON = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_no_number, strict=False)
