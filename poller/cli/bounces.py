"""`poller bounces`: what came back finds its row.

Reads the mailbox that `[bounces]` names, again and again, or once; or with `-` one message from standard input, for an
MTA's pipe (`|poller bounces -`). Exit codes: 0; 75 (EX_TEMPFAIL) with `-` where the database is away: the MTA brings it
again; 1 where the mailbox can't be read with `--once`; 2 for usage and configuration.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from poller import log
from poller.cli.screen import say
from poller.cli.session import Misused, Stop, configuration, database, in_words
from poller.message.return_path import ReturnPaths
from poller.outbox.database import DatabaseUnavailable

if TYPE_CHECKING:
    from poller.bounces.post import Post
    from poller.config.load import Config
    from poller.message.bounce_settings import BounceSettings

EX_TEMPFAIL = 75


@click.command()
@click.argument("source", required=False, type=click.Choice(["-"]), metavar="[-]")
@click.option("--once", is_flag=True, help="Look at the mailbox once, and end.")
@click.pass_context
@in_words
def bounces(context: click.Context, *, source: str | None, once: bool) -> None:
    """Write bounces, delays and complaints into the history of their rows. With - read one message."""
    config = configuration(context, to_send=True)
    log.configure(config.log)
    try:
        post = _post(config)
        if source is not None:
            say(post.take(_standard_input()))
            return
    except DatabaseUnavailable as why:
        if source is None:
            raise
        say(f"the database is not available: {why}", err=True)
        sys.exit(EX_TEMPFAIL)
    if config.bounces.mailbox is None:
        raise Misused('there is no mailbox to read: name one in [bounces], mailbox = "maildir:/path", or read from -')
    _look(post, config.bounces, config.bounces.mailbox, once=once)


def _post(config: Config) -> Post:
    try:
        from poller.bounces.post import Post  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Misused(f'{error.name} is not installed; run: pip install "poller[bounces]"') from None
    paths = ReturnPaths(config.bounces)
    return Post(engine=database(config), settings=config.bounces, paths=paths, log=log.get_logger())


def _standard_input() -> bytes:
    from poller.bounces.read import MOST_BYTES  # noqa: PLC0415 - an extra

    raw = sys.stdin.buffer.read(MOST_BYTES)
    while sys.stdin.buffer.read(MOST_BYTES):  # else the MTA takes a broken pipe for a failure
        pass
    return raw


def _look(post: Post, settings: BounceSettings, mailbox: str, *, once: bool) -> None:
    from poller.bounces.mailbox import MailboxTrouble, waiting  # noqa: PLC0415 - an extra

    said = ""
    while True:
        try:
            post.take_all(waiting(mailbox, settings.password or ""))
            said = ""
        except (MailboxTrouble, DatabaseUnavailable) as why:
            if once:
                raise Stop(str(why)) from None
            if str(why) != said:
                said = str(why)
                log.get_logger().warning("bounce.waiting", reason=said)
        if once:
            told = ", ".join(f"{number} {word}" for word, number in sorted(post.counts.items()))
            say(told or "nothing has come back")
            return
        time.sleep(settings.every)
