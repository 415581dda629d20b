"""What an application hears when mail is not taken. Each leaves the caller's transaction as it was: it can go on.

What the database itself refuses comes as its driver raises it.
"""

from __future__ import annotations

from poller.message.characters import shown


class NotInTransaction(Exception):  # noqa: N818 - named as the fact it is
    """The connection commits each statement by itself: the mail would go out whatever became of the rest."""


class Duplicate(Exception):  # noqa: N818 - named as the fact it is
    """The `dedupe_key` is taken. `id` is the row that has it, or None: then another application wrote it."""

    def __init__(self, key: str, row_id: int | None) -> None:
        who = f"row {row_id}" if row_id is not None else "a row of another application"
        super().__init__(f"dedupe_key {shown(key)} is taken by {who}; choose another, or ask for the existing id")
        self.key = key
        self.id = row_id


class TooLate(Exception):  # noqa: N818 - named as the fact it is
    """What stands under the key does not merely wait any more, and can't be replaced. `status` says what it is."""

    def __init__(self, key: str, row_id: int | None, status: str) -> None:
        row = f"row {row_id} is {status}" if row_id is not None else "it is another application's"
        super().__init__(f"dedupe_key {shown(key)}: {row}, and can't be replaced; write another mail under a new key")
        self.key = key
        self.id = row_id
        self.status = status
