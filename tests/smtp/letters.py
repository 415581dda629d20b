"""Messages and settings for tests of the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poller.exchange import Message
from poller.smtp.courier import Courier
from poller.smtp.settings import SmtpSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


def letter(number: int = 1, *recipients: str, content: bytes = b"", **more: Any) -> Message:
    """A small valid message."""
    body = content or b"From: a@a.test\r\nSubject: letter %d\r\n\r\nhello\r\n.\r\n..two\r\n" % number
    return Message(
        row_id=number,
        claim_seq=1,
        message_id=f"<{number}@a.test>",
        mail_from="a@a.test",
        recipients=recipients or ("b@b.test",),
        content=body,
        **more,
    )


def letters(count: int) -> Iterator[Message]:
    """Numbered from 1."""
    return (letter(number) for number in range(1, count + 1))


def settings(port: int, **more: Any) -> SmtpSettings:
    """For a test server: plain text, and patience for a test."""
    defaults: dict[str, Any] = {
        "host": "127.0.0.1",
        "security": "none",
        "connect_timeout": 5.0,
        "reply_timeout": 5.0,
        "data_timeout": 5.0,
        "block_timeout": 5.0,
        "end_timeout": 5.0,
        "ehlo_name": "client.test",
        "pipelining": "overlap",
    }
    return SmtpSettings(port=port, **(defaults | more))


def courier_to(port: int, **more: Any) -> Courier:
    """With a session open."""
    courier = Courier(settings(port, **more))
    courier.open()
    return courier
