"""From outcome to row: each judgement becomes a step, the step is said in one line, and the recorder has it.

All roads end here: what a relay answered, what could not become a message, and what an earlier life left behind.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from poller.delivery.kept import kept_after
from poller.delivery.prepare import recipients_of, standing_of
from poller.judgement.keeping import keeping
from poller.judgement.outcome import Blame, Deferred, Sent, in_doubt_after_crash
from poller.judgement.retry import died, next_step, refused
from poller.log import shortened
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from poller.delivery.prepare import Prepared
    from poller.delivery.recorder import Recorder
    from poller.judgement.keeping import KeepSent
    from poller.judgement.outcome import Outcome, Verdict
    from poller.judgement.retry import RetrySettings, Standing, Step
    from poller.log import Logger
    from poller.message.composer import Composer
    from poller.outbox.rows import ClaimedRow


@dataclass(kw_only=True, slots=True)
class Outcomes:
    """Belongs to the delivering thread. `retry` is what holds where no relay has settings of its own."""

    recorder: Recorder
    composer: Composer
    retry: RetrySettings
    log: Logger
    keep_sent: KeepSent = "none"
    chance: Callable[[], float] = random.random

    def judged(
        self, begun: Prepared, verdict: Verdict, retry: RetrySettings, at: datetime, *, seconds: float = 0.0
    ) -> None:
        """What a relay's answer means for its row. The exchange took so many seconds."""
        pairs = zip(verdict.message.recipients, verdict.outcomes, strict=True)
        outcomes = dict(begun.settled)
        outcomes |= {address: outcome for wire, outcome in pairs for address in begun.wire[wire]}
        where = {"phase": verdict.phase.value, "relay": verdict.relay}
        step = next_step(begun.standing, outcomes, now=at, chance=self.chance(), settings=retry, **where)
        is_accepted = any(isinstance(outcome, Sent) for outcome in verdict.outcomes)
        keep = kept_after(begun, step.status, self.keep_sent, is_accepted=is_accepted)
        self._add(begun.row, replace(step, keep=keep) if keep else step, seconds=seconds)

    def without_message(self, prepared: Prepared, retry: RetrySettings, at: datetime) -> None:
        """All of its recipients are settled without the wire."""
        step = next_step(prepared.standing, prepared.settled, now=at, chance=self.chance(), settings=retry)
        self._add(prepared.row, step)

    def refused(self, row: ClaimedRow, reason: str, at: datetime) -> None:
        """It can't become a message."""
        self._add(row, refused(standing_of(row, ()), reason, now=at, settings=self.retry))

    def put_off(self, row: ClaimedRow, reason: str, at: datetime) -> None:
        """What it needs can't be reached now: it costs the row no attempt."""
        standing = self._standing(row)
        later = Deferred(blame=Blame.SESSION, reason=reason)
        outcomes = {state.address: later for state in standing.recipients if state.status == "queued"}
        self._add(row, next_step(standing, outcomes, now=at, chance=self.chance(), settings=self.retry))

    def died(self, row: ClaimedRow, deaths: int, at: datetime) -> None:
        """Composing this row has killed the process, for the `deaths`-th time."""
        standing = standing_of(row, [*row.known])
        self._add(row, died(standing, deaths, now=at, chance=self.chance(), settings=self.retry))

    def orphaned(self, row: ClaimedRow, why: str, at: datetime) -> bool:
        """Its worker is gone, and nobody knows how far it came: it is in doubt. False: somebody has it locked."""
        standing = self._standing(row)
        doubt = in_doubt_after_crash(why)
        outcomes: Mapping[str, Outcome] = {
            state.address: doubt for state in standing.recipients if state.status == "queued"
        }
        step = next_step(standing, outcomes, now=at, chance=self.chance(), settings=self.retry)
        if not self.recorder.record_orphan(step, holder=row.holder):
            return False
        say(self.log, row, step, 0.0)
        return True

    def _standing(self, row: ClaimedRow) -> Standing:
        """Of a row whose lists may not be readable: then what is written down of it."""
        try:
            return standing_of(row, [recipient.address for recipient in recipients_of(row, self.composer)])
        except Unsendable:
            return standing_of(row, ())

    def _add(self, row: ClaimedRow, step: Step, *, seconds: float = 0.0) -> None:
        if row.kept is not None and step.keep is None:
            step = replace(step, keep=keeping(step.status, before=row.kept, rendered=row.kept))
        say(self.log, row, step, seconds)
        self.recorder.add(step)


def say(log: Logger, row: ClaimedRow, step: Step, seconds: float) -> None:
    """The one canonical line of an attempt."""
    event = _event(step)
    level = log.info if event == "attempt.sent" else log.warning
    first = step.recipients[0].address if step.recipients else row.content.get("recipients") or ""
    facts = {
        "to": shortened(first),
        "recipients": len(step.recipients) or None,
        "reply": str(step.reply) if step.reply else None,
        "queue_id": step.queue_id,
        "message_id": row.message_id,
        "error": step.error,
        "due_at": step.due_at.isoformat(timespec="seconds") if step.due_at else None,
        "seconds": round(seconds, 4) if seconds else None,
        "batch": row.batch,
    }
    said = {name: value for name, value in facts.items() if value is not None}
    level(event, id=row.id, attempt=row.attempts + step.attempts, **said)


_EVENTS = {
    "sent": "attempt.sent",
    "partial": "attempt.sent",
    "queued": "attempt.deferred",
    "in_doubt": "attempt.in_doubt",
    "expired": "row.expired",
    "suppressed": "row.suppressed",
}


def _event(step: Step) -> str:
    if step.doubts:
        return "attempt.in_doubt"  # whether it is held or will be resent
    return _EVENTS.get(step.status) or ("attempt.failed" if step.phase else "row.unsendable")
