"""Whether a worker is alive, and whether it can send, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from poller.outbox.database import DatabaseUnavailable
from poller.outbox.report import glance
from poller.outbox.store import BEATS_MISSED
from poller.units import format_duration

if TYPE_CHECKING:
    from poller.outbox import Engine
    from poller.worker.service import Service

SPARE_S = 2.0
"""For a heartbeat that is on its way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """`dead` and `unready` say why not; "" where it is."""

    dead: str
    unready: str


def health_of(service: Service | None, engine: Engine) -> Health:
    """As it is now. Of a worker, asks no database and no relay: the heartbeat and the last session tell."""
    if service is None:
        return Health(dead="", unready=_out_of_reach(engine))
    tick, every = service.tick, service.config.worker.heartbeat
    dead = "the delivering thread does not come on" if tick.is_stuck else ""
    if dead:
        return Health(dead=dead, unready=dead)
    silent = tick.lease.age
    if silent is None:
        return Health(dead="", unready="no heartbeat has reached the database yet")
    if silent > BEATS_MISSED * every + SPARE_S:
        return Health(dead="", unready=f"no heartbeat has reached the database for {format_duration(silent)}")
    return Health(dead="", unready=tick.delivery.trouble or "")


def _out_of_reach(engine: Engine) -> str:
    try:
        glance(engine)
    except DatabaseUnavailable as error:
        return f"the database is not available: {error}"
    return ""
