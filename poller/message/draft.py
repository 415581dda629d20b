"""What composing takes in and gives back.

A `Draft` is a row as its application wrote it; a `Composed` is finished bytes. Anyone who sits between them raises
`Unsendable`: the row is to blame, and its words name the column and the remedy.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Literal

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from poller.message.templates import Rendered


class Unsendable(Exception):  # noqa: N818 - named by who is to blame: this row can never be sent as it is
    """The row cannot become a message. `column` is the one to change; the text says what is wrong and the remedy."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"{column}: {reason}")
        self.column = column
        self.reason = reason


class MissingVariable(Unsendable):
    """A template asks for a variable that `context` does not give."""


class NotNow(Unsendable):
    """What the row needs can't be reached now, through no fault of its own."""


class TooLarge(Unsendable):
    """It is larger than allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A file that travels with the message; with a `content_id` it is an inline part that HTML names as `cid:…`."""

    name: str
    content: bytes = field(repr=False)
    content_type: str = "application/octet-stream"
    content_id: str | None = None
    is_alternative: bool = False
    """Another form of the text, the one that is preferred by who knows it: an invitation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """One row's content. Columns keep their names; None is NULL; `headers` and `context` are parsed JSON values."""

    id: int
    message_id: str
    """With angle brackets, as it will stand in the message."""
    date: datetime
    """Aware UTC: the Date header."""
    recipients: str | None = None
    cc: str | None = None
    bcc: str | None = None
    sender: str | None = None
    reply_to: str | None = None
    envelope_from: str | None = None
    subject: str | None = None
    body_text: str | None = None
    body_html: str | None = None
    template: str | None = None
    context: object = None
    locale: str | None = None
    headers: object = None
    list: str | None = None
    batch: str | None = None
    attachments: tuple[Attachment, ...] = ()
    raw: bytes | None = field(default=None, repr=False)
    """A whole message, instead of subject, bodies and template."""
    dsn: object = None
    """With `raw`: the DSN parameters that it was submitted with."""
    rendered: Rendered | None = None
    """What its template gave before: it is not asked again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    """One address of one list, after parsing.

    `address` is as written by the application but for the domain's case and needless quotes; two spellings of one
    mailbox are one recipient, the first list winning. `wire` is what RCPT TO carries: the domain in ASCII
    (IDNA 2008), or the staging address of `redirect_to`. `withheld` is a reason in words when `only_to` forbids it,
    else "".
    """

    kind: Literal["to", "cc", "bcc"]
    name: str
    address: str
    wire: str
    withheld: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Composed:
    """A finished message: `mail_from` is the reverse-path ("" for the null one), `content` complete CRLF bytes."""

    mail_from: str
    content: bytes = field(repr=False)
    smtputf8: bool = False
    dsn: Mapping[str, str] | None = None
    """DSN parameters (RFC 3461): of MAIL under "", of a recipient under its wire address."""
    envelope_id: str = ""
    """For a relay that offers DSN (RFC 3461), in characters that need no xtext; "" for none."""
    rendered: Rendered | None = None
    """What its template gave, now or before; None for a row without one."""
