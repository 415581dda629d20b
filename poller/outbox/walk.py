"""The walk through the queue that a gate asks for: the rows that may go, and not those that stand before them.

Rule 1. First comes what the window shows, which is all there is where few rows are closed. Where closed rows fill it,
        the walk goes from domain to domain, and from lane to lane, past those that are closed, so that a hundred
        thousand rows of a destination, a sender or a relay that rests stand in nobody's way.
Rule 2. Where that finds too little (rows that somebody has locked have no index), the windows go on behind one another,
        FURTHER of them in one claim. Where a walk ends before the queue does, the next one goes on: nothing that may
        go is passed by for ever.
Rule 3. Rows of open domains come beside the others, and take at most half of the room while the others fill theirs.
Rule 4. Rows whose turn it is (`poller.outbox.turns`) come beside the others too.

The order within what is found is the claim's: priority, due_at, id.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from poller.outbox.dialect import FIRST, PRIORITIES, Key, Pair
from poller.outbox.dialects import dialect_of
from poller.outbox.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from poller.outbox.dialect import By
    from poller.pacing.gate import Gate

STEPS = 2000
"""Pairs of domain and priority that one walk from domain to domain looks at, before it begins again at the first."""
FURTHER = 10
"""Windows that one claim opens behind the first: ten thousand locked rows stand in nobody's way for longer."""
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

    _names: dict[By, str] = field(default_factory=lambda: {"domain": "", "lane": ""})
    """Where the walk along each column goes on."""
    _place: Key = field(default=FIRST)
    turns: Turns = field(default_factory=Turns)

    def first(self, connection: Connection, gate: Gate) -> Page:
        """Rows whose turn it is, rows of the open domains, and those in front of the queue."""
        in_turn = self.turns.rows(connection, gate)
        beside = _of_open_domains(connection, gate)
        page = self._page(connection, gate, FIRST, gate.limit)
        self.turns.seen(page.rows, gate.limit)
        if beside:
            room = max(gate.limit // 2, gate.limit - len(page.rows), 1)
            others = max(gate.limit - min(len(beside), room), 1)
            page = _cut(page, others, beside[:room], gate.limit)
        return _cut(page, gate.limit - len(in_turn), in_turn, gate.limit) if in_turn else page

    def next(self, connection: Connection, gate: Gate, page: Page, limit: int) -> Page:
        """Behind the first page: on from where the last walk ended."""
        if page.end is None:
            return page
        further = self._page(connection, gate, max(page.end, self._place), limit)
        self._place = further.end or FIRST
        return further

    def anything(self, connection: Connection, gate: Gate) -> bool:
        """Whether a claim would find a row. Locks nothing, and stays where there is one."""
        paths = dialect_of(connection).paths
        if paths.window(connection, gate, FIRST, 1, lock=False):
            return True
        if _heads_of_open(connection, gate, lock=False):
            return True
        edge = paths.edge(connection, FIRST)
        return edge is not None and bool(self._beyond(connection, gate, edge, 1, lock=False))

    def _page(self, connection: Connection, gate: Gate, after: Key, limit: int) -> Page:
        paths = dialect_of(connection).paths
        rows = paths.window(connection, gate, after, limit)
        if len(rows) >= limit:
            return Page(rows=rows, end=Key.of(rows[-1]))
        edge = paths.edge(connection, after)
        if edge is not None:
            rows = in_order([*rows, *self._beyond(connection, gate, edge, limit - len(rows), lock=True)])[:limit]
        return Page(rows=rows, end=None)

    def _beyond(self, connection: Connection, gate: Gate, edge: Key, limit: int, *, lock: bool) -> list[Any]:
        """Behind a window that closed or locked rows fill."""
        rows: list[Any] = []
        for by, closed in _ways(gate):
            if len(rows) < limit:
                rows += self._along(connection, by, closed, gate, limit - len(rows), lock=lock)
        if len(rows) < limit:
            rows += self._further(connection, gate, edge, limit - len(rows), lock=lock)
        return rows

    def _along(
        self, connection: Connection, by: By, closed: Sequence[str], gate: Gate, limit: int, *, lock: bool
    ) -> list[Any]:
        """From name to name of one column, past the closed ones."""
        paths = dialect_of(connection).paths
        start = self._names[by]
        pairs, end = paths.pairs_from(connection, by, start, closed, STEPS)
        if end is None and start:
            more, end = paths.pairs_from(connection, by, "", closed, STEPS)
            pairs += more
        rows = paths.heads(connection, by, gate, _shares(pairs, limit), lock=lock)
        if lock or not rows:
            self._names[by] = end or ""
        return rows

    def _further(self, connection: Connection, gate: Gate, edge: Key, limit: int, *, lock: bool) -> list[Any]:
        """Window behind window, from where the last walk ended."""
        paths = dialect_of(connection).paths
        rows: list[Any] = []
        begin: Key | None = max(edge, self._place)
        for _ in range(FURTHER):
            if begin is None or len(rows) >= limit:
                break
            rows += paths.window(connection, gate, begin, limit - len(rows), lock=lock)
            begin = paths.edge(connection, begin)
        if lock or not rows:
            self._place = begin or FIRST
        return rows


def _cut(page: Page, most: int, others: Sequence[Any], limit: int) -> Page:
    """`most` rows of the page, and the others."""
    ids = {row.id for row in others}
    kept = [row for row in page.rows if row.id not in ids]
    end = Key.of(kept[most - 1]) if 0 < most < len(kept) else page.end
    return Page(rows=in_order([*kept[:most], *others])[:limit], end=end)


def in_order(rows: Iterable[Any]) -> list[Any]:
    """Each row once, in the order of the claim."""
    return sorted({row.id: row for row in rows}.values(), key=Key.of)


def _ways(gate: Gate) -> Iterator[tuple[By, Sequence[str]]]:
    """The columns along which something is closed, and what."""
    if gate.closed_domains:
        yield "domain", gate.closed_domains
    if gate.closed_lanes:
        yield "lane", gate.closed_lanes


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
        pairs = dialect_of(connection).paths.pairs_of(connection, names[begin : begin + ASKED_AT_ONCE])
        wanted += [(pair, min(counts[str(pair[0])], gate.limit)) for pair in pairs]
        if sum(most for _, most in wanted) >= gate.limit:
            break
    return wanted


def _heads_of_open(connection: Connection, gate: Gate, *, lock: bool) -> list[Any]:
    """What the gate closes but for the domains: the open ones are among those."""
    otherwise = replace(gate, closed_domains=())
    wanted = _open_pairs(connection, gate)
    return dialect_of(connection).paths.heads(connection, "domain", otherwise, wanted, lock=lock) if wanted else []


def _of_open_domains(connection: Connection, gate: Gate) -> list[Any]:
    left = dict(gate.open_domains)
    kept = []
    for row in in_order(_heads_of_open(connection, gate, lock=True)):
        left[row.domain] -= 1
        if left[row.domain] >= 0:
            kept.append(row)
    return kept
