"""Rows that go back as they were: not begun, at no cost to them.

Rule 1. While a batch goes on, they are handed back in the bookkeeper's thread: others' slots would pass meanwhile.
Rule 2. Where the database is away, that is said, and they go back before the next claim (`poller.outbox.store`).
Rule 3. The rows in hand are asked for now and then: has an operator paused or cancelled one, is the outbox off? The
        bookkeeper's thread asks, and the answer is heard at the next occasion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poller.outbox.database import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Executor, Future

    from poller.journal import Journal
    from poller.log import Logger
    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store

Returning = tuple["Sequence[ClaimedRow]", "Future[None]"]


@dataclass(kw_only=True, slots=True)
class Returns:
    """Belongs to the delivering thread."""

    store: Store
    journal: Journal
    bookkeeper: Executor
    log: Logger
    _under_way: list[Returning] = field(default_factory=list)
    _asked: tuple[frozenset[int], Future[set[int]]] | None = None
    """Which rows may still be sent, of those that were not begun then."""

    def let_go(self, rows: Sequence[ClaimedRow]) -> None:
        """Hand back, and go on (Rule 1)."""
        if rows:
            self._forget(rows)
            self._under_way.append((rows, self.bookkeeper.submit(self.store.hand_back, rows)))
            self._see([pair for pair in self._under_way if pair[1].done()])

    def give_back(self, rows: Sequence[ClaimedRow]) -> None:
        """Hand back now."""
        if rows:
            self._forget(rows)
            self._say(rows, lambda: self.store.hand_back(rows))

    def see_all(self) -> None:
        """Wait for what is on its way back; nothing more is asked for."""
        self._asked = None
        self._see([*self._under_way])

    @property
    def is_asking(self) -> bool:
        """The last question has no answer yet."""
        return self._asked is not None

    def ask(self, rows: Iterable[ClaimedRow]) -> None:
        """Rule 3."""
        waiting = frozenset(row.id for row in rows)
        self._asked = waiting, self.bookkeeper.submit(self.store.still_sending, waiting)

    def withdrawn(self) -> frozenset[int]:
        """Of the rows that were asked for, those that must not be sent any more; none before the answer is there."""
        if self._asked is None or not self._asked[1].done():
            return frozenset()
        (ids, answer), self._asked = self._asked, None
        return ids - answer.result()

    def _forget(self, rows: Sequence[ClaimedRow]) -> None:
        self.journal.settled((row.id, row.claim_seq) for row in rows)

    def _see(self, some: Sequence[Returning]) -> None:
        for pair in some:
            self._under_way.remove(pair)
            self._say(pair[0], pair[1].result)

    def _say(self, rows: Sequence[ClaimedRow], done: Callable[[], object]) -> None:
        try:
            done()
        except DatabaseUnavailable as why:
            self.log.warning("database.unavailable", reason=str(why), waiting=len(rows))
            return
        self.log.info("rows.handed_back", rows=len(rows))
