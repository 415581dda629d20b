"""The road back: what a worker finds when it starts, when its database returns, and when another worker fell silent.

Rule 1. What the journal knows and the database does not is applied: an answer as it was, an intent without one as a
        doubt, for it was on the wire. A row that the database has lost from our hands, being older than it was, is
        entered again first.
Rule 2. A row in our hands of which the journal says nothing was not begun: it is handed back at no cost. That is
        concluded only where the journal can't have lost its tail; else the row is in doubt.
Rule 3. A row whose composing was the last thing that a killed process did is charged with that death. That too is
        concluded only where the journal can't have lost its tail.
Rule 4. Another worker's rows are judged only when its lease has ended by the database's clock, and we ourselves have
        seen its heartbeat stand still for as long.

All of it takes the one road back to the row: judge, next step, recorder. Raises DatabaseUnavailable, JournalTrouble; it
may be begun anew at any time.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from poller.journal import Stage
from poller.outbox.store import ORPHANS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poller.delivery.arrow import Delivery
    from poller.delivery.recorder import Recorder
    from poller.journal import Entry, Journal
    from poller.log import Logger
    from poller.outbox.rows import ClaimedRow, Found
    from poller.outbox.store import Store
    from poller.worker.lease import Watch

ACCEPTED = 2  # the first digit of the reply to the end of data
CHUNK = 200  # messages from the journal, looked up and written down together


@dataclass(kw_only=True, slots=True)
class Recovery:
    """Judges what was left behind. Belongs to the delivering thread."""

    store: Store
    journal: Journal
    recorder: Recorder
    delivery: Delivery
    watch: Watch
    takeover: float
    progressed: Callable[[], None]
    log: Logger
    chunk: int = CHUNK

    def lacking(self, applied: int, knew: int) -> int:
        """How many messages the journal knows to be written down that the database, being older, does not have.

        Where the journal no longer reaches back so far, `journal.has_gap`, there may be more of them.
        """
        if knew <= applied:
            return 0
        told = (entry for entry in self.journal.entries(applied) if entry.position <= knew and entry.exchange)
        lacking = 0
        while chunk := list(itertools.islice(told, self.chunk)):
            found = self.store.look_up({entry.row_id for entry in chunk})
            lacking += sum(1 for entry in chunk if not _is_marked(entry, found.get(entry.row_id)))
            self.progressed()
        return lacking

    def replay(self, after: int, *, is_whole: bool) -> int:
        """Apply what the journal has beyond position `after` (Rule 1). Returns how many messages it knew of.

        Where its tail may be lost, what it ends with tells of no death (Rule 3).
        """
        known = 0
        entries = self.journal.entries(after)
        with self.journal.reading_on(after):
            while chunk := list(itertools.islice(entries, self.chunk)):
                self.journal.reopen(chunk)
                rest = [entry for entry in chunk if entry.row_id not in self.recorder.in_hand]
                self._apply(rest if is_whole else [replace(entry, died=False) for entry in rest])
                self.progressed()
                known += len(chunk)
            self.delivery.settle_withheld()
        if known:
            self.journal.sync_group()
            self.store.note_position(self.journal.position()(()))
            self.log.info("journal.replayed", messages=known)
        return known

    def own(self, *, is_whole: bool) -> None:
        """Judge the rows that still bear our name, after `replay` (Rule 2)."""
        seen: set[int] = set()  # one that somebody has locked goes back later, and is not to be met again here
        while orphans := self.store.own_orphans(beside=self.delivery.in_hand | seen):
            seen |= {row.id for row in orphans}
            if is_whole:
                self.store.hand_back(orphans)
            else:
                why = "this worker ended while the row was in its hands, and its journal does not tell how far it came"
                self._doubt(orphans, why)
            self.log.warning("rows.recovered", rows=len(orphans), of=self.store.worker, known=is_whole)
            self.progressed()

    def others(self) -> None:
        """Judge the rows of workers that are silent (Rule 4)."""
        silent = self.watch.silent(self.store.holders())
        while orphans := self.store.orphans_of(silent, takeover=self.takeover):
            judged = self._doubt(orphans, "its worker fell silent while the row was in its hands")
            if judged:
                self.log.warning("rows.recovered", rows=judged, of=sorted({row.holder for row in orphans}))
            if judged < ORPHANS_AT_ONCE:
                break  # the rest, if any, is locked by someone: next time

    def _doubt(self, orphans: Sequence[ClaimedRow], why: str) -> int:
        """Nobody knows how far these came: each is in doubt. Returns how many are written down so."""
        return sum([self.delivery.outcomes.orphaned(row, why, self.store.now()) for row in orphans])

    def _apply(self, entries: Iterable[Entry]) -> None:
        """Each on what the ones before have made of its row: the first of every row, then the second."""
        rest = list(entries)
        while rest:
            first: dict[int, Entry] = {}
            for entry in rest:
                first.setdefault(entry.row_id, entry)
            found = self.store.look_up(first.keys())
            for row_id, entry in first.items():
                self._apply_one(entry, found.get(row_id))
            rest = [entry for entry in rest if first[entry.row_id] is not entry]
            if rest:
                self.delivery.settle_withheld()
        self.recorder.flush()

    def _apply_one(self, entry: Entry, found: Found | None) -> None:
        if found is not None and _adds_something(entry, found):
            row = found.row.at_claim(entry.claim_seq)
            if entry.exchange is not None:
                self.delivery.settle_again(row, entry.exchange, entry.at or self.store.now())
                return
            if entry.died and not self.journal.has_gap:
                self.delivery.outcomes.died(row, self.store.deaths(row.id) + 1, self.store.now())
                return
        self.journal.settled([entry.key])


def _is_marked(entry: Entry, found: Found | None) -> bool:
    """Whether the database has what `entry` says. A row that is not there, or is another one, was lost with it."""
    return found is not None and found.row.message_id == entry.message_id and not _adds_something(entry, found)


def _adds_something(entry: Entry, found: Found) -> bool:
    """Whether the database may lack what `entry` says: its claim is the present one, or was lost, or accepted."""
    row = found.row
    is_present = found.is_held and row.claim_seq == entry.claim_seq
    if entry.stage < Stage.COMMITTED:
        return is_present
    is_same_row = row.message_id == entry.message_id
    end = entry.exchange.end if entry.exchange else None
    is_news = end is not None and end.kind == ACCEPTED and row.status != "sent"
    return is_same_row and (is_present or row.claim_seq < entry.claim_seq or is_news)
