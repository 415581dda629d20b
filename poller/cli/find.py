"""`poller find TEXT`: the rows that an address, a Message-ID, a queue id, a batch or a dedupe key belongs to."""

from __future__ import annotations

from dataclasses import asdict

import click

from poller.cli.screen import say, say_table
from poller.cli.session import Stop, as_json, configuration, database, in_words
from poller.outbox.find import MOST
from poller.outbox.find import find as find_rows
from poller.visible import moment


@click.command()
@click.argument("text")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=MOST, show_default=True, help="Rows, the latest first."
)
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.pass_context
@in_words
def find(context: click.Context, text: str, *, limit: int, json_: bool) -> None:
    """Rows by address, Message-ID, queue id, batch or dedupe key: the very words, the latest rows first.

    Ends with 1 where there is none.
    """
    found = find_rows(database(configuration(context)), text, most=limit)
    if json_:
        click.echo(as_json([asdict(one) for one in found]))
    if not found:
        raise Stop(f"no row is known by {text!r}; give a whole address, Message-ID, queue id, batch or dedupe key")
    if json_:
        return
    lines = [(str(one.id), one.status, moment(one.created_at), one.by, one.recipients, one.subject) for one in found]
    say_table([("row", "status", "created (UTC)", "found by", "recipients", "subject"), *lines])
    if len(found) == limit:
        say(f"the latest {limit}; there may be more: --limit", err=True)
