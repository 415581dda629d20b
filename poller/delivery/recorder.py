"""The recorder: outcomes on their way into the database.

Rule 1. Outcomes are written in groups, by size and by time; a single one at low load is written at once. The
        bookkeeper, a thread of its own, writes one group while the next is gathered, and never more than one.
Rule 2. The record is retried, never the send. While a group is overdue nothing more is begun.
Rule 3. A row that can't be written (locked by someone, say) is set aside, holds up no other, and is tried again and
        again; after STUBBORN_TRIES it is given up in words, unless it was accepted: a 250 is never given up. Too many
        set aside stop the sending as well.
Rule 4. With each group goes the journal's position: what lies beyond it is applied again after a crash. The journal
        forgets a row when its outcome is in the database, or was given up in words.

Raises nothing for a database that is away: it waits, says so once, and goes on when the database does. It returns with
the outcomes still in hand only when `abandon` is set: a stop that has waited long enough. Then it says what it knew.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from poller.log import OnChange
from poller.outbox.database import DatabaseUnavailable
from poller.outbox.rows import Late

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from poller.journal import Journal
    from poller.judgement.retry import Step
    from poller.log import Logger
    from poller.outbox.rows import Recorded
    from poller.outbox.store import Store

GROUP = 100  # outcomes; a commit for each message costs several times as much
LARGE = 256 * 1024  # bytes to be kept of one: it does not wait in memory for company
GROUP_AGE_S = 0.25  # the longest an outcome waits for company
AWAY_FIRST_S, AWAY_LONGEST_S = 0.5, 15.0  # between tries to reach a database that is away
STUBBORN_AFTER_S = 5.0  # between tries to write one locked row
STUBBORN_TRIES = 2000  # about three hours, then words
STUBBORN_MOST = 100  # set aside; more, and nothing is begun until they are written

_LATE_EVENT = {
    Late.GONE: (logging.WARNING, "row.gone"),
    Late.OVERTAKEN: (logging.WARNING, "row.gone"),
    Late.ACCEPTED_TWICE: (logging.ERROR, "row.accepted_twice"),
    Late.REPAIRED: (logging.WARNING, "row.repaired"),
    Late.SETTLED: (logging.WARNING, "row.gone"),
}


class Recorder:
    """Outcomes that are judged and not yet written. Belongs to the delivering thread.

    Sets `unsure` when the database was away, for it may come back older than it was, and when it is.
    """

    def __init__(
        self,
        store: Store,
        *,
        bookkeeper: Executor,
        clock: Callable[[], float],
        journal: Journal,
        abandon: threading.Event,
        unsure: threading.Event,
        progressed: Callable[[], None],
        log: Logger,
    ) -> None:
        self._store = store
        self._bookkeeper = bookkeeper
        self._clock = clock
        self._journal = journal
        self._abandon = abandon
        self._unsure = unsure
        self._progressed = progressed
        self._log = log
        self._say = OnChange(log)
        self._pending: list[Step] = []
        self._writing: tuple[list[Step], Future[Recorded]] | None = None
        self._since = 0.0
        self._stubborn: dict[int, tuple[Step, int]] = {}
        self._stubborn_next = 0.0
        self._away = False
        self.written: Counter[str] = Counter()
        """How many rows were written, by status."""

    @property
    def in_hand(self) -> set[int]:
        """Ids of the rows whose outcome is known and not written."""
        writing = self._writing[0] if self._writing else ()
        return {step.row_id for step in (*self._pending, *writing)} | set(self._stubborn)

    def add(self, step: Step) -> None:
        """Take one outcome; have the group written if it is full or has waited long enough."""
        if not self._pending:
            self._since = max(self._since, self._clock() - GROUP_AGE_S)
        self._pending.append(step)
        is_large = step.keep is not None and step.keep.size > LARGE
        if is_large or len(self._pending) >= GROUP or self._clock() - self._since >= GROUP_AGE_S:
            self._harvest()
            if not self._away:  # else it is waited for where another row would be begun
                self._hand_over()

    @property
    def is_prompt(self) -> bool:
        """Whether `add` would not have to wait for the group before."""
        return self._writing is None or self._writing[1].done()

    def _hand_over(self) -> None:
        """Give the group to the bookkeeper and go on."""
        steps, self._pending = self._pending, []
        self._since = self._clock()
        self._journal.sync_group()
        writing = self._bookkeeper.submit(self._store.record, steps, position=self._journal.position())
        self._writing = (steps, writing)

    def _harvest(self) -> None:
        """See what became of the group that is being written; waits for it. What could not be written is taken back."""
        if self._writing is None:
            return
        steps, writing = self._writing
        self._writing = None
        try:
            self._note(writing.result(), steps)
        except DatabaseUnavailable as why:
            self._pending = [*steps, *self._pending]
            self._say_away(why)

    def record_orphan(self, step: Step, *, holder: str) -> bool:
        """Write down at once what became of another's row, or of one that we held in an earlier life.

        False: it is locked by someone. Ours is tried again from here; another's stays an orphan and is found again.
        """
        self._journal.sync_group()
        recorded = self._store.record([step], holder=holder, position=self._journal.position())
        if recorded.stubborn and holder != self._store.worker:
            return False
        self._note(recorded, [step])
        return not recorded.stubborn

    def flush(self) -> bool:
        """Write everything down. False: the database is away and a stop was asked for, the rest is still in hand."""
        self._harvest()
        self._retry_stubborn()
        pause = AWAY_FIRST_S
        while self._pending:
            try:
                self._journal.sync_group()
                self._note(self._store.record(self._pending, position=self._journal.position()), self._pending)
            except DatabaseUnavailable as why:
                self._say_away(why)
                if self._abandon.wait(pause):
                    self._say_what_is_lost()
                    return False
                pause = min(pause * 2, AWAY_LONGEST_S)
                continue
            self._pending = []
            self._since = self._clock()
            self._back()
        while len(self._stubborn) > STUBBORN_MOST and not self._abandon.wait(STUBBORN_AFTER_S):
            self._progressed()
            self._retry_stubborn()
        return True

    def _say_what_is_lost(self) -> None:
        """The process ends without having written these: the next start finds them in doubt, the log knows better."""
        for step in self._pending:
            said = str(step.reply) if step.reply else step.error
            self._log.error("record.failed", id=step.row_id, outcome=step.status, reply=said, queue_id=step.queue_id)

    def flush_if_due(self) -> bool:
        """Write an overdue group. False as `flush` says it: then nothing more may be begun."""
        if self._writing is not None and self._writing[1].done():
            self._harvest()
        if self._pending and (self._away or self._clock() - self._since >= GROUP_AGE_S):
            if self._writing is not None or self._away:
                return self.flush()
            self._hand_over()
        self._retry_stubborn()
        return True

    def _say_away(self, why: DatabaseUnavailable) -> None:
        says = {"reason": str(why), "remedy": why.remedy, "waiting": len(self._pending)}
        self._say.say("error", "database.unavailable", about="database", fingerprint=str(why), **says)
        self._away = True
        self._unsure.set()

    def _back(self) -> None:
        if self._away:
            self._say.say("info", "database.available", about="database")
            self._away = False

    def _retry_stubborn(self) -> None:
        if not self._stubborn or self._clock() < self._stubborn_next:
            return
        self._journal.sync_group()
        for step, tries in list(self._stubborn.values()):
            try:
                recorded = self._store.record([step], position=self._journal.position())
            except DatabaseUnavailable:
                self._unsure.set()
                return
            del self._stubborn[step.row_id]
            self._note(recorded, [step], tries=tries)

    def _note(self, recorded: Recorded, steps: list[Step], *, tries: int = 0) -> None:
        by_id = {step.row_id: step for step in steps}
        for row_id in recorded.written:
            self.written[by_id[row_id].status] += 1
        for row_id, late in recorded.late.items():
            self._note_late(by_id[row_id], late)
        stubborn = {step.row_id for step in recorded.stubborn}
        self._journal.settled(step.key for step in steps if step.row_id not in stubborn)
        for step in recorded.stubborn:
            self._set_aside(step, tries + 1, recorded.why)
        if recorded.applied is not None:
            self._journal.confirm(recorded.applied)
        elif recorded.is_older:
            self._unsure.set()

    def _note_late(self, step: Step, late: Late) -> None:
        if late in {Late.RECORDED, Late.REPAIRED}:
            self.written[step.status] += 1
        if late is Late.RECORDED:
            return
        level, event = _LATE_EVENT[late]
        self._log.log(level, event, id=step.row_id, found=late.value, outcome=step.status)

    def _set_aside(self, step: Step, tries: int, why: str) -> None:
        if tries % STUBBORN_TRIES == 0:
            said = str(step.reply) if step.reply else step.error
            self._log.error("record.failed", id=step.row_id, outcome=step.status, reply=said, reason=why)
            if step.sent_at is None:
                self._journal.settled([step.key])
                return
        if tries == 1:
            self._log.warning("record.stubborn", id=step.row_id, outcome=step.status, reason=why)
        self._stubborn[step.row_id] = (step, tries)
        self._stubborn_next = self._clock() + STUBBORN_AFTER_S
