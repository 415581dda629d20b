"""`poller listen`: take mail over SMTP, and nothing else. With `[submission] listen` it is inside `poller run` too."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from typing import TYPE_CHECKING

import click

from poller import log
from poller.cli.session import Misused, configuration, database, in_words
from poller.submission.entry import domain_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config


@click.command()
@click.pass_context
@in_words
def listen(context: click.Context) -> None:
    """Take mail over SMTP at [submission] listen, until SIGTERM or Ctrl-C. "poller run" sends it."""
    config = configuration(context, to_take=True)
    if config.submission.listen is None:
        raise Misused('[submission] listen says where; write it like "127.0.0.1:2525"')
    log.configure(config.log)
    database(config)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with taking_mail(config):
        stopped.wait()


@contextlib.contextmanager
def taking_mail(config: Config) -> Iterator[None]:
    """Take mail meanwhile, if that is wished for. Raises Misused where that can't be."""
    if config.submission.listen is None:
        yield
        return
    try:
        from poller.submission.listener import Listener  # noqa: PLC0415 - an extra, and few want it
    except ModuleNotFoundError:
        raise Misused('[submission] listen needs a library; run: pip install "poller[submission]"') from None
    try:
        listener = Listener(
            config.submission,
            message=config.message,
            database=config.database,
            domain=domain_of(config.submission, config.message.sender, socket.gethostname()),
            log=log.get_logger(),
        )
    except (OSError, OverflowError) as error:
        raise Misused(f"[submission] listen {config.submission.listen}, or its certificate: {error}") from None
    listener.start()
    try:
        yield
    finally:
        listener.stop()
