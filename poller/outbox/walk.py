"""The walk through the queue that a gate asks for: the rows that may go, and not those that stand before them.

Rule 1. First comes what the window shows, which is all there is where few rows are closed. Where closed rows fill it,
        the walk goes from domain to domain instead, past those that are closed, so that a hundred thousand rows of a
        destination that rests stand in nobody's way.
Rule 2. Each walk is bounded. Where it ends before the queue does, the next one goes on: nothing that may go is passed
        by for ever.
Rule 3. Rows of open domains come beside the others, and take at most half of the room while the others fill theirs.

The order within what is found is the claim's: priority, due_at, id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poller.outbox.dialects import PRIORITIES
from poller.outbox.paths import FIRST, PATHS, Key, Pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.engine import Connection

    from poller.throttle.gate import Gate

STEPS = 2000
"""Pairs of domain and priority that one walk from domain to domain looks at, before it begins again at the first."""
ASKED_AT_ONCE = 50
"""Open domains: as many as fill a claim are asked for rows, those named first."""
LEAST_PAIRS = 50
"""Of the free ones that are found so are asked for rows, however few are wanted: some may be closed by id or relay."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Rows that are locked, and where the walk goes on behind them; None: it has seen what it can."""

    rows: Sequence[Any]
    end: Key | None


@dataclass(kw_only=True, slots=True)
class Walk:
    """Remembers from one claim to the next how far it came. Each worker has its own."""

    _domain: str = field(default="")
    _place: Key = field(default=FIRST)

    def first(self, connection: Connection, gate: Gate) -> Page:
        """Rows of the open domains, and those in front of the queue."""
        beside = _of_open_domains(connection, gate)
        page = self._page(connection, gate, FIRST, gate.limit)
        if not beside:
            return page
        room = max(gate.limit // 2, gate.limit - len(page.rows), 1)
        others = page.rows[: max(gate.limit - min(len(beside), room), 1)]
        end = Key.of(others[-1]) if len(others) < len(page.rows) else page.end
        return Page(rows=in_order([*others, *beside[:room]])[: gate.limit], end=end)

    def next(self, connection: Connection, gate: Gate, page: Page, limit: int) -> Page:
        """Behind the first page: on from where the last walk ended."""
        if page.end is None:
            return page
        further = self._page(connection, gate, max(page.end, self._place), limit)
        self._place = further.end or FIRST
        return further

    def anything(self, connection: Connection, gate: Gate) -> bool:
        """Whether a claim would find a row. Locks nothing, and stays where there is one."""
        paths = PATHS[connection.dialect.name]
        if paths.window(connection, gate, FIRST, 1, lock=False):
            return True
        if paths.heads(connection, gate, _open_pairs(connection, gate), lock=False):
            return True
        edge = paths.edge(connection, FIRST) if _closes(gate) else None
        return edge is not None and bool(self._beyond(connection, gate, edge, 1, lock=False))

    def _page(self, connection: Connection, gate: Gate, after: Key, limit: int) -> Page:
        paths = PATHS[connection.dialect.name]
        rows = paths.window(connection, gate, after, limit)
        if len(rows) >= limit:
            return Page(rows=rows, end=Key.of(rows[-1]))
        edge = paths.edge(connection, after) if _closes(gate) else None
        if edge is not None:
            rows = in_order([*rows, *self._beyond(connection, gate, edge, limit - len(rows), lock=True)])[:limit]
        return Page(rows=rows, end=None)

    def _beyond(self, connection: Connection, gate: Gate, edge: Key, limit: int, *, lock: bool) -> list[Any]:
        """Behind a window that closed rows fill."""
        rows = self._by_domain(connection, gate, limit, lock=lock) if gate.closed_domains else []
        if len(rows) < limit and (gate.closed_relays or gate.closed_ids):
            rows += self._further(connection, gate, edge, limit - len(rows), lock=lock)
        return rows

    def _by_domain(self, connection: Connection, gate: Gate, limit: int, *, lock: bool) -> list[Any]:
        paths = PATHS[connection.dialect.name]
        pairs, end = paths.pairs_from(connection, self._domain, gate.closed_domains, STEPS)
        if end is None and self._domain:
            more, end = paths.pairs_from(connection, "", gate.closed_domains, STEPS)
            pairs += more
        rows = paths.heads(connection, gate, _shares(pairs, limit), lock=lock)
        if lock or not rows:
            self._domain = end or ""
        return rows

    def _further(self, connection: Connection, gate: Gate, edge: Key, limit: int, *, lock: bool) -> list[Any]:
        """Rows that name a closed relay have no index to be passed by: the windows go on behind one another."""
        paths = PATHS[connection.dialect.name]
        begin = max(edge, self._place)
        rows = paths.window(connection, gate, begin, limit, lock=lock)
        if lock or not rows:
            self._place = paths.edge(connection, begin) or FIRST
        return rows


def in_order(rows: Iterable[Any]) -> list[Any]:
    """Each row once, in the order of the claim."""
    return sorted({row.id: row for row in rows}.values(), key=Key.of)


def _closes(gate: Gate) -> bool:
    return bool(gate.closed_domains or gate.closed_relays or gate.closed_ids)


def _shares(pairs: Iterable[Pair], limit: int) -> list[tuple[Pair, int]]:
    """So many rows of each pair, first priority first, that there are enough in all and not too many."""
    first = sorted(dict.fromkeys(pairs), key=lambda pair: pair[1])[: max(limit, LEAST_PAIRS)]
    each = min(limit, -(-2 * limit // max(len(first), 1)))  # twice the limit: some may be locked or closed by id
    nameless = [(None, priority) for priority in PRIORITIES]  # they stand in no order of domains
    return [(pair, each) for pair in [*first, *nameless]]


def _open_pairs(connection: Connection, gate: Gate) -> list[tuple[Pair, int]]:
    """Of the open domains, in the order that the gate names them, as far as they fill a claim."""
    counts = dict(gate.open_domains)
    names = list(counts)
    wanted: list[tuple[Pair, int]] = []
    for begin in range(0, len(names), ASKED_AT_ONCE):
        pairs = PATHS[connection.dialect.name].pairs_of(connection, names[begin : begin + ASKED_AT_ONCE])
        wanted += [(pair, min(counts[str(pair[0])], gate.limit)) for pair in pairs]
        if sum(most for _, most in wanted) >= gate.limit:
            break
    return wanted


def _of_open_domains(connection: Connection, gate: Gate) -> list[Any]:
    left = dict(gate.open_domains)
    kept = []
    for row in in_order(PATHS[connection.dialect.name].heads(connection, gate, _open_pairs(connection, gate))):
        left[row.domain] -= 1
        if left[row.domain] >= 0:
            kept.append(row)
    return kept
