"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463, RFC 8616): pure, from the finished header and body.

Rule 1. Both halves are canonicalised `relaxed`: folding and spaces may change on the way. The whole body is covered:
        there is no l=, behind which anybody could add text.
Rule 2. A field in h= is named once more than it occurs, so that none can be added (RFC 6376 section 8.15): those that
        people read (OVERSIGNED) even where there is none, the others (COVERED) where there is one. A list or a relay
        that adds a List-Unsubscribe to a message without one harms nothing.
Rule 3. The same message and key give the same signature, today and after a crash: t= is the message's Date, and neither
        RSA (PKCS #1 v1.5) nor Ed25519 uses chance.
Rule 4. Lines are folded at 78 characters, as everywhere. Domain and selector are ASCII, in an internationalised message
        too (RFC 8616 section 5); other fields are covered as the octets they are.

Takes what the composer wrote: lines of CRLF only, fields separated by them. It chooses no key and reads none.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Final

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
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
_BLANKS = re.compile(rb"[ \t]+")
_FOLD = 78  # characters, RFC 5322 section 2.1.1
_LETTERS = 74  # of base64 on a line


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """What a signature covers. A second scheme may read more of the message; it gets it here."""

    fields: Sequence[bytes]
    """As written, folded, without the last CRLF."""
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
        names = [*covered(letter.fields)]
        pieces = (
            " v=1;",
            f" a={self.key.algorithm};",
            " c=relaxed/relaxed;",
            f" d={self.domain};",
            f" s={self.selector};",
            f" t={int(letter.date.timestamp())};",
            *_listed(names),
            f" bh={_base64(letter.body_hash)};",
            " b=",
        )
        unsigned = _folded("DKIM-Signature:", pieces).encode()
        signature = _base64(self.key.sign(b"".join([*_chosen(letter.fields, names), relaxed_field(unsigned)])))
        lines = [signature[at : at + _LETTERS] for at in range(0, len(signature), _LETTERS)]
        return b"\r\n ".join([unsigned, *(line.encode() for line in lines)]) + b"\r\n"


def letter_of(head: bytes, body: Iterable[bytes], date: datetime) -> Letter:
    """From the header, each field with its CRLF, and the body in pieces."""
    return Letter(fields=_FIELDS.split(head.removesuffix(b"\r\n")), body_hash=relaxed_hash(body), date=date)


def covered(fields: Sequence[bytes]) -> Iterator[str]:
    """The names for h= (Rule 2)."""
    there = [_name(field) for field in fields]
    for name in OVERSIGNED:
        yield from [name] * (there.count(name.lower().encode()) + 1)
    for name in COVERED:
        if count := there.count(name.lower().encode()):
            yield from [name] * (count + 1)


def relaxed_field(field: bytes) -> bytes:
    """RFC 6376 section 3.4.2, without the final CRLF."""
    value = field.partition(b":")[2].replace(b"\r\n", b"")
    return _name(field) + b":" + _BLANKS.sub(b" ", value).strip(b" ")


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
    """Runs of blanks become one space, none stays at a line's end. Searching first is cheap; most lines need nothing."""
    lines = lines.replace(b"\t", b" ")
    while b"  " in lines:
        lines = lines.replace(b"  ", b" ")
    return lines.replace(b" \r\n", b"\r\n")


def _chosen(fields: Sequence[bytes], names: Iterable[str]) -> Iterator[bytes]:
    """Each field that `names` name, relaxed, with CRLF; the last one of a name first (RFC 6376 section 5.4.2)."""
    waiting: dict[bytes, list[bytes]] = {}
    for field in fields:
        waiting.setdefault(_name(field), []).append(field)
    for name in names:
        if found := waiting.get(name.lower().encode()):
            yield relaxed_field(found.pop()) + b"\r\n"


def _name(field: bytes) -> bytes:
    return field.partition(b":")[0].rstrip(b" \t").lower()


def _listed(names: Sequence[str]) -> list[str]:
    """The tag h= in pieces, between which a line may end."""
    pieces = [f"{name}:" for name in names]
    return [f" h={pieces[0]}", *pieces[1:-1], f"{names[-1]};"]


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
