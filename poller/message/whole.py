"""A message that came whole (`raw`): its header taken apart, and nothing of it rewritten.

Rule 1. Fields and body stay as they came, byte by byte: S/MIME and DKIM signatures hold. What may be done to them is to
        leave a field out, and to put fields in front.
Rule 2. Every line ends in CRLF. A lone LF or CR is a line end too: programs write the line end of their system.
Rule 3. The header ends at the first empty line, or before the first line that is no field: `echo Hello | sendmail` has
        no header. A first line `From someone Mon Jan 1…` is a mailbox's, and is left out.

Raises `Unsendable("raw", …)` for what no relay could take: a NUL, a header that is neither ASCII nor UTF-8.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from poller.frozen import dataclass
from poller.message import addresses, words
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from poller.message.addresses import Mailbox

_STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*")
"""RFC 5322 section 2.2, with the blanks before the colon that section 4.5 has."""
_MBOX = re.compile(rb"From [^\r]*\r\n")
_SIGNED_BY = re.compile(r"(?:^|;)\s*d\s*=\s*([^;\s]+)")
LEFT_OUT = frozenset({"bcc", "resent-bcc", "return-path"})
"""RFC 5322 section 3.6.3; RFC 5321 section 4.4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One header field: `name` in lower case, `line` as it came with its final CRLF."""

    name: str
    line: bytes

    @property
    def value(self) -> str:
        """Unfolded, without blanks at its ends."""
        text = self.line.partition(b":")[2].decode(errors="replace")
        return text.replace("\r\n", "").strip(" \t")


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A message in two: the fields in order, and what follows the empty line."""

    fields: tuple[Field, ...]
    body: bytes

    def value(self, name: str) -> str | None:
        """Of the first field of this name, in lower case; None where there is none."""
        return next((field.value for field in self.fields if field.name == name), None)

    def mailboxes(self, *names: str) -> list[Mailbox]:
        """Every address of these fields, each wire address once. Raises ValueError."""
        found: dict[str, Mailbox] = {}
        for field in self.fields:
            if field.name in names:
                for mailbox in addresses.parse_list(field.value.replace("\t", " ")):
                    found.setdefault(mailbox.wire, mailbox)
        return list(found.values())

    @property
    def author(self) -> Mailbox | None:
        """The first address of From; None where it can't be read."""
        try:
            return next(iter(self.mailboxes("from")), None)
        except ValueError:
            return None

    @property
    def subject(self) -> str | None:
        """As people read it."""
        subject = self.value("subject")
        return None if subject is None else _decoded(subject)

    @property
    def signing_domains(self) -> frozenset[str]:
        """Who signed it before it came."""
        signatures = (field.value for field in self.fields if field.name == "dkim-signature")
        return frozenset(found[1].lower() for value in signatures if (found := _SIGNED_BY.search(value)))


def taken_apart(raw: bytes) -> Whole:
    """The message as header and body. Raises Unsendable."""
    if (at := raw.find(b"\0")) >= 0:
        raise Unsendable("raw", f"a NUL byte at position {at}; no relay takes one: remove it, or encode the part")
    text = with_line_ends(raw)
    start = begin = found.end() if (found := _MBOX.match(text)) else 0
    fields = []
    while found := _FIELD.match(text, start):
        fields.append(Field(name=found[1].decode().lower(), line=found[0]))
        start = found.end()
    _require_utf8(text[begin:start])
    body = text[start + 2 :] if text.startswith(b"\r\n", start) else text[start:]
    return Whole(fields=tuple(fields), body=body)


def with_line_ends(raw: bytes) -> bytes:
    """Rule 2, with the last line ended too. What is right already is not copied."""
    if _STRAY.search(raw):
        raw = _STRAY.sub(b"\r\n", raw)
    return raw if raw.endswith(b"\r\n") or not raw else raw + b"\r\n"


def _require_utf8(head: bytes) -> None:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        reason = f"the header holds bytes that are neither ASCII nor UTF-8, at position {error.start}"
        raise Unsendable("raw", f"{reason}; write encoded words (RFC 2047), or UTF-8") from None


def _decoded(text: str) -> str:
    """Encoded words read (RFC 2047); what can't be read stands as it is."""
    made, at, is_word = [], 0, False
    for word in words.found(text):
        start = text.index(word.whole, at)
        between = text[at:start]
        if between.strip() or not is_word:
            made.append(between)
        inside = words.decode(word)
        made.append(word.whole if inside is None else inside)
        at, is_word = start + len(word.whole), True
    return "".join((*made, text[at:]))
