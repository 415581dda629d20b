"""What looks for what `[alerts]` names, and after batches, put together for one worker, or for a command."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from poller.alerts.tell import ways
from poller.alerts.watch import Watch
from poller.batches.watch import BatchWatch
from poller.outbox.guard import address_of
from poller.smtp.relays import relays_of
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from poller.config.load import Config
    from poller.log import Logger
    from poller.outbox import Engine


def alert_watch(config: Config, engine: Engine, worker: str, log: Logger) -> Watch:
    """Tells by all ways that are configured."""
    relay = relays_of(config.smtp, config.relays).get(config.alerts.relay)
    return Watch(
        settings=config.alerts,
        engine=engine,
        ways=ways(config.alerts, composer_of(config), relay),
        worker=worker,
        outbox=address_of(config.database),
        clock=time.time,
        log=log,
    )


def batch_watch(config: Config, engine: Engine, worker: str, log: Logger) -> BatchWatch:
    """Looks after batches, and tells of them by all ways that `[batches]` names."""
    relay = relays_of(config.smtp, config.relays).get(config.batches.relay)
    return BatchWatch(
        settings=config.batches,
        engine=engine,
        ways=ways(config.batches, composer_of(config), relay),
        worker=worker,
        outbox=address_of(config.database),
        clock=time.monotonic,
        log=log,
    )
