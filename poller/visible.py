r"""Pure: words from outside as a person may see them: nothing hidden, nothing that a terminal obeys.

What can't be seen, ends a line, or changes how a terminal shows what follows, is written as its escape: ESC as \x1b, an
override of the direction as \u202e.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def visible(text: str) -> str:
    """On one line, every character to be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def moment(value: datetime | None) -> str:
    """A time as tables show it: UTC, to the second."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if value else ""
