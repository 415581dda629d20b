"""What the database has confirmed to a worker: so that one that is older than it was is noticed, with no line broken.

A dump that is restored in place breaks no connection. What it brings back is queued again, sent or not.

Rule 1. Where the database says less of our own journal than it has confirmed, it is older: looked at with each claim
        and each heartbeat, in their transactions. A position is only written over one that is not less than known.
Rule 2. The same of other workers that were alive: what they sent since then only their journals know. They are waited
        for; one that has not come within `patience` seconds is given up in words.
Rule 3. A row that is claimed by a number that we have had before was brought back alone: `outbox` is older than the
        rest, as in the middle of a restoration table by table.

Raises OutboxIsOlder. Used from two threads: what they share is replaced whole.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.database import DatabaseUnavailable
from poller.outbox.tables import worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.engine import Connection

    from poller.outbox.rows import ClaimedRow

CHUNK = 1024
"""Ids to a bit map of rows that were claimed for the first time: a million rows take 130 kB."""
RETRIED_MOST = 100_000
"""Rows claimed again whose numbers are kept."""

_Entered = sa.Row[Any, Any, Any, Any]
_OLDER = "the outbox is older than it was"


class OutboxIsOlder(DatabaseUnavailable):
    """The database has forgotten what it had confirmed. Nothing is known of what else it has forgotten."""


class Claims:
    """The numbers by which this life has claimed rows; the first claims of rows compactly."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}
        self._later: OrderedDict[int, int] = OrderedDict()

    def add(self, rows: Iterable[ClaimedRow]) -> None:
        """These claims are committed."""
        for row in rows:
            chunk, bit = divmod(row.id, CHUNK)
            self._first[chunk] = self._first.get(chunk, 0) | 1 << bit
            if row.claim_seq > 1:
                self._later[row.id] = row.claim_seq
                self._later.move_to_end(row.id)
        while len(self._later) > RETRIED_MOST:
            self._later.popitem(last=False)

    def repeated(self, rows: Iterable[ClaimedRow]) -> int | None:
        """The first of `rows` whose number is none that comes after the one we had."""
        return next((row.id for row in rows if row.claim_seq <= self._had(row.id)), None)

    def _had(self, row_id: int) -> int:
        chunk, bit = divmod(row_id, CHUNK)
        return self._later.get(row_id, self._first.get(chunk, 0) >> bit & 1)


class Belief:
    """What the database has confirmed to the worker `name`, of itself and of the others."""

    def __init__(self, name: str, *, clock: Callable[[], float], patience: float) -> None:
        self._name = name
        self._clock = clock
        self._patience = patience
        self.identity = ""
        self.incarnation = 0
        self.position = 0
        """Of our journal: the last one that was confirmed."""
        self._others: dict[str, tuple[str, int]] = {}
        self._missed: dict[str, float] = {}
        self._claims = Claims()
        self.rows_repeat = False
        """Rule 3: the position that the database has of us tells nothing."""

    def begin(self, identity: str, incarnation: int, position: int) -> None:
        """The database has entered us."""
        self.identity, self.incarnation, self.position = identity, incarnation, position
        self._claims = Claims()
        self.rows_repeat = False

    def confirmed(self, position: int) -> None:
        """The database has this position of our journal."""
        self.position = max(self.position, position)

    def claimed(self, rows: Iterable[ClaimedRow]) -> None:
        """A claim is committed."""
        self._claims.add(rows)

    def require(self, connection: Connection, rows: Sequence[ClaimedRow] = ()) -> None:
        """Raise OutboxIsOlder unless the database has all that it had confirmed, and `rows` are claimed anew."""
        if not self.incarnation:
            return
        position, others = self.position, self._others  # before the question: what is confirmed later is more
        names = [self._name, *others]
        query = sa.select(worker.c.name, worker.c.identity, worker.c.incarnation, worker.c.journal_applied)
        found = {row.name: row for row in connection.execute(query.where(worker.c.name.in_(names)))}
        self._require_ours(found.get(self._name), position)
        self._require_new(rows)
        self._require_others({name for name, known in others.items() if _is_less(found.get(name), *known)})

    def _require_ours(self, found: _Entered | None, position: int) -> None:
        if found is None or (found.identity, found.incarnation) != (self.identity, self.incarnation):
            raise OutboxIsOlder(f"{_OLDER}, or another one: it does not know this life of ours")
        if found.journal_applied < position:
            raise OutboxIsOlder(f"{_OLDER}: our journal was written down up to {position}, not {found.journal_applied}")

    def _require_new(self, rows: Iterable[ClaimedRow]) -> None:
        repeated = self._claims.repeated(rows)
        if repeated is not None:
            self.rows_repeat = True
            raise OutboxIsOlder(f"{_OLDER}: row {repeated} is as it was before we claimed it")

    def _require_others(self, missed: set[str]) -> None:
        now = self._clock()
        self._missed = {name: self._missed.get(name, now) for name in missed}
        if missed:
            raise OutboxIsOlder(f"{_OLDER}: {_names(missed)} has to write down again what it lacks")

    def look_around(self, connection: Connection, alive: sa.ColumnElement[bool]) -> None:
        """Get to know who else is alive, and how far they are. Raises as `require`."""
        self.require(connection)
        query = sa.select(worker.c.name, worker.c.identity, worker.c.journal_applied)
        found = connection.execute(query.where(alive, worker.c.name != self._name))
        self._others = {row.name: (row.identity, row.journal_applied) for row in found}

    def given_up(self) -> str:
        """Who was waited for in vain (Rule 2), in words; "" while nobody. They are forgotten by that."""
        now = self._clock()
        late = {name for name, since in self._missed.items() if now - since >= self._patience}
        self._missed = {name: since for name, since in self._missed.items() if name not in late}
        self._others = {name: known for name, known in self._others.items() if name not in late}
        return f"it lacks what {_names(late)} had written down, and has not come to write again" if late else ""


def _names(names: Iterable[str]) -> str:
    return " and ".join(repr(name) for name in sorted(names))


def _is_less(found: _Entered | None, identity: str, position: int) -> bool:
    """Another worker is entered, and its journal is not so far as it was; or it is entered no more."""
    return found is None or (found.identity == identity and found.journal_applied < position)
