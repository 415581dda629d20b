"""Turns: nobody's million delays another's one of the same priority, and no priority starves.

A flow is what shares batch, template and sender (`outbox.flow`). While claims are full, so that rows have to wait:

Rule 1. Half of each claim is for the first rows of as many flows at the priority at which the last claim ended. A flow
        that was not known comes first, then those that wait longest. The rest of the claim goes to what stands in
        front, so that the order within a flow stays due time, id.
Rule 2. Where there are more flows than MANY, senders take turns (`outbox.lane`), and where there are too many of these,
        nobody. It is tried again from where that try ended, SELDOM, for a try costs as much as the claims themselves.
Rule 3. One full claim in LOWER_EVERY gives half of its room to the priorities behind, each the first in its turn:
        together they get a twentieth.

A claim that is not full has taken all that is due, and needs no turns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from poller.outbox.dialect import FIRST, PRIORITIES
from poller.outbox.dialects import dialect_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from poller.outbox.dialect import By
    from poller.pacing.gate import Gate

LOWER_EVERY: Final = 10
MANY: Final = 200
SELDOM: Final = 32
"""Times as long as a try took, nobody tries again."""
LEAST_STEPS: Final = 10
"""From flow to flow, however few are wanted."""
MOST_KNOWN: Final = 100
"""Flows that are remembered from claim to claim."""
WAYS: Final[tuple[By, ...]] = ("flow", "lane")
TWO: Final = 2  # flows: of fewer none can take turns


@dataclass(kw_only=True, slots=True)
class _Way:
    """What takes turns, by one column."""

    by: By
    start: str = ""
    """Where the search for unknown ones goes on."""
    known: dict[str, None] = field(default_factory=dict)
    """Those that had more rows than their turn took, the last served last."""
    unfinished: int = 0
    """Flows wanted by searches since the last one that came to the end."""

    @property
    def is_crowded(self) -> bool:
        """There are too many."""
        return self.unfinished >= MANY

    def rows(self, connection: Connection, gate: Gate, priority: int, room: int) -> list[Any]:
        """The first rows of each in its turn, locked; at most `room`."""
        new = self._new(connection, priority, room)
        if not self.start and len(new) + len(self.known) < TWO:
            self.known |= dict.fromkeys(new)
            return []
        wanted = [*new, *self.known][:room]
        if not wanted:
            return []
        each = -(-room // len(wanted))
        pairs = [((name, priority), each) for name in wanted]
        rows = dialect_of(connection).paths.heads(connection, self.by, gate, pairs, lock=True)
        self._remember(wanted, Counter(getattr(row, self.by) for row in rows), each)
        return rows[:room]

    def _new(self, connection: Connection, priority: int, room: int) -> list[str]:
        """Unknown ones that may have a row due."""
        names_from = dialect_of(connection).paths.names_from
        steps = max(room, LEAST_STEPS) + len(self.known) + 1
        new, end = names_from(connection, self.by, priority, self.start, list(self.known), steps)
        self.start = new[room] if len(new) > room else end or ""
        self.unfinished = self.unfinished + room if self.start else 0
        return new[:room]

    def _remember(self, wanted: Sequence[str], found: Counter[str], each: int) -> None:
        for name in wanted:
            self.known.pop(name, None)
            if found[name] == each:
                self.known[name] = None
        for name in list(self.known)[:-MOST_KNOWN]:
            del self.known[name]


@dataclass(kw_only=True, slots=True)
class Turns:
    """Remembers from one claim to the next whose turn it is. Each worker has its own."""

    _full_at: int | None = None
    """The last priority of the last claim, if that was full."""
    _claims: int = 0
    """Full ones."""
    _ways: tuple[_Way, ...] = field(default_factory=lambda: tuple(_Way(by=by) for by in WAYS))
    _way: int = 0
    _tried_at: int = 0

    def rows(self, connection: Connection, gate: Gate) -> list[Any]:
        """Rows whose turn it is, whatever stands before them; locked, at most half of the limit."""
        if self._full_at is None:
            return []
        self._claims += 1
        room = (gate.limit + self._claims % 2) // 2  # of a claim for one row, each second
        if self._claims % LOWER_EVERY == 0:
            return self._lower(connection, gate, self._full_at + 1, max(room, 1))
        return self._in_turn(connection, gate, self._full_at, room) if room else []

    def seen(self, rows: Sequence[Any], limit: int) -> None:
        """These rows stand in front of the queue, of at most `limit`; in the order of the claim."""
        self._full_at = rows[-1].priority if rows and len(rows) >= limit else None

    def _in_turn(self, connection: Connection, gate: Gate, priority: int, room: int) -> list[Any]:
        if self._claims - self._tried_at >= SELDOM * MANY // room:
            self._way, self._tried_at = 0, self._claims
            for way in self._ways:
                way.unfinished = 0
        if self._way == len(self._ways):
            return []
        way = self._ways[self._way]
        rows = way.rows(connection, gate, priority, room)
        self._way += way.is_crowded
        return rows

    def _lower(self, connection: Connection, gate: Gate, first: int, room: int) -> list[Any]:
        window, lower = dialect_of(connection).paths.window, PRIORITIES[first:]
        if not lower:
            return []
        start = lower[self._claims // LOWER_EVERY % len(lower)]
        return window(connection, gate, FIRST._replace(priority=start), room) or window(
            connection, gate, FIRST._replace(priority=first), room
        )
