"""Pure: reasons that differ in addresses, numbers and ids alone are one reason.

Servers put the recipient, their own queue id, a time and a link into their words. To count reasons these are taken out,
and what is left is compared. The same words give the same reason, and a reason gives itself.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 160
"""Characters of a reason; what differs only behind that is one."""

_TAKEN_OUT: Final = (
    (re.compile(r"\bhttps?://\S+", re.IGNORECASE), "URL"),
    (re.compile(r"<?[^\s<>()\[\],;:\"'@]+@[^\s<>()\[\],;:\"']+>?"), "ADDRESS"),
    (re.compile(r"\[?\b\d{1,3}(?:\.\d{1,3}){3}\b\]?|\[(?:IPv6:)?[0-9a-f:]*:[0-9a-f:.]+\]", re.IGNORECASE), "IP"),
    (re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[a-z])[\w-]{8,}\b(?:\.\d+)*", re.IGNORECASE), "ID"),
    (re.compile(r"\b\d{4,}\b"), "N"),
)


def reason_of(words: str | None) -> str:
    """What is left of an error's words when all that is one message's own is taken out; "" of nothing."""
    text = " ".join((words or "").split())
    for pattern, name in _TAKEN_OUT:
        text = pattern.sub(name, text)
    return text[:LONGEST]
