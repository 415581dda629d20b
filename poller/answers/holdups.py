"""What holds mail up now, in words, the worst first: of the outbox as a whole, where `reasons` speaks of one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from poller.answers.foresight import foreseen, why_unknown
from poller.answers.standing import due_of, screen_lines
from poller.frozen import dataclass
from poller.outbox.report import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config
    from poller.forecast import Standing
    from poller.outbox import Engine
    from poller.outbox.report import Overview

Weight = Literal["stop", "slow", "note"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdup:
    """`stop`: nothing goes. `slow`: it goes, but not as it could. `note`: a person is waited for."""

    weight: Weight
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What holds mail up, and in how many seconds what is due will have gone; None where nobody can say."""

    holdups: tuple[Holdup, ...]
    seconds_left: float | None


def outlook(config: Config, engine: Engine, seen: Overview, standing: Standing) -> Outlook:
    """Asks for what waits only where something is due."""
    stops = list(dict.fromkeys(why_unknown(config, engine, seen)))
    found = [Holdup(weight="stop", words=words) for words in stops]
    found += [one for one in _of_workers(seen) if one.words not in stops]
    found += _of_limits(standing)
    seconds: float | None = None if stops and seen.due else 0.0
    if seen.due and not stops:
        forecast = foreseen(config, engine, seen, standing, due_of(config, engine, standing, seen))
        seconds = forecast.seconds
        if forecast.bottleneck:
            found.append(Holdup(weight="slow", words=f"what is due waits most for: {forecast.bottleneck}"))
    return Outlook(holdups=(*found, *_of_persons(seen)), seconds_left=seconds)


def _of_workers(seen: Overview) -> Iterator[Holdup]:
    if seen.alive and (gone := silent(seen.workers)):
        yield Holdup(weight="slow", words=gone)
    yield from (Holdup(weight="slow", words=f"{w['name']}: {w['trouble']}") for w in seen.alive if w["trouble"])


def _of_limits(standing: Standing) -> Iterator[Holdup]:
    for word, line in screen_lines(standing):
        if word in {"paused", "slow", "closed"}:
            yield Holdup(weight="stop" if word == "closed" else "slow", words=f"{word}: {line}")


def _of_persons(seen: Overview) -> Iterator[Holdup]:
    doubts, held = seen.by_status.get("in_doubt", 0), seen.by_status.get("paused", 0)
    if doubts:
        yield Holdup(weight="note", words=f"{doubts:,} may have been delivered: somebody must decide")
    if held:
        yield Holdup(weight="note", words=f"{held:,} are held by an operator")
