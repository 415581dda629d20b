"""`poller failures`: who did not get it, counted by what they have in common.

One line for each reason, the most frequent first, with the number of recipients and a row to look at.
"""

from __future__ import annotations

import click

from poller.answers.causes import SIDES, counted
from poller.cli.screen import say, say_table
from poller.cli.session import Duration, Misused, as_json, configuration, database, in_words
from poller.outbox.report import MOST_FAILURES
from poller.outbox.report import failures as failures_of
from poller.outbox.waiting import has_batch
from poller.units import format_duration

DAY_S = 86400.0


@click.command()
@click.option("--since", type=Duration(), default=DAY_S, help="How far back, such as 7d [1d].")
@click.option("--batch", help="Only rows of this batch.")
@click.option("--by", type=click.Choice(list(SIDES)), default="reason", show_default=True, help="What is counted.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Lines.")
@click.option("--json", "json_", is_flag=True, help="For programs: all lines.")
@click.pass_context
@in_words
def failures(context: click.Context, *, since: float, batch: str | None, by: str, limit: int, json_: bool) -> None:
    """Who did not get it, and why, counted. Addresses and ids are taken out of the reasons."""
    engine = database(configuration(context))
    if batch is not None and not has_batch(engine, batch):
        raise Misused(f"there is no batch {batch!r}")
    found = failures_of(engine, seconds=since, batch=batch)
    lines = counted(found, SIDES[by])
    if json_:
        click.echo(as_json([{by: name, "recipients": number, "example": row_id} for name, number, row_id in lines]))
        return
    more = f", the latest {MOST_FAILURES:,} of them" if len(found) == MOST_FAILURES else ""
    say(f"{len(found):,} did not get it in the last {format_duration(since)}{more}")
    if lines:
        shown = [(f"{number:,}", str(row_id), name) for name, number, row_id in lines[:limit]]
        say_table([("recipients", "for example row", by), *shown])
    if len(lines) > limit:
        say(f"and {len(lines) - limit} more: --limit", err=True)
