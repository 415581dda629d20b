"""Rows in hand that were not begun: by relay, and of each relay's the one whose slot has come before those without.

Rule 1. A row that came back from a session first of all; then the earliest slot that has come; then those that need no
        slot, in the order in which they came. Anyone who has a slot would lose it behind them.
Rule 2. Forgets no row: each is had by `take`, `remove` or `clear`.

Belongs to the delivering thread.
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
class _Waiting:
    """One relay's."""

    again: deque[ClaimedRow] = field(default_factory=deque)
    slotted: deque[ClaimedRow] = field(default_factory=deque)
    """In the order of their slots."""
    free: deque[ClaimedRow] = field(default_factory=deque)

    def __iter__(self) -> Iterator[ClaimedRow]:
        yield from self.again
        yield from self.slotted
        yield from self.free

    def first(self, now: datetime) -> deque[ClaimedRow]:
        """The queue whose turn it is."""
        if self.again:
            return self.again
        is_time = self.slotted and slot_of(self.slotted[0]) <= now
        return self.slotted if is_time or not self.free else self.free

    def without(self, gone: set[int]) -> _Waiting:
        """Those that stay."""
        again, slotted, free = (
            deque(row for row in rows if row.id not in gone) for rows in (self.again, self.slotted, self.free)
        )
        return _Waiting(again=again, slotted=slotted, free=free)


@dataclass(kw_only=True, slots=True)
class Pending:
    """`relay_of` says which relay a row is for."""

    relay_of: Callable[[ClaimedRow], str]
    _rows: dict[str, _Waiting] = field(default_factory=dict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ClaimedRow]:
        for waiting in self._rows.values():
            yield from waiting

    def add(self, rows: Iterable[ClaimedRow]) -> None:
        """More of them, behind those that have the same slot."""
        touched: dict[str, _Waiting] = {}
        for row in rows:
            relay = self.relay_of(row)
            self._count += 1
            waiting = self._rows.setdefault(relay, _Waiting())
            if slot_of(row) == AT_ONCE:
                waiting.free.append(row)
            else:
                waiting.slotted.append(row)
                touched[relay] = waiting
        for waiting in touched.values():
            waiting.slotted = deque(sorted(waiting.slotted, key=slot_of))

    def put_back(self, relay: str, place: int, row: ClaimedRow) -> None:
        """In front of all others but the `place` that came back before it: it was begun in vain."""
        self._rows.setdefault(relay, _Waiting()).again.insert(place, row)
        self._count += 1

    def first(self, relay: str, now: datetime) -> ClaimedRow | None:
        """The one that is next there."""
        waiting = self._rows.get(relay)
        rows = waiting.first(now) if waiting else None
        return rows[0] if rows else None

    def take(self, relay: str, row: ClaimedRow) -> None:
        """Take away one that was the first there."""
        waiting = self._rows[relay]
        next(rows for rows in (waiting.again, waiting.slotted, waiting.free) if rows and rows[0] is row).popleft()
        self._count -= 1

    def relays(self) -> list[str]:
        """Those that have rows, the earliest slot first."""
        slots = {
            name: AT_ONCE if waiting.again or waiting.free else slot_of(waiting.slotted[0])
            for name, waiting in self._rows.items()
            if waiting.again or waiting.free or waiting.slotted
        }
        return sorted(slots, key=lambda name: (slots[name], name))

    def remove(self, which: Callable[[ClaimedRow, str], bool]) -> list[ClaimedRow]:
        """Take away all of a kind; `which` is told each row and the relay that it stands at."""
        taken = [row for relay, waiting in self._rows.items() for row in waiting if which(row, relay)]
        if taken:
            gone = {row.id for row in taken}
            self._count -= len(taken)
            self._rows = {relay: waiting.without(gone) for relay, waiting in self._rows.items()}
        return taken

    def clear(self) -> list[ClaimedRow]:
        """Take away all."""
        return self.remove(lambda _row, _relay: True)


def slot_of(row: ClaimedRow) -> datetime:
    """Not before. One that may go at once, but not for long, has its slot now."""
    if row.grant.at is not None:
        return row.grant.at
    return row.claimed_at if row.grant.until is not None else AT_ONCE
