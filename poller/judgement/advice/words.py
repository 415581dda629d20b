"""Pure: what a reply says, without what the row chose: an address must never decide how a reply is judged.

Out go the addresses of the transaction, as they were sent and as relays repeat them (without quotes, the domain or an
odd local part alone), and whatever else looks like an address.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_BRACKETED: Final = re.compile(r"<[^>]*>")
_WORD: Final = re.compile(r"\S+")
_ORDINARY: Final = re.compile(r"[A-Za-z]*")
"""A local part that may well stand in a reply as the word that it is: "user", "relay"."""
CUT: Final = "…"


def without_addresses(text: str, addresses: Iterable[str] = ()) -> str:
    """The text with CUT in the place of each address."""
    for part in sorted({part for address in addresses for part in _spellings(address)}, key=len, reverse=True):
        if part.lower() in text.lower():
            text = _whole(part).sub(CUT, text)
    if ">" in text:
        text = _BRACKETED.sub(CUT, text)
    return _WORD.sub(_without_address, text) if "@" in text else text


def _without_address(word: re.Match[str]) -> str:
    return CUT if "@" in word[0][1:-1] else word[0]


@lru_cache(maxsize=1024)
def _spellings(address: str) -> tuple[str, ...]:
    """How a relay may write it, but for what is an ordinary word."""
    local_part, _, domain = address.rpartition("@")
    bare = re.sub(r"\\(.)", r"\1", local_part[1:-1]) if local_part[:1] == '"' else local_part
    both = (address, f"{bare}@{domain}", domain, local_part, bare)
    return tuple(part for part in both if not _ORDINARY.fullmatch(part))


@lru_cache(maxsize=1024)
def _whole(part: str) -> re.Pattern[str]:
    """Not in the midst of a longer word."""
    return re.compile(rf"(?<![\w.-]){re.escape(part)}(?![\w-])", re.IGNORECASE)
