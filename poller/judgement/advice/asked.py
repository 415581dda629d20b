"""Pure: how long a reply asks us to wait, read from its words.

Rule 1. Only a time that is bound to a word of waiting counts ("try again in 5 minutes"); a limit that is explained
        ("100 messages per 60 minutes") asks for nothing.
Rule 2. Nobody is waited for longer than LONGEST_ASKED_S, whatever is asked: it may be a joke, or a mistake.
Rule 3. What is refused for good asks for another try only where it says so: "suspended for 30 days" does not.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from poller.exchange import Reply

LONGEST_ASKED_S: Final = 86400.0

_AGAIN = (
    r"re-?try|try(?: it)? again|try(?: your \w+)? later|come back|send(?: it)? again|resend|gr[ea]y-?list(?:ed|ing)?"
    r"|(?:re-?)?enabled"
)
_WAITING = r"wait|pause|deferred|delayed|blocked|suspended"
_BETWEEN = r"[^.;\d]{0,40}?\b(?:in|for|after|within|another|wait|at least|least|about)?[ (:]*"
_NUMBER = r"(?P<number>\d{1,7}|\b(?:an?|one)\b)"
_UNIT = r"[ -]?(?P<unit>seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)\b"
_CLOCK = r"(\d{1,3}):(\d\d):(\d\d)\b"  # milter-greylist


def _asking(words: str, time: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b{_BETWEEN}{time}", re.IGNORECASE)


_IN_UNITS = {4: _asking(f"{_AGAIN}|{_WAITING}", _NUMBER + _UNIT), 5: _asking(_AGAIN, _NUMBER + _UNIT)}
_ON_A_CLOCK = {4: _asking(f"{_AGAIN}|{_WAITING}", _CLOCK), 5: _asking(_AGAIN, _CLOCK)}
"""By the class of the reply (Rule 3)."""
_AS_IN_HTTP = re.compile(r"\bretry-after[:= ]+(\d{1,7})\b(?! ?[a-z])", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def retry_after(reply: Reply, words: str) -> float | None:
    """Seconds that a refusal asks us to wait, at most LONGEST_ASKED_S; None if it names no time.

    `words` is its text without addresses.
    """
    if reply.kind not in {4, 5}:
        return None
    seconds = _seconds(words, reply.kind)
    return min(float(seconds), LONGEST_ASKED_S) if seconds else None


def _seconds(text: str, kind: int) -> int:
    if match := _ON_A_CLOCK[kind].search(text):
        return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])
    if match := _IN_UNITS[kind].search(text):
        number = int(match["number"]) if match["number"].isdigit() else 1
        return number * _SECONDS[match["unit"][0].lower()]
    match = _AS_IN_HTTP.search(text)
    return int(match[1]) if match else 0
