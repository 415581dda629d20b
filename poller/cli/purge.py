"""`poller purge`: delete what is done and past the time that `[retention]` gives it.

The service does the same by itself, every ten minutes. Exit codes: 0; 2 where nothing is ever to be deleted.
"""

from __future__ import annotations

import time

import click

from poller.cli.screen import say
from poller.cli.session import Misused, agree, configuration, database, in_words
from poller.outbox.retention import due_for_purge
from poller.outbox.retention import purge as purge_now


@click.command()
@click.option("--dry-run", is_flag=True, help="Say how many rows would go, and delete none.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@in_words
def purge(context: click.Context, *, dry_run: bool, yes: bool) -> None:
    """Delete rows that ended longer ago than [retention] keeps them, with all that is theirs."""
    config = configuration(context)
    if not config.retention.is_set:
        raise Misused('nothing is ever deleted: [retention] is empty; write, for example, sent = "90d"')
    engine = database(config)
    many = due_for_purge(engine, config.retention)
    if dry_run:
        say(f"{many:,} rows are past their time")
        return
    agree(f"Delete {many:,} rows for good?", yes=yes, touched=many or 1)
    done = purge_now(engine, config.retention, wait=time.sleep)
    say(f"{done.rows:,} rows deleted with all that was theirs, and {done.attempts:,} lines of other history")
    if done.kept:
        say(f"{done.kept:,} copies of what was sent deleted, of rows that stay")
    if done.suppressions:
        say(f"{done.suppressions:,} lines of the suppression list deleted, whose time was over")
