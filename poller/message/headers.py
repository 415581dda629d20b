"""The `headers` column: what an application may add to the header, and how it is written.

Rule 1. A field that says who, when or which message this is, or how it is built, belongs to its own column or to the
        poller: naming it fails the row.
Rule 2. An ASCII value stands as written, folded at its spaces only. Other text becomes encoded words (RFC 2047); of
        `name <what it names>` the name alone.
Rule 3. A value that machines read (`List-*`, message ids, anything with a URL) is never encoded, and `List-*` is never
        folded: one-click unsubscription (RFC 8058) breaks otherwise. What cannot stand so is refused.

A value is a string, a number, or a list of these: a list makes one field per entry, but one field alone of those that
may occur once (message ids joined by spaces, `List-*` by commas).

Raises `Unsendable("headers", …)`, naming the field.
"""

from __future__ import annotations

import math
import re

from poller.message import fields, words
from poller.message.characters import header_text, shown
from poller.message.draft import Unsendable

_COLUMNS = {
    "from": "sender",
    "sender": "sender",
    "to": "recipients",
    "cc": "cc",
    "bcc": "bcc",
    "reply-to": "reply_to",
    "return-path": "envelope_from",
    "message-id": "message_id",
    "subject": "subject",
}
_OURS = (
    "date",
    "mime-version",
    "received",
    "dkim-signature",
    "authentication-results",
    "delivered-to",
    "apparently-to",
)
_OUR_PREFIXES = ("content-", "resent-", "arc-", "x-poller-")
_NAME = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 section 3.6.8; the length leaves room for a value beside it
_MESSAGE_IDS = ("in-reply-to", "references")
_MACHINE = ("list-", "in-reply-to", "references", "auto-submitted", "precedence", "feedback-id", "disposition-")
_NAMED = re.compile(r"([^<>]+?) *(<[!-;=?-~]{1,900}>)")
"""A name and what it is the name of, as List-Id and fields of addresses have them (RFC 2919, RFC 5322)."""
_URL = re.compile(r"<|://|mailto:", re.IGNORECASE)
_DIGITS = 300  # of a number; the largest float has 309


def extra_fields(headers: object) -> list[str]:
    """The fields in the order of the object, each without its final CRLF."""
    if headers is None:
        return []
    if not isinstance(headers, dict):
        raise Unsendable("headers", 'not a JSON object; write it like {"X-Campaign": "spring"}')
    found: list[str] = []
    for name, value in headers.items():
        _check_name(name)
        found.extend(_field(name, text) for text in _values(name, value))
    return found


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        reason = "is no field name; letters, digits and hyphens make one, 76 at most"
        raise Unsendable("headers", f"{shown(str(name))} {reason}")
    lower = name.lower()
    if column := _COLUMNS.get(lower):
        raise Unsendable("headers", f"{name} may not be given here; use the column {column}")
    if lower in _OURS or lower.startswith(_OUR_PREFIXES):
        raise Unsendable("headers", f"{name} may not be given here: the poller or a relay writes it; leave it out")


def _values(name: str, value: object) -> list[str]:
    texts = [_text(name, item) for item in (value if isinstance(value, list) else [value])]
    lower = name.lower()
    if len(texts) > 1 and lower in _MESSAGE_IDS:
        return [" ".join(texts)]
    if len(texts) > 1 and lower.startswith("list-"):
        return [", ".join(texts)]
    return texts


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        try:
            return header_text("headers", value).strip(" ")
        except Unsendable as error:
            raise Unsendable("headers", f"{name}: {error.reason}") from None
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**_DIGITS
    if whole or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise Unsendable("headers", f"{name} is neither a string nor a number, nor a list of these; write it as a string")


def _field(name: str, text: str) -> str:
    lower = name.lower()
    if not text.isascii():
        if (named := _NAMED.fullmatch(text)) and lower not in _MESSAGE_IDS and not _URL.search(named[1]):
            return fields.folded(name, [*words.encode(named[1], len(name) + 2), named[2]])
        if lower.startswith(_MACHINE) or _URL.search(text):
            reason = f"{name}: {shown(text)} is read by machines, and may not hold other characters than ASCII"
            raise Unsendable("headers", f"{reason}; percent-encode a URL, leave out what is not needed")
        return fields.text_field(name, text)
    found = [text] if lower.startswith("list-") or not text else fields.pieces(text)
    if len(name) + max(map(len, found)) + 2 > fields.LONGEST:
        reason = f"{name} does not fit on a line of {fields.LONGEST} characters and may not be broken"
        raise Unsendable("headers", f"{reason}; shorten it")
    return fields.folded(name, [piece or " " for piece in found])
