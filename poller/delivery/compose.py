"""From row to message: journalled, and where there is time for it the next one while the last is being answered.

Rule 1. The journal hears of a row before it is composed, and of its message before that can leave.
Rule 2. What was made ahead is used only for the very row it was made of, by the relay and with the suppressions that
        hold when its turn comes, and before the row expires; else it is made anew.
Rule 3. `ahead` never fails and never waits: what needs the database, or a person's template, or much memory, is made at
        its turn, and whatever is wrong with a row is said then. For a row that kills the process while it is composed
        must not leave another in doubt.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from poller.delivery.prepare import Prepared, prepare, recipients_of
from poller.journal import JournalTrouble
from poller.message.draft import Unsendable
from poller.outbox.database import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from datetime import datetime

    from poller.delivery.files import Files
    from poller.journal import Journal
    from poller.message.composer import Composer
    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store

LOOK_EVERY_S: Final = 0.25
"""Between two looks whether the suppression list has any entry at all."""
SMALL: Final = 64 * 1024
"""Characters of a row's texts: what is made ahead is in memory beside the message that is on its way."""
_TEXTS: Final = ("recipients", "cc", "bcc", "subject", "body_text", "body_html")


@dataclass(kw_only=True, slots=True)
class Compose:
    """Belongs to the delivering thread. `relays` are the names of all; `clock` counts seconds."""

    store: Store
    journal: Journal
    composer: Composer
    relays: Collection[str]
    clock: Callable[[], float]
    files: Files
    _suppressed: Mapping[tuple[str, str], str] = field(default_factory=dict)
    _suppresses_anyone: bool = True
    _suppresses_at: float = float("-inf")
    _made: tuple[Prepared, int, Mapping[tuple[str, str], str]] | None = None
    """Ahead: what was made, for how many recipients at once, and who was suppressed then."""

    def look_up(self, rows: Iterable[ClaimedRow]) -> None:
        """Learn which of all addresses in `rows` are on the suppression list: one question for the batch.

        But for rows with very long lists: these are read when it is their turn, and the journal counts.
        """
        if self.clock() - self._suppresses_at >= LOOK_EVERY_S:
            self._suppresses_anyone = self.store.suppresses_anyone()
            self._suppresses_at = self.clock()
        short = [row for row in rows if not _has_long_lists(row)]
        self._suppressed = self.store.suppressed(self._addresses(short)) if self._suppresses_anyone else {}

    def prepared(self, row: ClaimedRow, at_once: int, now: datetime, *, not_now: Collection[str] = ()) -> Prepared:
        """What is to be done with `row`, for `at_once` recipients of a transaction but none at `not_now`.

        Raises Unsendable, DatabaseUnavailable, JournalTrouble.
        """
        made, self._made = self._made, None
        if made is not None and not not_now and self._still_holds(made, row, at_once, now):
            return made[0]
        return self._make(row, at_once, now, not_now)

    def ahead(self, row: ClaimedRow, at_once: int, now: datetime) -> None:
        """`row` is likely to be next: make its message now, if that can be done without waiting (Rule 3)."""
        if self._made is not None and self._made[0].row is row:
            return
        if not _is_plain(row):
            return
        with suppress(Unsendable, JournalTrouble):
            prepared = self._make(row, at_once, now, ())
            if prepared.message is not None and not prepared.settled:
                self._made = prepared, at_once, self._suppressed

    def _still_holds(
        self, made: tuple[Prepared, int, Mapping[tuple[str, str], str]], row: ClaimedRow, at_once: int, now: datetime
    ) -> bool:
        prepared, for_so_many, suppressed = made
        return (
            prepared.row is row
            and for_so_many == at_once
            and (suppressed is self._suppressed or suppressed == self._suppressed)
            and (row.expires_at is None or now < row.expires_at)
        )

    def _make(self, row: ClaimedRow, at_once: int, now: datetime, not_now: Collection[str]) -> Prepared:
        self.journal.begin(row.id, row.claim_seq)
        try:
            suppressed = self._suppressed
            if self._suppresses_anyone and _has_long_lists(row):
                suppressed = self.store.suppressed(self._addresses([row]))
            files = self.files.of(self.store.attachments(row.id)) if row.has_attachments else ()
            raw = self.store.raw(row.id) if row.is_raw else (None, None)
            prepared = prepare(
                row,
                files,
                composer=self.composer,
                suppressed=suppressed,
                now=now,
                at_once=at_once,
                relays=self.relays,
                not_now=not_now,
                raw=raw,
            )
        except (Unsendable, DatabaseUnavailable):
            self.journal.end(row.id, row.claim_seq)
            raise
        if prepared.message is None:
            self.journal.end(row.id, row.claim_seq)
        else:
            self.journal.compose(prepared.message)
        return prepared

    def _addresses(self, rows: Iterable[ClaimedRow]) -> set[str]:
        addresses: set[str] = set()
        for row in rows:
            with suppress(Unsendable):  # said when it is its turn
                addresses.update(recipient.address for recipient in recipients_of(row, self.composer))
        return addresses


def _has_long_lists(row: ClaimedRow) -> bool:
    return sum([len(row.content.get(name) or "") for name in ("recipients", "cc", "bcc")]) > SMALL


def _is_plain(row: ClaimedRow) -> bool:
    content = row.content
    if row.has_attachments or row.is_raw or content.get("template"):
        return False
    size = sum([len(content.get(name) or "") for name in _TEXTS])
    return size <= SMALL and (not (headers := content.get("headers")) or len(str(headers)) <= SMALL)
