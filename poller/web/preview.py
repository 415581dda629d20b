r"""Pure: a message as its reader will see it, taken out of its bytes again.

What is shown is parsed from the very bytes that go out, so that a fault of composing shows here too.

Rule 1. The HTML is shown only in a frame without any right, with PREVIEW_POLICY: nothing in it runs, and nothing is
        fetched. Pictures that travel with the message stand in it as `data:`.
Rule 2. What makes a browser connect before any policy holds is taken out: links ahead, and frames, which Chromium
        connects for before it refuses them. A link looks like one and leads nowhere: the same would happen at a click.
"""

from __future__ import annotations

import base64
import re
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING
from urllib.parse import unquote

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage, MIMEPart

PREVIEW_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'self'; sandbox"
)
SHOWN_MOST = 200_000
"""Characters of a text or source; anyone who wants more takes the file."""
FIELDS = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "List-Unsubscribe")
PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})

_AHEAD = re.compile(r"<\s*/?\s*(?:link|base|meta|i?frame|object|embed|portal|fencedframe)\b[^>]*>?", re.IGNORECASE)
_LEADS = re.compile(r"\bhref(?=\s*=)", re.IGNORECASE)
_LOOKS_LIKE_A_LINK = "<style>:where([data-href]) { color: #1a56b0; text-decoration: underline }</style>"
_CID = re.compile(r"cid:([^\"'\s)>]+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """An attachment, by what is said of it."""

    name: str
    kind: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """`html` is for the frame alone; None where the message has none."""

    fields: tuple[tuple[str, str], ...]
    text: str
    html: str | None
    files: tuple[File, ...]
    source: str
    size: int


def preview_of(content: bytes) -> Preview:
    """What a mail program would find in it."""
    message = message_from_bytes(content, policy=default)
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    return Preview(
        fields=tuple((name, str(value)) for name in FIELDS for value in message.get_all(name, [])),
        text=_content(text)[:SHOWN_MOST],
        html=None if html is None else _for_the_frame(_content(html), message),
        files=tuple(_files(message)),
        source=content[:SHOWN_MOST].decode("utf-8", "backslashreplace"),
        size=len(content),
    )


def _content(part: MIMEPart | None) -> str:
    return "" if part is None else str(part.get_content())


def _for_the_frame(html: str, message: EmailMessage) -> str:
    pictures = dict(_pictures(message))
    shown = _LEADS.sub("data-href", _AHEAD.sub(" ", html))  # Rule 2
    return _CID.sub(lambda found: pictures.get(unquote(found[1]), "data:,"), shown) + _LOOKS_LIKE_A_LINK


def _pictures(message: EmailMessage) -> Iterator[tuple[str, str]]:
    for part in message.walk():
        name, kind = str(part.get("Content-ID", "")).strip("<> "), part.get_content_type()
        if name and kind in PICTURES:
            bits = part.get_payload(decode=True)
            yield name, f"data:{kind};base64,{base64.b64encode(bits if isinstance(bits, bytes) else b'').decode()}"


def _files(message: EmailMessage) -> Iterator[File]:
    for part in message.walk():
        name = part.get_filename()
        if name:
            bits = part.get_payload(decode=True)
            size = len(bits) if isinstance(bits, bytes) else 0
            yield File(name=name, kind=part.get_content_type(), size=size)
