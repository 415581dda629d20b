"""Pure: how long a reply asks us to wait, read from its words.

Rule 1. Only a time that is bound to a word of waiting counts ("try again in 5 minutes"); a limit that is explained
        ("100 messages per 60 minutes") asks for nothing.
Rule 2. Nobody is waited for longer than LONGEST_ASKED_S, whatever is asked: it may be a joke, or a mistake.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from poller.exchange import Reply

LONGEST_ASKED_S: Final = 86400.0

_WAITING = (
    r"\b(?:re-?try|try(?: it)? again|try(?: your \w+)? later|come back|send(?: it)? again|resend|wait|pause"
    r"|gr[ea]y-?list(?:ed|ing)?|deferred|delayed|blocked|suspended|(?:re-?)?enabled)\b"
)
_BETWEEN = r"[^.;\d]{0,40}?\b(?:in|for|after|within|another|wait|at least|least|about)?[ (:]*"
_NUMBER = r"(?P<number>\d{1,7}|\b(?:an?|one)\b)"
_UNIT = r"[ -]?(?P<unit>seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)\b"
_IN_UNITS = re.compile(_WAITING + _BETWEEN + _NUMBER + _UNIT, re.IGNORECASE)
_ON_A_CLOCK = re.compile(_WAITING + _BETWEEN + r"(\d{1,3}):(\d\d):(\d\d)\b", re.IGNORECASE)  # milter-greylist
_AS_IN_HTTP = re.compile(r"\bretry-after[:= ]+(\d{1,7})\b(?! ?[a-z])", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def retry_after(reply: Reply) -> float | None:
    """Seconds that a refusal asks us to wait, at most LONGEST_ASKED_S; None if it names no time."""
    if reply.kind not in {4, 5}:
        return None
    seconds = _seconds(reply.text)
    return min(float(seconds), LONGEST_ASKED_S) if seconds else None


def _seconds(text: str) -> int:
    if match := _ON_A_CLOCK.search(text):
        return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])
    if match := _IN_UNITS.search(text):
        number = int(match["number"]) if match["number"].isdigit() else 1
        return number * _SECONDS[match["unit"][0].lower()]
    match = _AS_IN_HTTP.search(text)
    return int(match[1]) if match else 0
