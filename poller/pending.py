"""Rows in hand that were not begun: by relay, each relay's in the order of their slots.

Belongs to the delivering thread. Forgets no row: each is had by `pop`, `remove` or `clear`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from poller.outbox.rows import ClaimedRow

AT_ONCE: Final = datetime.min.replace(tzinfo=UTC)
"""The slot of a row that needs none."""


@dataclass(kw_only=True, slots=True)
class Pending:
    """`relay_of` says which relay a row is for."""

    relay_of: Callable[[ClaimedRow], str]
    _rows: dict[str, deque[ClaimedRow]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __iter__(self) -> Iterator[ClaimedRow]:
        for rows in self._rows.values():
            yield from rows

    def add(self, rows: Iterable[ClaimedRow]) -> None:
        """More of them, behind those that have the same slot."""
        touched = set()
        for row in rows:
            relay = self.relay_of(row)
            self._rows.setdefault(relay, deque()).append(row)
            touched.add(relay)
        for relay in touched:
            if any(row.grant.at for row in self._rows[relay]):
                self._rows[relay] = deque(sorted(self._rows[relay], key=slot_of))

    def put_back(self, relay: str, place: int, row: ClaimedRow) -> None:
        """In front of all others but the `place` that came back before it: it was begun in vain."""
        self._rows.setdefault(relay, deque()).insert(place, row)

    def first(self, relay: str) -> ClaimedRow | None:
        """The one that is next there."""
        rows = self._rows.get(relay)
        return rows[0] if rows else None

    def pop(self, relay: str) -> ClaimedRow:
        """Take the first away."""
        return self._rows[relay].popleft()

    def relays(self) -> list[str]:
        """Those that have rows, the earliest slot first."""
        waiting = [(slot_of(rows[0]), name) for name, rows in self._rows.items() if rows]
        return [name for _, name in sorted(waiting)]

    def remove(self, which: Callable[[ClaimedRow, str], bool]) -> list[ClaimedRow]:
        """Take away all of a kind; `which` is told each row and the relay that it stands at."""
        taken = [row for relay, rows in self._rows.items() for row in rows if which(row, relay)]
        if taken:
            gone = {row.id for row in taken}
            self._rows = {relay: deque(row for row in rows if row.id not in gone) for relay, rows in self._rows.items()}
        return taken

    def clear(self) -> list[ClaimedRow]:
        """Take away all."""
        return self.remove(lambda _row, _relay: True)


def slot_of(row: ClaimedRow) -> datetime:
    """Not before."""
    return row.grant.at or AT_ONCE
