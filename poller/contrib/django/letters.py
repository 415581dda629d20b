"""Django's `EmailMessage` as a `Mail`.

Rule 1. Subject, bodies, addresses, files and headers are taken from its attributes; what is more than text, HTML and
        plain files is made a message by Django and taken apart (`poller.application.apart`).
Rule 2. `to`, `cc` and `bcc` get it, one address in each entry. A header To or Cc that says otherwise is refused.
Rule 3. A From in `headers` is the author, and `from_email` then is where bounces go, as Django has it.
Rule 4. What Django has no place for stands in a dict: `message.poller = {"dedupe_key": "order-17", "priority": 0}`.

Raises Refused, which is a ValueError too: Django's own backends raise that for a header with a line end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.mail import EmailMessage, EmailMultiAlternatives

from poller.application.apart import taken_apart
from poller.application.mail import Mail
from poller.message.draft import Attachment, Unsendable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_AS_DJANGO_MAKES_THEM = (EmailMessage.message, EmailMultiAlternatives.message)
_SHOWN_ONLY = {"to": "to", "cc": "cc", "bcc": "bcc"}
_COLUMNS = {"from": "sender", "reply-to": "reply_to", "message-id": "message_id"}
_ANEW = frozenset({"date"})


class Refused(Unsendable, ValueError):  # noqa: N818 - named by who is to blame
    """The mail can't be sent as it is. `column` and `reason` as `Unsendable` has them."""


def mail_of(message: EmailMessage, defaults: Mapping[str, Any]) -> Mail:
    """The mail, or Refused. `defaults` are columns that a message may override by its dict `poller`."""
    try:
        content = _simple(message) or _complicated(message)
        columns = {**content, **_addresses(message), **_headers(message)}
        return Mail(**{**defaults, **columns, **getattr(message, "poller", {})})
    except Unsendable as error:
        raise Refused(error.column, error.reason) from None


def _addresses(message: EmailMessage) -> dict[str, Any]:
    sender = str(message.from_email)
    lists = {"recipients": message.to, "cc": message.cc, "bcc": message.bcc, "reply_to": message.reply_to}
    given = {column: [str(entry) for entry in entries if entry] for column, entries in lists.items()}
    return {"sender": sender, **{column: entries or None for column, entries in given.items()}}


def _headers(message: EmailMessage) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    for name, value in message.extra_headers.items():
        lower = str(name).lower()
        if lower in _SHOWN_ONLY:
            reason = f"{name} would be shown to readers who are not its recipients; put them into {_SHOWN_ONLY[lower]}="
            raise Unsendable("headers", reason)
        if lower in _COLUMNS:
            columns[_COLUMNS[lower]] = str(value)
        elif lower not in _ANEW:
            headers[str(name)] = value if isinstance(value, int | float | list) else str(value)
    if "sender" in columns:
        columns["envelope_from"] = str(message.from_email)
    return {**columns, "headers": headers or None}


def _simple(message: EmailMessage) -> dict[str, Any] | None:
    """Text, HTML and files by their attributes; None if there is more to it."""
    if type(message).message not in _AS_DJANGO_MAKES_THEM or message.content_subtype not in ("plain", "html"):
        return None
    body = {"plain": "body_text", "html": "body_html"}[message.content_subtype]
    bodies = {body: str(message.body or "")}
    for content, kind in getattr(message, "alternatives", None) or ():
        if kind != "text/html" or "body_html" in bodies or not isinstance(content, str):
            return None
        bodies["body_html"] = content
    files = [_file(attachment) for attachment in message.attachments]
    if None in files:
        return None
    return {"subject": str(message.subject), **bodies, "attachments": files}


def _file(attachment: Any) -> Attachment | None:
    """A file given as name, content and type; None for all that Django has to build first."""
    if not isinstance(attachment, tuple):
        return None
    name, content, kind = attachment
    if not kind or kind.startswith(("message/", "multipart/")) or not isinstance(content, str | bytes):
        return None
    if isinstance(content, str):
        content, kind = content.encode(), f'{kind}; charset="utf-8"' if kind.startswith("text/") else kind
    return Attachment(name=name or "", content=content, content_type=kind)


def _complicated(message: EmailMessage) -> dict[str, Any]:
    columns = taken_apart(message.message())
    kept: Sequence[str] = ("subject", "body_text", "body_html", "attachments")
    return {name: columns[name] for name in kept if name in columns}
