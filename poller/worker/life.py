"""One life of a worker: from its entry in outbox_worker to its last heartbeat.

Rule 1. Before the first row, and whenever the database was away or is seen to know less than it did
        (`poller.outbox.belief`), it is made sure that the database knows what the journal knows
        (`poller.worker.recovery`).
        Where it is older than it was, a new life begins.
Rule 2. An outbox that lacks more than MOST_LACKING of what the journal knows is switched off for everybody: other
        workers may know of others. So is one that lacks what another worker knew who does not come back.
Rule 3. The heartbeat renews the lease; without one nothing is begun. A name that another has taken ends the life.

Raises DatabaseUnavailable, JournalTrouble, NameTaken, SchemaTrouble. `begin` and `make_sure` belong to the delivering
thread, `beat` to the heartbeat's.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poller import __version__
from poller.journal import trouble_of
from poller.outbox.database import DatabaseUnavailable, RowsLocked
from poller.outbox.guard import hold
from poller.outbox.migrate import require_current

if TYPE_CHECKING:
    import threading

    from poller.delivery.arrow import Delivery
    from poller.journal import Journal
    from poller.log import Logger, OnChange
    from poller.outbox.store import Store
    from poller.worker.lease import Lease
    from poller.worker.recovery import Recovery
    from poller.worker.state import StateDirectory


MOST_LACKING = 50
"""Messages that a failover may lose, and this worker writes down again. More were lost by a restored backup."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Left:
    """What the last life left: `applied` is the journal's position as the database has it, `knew` as itself has it."""

    applied: int
    knew: int
    is_whole: bool


@dataclass(kw_only=True, slots=True)
class Life:
    """`unsure` is set by anyone who finds that the database was away; `lease.length` is what it is renewed for.

    There is a heartbeat every `beat_every` seconds.
    """

    store: Store
    state: StateDirectory
    journal: Journal
    lease: Lease
    beat_every: float
    recovery: Recovery
    delivery: Delivery
    unsure: threading.Event
    log: Logger
    say: OnChange
    incarnation: int | None = None
    _left: _Left | None = field(default=None)
    _is_in_part: bool = False
    """Some tables are older than others: our position in the database tells nothing, and all of the journal is read."""

    # --- the delivering thread ---

    def begin(self) -> None:
        """Enter ourselves, if we have not yet, and judge what we held before."""
        if self.incarnation is None:
            self._enter()
        if self._left is not None:
            self._take_up(self._left)

    def make_sure(self) -> bool:
        """If we are unsure: is the database as it was? False: it is older, and this is another life."""
        if not self.unsure.is_set():
            return True
        self.unsure.clear()
        incarnation, applied = self.store.life()
        self._is_in_part |= self.store.belief.rows_repeat
        is_older = self._is_in_part or (incarnation, applied) < (self.incarnation or 0, self.journal.applied)
        if is_older:
            self.log.warning("outbox.older", knew=self.journal.applied, knows=applied)
            self.delivery.excuse_withheld()
            self.incarnation = None
            self.begin()
        if why := self.store.belief.given_up():
            self._hold(why)
        return not is_older

    def end(self) -> None:
        """Enter that we stopped. With outcomes that could not be written the lease must not end early."""
        if self.incarnation is not None and not self.delivery.in_hand:
            self.store.sign_off(incarnation=self.incarnation)

    def _enter(self) -> None:
        require_current(self.store.engine)
        outbox = self.store.outbox_identity()
        past = self.journal.outline(outbox)
        asked_at = self.lease.now()
        registered = self.store.register(
            identity=self.state.identity,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=__version__,
            lease=self.lease.length,
            beat=self.beat_every,
            may_be_alive=self.state.is_copy,
        )
        self.lease.renewed(asked_at)
        is_whole = not self.state.is_copy and past.is_whole(boot=self.journal.boot, applied=registered.applied)
        self.journal.start(
            outbox=outbox,
            identity=self.state.identity,
            incarnation=registered.incarnation,
            last=max(past.last, registered.applied),
            applied=registered.applied,
            is_whole=is_whole,
        )
        try:
            self.state.settle()
        except OSError as error:
            raise trouble_of(error, self.state.path) from error
        applied = 0 if self._is_in_part else registered.applied
        self._left = _Left(applied=applied, knew=past.applied, is_whole=is_whole)
        self.incarnation = registered.incarnation
        self.log.info("worker.started", worker=self.store.worker, incarnation=self.incarnation, version=__version__)

    def _take_up(self, left: _Left) -> None:
        """Make sure that the database knows what the journal knows, and judge what bears our name."""
        lacking = self.recovery.lacking(left.applied, left.knew)
        if lacking > MOST_LACKING or (lacking and self.journal.has_gap):
            many = f"at least {lacking}" if self.journal.has_gap else f"{lacking}"
            name = self.store.worker
            self._hold(f"the journal of {name!r} knows of {many} messages that were sent and are not marked here")
        self.recovery.replay(left.applied, is_whole=left.is_whole)
        self.recovery.own(is_whole=left.is_whole and not self.journal.has_gap)
        self.journal.taken_up()
        self._left, self._is_in_part = None, False

    def _hold(self, why: str) -> None:
        hold(self.store.engine, why)
        self.log.error("outbox.held", reason=why)

    # --- the heartbeat's thread ---

    def beat(self) -> bool:
        """Renew the lease. False: another process works under our name."""
        incarnation = self.incarnation
        if incarnation is None:
            return True
        asked_at = self.lease.now()
        try:
            renewed = self.store.heartbeat(
                identity=self.state.identity,
                incarnation=incarnation,
                lease=self.lease.length,
                beat=self.beat_every,
                trouble=self.delivery.trouble,
            )
            is_ours = renewed or self._is_still_ours(self.store.life()[0])
            if renewed:
                self.lease.renewed(asked_at)
                self.store.look_around()
        except RowsLocked as why:
            # The delivering thread does not find out: no claim and no question touches our line.
            reason = f"somebody holds a lock on the line of {self.store.worker!r} in outbox_worker: {why}"
            self.say.say("error", "database.unavailable", about="own line", reason=reason, remedy=why.remedy)
            self.unsure.set()
            return True
        except DatabaseUnavailable:  # the delivering thread finds out and says so
            self.unsure.set()
            return True
        if self.say.said("database.unavailable", about="own line"):
            self.say.say("info", "database.available", about="own line")
        if is_ours and not renewed:
            self.unsure.set()  # the database is older than our entry: the delivering thread makes it anew
        return is_ours

    def _is_still_ours(self, entered: int) -> bool:
        """Whether no life after ours is entered. Ours may be another than when the question was put."""
        return self.incarnation is None or entered <= self.incarnation
