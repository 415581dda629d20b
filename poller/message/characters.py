"""Which characters may travel: in a header, in a body.

Rule 1. Nothing that can end a line, or that no reader can see, enters a header: CR, LF, NUL, the other C0 and C1
        controls, lone surrogates. A tab and the Unicode line separators become a space.
Rule 2. Nor does an encoded word that *decodes* to any of these: parsers downstream decode it, and some then take what
        follows for a header of its own.
Rule 3. A body is text: no NUL and no lone surrogate. Other control characters are carried, encoded.

Raises `Unsendable`, naming the column. The offending text is shown escaped and cut short.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from poller.message import words
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from poller.message.words import Word

_SPACES = str.maketrans("\t\u2028\u2029", "   ")
_HAZARD = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SHOWN = 60  # characters of an offending text that an error quotes


def shown(text: str) -> str:
    """The text for an error message: escaped, in quotes, cut at 60 characters."""
    return ascii(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def header_text(column: str, text: str) -> str:
    """The text as it may stand in a header field, or Unsendable."""
    if text.isascii() and text.isprintable() and "=?" not in text:
        return text
    text = text.translate(_SPACES)
    if hazard := _HAZARD.search(text):
        raise Unsendable(column, f"{_named(hazard[0])} in {shown(text[max(0, hazard.start() - 20) :])}; remove it")
    for word in words.found(text) if "=?" in text else ():
        _refuse_hidden(column, word)
    return text


def body_bytes(column: str, text: str) -> bytes:
    """The text in UTF-8 with every line end made CRLF, the last line ended too; or Unsendable."""
    if "\x00" in text:
        raise Unsendable(column, f"a NUL character at position {text.index(chr(0))}; remove it")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text and not text.endswith("\n"):
        text += "\n"
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        position = error.start + text.count("\n", 0, error.start)  # line ends count as two
        reason = f"half a character (a lone surrogate) at position {position}; the text was cut or decoded wrongly"
        raise Unsendable(column, reason) from None
    return data.replace(b"\n", b"\r\n")  # in bytes it takes a third of the time that it takes in str


def _refuse_hidden(column: str, word: Word) -> None:
    """Refuse an encoded word with a control character inside; in an unknown character set, judged by its bytes."""
    inside = words.decode(word)
    raw = words.octets(word).decode("latin-1")
    hidden = _HAZARD.search(raw if inside is None else inside) or set(raw) & set("\r\n\0")
    if hidden or words.NOT_A_CHARSET.search(word.charset):
        reason = f"the encoded word {shown(word.whole)} hides a control character; write the text itself, without it"
        raise Unsendable(column, reason)


def _named(char: str) -> str:
    if char in "\r\n":
        return "a line end"
    if char == "\0":
        return "a NUL character"
    if "\ud800" <= char <= "\udfff":
        return "half a character (a lone surrogate)"
    return f"the control character U+{ord(char):04X}"
