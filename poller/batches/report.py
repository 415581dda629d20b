"""Pure: what is told of a batch: totals, failures by reason, how long it took. Or that it was paused, and why."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from poller.alerts.tell import when
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.outbox.batches import Progress

MOST_REASONS = 10
Kind = Literal["done", "paused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What is told. `at` is when, in seconds since the epoch."""

    batch: str
    kind: Kind
    progress: Progress
    reasons: tuple[tuple[str, int], ...]
    """Why recipients did not get it, the most frequent first."""
    why: str
    """In words; "" for the end of a batch."""
    at: float
    outbox: str
    worker: str

    @property
    def id(self) -> str:
        """The same for the same end of the same batch."""
        told = f"{self.outbox} {self.batch} {self.kind} {self.progress.last_finished_at if self.kind == 'done' else ''}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    @property
    def seconds(self) -> float:
        """From the first attempt to the last end."""
        begun, ended = self.progress.first_attempt_at, self.progress.last_finished_at
        return max(0.0, (ended - begun).total_seconds()) if begun and ended else 0.0

    @property
    def subject(self) -> str:
        """In one line."""
        if self.kind == "paused":
            return f"Batch {self.batch} was paused: {self.why}"
        return f"Batch {self.batch} is done: {self.progress.sent:,} of {self.progress.messages:,} sent"

    def lines(self) -> Iterator[str]:
        """For a mail."""
        yield f"{self.subject}."
        yield ""
        yield f"Messages: {self.progress.messages:,}"
        yield f"Sent:     {self.progress.sent:,}"
        yield f"Not sent: {self.progress.not_sent:,}"
        if self.progress.open or self.progress.held:
            yield f"Open:     {self.progress.open + self.progress.held:,}"
        yield f"Duration: {format_duration(self.seconds)}"
        yield f"Outbox:   {self.outbox}"
        yield f"Told by the worker {self.worker} at {when(self.at)}."
        if self.reasons:
            yield ""
            yield "Failures by reason:"
            yield from (f"{number:>8,}  {reason}" for reason, number in self.reasons[:MOST_REASONS])
        yield ""
        yield from self._what_next()

    def _what_next(self) -> Iterator[str]:
        if self.kind == "paused":
            yield f"Let it go on:    poller resume --batch {self.batch}"
            yield f"Give up the rest: poller cancel --batch {self.batch}"
        elif self.reasons:
            yield f"Who did not get it: poller failures --batch {self.batch}"
            yield f"Try them again:     poller retry --batch {self.batch} --status failed"
        yield ""

    def as_json(self) -> str:
        """For a command, and for a webhook."""
        return json.dumps(self.values() | {"id": self.id, "at": when(self.at)}, ensure_ascii=False)

    def values(self) -> dict[str, Any]:
        """The facts."""
        counts = {name: getattr(self.progress, name) for name in ("messages", "sent", "not_sent", "open", "held")}
        reasons = [{"reason": reason, "recipients": number} for reason, number in self.reasons[:MOST_REASONS]]
        about = {"kind": f"batch.{self.kind}", "batch": self.batch, "outbox": self.outbox, "worker": self.worker}
        return about | counts | {"seconds": round(self.seconds, 3), "failures": reasons, "why": self.why}

    def told_at(self, at: float) -> Report:
        """The same, told then."""
        return replace(self, at=at)
