"""Words beyond ASCII in a header: encoded words (RFC 2047) and MIME parameters (RFC 2231).

Rule 1. A word never splits a character, nor what a reader sees as one (a letter and its accents, an emoji family),
        unless that alone would not fit into a word.
Rule 2. What goes in comes back: decoding the words gives exactly the text, in a phrase as in unstructured text.
Rule 3. An encoded word is at most 75 characters, and a line that holds one at most 76 (RFC 2047 section 2).

Nothing here judges whether a text may stand in a header: see `poller.message.characters`.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_OPENING = re.compile(r"=\?([^?]{0,80})\?([bBqQ])\?")
NOT_A_CHARSET = re.compile(r"escape|punycode|idna|undefined", re.IGNORECASE)
"""Python codecs that a careless reader would apply when a word names them; no mail does."""

_LINE = 76  # RFC 2047 section 2
_ROOM = 75 - len("=?utf-8?q??=")
_LEAST_ROOM = 24  # after a longer field name the first word is not squeezed any further: the line grows instead
_CLUSTER = 12  # characters; a pile of accents longer than this may be split
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")  # RFC 2047 section 5 (3)
_Q = tuple("_" if byte == ord(" ") else chr(byte) if byte in _PLAIN else f"={byte:02X}" for byte in range(256))
_AWKWARD = frozenset('"\\%<>')  # in quotes some readers unescape these again, or strip them
_HALF = 30  # characters of an ASCII file name kept at either end, the extension among them
_JOINER = "\u200d"  # zero width joiner: emoji families
_LONGEST_WORD = 998  # octets of a line; nothing longer can be one word


class Word(NamedTuple):
    """An encoded word as it stands in a text."""

    whole: str
    charset: str
    encoding: str
    content: str


def found(text: str) -> Iterator[Word]:
    """The encoded words of a text as lenient readers see them: RFC 2047 forbids spaces inside, several accept them.

    In one pass: where an end is missing once, it is missing for all that follow.
    """
    at = 0
    while (opening := _OPENING.search(text, at)) and (end := text.find("?=", opening.end())) >= 0:
        at = end + 2
        yield Word(text[opening.start() : at], opening[1], opening[2], text[opening.end() : end])


def decode(word: Word) -> str | None:
    """The text of a word; None when its character set or its encoding is not to be understood."""
    if len(word.whole) > _LONGEST_WORD or NOT_A_CHARSET.search(word.charset):
        return None
    charset = word.charset.partition("*")[0].strip()  # RFC 2231 section 5: a language may follow
    try:
        return octets(word).decode(charset, "replace")
    except (LookupError, ValueError):
        return None


def octets(word: Word) -> bytes:
    """The bytes inside a word, decoded as leniently as any reader would."""
    text = word.content.encode("utf-8", "replace")
    if word.encoding in "qQ":
        return binascii.a2b_qp(text, header=True)
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
    return binascii.a2b_base64(letters[: len(letters) - (len(letters) % 4 == 1)] + b"===")


def encode(text: str, used: int) -> list[str]:
    """Encoded words for the whole text, B or Q as is shorter; the first has to follow `used` characters on its line."""
    data = text.encode()
    in_q = "".join(map(_Q.__getitem__, data))
    in_b = (len(data) + 2) // 3 * 4
    first = max(min(_ROOM, _LINE - used - len("=?utf-8?q??=")), _LEAST_ROOM)
    if len(in_q) <= in_b:
        pieces = [in_q] if len(in_q) <= first else list(_packed(text, _in_q, first, _ROOM))
        return [f"=?utf-8?q?{piece}?=" for piece in pieces]
    if in_b <= first:
        return [_b_word(data)]
    chunks = _packed(text, _bytes_as_text, first // 4 * 3, _ROOM // 4 * 3)
    return [_b_word(chunk.encode("latin-1")) for chunk in chunks]


def clusters(text: str) -> Iterator[str]:
    """What a reader sees as one character each, near enough: the grapheme rules of UAX 29 without its tables."""
    cluster = ""
    for char in text:
        if cluster and len(cluster) < _CLUSTER and _extends(cluster, char):
            cluster += char
        else:
            if cluster:
                yield cluster
            cluster = char
    if cluster:
        yield cluster


def parameter(name: str, value: str) -> list[str]:
    """`name=value` for a MIME header field: quoted when ASCII will do, else RFC 2231, in sections when long."""
    if value.isascii() and not set(value) & _AWKWARD and "=?" not in value and len(value) <= _ROOM - len(name):
        return [f'{name}="{value}"']
    whole = quote(value, safe="")
    if len(name) + len("*=utf-8''") + len(whole) <= _LINE:
        return [f"{name}*=utf-8''{whole}"]
    room = _LINE - len(name) - len("*1000*=utf-8'';")
    first, *more = _packed(value, _percent, room, room)
    return [f"{name}*0*=utf-8''{first}", *(f"{name}*{at}*={section}" for at, section in enumerate(more, 1))]


def in_ascii(name: str) -> str:
    """A file name for clients that know no RFC 2231: accents dropped, other characters replaced, at most 60 long."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", name) if not unicodedata.combining(char))
    plain = re.sub(r'[^ -~]|["\\%?=]', "_", bare)
    return plain if len(plain) <= 2 * _HALF else plain[:_HALF] + plain[-_HALF:]


def _b_word(data: bytes) -> str:
    return f"=?utf-8?b?{binascii.b2a_base64(data, newline=False).decode('ascii')}?="


def _in_q(text: str) -> str:
    return "".join(map(_Q.__getitem__, text.encode()))


def _bytes_as_text(text: str) -> str:
    return text.encode().decode("latin-1")


def _percent(text: str) -> str:
    return quote(text, safe="")


def _packed(text: str, write: Callable[[str], str], first: int, room: int) -> Iterator[str]:
    """Written clusters, as many together as fit: `first` characters at first, then `room`."""
    held, space = "", first
    for piece in _written(clusters(text), write, room):
        if held and len(held) + len(piece) > space:
            yield held
            held, space = "", room
        held += piece
    if held:
        yield held


def _written(pieces: Iterable[str], write: Callable[[str], str], room: int) -> Iterator[str]:
    for piece in pieces:
        whole = write(piece)
        if len(whole) <= room:
            yield whole
        else:
            yield from map(write, piece)


def _extends(cluster: str, char: str) -> bool:
    if char < "\u0300":  # the first combining mark: most text ends here
        return False
    if char == _JOINER or cluster[-1] == _JOINER:
        return True
    if "\U0001f1e6" <= char <= "\U0001f1ff":  # a flag is two regional indicators
        return len(cluster) == 1 and "\U0001f1e6" <= cluster <= "\U0001f1ff"
    if "\U0001f3fb" <= char <= "\U0001f3ff" or "\U000e0020" <= char <= "\U000e007f":  # skin tones, emoji tags
        return True
    return unicodedata.category(char)[0] == "M"  # accents, variation selectors
