"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463, RFC 8616): pure, from the finished header and body.

Rule 1. Both halves are canonicalised `relaxed`: folding and spaces may change on the way. The whole body is covered:
        there is no l=, behind which anybody could add text.
Rule 2. A field in h= is named once more than it occurs, so that none can be added (RFC 6376 section 8.15): those that
        people read (OVERSIGNED) even where there is none, the others (COVERED) where there is one. A list or a relay
        that adds a List-Unsubscribe to a message without one harms nothing.
Rule 3. The same message and key give the same signature, today and after a crash: t= is the message's Date, and neither
        RSA (PKCS #1 v1.5) nor Ed25519 uses chance.
Rule 4. Lines are folded well below 78 characters. Domain and selector are ASCII, in an internationalised message
        too (RFC 8616 section 5); other fields are covered as the octets they are.

Takes what the composer wrote: lines of CRLF only, fields separated by them. It chooses no key and reads none.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from poller.message.keys import SigningKey

OVERSIGNED: Final = ("From", "Reply-To", "To", "Cc", "Subject")
"""What a reader sees: covered, and sealed against additions, even where the message has none."""
COVERED: Final = (
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",  # RFC 8058 section 4: both must be covered for one-click
    "List-Unsubscribe-Post",
    "List-Id",
    "List-Help",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "Auto-Submitted",
    "Feedback-ID",
    "Disposition-Notification-To",
)
_FIELDS = re.compile(rb"\r\n(?![ \t])")
_FOLD = 74  # characters; RFC 5322 section 2.1.1 has 78
_LETTERS = 70  # of base64 on a line


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """What a signature covers. A second scheme may read more of the message; it gets it here."""

    names: tuple[bytes, ...]
    """Of the fields, in lower case, from the top."""
    fields: tuple[bytes, ...]
    """The same, relaxed, without the last CRLF."""
    body_hash: bytes
    """SHA-256 of the relaxed body."""
    date: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class DkimSigner:
    """Signs for `domain` with one key."""

    domain: str
    selector: str
    key: SigningKey

    def field(self, letter: Letter) -> bytes:
        """The DKIM-Signature field with its final CRLF."""
        named, places = covered(letter.names)
        begin = _beginning(self.key.algorithm, self.domain, self.selector, named)
        unsigned = f"{begin}\r\n t={int(letter.date.timestamp())}; bh={_base64(letter.body_hash)};\r\n b=".encode()
        octets = b"\r\n".join([*(letter.fields[place] for place in places), relaxed_field(unsigned)])
        signature = _base64(self.key.sign(octets)).encode()
        lines = [signature[at : at + _LETTERS] for at in range(0, len(signature), _LETTERS)]
        return unsigned + b"\r\n ".join(lines) + b"\r\n"


def letter_of(head: bytes, body: Iterable[bytes], date: datetime) -> Letter:
    """From the header, each field with its CRLF, and the body in pieces."""
    fields = tuple(map(relaxed_field, _FIELDS.split(head.removesuffix(b"\r\n"))))
    names = tuple([field.partition(b":")[0] for field in fields])
    return Letter(names=names, fields=fields, body_hash=relaxed_hash(body), date=date)


@lru_cache(maxsize=256)
def covered(names: tuple[bytes, ...]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names for h= (Rule 2), and the places of the fields that these are, in the same order.

    Of several with one name the last comes first (RFC 6376 section 5.4.2); what is named and not there is nothing.
    """
    named: list[str] = []
    places: list[int] = []
    for name in (*OVERSIGNED, *COVERED):
        found = [place for place, there in enumerate(names) if there == name.lower().encode()]
        if found or name in OVERSIGNED:
            named += [name] * (len(found) + 1)
            places += reversed(found)
    return tuple(named), tuple(places)


def relaxed_field(field: bytes) -> bytes:
    """RFC 6376 section 3.4.2, without the final CRLF."""
    name, _, value = field.partition(b":")
    return name.rstrip(b" \t").lower() + b":" + _single_spaces(value.replace(b"\r\n", b"")).strip(b" ")


def relaxed_hash(pieces: Iterable[bytes]) -> bytes:
    """SHA-256 of a body in RFC 6376 section 3.4.4's form. Pieces may be cut anywhere: a large file is never copied."""
    digest = hashlib.sha256()
    carried, held, is_empty = b"", 0, True  # a line's beginning, empty lines that may be the last, nothing hashed yet
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if not end:
            carried += piece
            continue
        lines = _relaxed_lines(carried + piece[:end])
        carried = piece[end:]
        text = lines.rstrip(b"\r\n")
        if text:
            digest.update(b"\r\n" * held + text)
            held, is_empty = 0, False
        held += (len(lines) - len(text)) // 2
    if last := _relaxed_lines(carried + b"\r\n").removesuffix(b"\r\n"):
        digest.update(b"\r\n" * held + last)
        is_empty = False
    digest.update(b"" if is_empty else b"\r\n")
    return digest.digest()


def _relaxed_lines(lines: bytes) -> bytes:
    return _single_spaces(lines).replace(b" \r\n", b"\r\n")


def _single_spaces(text: bytes) -> bytes:
    """Runs of blanks become one space. Most text needs nothing, and is only searched."""
    text = text.replace(b"\t", b" ")
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


@lru_cache(maxsize=256)
def _beginning(algorithm: str, domain: str, selector: str, named: tuple[str, ...]) -> str:
    """The field as far as it is the same for many messages."""
    first, *others = named
    listed = [f" h={first}:", *(f"{name}:" for name in others[:-1]), f"{others[-1]};"]
    tags = (" v=1;", f" a={algorithm};", " c=relaxed/relaxed;", f" d={domain};", f" s={selector};")
    return _folded("DKIM-Signature:", (*tags, *listed))


def _folded(line: str, pieces: Iterable[str]) -> str:
    lines = []
    for piece in pieces:
        if len(line) + len(piece) > _FOLD:
            lines.append(line)
            line = " " + piece.lstrip(" ")
        else:
            line += piece
    return "\r\n".join([*lines, line])


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
