"""A message and its envelope become one row of the outbox.

Rule 1. The message is kept as it came, in `raw`; composing adds what it lacks (`poller.message.whole`). Here only
        addresses without a domain are completed, in the envelope and in the header (RFC 6409 section 4.2).
Rule 2. The envelope's recipients stand in `recipients`, whatever To and Cc say, and the message names none of them.
Rule 3. What could never be sent is refused now, in words: the one who hands it over is still there to hear them.
Rule 4. With `dedupe` the same Message-ID for the same recipients is one row. For other recipients it is another one:
        some programs hand a message over once for each.

Raises Unsendable and ValueError for what is wrong with the message or an address.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from poller.frozen import dataclass
from poller.message import addresses
from poller.message.delivery_status import MAIL, RCPT, parameters
from poller.message.draft import Unsendable
from poller.message.message_id import valid_message_id
from poller.message.whole import Whole, taken_apart
from poller.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from poller.submission.settings import SubmissionSettings

_ADDRESSES: Final = frozenset({"from", "sender", "reply-to", "to", "cc", "bcc"})
_BARE = re.compile(
    r"(?:^|(?<=,))(?P<before>\s*(?:\"[^\"]*\"\s*)?(?:<\s*)?)(?P<local>[\w.+-]+)(?P<after>\s*(?:>\s*)?(?:\([^()]*\)\s*)?)(?=,|$)"
)
"""An address without a domain, as `root`, `root (Cron Daemon)` or `<root>`, alone between commas."""
_SUBJECT_MOST: Final = 500
"""Characters: it is for who looks at the row, the message has its own."""
_SHOWN_MOST: Final = 200
"""Characters of a Message-ID that a dedupe_key shows; a longer one is hashed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """From whom and to whom. `mail_from` "" is the null reverse-path; None: the one whom the message names."""

    mail_from: str | None
    recipients: Sequence[str]
    mail_parameters: str = ""
    rcpt_parameters: Mapping[str, str] | None = None
    """DSN parameters (RFC 3461), by recipient."""


def columns_of(
    raw: bytes, envelope: Envelope, *, domain: str, max_size: int, dedupe: bool = False, sender: str | None = None
) -> dict[str, Any]:
    """What to INSERT. `sender` is for a message without From. Raises Unsendable, ValueError."""
    if len(raw) > max_size:
        raise Unsendable("raw", f"the message has {len(raw):,} bytes, more than the {max_size:,} of [message] max_size")
    message, raw = _completed(raw, domain)
    recipients = ", ".join(completed(address, domain) for address in envelope.recipients)
    if not addresses.parse_list(recipients):
        raise ValueError("there is no recipient")
    author = message.author
    written = message.value("message-id")
    message_id = written if written and valid_message_id(written) else None
    return {
        "raw": raw,
        "recipients": recipients,
        "sender": author.wire if author else _completed_or_none(sender, domain),
        "envelope_from": _reverse_path(envelope.mail_from, domain),
        "subject": visible(message.subject)[:_SUBJECT_MOST] if message.subject else None,
        "message_id": message_id,
        "dsn": _dsn(envelope, domain),
        "dedupe_key": _key(message_id, recipients) if dedupe and message_id else None,
    }


def recipients_of(raw: bytes, domain: str) -> list[str]:
    """Whom To, Cc and Bcc name, for `sendmail -t`. Raises Unsendable, ValueError."""
    message, _ = _completed(raw, domain)
    return [mailbox.wire for mailbox in message.mailboxes("to", "cc", "bcc")]


def domain_of(settings: SubmissionSettings, sender: str | None, host: str) -> str:
    """What completes an address: as configured, else the domain of `sender`, else the name of this machine."""
    if settings.default_domain:
        return settings.default_domain
    with suppress(ValueError):
        return addresses.parse_one(sender or "").domain
    return host


def completed(text: str, domain: str) -> str:
    """A list of addresses, each with a domain."""
    return _BARE.sub(lambda found: f"{found['before']}{found['local']}@{domain}{found['after']}", text)


def _completed_or_none(text: str | None, domain: str) -> str | None:
    return completed(text, domain) if text else None


def _completed(raw: bytes, domain: str) -> tuple[Whole, bytes]:
    """The message taken apart, and its bytes: the very same ones, unless an address had no domain."""
    message = taken_apart(raw)
    changed = {
        field.line: line for field in message.fields if (line := _field(field.name, field.line, domain)) != field.line
    }
    if not changed:
        return message, raw
    lines = [changed.get(field.line, field.line) for field in message.fields]
    raw = b"".join((*lines, b"\r\n", message.body))
    return taken_apart(raw), raw


def _field(name: str, line: bytes, domain: str) -> bytes:
    if name not in _ADDRESSES:
        return line
    head, _, value = line.decode().partition(":")
    return f"{head}:{completed(value.removesuffix(chr(13) + chr(10)), domain)}\r\n".encode()


def _reverse_path(path: str | None, domain: str) -> str | None:
    if not path or path == "<>":
        return path and ""
    return addresses.parse_one(completed(path, domain)).wire


def _dsn(envelope: Envelope, domain: str) -> dict[str, Any] | None:
    rcpt = {
        completed(to, domain): parameters(RCPT, text) for to, text in (envelope.rcpt_parameters or {}).items() if text
    }
    mail = parameters(MAIL, envelope.mail_parameters)
    return {MAIL: mail, RCPT: rcpt} if mail or rcpt else None


def _key(message_id: str, recipients: str) -> str:
    to = hashlib.sha256("\n".join(sorted(_wires(recipients))).encode()).hexdigest()[:16]
    shown = message_id if len(message_id) <= _SHOWN_MOST else hashlib.sha256(message_id.encode()).hexdigest()
    return f"msgid:{shown} {to}"


def _wires(recipients: str) -> Iterable[str]:
    return {mailbox.wire for mailbox in addresses.parse_list(recipients)}
