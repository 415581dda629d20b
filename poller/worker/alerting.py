"""What looks for what `[alerts]` names, and after batches, put together for one worker, or for a command."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from poller.alerts.tell import Teller, ways
from poller.alerts.watch import Watch
from poller.batches.watch import BatchWatch
from poller.outbox.guard import address_of
from poller.smtp.relays import relays_of
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from poller.alerts.tell import Addressees
    from poller.config.load import Config
    from poller.log import Logger
    from poller.outbox import Engine


Stop = Callable[[], bool]
"""Whether the worker is to stop."""


def alert_watch(config: Config, engine: Engine, worker: str, log: Logger, is_stopping: Stop = lambda: False) -> Watch:
    """Looks for what `[alerts]` names, and tells by all ways that it names."""
    return Watch(
        settings=config.alerts,
        engine=engine,
        teller=_teller(config, config.alerts, log, "alert.failed", is_stopping),
        worker=worker,
        outbox=address_of(config.database),
        clock=time.time,
        log=log,
    )


def batch_watch(
    config: Config, engine: Engine, worker: str, log: Logger, is_stopping: Stop = lambda: False
) -> BatchWatch:
    """Looks after batches, and tells of them by all ways that `[batches]` names."""
    return BatchWatch(
        settings=config.batches,
        engine=engine,
        teller=_teller(config, config.batches, log, "batch.untold", is_stopping),
        worker=worker,
        outbox=address_of(config.database),
        clock=time.monotonic,
        log=log,
    )


def _teller(config: Config, whom: Addressees, log: Logger, failed: str, is_stopping: Stop) -> Teller:
    relay = relays_of(config.smtp, config.relays).get(whom.relay)
    return Teller(ways=ways(whom, composer_of(config), relay), log=log, failed=failed, is_stopping=is_stopping)
