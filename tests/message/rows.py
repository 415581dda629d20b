"""Rows and readers for the tests of this room: a draft to vary, and the standard library as a second opinion."""

from __future__ import annotations

import email
import email.policy
from datetime import UTC, datetime
from email.header import decode_header
from email.message import EmailMessage, Message
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from poller.message.composer import Composer
from poller.message.draft import Composed, Draft, Unsendable
from poller.message.settings import MessageSettings, TemplateSettings

NOW = datetime(2026, 11, 22, 9, 5, 7, tzinfo=UTC)
few = settings(deadline=None, max_examples=60)
many = settings(deadline=None, max_examples=150)

printable = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=200)
"""What a header takes unchanged."""
any_text = st.text(st.characters(exclude_categories=[]), max_size=200)
"""Also half characters and controls."""


def draft(**columns: Any) -> Draft:
    given = {
        "id": 1,
        "message_id": "<1.a@example.com>",
        "date": NOW,
        "recipients": "a@b.test",
        "sender": "s@example.com",
    }
    if not {"template", "body_html", "body_text"} & set(columns):
        given["body_text"] = "Hello\n"
    return Draft(**{**given, **columns})


def composer(**message: Any) -> Composer:
    return Composer(MessageSettings(**message), TemplateSettings())


def compose(**columns: Any) -> Composed:
    return composer().compose(draft(**columns))


def attempted(by: Composer, row: Draft) -> Composed | Unsendable:
    """What became of it; anything else that is raised fails the test."""
    try:
        by.recipients(row)
        return by.compose(row)
    except Unsendable as error:
        return error


def content(**columns: Any) -> bytes:
    return compose(**columns).content


def parsed(**columns: Any) -> EmailMessage:
    """As a modern reader sees it."""
    message = email.message_from_bytes(content(**columns), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def parsed_raw(**columns: Any) -> Message:
    return email.message_from_bytes(content(**columns), policy=email.policy.compat32)


def decoded(value: str) -> str:
    """A header value, unfolded and its encoded words decoded, by the older half of the standard library."""
    unfolded = value.replace("\r\n", "").replace("\n", "")
    return "".join(
        piece if isinstance(piece, str) else piece.decode(charset or "ascii")
        for piece, charset in decode_header(unfolded)
    )


def assert_well_formed(message: bytes, *, ascii_only: bool = True) -> None:
    """Rule 4 of the composer."""
    assert message.count(b"\r") == message.count(b"\n") == message.count(b"\r\n")
    lines = message.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    head = message.partition(b"\r\n\r\n")[0]
    assert not ascii_only or message.isascii()
    assert b"\0" not in message
    assert all(line.strip() for line in head.split(b"\r\n"))
