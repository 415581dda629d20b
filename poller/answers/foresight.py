"""When what waits will have gone: one forecast for `plan` and `status`, or why nobody can say.

What keeps all mail from going has no end that a reckoning could know: `why_unknown`. `explain` gives the same reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.answers.standing import due_of
from poller.forecast import Breath, Forecast, forecast
from poller.outbox.guard import home_of, stranger
from poller.outbox.report import knows_its_home
from poller.outbox.waiting import speed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config
    from poller.forecast import Standing, Waiting
    from poller.outbox import Engine
    from poller.outbox.report import Glance, Overview


def foreseen(config: Config, engine: Engine, seen: Glance, standing: Standing, waiting: list[Waiting]) -> Forecast:
    """When all of it will have gone, if nothing keeps all mail from going."""
    workers = max(1, len(seen.alive))
    poll = config.poll
    breath = Breath(batch_size=poll.batch_size, batch_pause=poll.batch_pause, workers=workers, speed=speed(engine))
    return forecast(waiting, standing, breath)


def left_of(config: Config, engine: Engine, seen: Overview, standing: Standing) -> tuple[list[str], float | None]:
    """Why nobody can say when what is due will have gone; else how many seconds it takes."""
    if not seen.due:
        return [], 0.0
    if unknown := list(why_unknown(config, engine, seen)):
        return unknown, None
    return [], foreseen(config, engine, seen, standing, due_of(config, engine, standing, seen)).seconds


def why_unknown(config: Config, engine: Engine, seen: Glance) -> Iterator[str]:
    """What keeps all mail from going until somebody does something, each with its remedy."""
    if off := switched_off(seen):
        yield off
    yield from in_the_way(config, engine, seen)


def switched_off(seen: Glance) -> str:
    """That somebody has switched the whole outbox off, and how to switch it on; "" if nobody has."""
    if seen.paused is None:
        return ""
    return f"the whole outbox is off: {seen.paused}; switch it on with: poller resume --all"


def in_the_way(config: Config, engine: Engine, seen: Glance) -> Iterator[str]:
    """What keeps all mail from going and nobody has asked for."""
    home = home_of(config.database, engine)
    away = stranger(engine, home) if knows_its_home(engine) else ""
    if away:
        yield away
    if seen.nobody:
        yield seen.nobody
    elif all(worker["trouble"] for worker in seen.alive):
        yield from dict.fromkeys(worker["trouble"] for worker in seen.alive)
