"""`poller find TEXT`: the rows that an address, a Message-ID, a queue id, a batch or a dedupe key belongs to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from poller.cli.choosing import choosing, selection_of
from poller.cli.screen import say, say_table
from poller.cli.session import Stop, as_json, configuration, database, in_words
from poller.outbox.find import MOST, MOST_OF_ALL
from poller.outbox.find import chosen as find_chosen
from poller.outbox.find import find as find_rows
from poller.visible import moment


@click.command()
@click.argument("text", default="")
@choosing
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.pass_context
@in_words
def find(context: click.Context, /, *, text: str, json_: bool, **chosen: Any) -> None:
    """Rows by address, Message-ID, queue id, batch or dedupe key: the very words; by filters; or by both.

    The latest rows first, fifty unless --limit says otherwise. Ends with 1 where there is none.
    """
    config = configuration(context)
    engine = database(config)
    limit = min(chosen.pop("limit") or MOST, MOST_OF_ALL)
    among = selection_of(config, engine, **chosen) if any(chosen.values()) or not text else None
    found = (
        find_rows(engine, text, most=limit, among=among)
        if text or among is None
        else find_chosen(engine, among, most=limit)
    )
    if json_:
        click.echo(as_json([asdict(one) for one in found]))
    if not found:
        raise Stop(_none(text))
    if json_:
        return
    lines = [(str(one.id), one.status, moment(one.created_at), one.by, one.recipients, one.subject) for one in found]
    say_table([("row", "status", "created (UTC)", "found by", "recipients", "subject"), *lines])
    if len(found) == limit:
        say(f"the latest {limit}; there may be more: --limit", err=True)


def _none(text: str) -> str:
    if not text:
        return "no row is chosen by these filters"
    return f"no row is known by {text!r}; give a whole address, Message-ID, queue id, batch or dedupe key"
