"""One round: look at the outbox, judge, tell. Any number of workers may do so at the same time.

Rule 1. What is wrong is kept where all see it, in outbox_meta; who changes an alarm first tells it.
Rule 2. While the database is away there is nobody to ask: each worker keeps that alarm for itself.
Rule 3. A way that does not take the news is logged, and the alarm told anew a while later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poller.alerts.alarms import alarm_of, seen_again, seen_no_more, taken, told, wants
from poller.alerts.conditions import Finding, Seen, findings
from poller.alerts.tell import News
from poller.outbox.alarms import SharedAlarms
from poller.outbox.report import ended_lately, glance, pulse
from poller.outbox.trouble import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poller.alerts.alarms import Alarm, Kind
    from poller.alerts.settings import AlertSettings
    from poller.alerts.tell import Teller
    from poller.log import Logger
    from poller.outbox import Engine

DATABASE = "database"


class OwnAlarms:
    """What only this worker knows of."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[str, str] = {}

    def read(self) -> tuple[float, dict[str, str]]:
        """As `SharedAlarms.read`."""
        return self._clock(), dict(self._found)

    def change(self, name: str, before: str | None, after: str | None) -> bool:
        """As `SharedAlarms.change`."""
        if self._found.get(name) != before:
            return False
        if after is None:
            del self._found[name]
        else:
            self._found[name] = after
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """An alarm as it was kept, and as it is seen now."""

    name: str
    before: str | None
    after: Alarm
    now: float


@dataclass(kw_only=True, slots=True)
class Watch:
    """Belongs to one thread. `clock` is the wall's, in seconds since the epoch; `outbox` is its home, for people."""

    settings: AlertSettings
    engine: Engine
    teller: Teller
    worker: str
    outbox: str
    clock: Callable[[], float]
    log: Logger
    _shared: SharedAlarms = field(init=False)
    _own: OwnAlarms = field(init=False)

    def __post_init__(self) -> None:
        self._shared = SharedAlarms(self.engine)
        self._own = OwnAlarms(self.clock)

    def round(self) -> int:
        """Look once, and tell what is to be told. Returns how many alarms there are."""
        try:
            found = list(findings(self.settings, look(self.engine)))
            self._judge(self._shared, found)
            away: list[Finding] = []
        except DatabaseUnavailable as why:
            found = []
            after = self.settings.database
            words = f"the database is away: {why}"
            away = [] if after is None else [Finding(name=DATABASE, words=words, after=after)]
        self._judge(self._own, away)
        return len(found) + len(away)

    def _judge(self, kept: SharedAlarms | OwnAlarms, found: Iterable[Finding]) -> None:
        now, states = kept.read()
        there = {finding.name: finding for finding in found}
        for name in sorted(states.keys() | there.keys()):
            before = states.get(name)
            alarm = alarm_of(before) if before is not None else None
            after = self._as_seen(there.get(name), alarm, now)
            if after is None:
                kept.change(name, before, None)
            else:
                self._follow(kept, _Step(name=name, before=before, after=after, now=now), there.get(name))

    @staticmethod
    def _as_seen(finding: Finding | None, alarm: Alarm | None, now: float) -> Alarm | None:
        if finding is not None:
            return seen_again(alarm, finding.words, now)
        return seen_no_more(alarm, now) if alarm is not None else None

    def _follow(self, kept: SharedAlarms | OwnAlarms, step: _Step, finding: Finding | None) -> None:
        after = finding.after if finding else 0.0
        kind = wants(step.after, step.now, after=after, remind=self.settings.remind)
        if kind is None:
            if step.after.text() != step.before:
                kept.change(step.name, step.before, step.after.text())
            return
        mine = taken(step.after, step.now)
        if kept.change(step.name, step.before, mine.text()) and self._tell(step.name, kind, mine, step.now):
            kept.change(step.name, mine.text(), None if kind == "over" else told(mine, step.now).text())

    def _tell(self, name: str, kind: Kind, alarm: Alarm, now: float) -> bool:
        news = News(
            alarm=name,
            kind=kind,
            words=alarm.words,
            since=alarm.since,
            at=now,
            before=alarm.told,
            outbox=self.outbox,
            worker=self.worker,
        )
        self.log.warning("alert.told", alarm=name, kind=kind, reason=alarm.words)
        return self.teller.tell(news, alarm=name)


def look(engine: Engine) -> Seen:
    """The outbox as it is now. Raises DatabaseUnavailable."""
    seen, beat = glance(engine), pulse(engine)
    ended, failed = ended_lately(engine)
    return Seen(
        is_off=seen.paused is not None,
        pulse=beat,
        ended=ended,
        failed=failed,
        workers={str(worker["name"]): str(worker["state"]) for worker in seen.workers},
        trouble={str(worker["name"]): str(worker["trouble"]) for worker in seen.alive if worker["trouble"]},
    )
