"""`poller alerts`: look once, and tell what `[alerts]` asks for. For cron, on a machine that runs no worker.

A worker looks by itself; but that no worker is alive somebody else has to say. `--test` sends a trial to all who would
be told. Exit codes: 0; 1 where something is wrong, or a trial was not taken; 2 where nothing is watched.
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import click

from poller import log
from poller.alerts.tell import News, NotToldError
from poller.cli.screen import say
from poller.cli.session import Misused, Stop, configuration, database, in_words
from poller.worker.alerting import alert_watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.alerts.tell import Notice


@click.command()
@click.option("--test", is_flag=True, help="Send a trial to all who would be told, whatever is wrong.")
@click.pass_context
@in_words
def alerts(context: click.Context, *, test: bool) -> None:
    """Look once for what [alerts] names, and tell whom it names."""
    config = configuration(context, to_send=True)
    if not config.alerts.is_set:
        raise Misused('nothing is watched: [alerts] is empty; write, for example, nothing_sent = "10m"')
    log.configure(config.log)
    watch = alert_watch(config, database(config), socket.gethostname(), log.get_logger())
    if test:
        _try(watch.teller.ways, watch.outbox)
        return
    wrong = watch.round()
    if wrong:
        raise Stop(f"{wrong} of what is watched {'is' if wrong == 1 else 'are'} wrong")
    say("nothing is wrong")


def _try(ways: tuple[Callable[[Notice], None], ...], outbox: str) -> None:
    now = time.time()
    news = News(
        alarm="trial",
        kind="raised",
        words="this is a trial: nothing is wrong",
        since=now,
        at=now,
        outbox=outbox,
        worker=socket.gethostname(),
    )
    refused = []
    for way in ways:
        try:
            way(news)
        except NotToldError as why:
            refused.append(str(why))
    say(f"told by {len(ways) - len(refused)} of {len(ways)} ways")
    if refused:
        raise Stop("\n".join(refused))
