"""The columns of `outbox` that an application may write: the one list of them.

The statements that insert, the rows that are read for a message, and the rights of `outbox_app` in sql/*/roles.sql all
follow it; `tests/outbox/test_roles.py` and `tests/application/test_message.py` hold them together.
"""

from __future__ import annotations

DRAFT_COLUMNS = (
    "recipients",
    "cc",
    "bcc",
    "sender",
    "reply_to",
    "envelope_from",
    "subject",
    "body_text",
    "body_html",
    "template",
    "context",
    "locale",
    "headers",
    "list",
)
"""What the message is made of."""

APPLICATION_COLUMNS = (
    *DRAFT_COLUMNS,
    "raw",
    "dsn",
    "message_id",
    "batch",
    "priority",
    "due_at",
    "expires_at",
    "dedupe_key",
    "on_doubt",
    "max_attempts",
    "relay",
    "created_at",
)
"""What an application may write; everything else is the poller's."""

RAW_COLUMNS = ("raw", "dsn")
"""Of these, what only a message has that comes whole (`poller.submission`)."""

MAIL_COLUMNS = tuple(name for name in APPLICATION_COLUMNS if name not in RAW_COLUMNS)
"""Of these, what `poller.Mail` has."""

FILE_COLUMNS = ("name", "content", "content_type", "content_id", "part")
"""Of `outbox_attachment`, beside `outbox_id`, for a file whose content is given with it."""

PARTS = {False: "file", True: "alternative"}
"""What `part` says of a file: whether it is another form of the text."""
