"""`poller serve`: the page, health and numbers, without a worker. `poller run` with `[http] listen` serves the same."""

from __future__ import annotations

import queue
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from poller import log
from poller.cli.screen import say
from poller.cli.session import Misused, configuration, database, in_words

if TYPE_CHECKING:
    from poller.config.load import Config
    from poller.web.server import Listening
    from poller.worker.service import Service

USUAL_PLACE = "127.0.0.1:8025"


@click.command()
@click.pass_context
@in_words
def serve(context: click.Context) -> None:
    """Serve the page, health and numbers at [http] listen, else on 127.0.0.1:8025, until SIGTERM or Ctrl-C."""
    config = configuration(context, to_serve=True)
    log.configure(config.log)
    database(config)
    if config.http.listen is None:
        config = replace(config, http=replace(config.http, listen=USUAL_PLACE))
    server = listening(config, None)
    for line in where_it_is(config):
        say(line)
    until_stopped(server)


def until_stopped(server: Listening) -> None:
    """Answer until SIGTERM or Ctrl-C."""
    wishes: queue.SimpleQueue[str] = queue.SimpleQueue()  # a signal may put into it at any moment
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wishes.put("stop"))
    server.start()
    try:
        wishes.get()
    finally:
        server.stop()


def listening(config: Config, service: Service | None) -> Listening:
    """A server that has its port. Raises Misused where it can't have it."""
    from poller.web.server import server_of  # noqa: PLC0415 - few want it

    try:
        return server_of(config, service)
    except (OSError, OverflowError) as error:
        raise Misused(f"[http] listen {config.http.listen}: {error}") from None


def where_it_is(config: Config) -> list[str]:
    """What to tell the one who started it."""
    from poller.web.server import has_page  # noqa: PLC0415 - few want it

    address = f"http://{config.http.listen}/"
    if not config.http.page:
        return [f"{address}healthz, readyz and metrics; no page: [http] page"]
    if not has_page(config):
        return [f'{address}healthz, readyz and metrics; the page wants a library: pip install "poller[web]"']
    if not (config.http.tokens or config.http.user_header):
        return [f"{address} but nobody can sign in yet: give [http.tokens.NAME] token and right"]
    return [address]
