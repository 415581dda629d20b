"""What goes in (`Mail`) and what is told of it (`State`).

Rule 1. `Mail` has the columns that an application may write (`poller.columns`), by their names, and `attachments`.
Rule 2. What is wrong with it is said when it is made, by the sender's own rules, and not when a worker claims the row.
Rule 3. A list of addresses has one address in each entry: an entry that holds two is refused, so that nothing a user
        typed becomes a second recipient.

Raises `Unsendable`, naming the column and the remedy.
"""

from __future__ import annotations

import json
from dataclasses import field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from poller.columns import MAIL_COLUMNS
from poller.frozen import dataclass
from poller.message.draft import Attachment, Unsendable
from poller.message.reading import one_address
from poller.message.rules import require_sendable
from poller.statuses import TERMINAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from email.message import Message as Email

LOWEST_PRIORITY = 9
_TIMES = ("due_at", "expires_at", "created_at")
_JSON = tuple(MAIL_COLUMNS.index(name) for name in ("context", "headers"))
_values = attrgetter(*MAIL_COLUMNS)
_LISTS = ("recipients", "cc", "bcc", "reply_to")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """One mail. What each column means is in docs/using.md; times are aware datetimes.

    The four address lists are text with commas, or a sequence with one address in each entry.
    """

    recipients: str | Sequence[str] | None = None
    cc: str | Sequence[str] | None = None
    bcc: str | Sequence[str] | None = None
    sender: str | None = None
    reply_to: str | Sequence[str] | None = None
    envelope_from: str | None = None
    subject: str | None = None
    body_text: str | None = field(default=None, repr=False)
    body_html: str | None = field(default=None, repr=False)
    template: str | None = None
    context: Mapping[str, Any] | None = field(default=None, repr=False)
    locale: str | None = None
    headers: Mapping[str, Any] | None = None
    list: str | None = None
    message_id: str | None = None
    batch: str | None = None
    priority: int | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    dedupe_key: str | None = None
    on_doubt: Literal["resend", "hold"] | None = None
    max_attempts: int | None = None
    relay: str | None = None
    created_at: datetime | None = None
    attachments: Sequence[Attachment] = ()

    def __post_init__(self) -> None:
        """Hold it against the rules."""
        for column in _LISTS:
            given = getattr(self, column)
            if given is not None and not isinstance(given, str):
                object.__setattr__(self, column, _joined(column, given))
        require_sendable(self)  # type: ignore[arg-type] # the lists are text by now
        _require_columns(self)

    @classmethod
    def from_email(cls, email: Email, **columns: Any) -> Mail:
        """An `email.message.EmailMessage` taken apart (see `apart`); `columns` are added, or go before its own."""
        from poller.application.apart import taken_apart  # noqa: PLC0415 - most applications never need it

        return cls(**(taken_apart(email) | columns))


def values_of(mail: Mail) -> list[Any]:
    """In the order of MAIL_COLUMNS, as Python has them; `context` and `headers` as JSON."""
    values = list(_values(mail))
    for place in _JSON:
        if values[place] is not None:
            values[place] = json.dumps(values[place], allow_nan=False)
    return values


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What became of a mail, as the view `outbox_state` tells it: no addresses, no bodies. Times are aware UTC."""

    id: int
    status: str
    attempts: int
    doubts: int
    reply_code: int | None
    reply_status: str | None
    error: str | None
    due_at: datetime
    sent_at: datetime | None
    finished_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """Nothing more happens to it by itself."""
        return self.status in TERMINAL


def _joined(column: str, entries: Sequence[str]) -> str:
    for entry in entries:
        one_address(column, str(entry))
    return ", ".join(str(entry) for entry in entries)


def _require_columns(mail: Mail) -> None:
    """What the table's CHECKs would refuse, in words."""
    if mail.priority is not None and not 0 <= mail.priority <= LOWEST_PRIORITY:
        raise Unsendable("priority", f"{mail.priority} is not 0 (first) to 9 (last)")
    if mail.dedupe_key == "":
        raise Unsendable("dedupe_key", "it is empty; leave it out, or give one")
    if mail.on_doubt not in (None, "resend", "hold"):
        raise Unsendable("on_doubt", f"{mail.on_doubt!r} is neither 'resend' nor 'hold'")
    if mail.max_attempts is not None and mail.max_attempts < 1:
        raise Unsendable("max_attempts", "less than 1; leave it out for the configured limit")
    for column in _TIMES:
        moment = getattr(mail, column)
        if moment is not None and moment.tzinfo is None:
            raise Unsendable(column, "a time without zone; give it one, as in datetime.now(UTC)")
    if mail.context is not None:
        _require_json(mail.context)


def _require_json(context: object) -> None:
    if not isinstance(context, dict):
        raise Unsendable("context", "not a dict; a template's variables have names")
    try:
        json.dumps(context, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unsendable("context", f"no JSON can be made of it: {error}") from None
