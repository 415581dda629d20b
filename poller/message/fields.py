"""Header fields: written, and folded (RFC 5322 section 2.2.3).

Rule 1. Lines are folded at 78 characters where a space allows it, never inside a word, so that URLs stay whole; no line
        is longer than 998 octets.
Rule 2. What a field means survives: unfolding and decoding gives the text back, less spaces at its ends.
Rule 3. Text is encoded when it needs to be (RFC 2047), and also when its ASCII looks like an encoded word: a reader
        sees what the application wrote.

Takes text that `poller.message.characters` has passed. A field is returned without its final CRLF.
"""

from __future__ import annotations

import re
from datetime import UTC
from functools import lru_cache
from typing import TYPE_CHECKING

from poller.message import words
from poller.message.addresses import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from poller.message.addresses import Mailbox

FOLD = 78  # characters, RFC 5322 section 2.1.1
FOLD_ENCODED = 76  # where the field has an encoded word, RFC 2047 section 2
LONGEST = 998  # octets, the same

_PIECE = re.compile(r" *[^ ]+")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PIECE_MOST = 900  # characters; a longer run without a space is encoded, which can be folded
_QUOTED_MOST = 60  # characters; a longer name is encoded, for the same reason
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def text_field(name: str, text: str) -> str:
    """A field of free text: Subject, most `X-` fields."""
    text = text.strip(" ")
    if text.isascii() and "=?" not in text:
        if len(name) + 2 + len(text) <= FOLD:
            return f"{name}: {text}"
        found = pieces(text)
        if max(map(len, found)) <= _PIECE_MOST:
            return folded(name, found)
    return folded(name, _spaced(words.encode(text, len(name) + 2)))


def address_field(name: str, mailboxes: Sequence[Mailbox]) -> str:
    """A field of addresses; a name in words, quotes or encoded words, an address always whole."""
    if len(mailboxes) == 1 and not mailboxes[0].name:
        return f"{name}: {mailboxes[0].wire}"
    found: list[str] = []
    for mailbox in mailboxes:
        used = 1 if found else len(name) + len(": ")
        if found:
            found[-1] += ","
        found.extend(f" {piece}" for piece in _address(mailbox, used))
    return folded(name, found)


def named_field(name: str, title: str, what: str) -> str:
    """A name and what it is the name of, in angle brackets (RFC 2919)."""
    return folded(name, _spaced(_named(title, what, len(name) + len(": "))))


@lru_cache(maxsize=64)
def date_field(date: datetime) -> str:
    """The Date field, in UTC (RFC 5322 section 3.3); English whatever the locale of the machine."""
    at = date.astimezone(UTC)
    day = f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04}"
    return f"Date: {day} {at.hour:02}:{at.minute:02}:{at.second:02} +0000"


def pieces(text: str) -> list[str]:
    """The words of a text, each with the spaces before it: what may be put on another line."""
    return _PIECE.findall(text)


def folded(name: str, found: Sequence[str]) -> str:
    """The field from pieces as `pieces` gives them. The first stays beside the name: some readers need it there."""
    most = FOLD_ENCODED if any("=?" in piece for piece in found) else FOLD
    lines: list[str] = []
    line = f"{name}:"
    first = True
    for piece in found:
        spaced = piece if piece[0] == " " else f" {piece}"
        if first or len(line) + len(spaced) <= most:
            line += spaced
        else:
            lines.append(line)
            line = spaced
        first = False
    lines.append(line)
    return "\r\n".join(lines)


def parameters(value: str, found: Iterable[str]) -> str:
    """A MIME field's value and its parameters, one to a line when they do not fit together."""
    line, lines = value, []
    for parameter in found:
        if len(line) + len(parameter) + len("Content-Disposition: ; ") > FOLD:
            lines.append(f"{line};")
            line = f" {parameter}"
        else:
            line += f"; {parameter}"
    return "\r\n".join([*lines, line])


def _spaced(found: Iterable[str]) -> list[str]:
    return [f" {word}" for word in found]


def _address(mailbox: Mailbox, used: int) -> list[str]:
    """The words of one; the first has to follow `used` characters on its line."""
    return _named(mailbox.name, mailbox.wire, used) if mailbox.name else [mailbox.wire]


def _named(name: str, what: str, used: int) -> list[str]:
    bracketed = f"<{what}>"
    if not name.isascii() or "=?" in name:
        return [*words.encode(name, used), bracketed]
    if _ATOMS.fullmatch(name) and max(map(len, pieces(name))) <= _QUOTED_MOST:
        return [*name.split(" "), bracketed]
    if len(name) <= _QUOTED_MOST:
        return [quoted(name), bracketed]
    return [*words.encode(name, used), bracketed]
