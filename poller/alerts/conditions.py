"""Pure: what is wrong with an outbox, by the settings. Each finding has a name that stays the same while it lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poller.alerts.settings import AlertSettings
    from poller.outbox.report import Pulse

FAILURES_OF: Final = 20
"""Messages that ended within the hour: of fewer a share tells nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An outbox at one moment."""

    is_off: bool
    pulse: Pulse
    ended: int
    """Within the last hour."""
    failed: int
    """Of these."""
    workers: Mapping[str, str]
    """What each is: alive, silent, stopped."""
    trouble: Mapping[str, str]
    """Of those that are alive and in trouble, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that is wrong. It is worth an alarm once it has lasted `after` seconds."""

    name: str
    words: str
    after: float = 0.0


def findings(settings: AlertSettings, seen: Seen) -> Iterator[Finding]:
    """What is wrong now. Nobody is told that mail waits while the outbox is switched off: somebody asked for that."""
    if not seen.is_off:
        yield from _waiting(settings, seen)
    if settings.silent_worker:
        yield from _workers(seen)
    if settings.trouble is not None:
        for worker, words in seen.trouble.items():
            yield Finding(name=f"trouble of {worker}", words=f"{worker}: {words}", after=settings.trouble)
    if settings.in_doubt is not None and seen.pulse.in_doubt >= settings.in_doubt:
        words = f"{_messages(seen.pulse.in_doubt)} in doubt; to settle: poller resolve"
        yield Finding(name="in doubt", words=words)
    if settings.failures is not None and seen.ended >= FAILURES_OF and seen.failed >= settings.failures * seen.ended:
        words = f"{seen.failed} of {seen.ended} messages that ended within the last hour failed; see: poller failures"
        yield Finding(name="failures", words=words)


def _waiting(settings: AlertSettings, seen: Seen) -> Iterator[Finding]:
    beat = seen.pulse
    if settings.oldest_due is not None and beat.oldest_due_seconds > settings.oldest_due:
        words = f"{_messages(beat.due)} due, the oldest for {format_duration(beat.oldest_due_seconds)}"
        yield Finding(name="oldest due", words=words)
    if settings.nothing_sent is not None and beat.is_stuck(settings.nothing_sent):
        yield Finding(name="nothing sent", words=f"{_messages(beat.due)} due, and {beat.last_sent}")


def _workers(seen: Seen) -> Iterator[Finding]:
    if "alive" not in seen.workers.values():
        yield Finding(name="no worker", words="no worker is alive; start one with: poller run")
        return
    for worker, state in seen.workers.items():
        if state == "silent":
            quoted = worker.replace("'", "''")
            remedy = f"start it again; if it is gone for good: DELETE FROM outbox_worker WHERE name = '{quoted}'"
            yield Finding(name=f"silent {worker}", words=f"the worker {worker} has missed three heartbeats; {remedy}")


def _messages(number: int) -> str:
    return "1 message is" if number == 1 else f"{number:,} messages are"
