"""Pure: what can be said against a row before any template or configuration is known.

Rule 1. What is refused here, the composer would refuse too, in the same words: an application hears at once what
        otherwise would stand in `error` when the row is claimed.
Rule 2. What depends on the service is not judged: templates, the default sender, the largest size, staging.

Raises `Unsendable`, naming the column and the remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from poller.message import characters
from poller.message.draft import Unsendable
from poller.message.headers import extra_fields
from poller.message.reading import address_list, one_address, read_lists, require_message_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poller.message.draft import Attachment


class Written(Protocol):
    """The columns that are looked at, as an application writes them."""

    @property
    def recipients(self) -> str | None: ...  # noqa: D102
    @property
    def cc(self) -> str | None: ...  # noqa: D102
    @property
    def bcc(self) -> str | None: ...  # noqa: D102
    @property
    def sender(self) -> str | None: ...  # noqa: D102
    @property
    def reply_to(self) -> str | None: ...  # noqa: D102
    @property
    def envelope_from(self) -> str | None: ...  # noqa: D102
    @property
    def subject(self) -> str | None: ...  # noqa: D102
    @property
    def body_text(self) -> str | None: ...  # noqa: D102
    @property
    def body_html(self) -> str | None: ...  # noqa: D102
    @property
    def template(self) -> str | None: ...  # noqa: D102
    @property
    def headers(self) -> object: ...  # noqa: D102
    @property
    def message_id(self) -> str | None: ...  # noqa: D102
    @property
    def attachments(self) -> Sequence[Attachment]: ...  # noqa: D102


def require_sendable(row: Written) -> None:
    """Refuse what can never be sent."""
    read_lists(row.recipients, row.cc, row.bcc)
    if row.sender:
        one_address("sender", row.sender)
    address_list("reply_to", row.reply_to)
    if row.envelope_from is not None and row.envelope_from.strip() not in ("", "<>"):
        one_address("envelope_from", row.envelope_from)
    if row.message_id is not None:
        require_message_id(row.message_id)
    if row.subject is not None:
        characters.header_text("subject", row.subject)
    _require_content(row)
    extra_fields(row.headers)
    if row.attachments:
        _require_files(row.attachments)


def _require_files(files: Sequence[Attachment]) -> None:
    from poller.message import parts  # noqa: PLC0415 - an application's start is not to pay for it

    for file in files:
        parts.attachment_part(file, inline=False)
    parts.refuse_repeated_ids(files)


def _require_content(row: Written) -> None:
    bodies = {"body_text": row.body_text, "body_html": row.body_html}
    given = [column for column, body in bodies.items() if body is not None]
    if row.template is None and not given:
        raise Unsendable("body_text", "neither body_text nor body_html nor template is given; give one")
    if row.template is not None and given:
        raise Unsendable("template", f"{given[0]} is given too; leave one of them out")
    for column, body in bodies.items():
        if body is not None and ("\x00" in body or not body.isascii()):
            characters.body_bytes(column, body)
