"""A mailing list's header fields, and the link by which one recipient leaves it (RFC 2369, 2919, 8058).

Rule 1. List-Unsubscribe and List-Unsubscribe-Post are written here and nowhere else: both or only the first, once each,
        on one line, never encoded. A field longer than a line may be is refused.
Rule 2. Where there is a token it is of one recipient, so that recipient gets a message of their own (`has_tokens`).
Rule 3. The token's time is the row's first attempt: composing stays a pure function of the row.
Rule 4. What the list writes, the row may not write too: no field stands there twice.

Raises `Unsendable` with column `list` or `headers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from poller.frozen import dataclass
from poller.message import fields
from poller.message.characters import shown
from poller.message.draft import Unsendable
from poller.message.list_settings import FEEDBACK_NAMES, PLACE, ListSettings, UnsubscribeSettings
from poller.sealed import UnusableKey, keys_of
from poller.unsubscribe import sign

if TYPE_CHECKING:
    from poller.message.draft import Draft
    from poller.sealed import Keys

ONE_CLICK = "List-Unsubscribe-Post: List-Unsubscribe=One-Click"
VARIABLE = "unsubscribe_url"
"""What templates call the link."""
_NO_FEEDBACK = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Leave:
    """What a list adds to one message: header fields, and the link for its template."""

    fields: tuple[str, ...] = ()
    url: str | None = None

    def variables(self, context: object) -> object:
        """The template's variables, with the link among them."""
        if self.url is None or not (context is None or isinstance(context, dict)):
            return context
        if context and VARIABLE in context:
            reason = f"{VARIABLE} is given, and the row's list gives it too; leave it out here, or leave list empty"
            raise Unsendable("context", reason)
        return {**(context or {}), VARIABLE: self.url}


NOTHING = Leave()


class MailingLists:
    """Every list that is configured. `problems` is what keeps their tokens from being made, in words."""

    def __init__(
        self, lists: Mapping[str, ListSettings] | None = None, shared: UnsubscribeSettings | None = None
    ) -> None:
        shared = shared or UnsubscribeSettings()
        self._lists = lists or {}
        self._outbox = shared.outbox
        self._keys: Keys = ()
        self.problems: list[str] = []
        if any(settings.has_tokens for settings in self._lists.values()):
            try:
                self._keys = keys_of(shared.key or "")
            except UnusableKey as error:
                self.problems.append(f"[unsubscribe] key: {error}")

    def has_tokens(self, name: str | None) -> bool:
        """Whether each recipient of a row gets a message of their own. Raises Unsendable for an unknown list."""
        return bool(name) and self._named(str(name)).has_tokens

    def leave(self, draft: Draft, reader: str) -> Leave:
        """What the row's list adds to the message for this recipient."""
        if not draft.list:
            return NOTHING
        settings = self._named(draft.list)
        token = self._token(draft, reader) if settings.has_tokens else ""
        url = settings.unsubscribe_url and settings.unsubscribe_url.replace(PLACE, token)
        mailto = settings.unsubscribe_mailto and settings.unsubscribe_mailto.replace(PLACE, token)
        found = tuple(_fields(settings, draft, url, mailto))
        _refuse_twice(draft, found)
        return Leave(fields=found, url=url)

    def _named(self, name: str) -> ListSettings:
        if name in self._lists:
            return self._lists[name]
        known = ", ".join(sorted(self._lists))
        remedy = f"name one of {known}, or none" if known else f"configure it as [lists.{shown(name)}], or name none"
        raise Unsendable("list", f"there is no list {shown(name)}; {remedy}, then: poller retry")

    def _token(self, draft: Draft, reader: str) -> str:
        if not self._keys:
            raise Unsendable("list", f"{self.problems[0]}; then: poller retry")
        name = str(draft.list)
        return sign(name, reader, keys=self._keys, outbox=self._outbox, at=draft.date)


def _fields(settings: ListSettings, draft: Draft, url: str | None, mailto: str | None) -> list[str]:
    found = [_list_id(settings.name, settings.id)]
    if links := ", ".join(f"<{link}>" for link in (url, mailto) if link):
        found.append(_whole(f"List-Unsubscribe: {links}"))
    if url:
        found.append(ONE_CLICK)
    if settings.precedence:
        found.append(f"Precedence: {settings.precedence}")
    if settings.auto_submitted:
        found.append("Auto-Submitted: auto-generated")
    if settings.feedback_id:
        found.append(_whole(f"Feedback-ID: {_feedback_id(settings.feedback_id, draft)}"))
    return found


@lru_cache(maxsize=256)
def _list_id(name: str | None, list_id: str) -> str:
    return fields.named_field("List-Id", name, list_id) if name else f"List-Id: <{list_id}>"


def _feedback_id(pattern: str, draft: Draft) -> str:
    """A colon or a space in what the row says would make another id of it."""
    values = {name: _NO_FEEDBACK.sub("_", getattr(draft, name) or "-") for name in FEEDBACK_NAMES}
    return pattern.format_map(values)


def _whole(line: str) -> str:
    if len(line) > fields.LONGEST:
        name = line.partition(":")[0]
        reason = f"{name} does not fit on a line of {fields.LONGEST} characters and may not be broken"
        raise Unsendable("list", f"{reason}; shorten the list's unsubscribe_url, or the recipient's address")
    return line


def _refuse_twice(draft: Draft, found: tuple[str, ...]) -> None:
    if isinstance(draft.headers, Mapping):
        ours = {line.partition(":")[0].lower() for line in found}
        for name in draft.headers:
            if str(name).lower() in ours:
                reason = f"{name} may not be given here: the list {draft.list} writes it"
                raise Unsendable("headers", f"{reason}; leave it out, or leave list empty")
