"""The backend: `send_mail` and its kin write rows, in the transaction that is open on the outbox's database.

Rule 1. Rolled back with the business beside it, or sent with it. Outside of `transaction.atomic()` Django commits each
        statement, and then the mails of one call are committed together: all of them or none.
Rule 2. What can't be sent is refused at once (`letters.Refused`, a ValueError); `fail_silently` leaves such a mail out.
        What the database says is never hidden.
Rule 3. `send_messages` returns how many were written. That is not how many will be delivered: the admin tells that.

OPTIONS: `database`, an alias; and `batch`, `priority`, `relay`, `on_doubt`, `max_attempts` for mails that give none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.mail.backends.base import BaseEmailBackend
from django.db import connections, transaction

from poller.application.outbox import Outbox
from poller.contrib.django import place
from poller.contrib.django.letters import Refused, mail_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from django.core.mail import EmailMessage

    from poller.application.mail import Mail

_DEFAULTS = ("batch", "priority", "relay", "on_doubt", "max_attempts")


class EmailBackend(BaseEmailBackend):
    """Django's side of the outbox."""

    def __init__(self, *args: Any, database: str | None = None, **options: Any) -> None:
        defaults = {name: options.pop(name) for name in _DEFAULTS if name in options}
        super().__init__(*args, **options)
        self.database = database or place.alias()
        self.defaults = defaults

    def send_messages(self, email_messages: Iterable[EmailMessage]) -> int:
        """Write them; how many there were with somebody to send to."""
        mails = list(self._mails(email_messages))
        if mails:
            with transaction.atomic(using=self.database):
                connection = connections[self.database]
                if len(mails) == 1:
                    Outbox().add(connection, mails[0])
                else:
                    Outbox().add_many(connection, mails)
        return len(mails)

    def _mails(self, messages: Iterable[EmailMessage]) -> Iterator[Mail]:
        for message in messages:
            if message.recipients():
                try:
                    yield mail_of(message, self.defaults)
                except Refused:
                    if not self._is_silent:
                        raise

    @property
    def _is_silent(self) -> bool:
        """Django 6.1 warns anyone who asks for `fail_silently`, and has it under another name."""
        return bool(vars(self).get("fail_silently", vars(self).get("_fail_silently", False)))
