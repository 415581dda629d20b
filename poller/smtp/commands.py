r"""What is said in a mail transaction, as bytes: envelope, content for DATA or BDAT; and when to say none of it.

Rule 1. No address becomes a command: one with a control character is never sent.
Rule 2. Dots are doubled so that nothing within the content can end it, at a relay that takes a bare LF for a line end
        neither (CVE-2023-51764).

Pure; raises nothing. It does not check that content has only CRLF line ends: composing promises that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.exchange import Message
    from poller.smtp.replies import Features

_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Would end the command line, or cannot be written as UTF-8. Composing lets no such address through; were one to come
in all the same, it must not become a command."""


def lacking(message: Message, features: Features) -> str:
    """What the message needs and this relay does not offer, in words; "" when it can go."""
    addresses = "".join((message.mail_from, *message.recipients))
    if not addresses.isprintable() and _UNSPEAKABLE.search(addresses):
        return "an address without control characters"
    if _needs_smtputf8(message) and not features.smtputf8:
        return "SMTPUTF8: an address or header is not ASCII, and the relay takes only ASCII"
    if not (features.eight_bit_mime or message.content.isascii()):
        return "8BITMIME: the message holds bytes that are not ASCII, and the relay takes only ASCII"
    limit = features.size_limit
    if limit and len(message.content) > limit:
        return f"SIZE: the message has {len(message.content):,} bytes, the relay takes at most {limit:,}"
    return ""


def _needs_smtputf8(message: Message) -> bool:
    if message.smtputf8:
        return True
    return not (message.mail_from.isascii() and "".join(message.recipients).isascii())


def envelope_commands(message: Message, features: Features) -> list[bytes]:
    """MAIL and each RCPT, a line each (RFC 5321 section 4.1.1; RFC 1870, 6152, 6531 and 3461 for the parameters)."""
    options = ""
    if features.size:
        options += f" SIZE={len(message.content)}"
    smtputf8 = _needs_smtputf8(message)
    if features.eight_bit_mime and (smtputf8 or not message.content.isascii()):
        options += " BODY=8BITMIME"
    if smtputf8:
        options += " SMTPUTF8"
    if message.dsn and features.dsn:
        lines = [f"MAIL FROM:<{message.mail_from}>{options}{_with(message.dsn, '')}\r\n".encode()]
        return lines + [f"RCPT TO:<{to}>{_with(message.dsn, to)}\r\n".encode() for to in message.recipients]
    if not (features.dsn and message.envelope_id):
        lines = [f"MAIL FROM:<{message.mail_from}>{options}\r\n".encode()]
        lines += [f"RCPT TO:<{recipient}>\r\n".encode() for recipient in message.recipients]
        return lines
    lines = [f"MAIL FROM:<{message.mail_from}>{options} RET=HDRS ENVID={message.envelope_id}\r\n".encode()]
    return lines + [f"RCPT TO:<{recipient}>{_notified(recipient)}\r\n".encode() for recipient in message.recipients]


_NEEDS_XTEXT = re.compile(r"[^!-*,-<>-~]")


def _notified(recipient: str) -> str:
    """RFC 3461 sections 4.1 and 4.2; RFC 6533 section 3 for an address that is not ASCII: there the relay names it."""
    if not recipient.isascii():
        return " NOTIFY=FAILURE,DELAY"
    xtext = _NEEDS_XTEXT.sub(lambda found: f"+{ord(found[0]):02X}", recipient)
    return f" NOTIFY=FAILURE,DELAY ORCPT=rfc822;{xtext}"


def _with(said: Mapping[str, str], name: str) -> str:
    return f" {parameters}" if (parameters := said.get(name)) else ""


def in_two(message_content: bytes, last: int) -> tuple[memoryview | None, bytes]:
    """Content ready for DATA: what goes out beforehand, if it is longer than `last` bytes, and the rest with its end.

    What holds nothing to be doubled, as encoded attachments do not, is not copied.
    """
    if len(message_content) > last and not message_content.startswith(b".") and b"\n." not in message_content:
        end = b".\r\n" if message_content.endswith(b"\r\n") else b"\r\n.\r\n"
        cut = len(message_content) + len(end) - last
        return memoryview(message_content)[:cut], message_content[cut:] + end
    ready = stuffed(message_content)
    if len(ready) <= last:
        return None, ready
    return memoryview(ready)[:-last], ready[-last:]


def stuffed(message_content: bytes) -> bytes:
    """Content ready for DATA, with its end (RFC 5321 section 4.5.2).

    A dot behind any LF is doubled, not only behind CRLF: should a bare LF ever slip in, a relay that takes LF for a
    line end still finds no early end of data (CVE-2023-51764).
    """
    doubled = message_content.replace(b"\n.", b"\n..")
    start = b"." if doubled.startswith(b".") else b""
    end = b".\r\n" if not doubled or doubled.endswith(b"\r\n") else b"\r\n.\r\n"
    return b"".join((start, doubled, end))


def chunk(message_content: bytes) -> bytes:
    """Content ready for BDAT (RFC 3030 section 2): as it is, with the last line ended as it would be by DATA."""
    return message_content if not message_content or message_content.endswith(b"\r\n") else message_content + b"\r\n"
