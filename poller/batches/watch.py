"""One round of looking after batches. Any number of workers may do so at the same time.

Rule 1. What is known is kept where all see it (outbox_batch), and changed only as it was seen.
Rule 2. Who tells takes the batch first, for TELLING_S. One that died meanwhile leaves it to the others then: an end is
        told at least once, and twice only after a death in the midst of telling; its `id` is the same both times. So
        with pausing.
Rule 3. A way that does not take the report is logged, and all are tried again after TELLING_S, until one takes it.
Rule 4. A round has its end: BUDGET_S, then the next goes on from there.

Raises DatabaseUnavailable from nothing: a round that could not look is made good by the next.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from poller.batches.life import is_over, looked_at, may_be_bad, verdict_on
from poller.batches.report import Report
from poller.judgement.alike import reason_of
from poller.outbox.batches import SharedBatches
from poller.outbox.operate import change
from poller.outbox.report import failures
from poller.outbox.selection import Selection
from poller.outbox.trouble import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from poller.alerts.tell import Teller
    from poller.batches.report import Kind
    from poller.batches.settings import BatchSettings
    from poller.log import Logger
    from poller.outbox import Engine
    from poller.outbox.batches import Known, Progress

TELLING_S: Final = 120.0
BUDGET_S: Final = 1.0
TRIES: Final = 3
EVER_S: Final = 10 * 366 * 86400.0


@dataclass(kw_only=True, slots=True)
class BatchWatch:
    """Belongs to one thread. `clock` counts seconds; `outbox` is its home, for people."""

    settings: BatchSettings
    engine: Engine
    teller: Teller
    worker: str
    outbox: str
    clock: Callable[[], float]
    log: Logger
    _shared: SharedBatches = field(init=False)

    def __post_init__(self) -> None:
        self._shared = SharedBatches(self.engine)

    def round(self) -> None:
        """Look once, and tell what is to be told."""
        try:
            self._look()
            for one in self._shared.to_tell(self.settings.quiet):
                self._conclude(one)
            for one in self._shared.to_pause():
                self._pause(one)
        except DatabaseUnavailable as why:
            self.log.debug("batch.unseen", reason=str(why))

    # --- looking ---

    def _look(self) -> None:
        begun, more, every = self.clock(), True, self.settings.every
        while more and self.clock() - begun < BUDGET_S:
            suspects, more = self._shared.look(every, self._judge)
            every = 0.0
            for batch in suspects:
                self._try(batch)
        for batch in self._shared.look_again(self._judge):
            self._try(batch)

    def _judge(self, known: Known, progress: Progress, now: datetime) -> tuple[Mapping[str, Any] | None, bool]:
        after = looked_at(known, progress, self.settings, now)
        return after, after is not None and may_be_bad(known, progress, self.settings)

    # --- the end ---

    def _conclude(self, one: Known) -> None:
        """Take it, look again, and tell (Rule 2)."""
        mine = self._shared.change(one, {}, seconds=TELLING_S)
        if mine is None:
            return
        progress = self._shared.progress(one.batch)
        if not is_over(progress) or progress.last_finished_at != one.last_finished_at:
            self._shared.change(mine, {"state": "open", "done_at": None, "taken_until": None})
            return
        report = self._report(one.batch, "done", progress, "")
        if one.state == "settling":
            self.log.info("batch.done", **_facts(report))
            mine = self._shared.change(mine, {"state": "telling" if self.teller.ways else "done"})
        if self.teller.ways and mine is not None and self._tell(report):
            self._shared.change(mine, {"state": "done", "taken_until": None})

    # --- the beginning ---

    def _try(self, batch: str) -> None:
        """Rule 3 of `life`: pass it, or begin to pause it."""
        known = self._shared.known(batch)
        if known is None or known.verdict is not None:
            return
        verdict = verdict_on(self._shared.first_ends(batch, self.settings.of), self.settings)
        if verdict == "passed":
            self._shared.change(known, {"verdict": verdict})
        elif verdict == "pausing" and self._shared.change(known, {"verdict": verdict}, seconds=TELLING_S):
            self._hold(batch)

    def _pause(self, one: Known) -> None:
        """What somebody began and did not end."""
        if self._shared.change(one, {}, seconds=TELLING_S):
            self._hold(one.batch)

    def _hold(self, batch: str) -> None:
        changed = change(self.engine, Selection(batch=batch), "pause", by="the threshold of [batches]")
        why = f"{self.settings.failed or 1:.0%} or more of the first {self.settings.of} messages failed"
        report = self._report(batch, "paused", self._shared.progress(batch), why)
        self.log.warning("batch.paused", rows=changed.rows, reason=why, **_facts(report))
        if not self.teller.ways or self._tell(report):
            self._held(batch)

    def _held(self, batch: str) -> None:
        """Others may look at it meanwhile, which changes its version; nobody else pauses it."""
        for _ in range(TRIES):
            known = self._shared.known(batch)
            if known is None or self._shared.change(known, {"verdict": "paused", "taken_until": None}):
                break

    # --- telling ---

    def _report(self, batch: str, kind: Kind, progress: Progress, why: str) -> Report:
        found = failures(self.engine, seconds=EVER_S, batch=batch)
        reasons = Counter(reason_of(one.error) or one.status for one in found)
        return Report(
            batch=batch,
            kind=kind,
            progress=progress,
            reasons=tuple(reasons.most_common()),
            why=why,
            at=self._shared.now().timestamp(),
            outbox=self.outbox,
            worker=self.worker,
        )

    def _tell(self, report: Report) -> bool:
        return self.teller.tell(report, batch=report.batch)


def _facts(report: Report) -> dict[str, Any]:
    """For the log: no address, no words of a message."""
    counts = {name: getattr(report.progress, name) for name in ("messages", "sent", "not_sent")}
    return {"batch": report.batch, "id": report.id, "seconds": round(report.seconds, 1), **counts}
