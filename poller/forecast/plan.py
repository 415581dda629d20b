"""Pure: when the queue will be done, and what it is that takes so long.

What waits is reckoned in groups (so many to this domain, by that relay, from this sender), each of which passes through
all of its limits: domain, provider, sender, relay, the whole outbox. What comes out of one goes into the next. So every
message fits into every limit, and no destination waits for another.

It is a forecast, and this is what it takes for granted:

- Nothing is added, everything is accepted, no retry is needed, and no reply asks to slow down.
- Mail for different destinations is mixed. Where all of one destination stands before all of another, and both pass the
  same limit, the end may be later.
- A row with recipients at several destinations counts to the one that its column `domain` names.
- What is slowed now stays as slow as it is; it will be faster if the destination goes on to accept.
- How fast a relay answers is as measured of late, or assumed.

Under these it is within a tenth, or one spacing of the slowest limit (of a quota: a twentieth of its period); where the
sending hours end just then, one message more or less may go before.
Longer than most files, as the stages are one road that is walked from its beginning to its end.
Time is passed in, aware UTC. Raises nothing.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poller.forecast.curves import LEAST, Curve, added, divided, end_of, level_at, time_of, total
from poller.forecast.passage import THE_HOURS, Pace, Passage, later, passage_of, through
from poller.forecast.scopes import OUTBOX, paced_in_words, senders_of
from poller.pacing.gate import ScopeKey
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from poller.forecast.passage import Doors
    from poller.forecast.scopes import Standing

ASSUMED_SPEED = 20.0
"""Messages a second on one connection, where nobody has measured: one round trip of 50 ms for each."""
OTHERS = "all others"
"""The destinations without a limit of their own."""

_Stages = tuple[ScopeKey | None, ...]
"""The scopes that hold a group, innermost first; None where there is no limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Messages that wait: how many, for whom, and when they are due. A past time, or None, is now."""

    messages: int
    domain: str | None = None
    relay: str | None = None
    sender: str | None = None
    """The bare address."""
    recipients: int = 0
    """Of all of them together; 0: one each."""
    first_due: datetime | None = None
    last_due: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Breath:
    """How the workers go about it. `speed` is messages a second over all of them, None if nobody knows."""

    batch_size: int = 100
    batch_pause: float = 0.0
    workers: int = 1
    speed: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Destination:
    """A domain or provider with a limit, or `OTHERS`: what waits for it, and when that is done."""

    name: str
    messages: int
    limit: str
    done_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What is to be expected."""

    at: datetime
    messages: int
    first_at: datetime | None
    last_at: datetime | None
    bottleneck: str
    """What takes so long, in words; "" if nothing does."""
    destinations: tuple[Destination, ...]
    """The slowest first."""
    unknown_relays: tuple[tuple[str, int], ...]
    """Names that rows ask for and nobody configured, with how many do: these rows are left out."""
    speed: float
    """Messages a second, as measured or assumed."""

    @property
    def per_minute(self) -> float:
        """From the first to the last, in messages; all of them if that takes no time."""
        if self.first_at is None or self.last_at is None:
            return 0.0
        seconds = (self.last_at - self.first_at).total_seconds()
        return min(60.0 * (self.messages - 1) / seconds, self.messages) if seconds > 60 else float(self.messages)  # noqa: PLR2004 - s

    @property
    def seconds(self) -> float:
        """Until the last."""
        return (self.last_at - self.at).total_seconds() if self.last_at else 0.0


@dataclass(slots=True)
class _Group:
    """What has the same limits before it."""

    curves: list[Curve] = field(default_factory=list)
    recipients: float = 0.0
    arrivals: dict[tuple[float, float], float] = field(default_factory=lambda: defaultdict(float))

    def curve(self) -> Curve:
        alone = [[(start, 0.0), (end, count)] for (start, end), count in self.arrivals.items()]
        return added([*self.curves, *alone])


@dataclass(frozen=True, slots=True)
class _Passed:
    """One scope's part: what went in, what came out, and what it was held by."""

    entered: Curve
    left: Curve
    held_by: str

    def leaves(self, entered_at: float) -> float:
        """When all have left that had entered by then."""
        return max(entered_at, time_of(self.left, level_at(self.entered, entered_at)))


def forecast(waiting: Iterable[Waiting], standing: Standing, breath: Breath | None = None) -> Forecast:
    """When all of it will be done. Half a second of work for five thousand destinations, each with its own limit."""
    breath = breath or Breath()
    groups, unknown, names = _grouped(waiting, standing)
    passed: dict[ScopeKey, _Passed] = {}
    remaining = {stages: _Group([group.curve()], group.recipients) for stages, group in groups.items()}
    ends = {stages: end_of(group.curves[0]) for stages, group in remaining.items()}
    doors = standing.doors()
    while any(remaining):
        remaining = _through_one_stage(remaining, standing, doors, passed)
    last = remaining.get((), _Group())
    speed = breath.speed or ASSUMED_SPEED * breath.workers
    passed[OUTBOX] = _through_the_outbox(last, standing, doors, breath, speed)
    paths = {stages: _path(stages, end, standing, passed) for stages, end in ends.items()}
    left = passed[OUTBOX].left
    messages = round(total(left))
    first = time_of(left, min(1.0, total(left)))
    return Forecast(
        at=standing.now,
        messages=messages,
        first_at=later(standing.now, first) if messages else None,
        last_at=later(standing.now, end_of(left)) if messages else None,
        bottleneck=_bottleneck(paths) if messages else "",
        destinations=_destinations(names, paths, standing) if messages else (),
        unknown_relays=tuple(sorted(unknown.items())),
        speed=speed,
    )


def _grouped(
    waiting: Iterable[Waiting], standing: Standing
) -> tuple[dict[_Stages, _Group], dict[str, int], dict[_Stages, float]]:
    """What waits by the limits that hold it, the relays that nobody knows, and how many there are of each group."""
    groups: dict[_Stages, _Group] = defaultdict(_Group)
    unknown: dict[str, int] = defaultdict(int)
    counts: dict[_Stages, float] = defaultdict(float)
    for some in waiting:
        ways = standing.ways_of(some.domain, some.sender, some.relay)
        if not ways:
            unknown[some.relay or "(none takes it)"] += some.messages
        inner = _stages(some, standing)
        due = _seconds(some.first_due, standing), _seconds(some.last_due, standing)
        for relay, share in ways:
            key = ScopeKey("relay", relay)
            stages = (*inner, key if standing.holds(key) else None)
            pause = _pause(stages, standing)[0]
            start, end = max(pause, due[0]), max(pause, *due)
            groups[stages].arrivals[start, end] += some.messages * share
            groups[stages].recipients += (some.recipients or some.messages) * share
            counts[stages] += some.messages * share
    return groups, unknown, counts


def _stages(some: Waiting, standing: Standing) -> _Stages:
    """Domain, provider, sender, the sender's domain; the relay and the outbox follow."""
    destinations = standing.destinations_of(some.domain)
    senders = senders_of(some.sender)
    wanted = ("domain", "provider")
    found = [next((key for key in destinations if key.kind == kind), None) for kind in wanted]
    padded = [*found, *senders, *([None] * (2 - len(senders)))]
    return tuple(key if key is not None and standing.holds(key) else None for key in padded)


def _pause(stages: _Stages, standing: Standing) -> tuple[float, str]:
    """The longest pause of all scopes of a group: nothing of it goes before, and takes no slot of the others."""
    pauses = [(standing.pause_of(key), str(key)) for key in (*stages, OUTBOX) if key is not None]
    return max(pauses)


def _seconds(moment: datetime | None, standing: Standing) -> float:
    return max(0.0, (moment - standing.now).total_seconds()) if moment else 0.0


def _through_one_stage(
    groups: dict[_Stages, _Group], standing: Standing, doors: Doors | None, passed: dict[ScopeKey, _Passed]
) -> dict[_Stages, _Group]:
    """Every group through the first of its scopes; what has the same scopes before it then goes together."""
    after: dict[_Stages, _Group] = defaultdict(_Group)
    members: dict[ScopeKey | None, list[_Stages]] = defaultdict(list)
    for stages in groups:
        members[stages[0]].append(stages)
    for scope, those in members.items():
        parts = [added(groups[stages].curves) for stages in those]
        recipients = [groups[stages].recipients for stages in those]
        if scope is not None:
            pooled = added(parts)
            passage = _passage(standing, scope, sum(recipients) / max(total(pooled), LEAST), doors)
            left = through(pooled, passage)
            passed[scope] = _Passed(pooled, left, _held_by(passage))
            parts = divided(parts, pooled, left) if len(parts) > 1 else [left]
        for stages, part, weight in zip(those, parts, recipients, strict=True):
            after[stages[1:]].curves.append(part)
            after[stages[1:]].recipients += weight
    return after


def _passage(standing: Standing, scope: ScopeKey, weight: float, doors: Doors | None) -> Passage:
    """Outside the hours nothing takes a slot anywhere."""
    paced = standing.scopes.get(scope)
    passage = passage_of(paced.limit, paced.state, standing.now, weight) if paced else Passage()
    passage.doors = doors
    return passage


def _through_the_outbox(
    group: _Group, standing: Standing, doors: Doors | None, breath: Breath, speed: float
) -> _Passed:
    """The last stage: the limit and the hours of the whole outbox, its breathing, and how fast relays answer."""
    if not group.curves:
        return _Passed([(0.0, 0.0)], [(0.0, 0.0)], "")
    pooled = added(group.curves)
    passage = _passage(standing, OUTBOX, group.recipients / max(total(pooled), LEAST), doors)
    how = "as measured of late" if breath.speed else "assumed, as nothing was sent of late"
    passage.paces.append(
        Pace(words=f"how fast the relay answers: {_rounded(speed * 60)}/m, {how}", spacing=1 / speed, burst=1, tokens=1)
    )
    if breath.batch_pause:
        size = breath.batch_size * breath.workers
        spacing = (breath.batch_pause + size / speed) / size
        words = f"[poll] batch_size {breath.batch_size}, then batch_pause {format_duration(breath.batch_pause)}"
        passage.paces.append(Pace(words=words, spacing=spacing, burst=size, tokens=size))
    left = through(pooled, passage)
    return _Passed(pooled, left, _held_by(passage))


def _held_by(passage: Passage) -> str:
    return max(passage.waited, key=lambda words: passage.waited[words], default="")


_Path = tuple[float, list[tuple[float, str]]]
"""When the last of a group is done, and what it waited for on its way, each with the seconds."""


def _path(stages: _Stages, arrive: float, standing: Standing, passed: dict[ScopeKey, _Passed]) -> _Path:
    pause, who = _pause(stages, standing)
    time, waits = arrive, [(arrive, f"{who} is paused" if 0 < pause >= arrive else "the last are due only then")]
    for scope in (*stages, OUTBOX):
        if scope is not None:
            after = passed[scope].leaves(time)
            waits.append((after - time, _in_words(scope, passed[scope].held_by)))
            time = after
    return time, waits


def _in_words(scope: ScopeKey, held_by: str) -> str:
    if scope != OUTBOX and held_by != THE_HOURS:
        return f"{scope}: {held_by}"
    return f"the whole outbox: {held_by}" if held_by[:1].isdigit() else held_by


def _bottleneck(paths: dict[_Stages, _Path]) -> str:
    _, waits = max(paths.values(), key=lambda path: path[0])
    longest, words = max(waits, key=lambda wait: wait[0])
    return words if longest > 0 else ""


def _destinations(
    counts: dict[_Stages, float], paths: dict[_Stages, _Path], standing: Standing
) -> tuple[Destination, ...]:
    found: dict[ScopeKey | None, tuple[float, float]] = {}
    for stages, count in counts.items():
        own: list[ScopeKey | None] = [key for key in stages[:2] if key is not None]
        for key in own or [None]:
            before, done = found.get(key, (0.0, 0.0))
            found[key] = before + count, max(done, paths[stages][0])
    made = [
        Destination(
            name=str(key) if key else OTHERS,
            messages=round(count),
            limit=paced_in_words(standing.scopes[key], standing.now) if key else "",
            done_at=later(standing.now, done),
        )
        for key, (count, done) in found.items()
    ]
    return tuple(sorted(made, key=lambda one: (one.done_at, one.messages, one.name), reverse=True))


def _rounded(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"  # noqa: PLR2004 - two digits are enough
