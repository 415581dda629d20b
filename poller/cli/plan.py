"""`poller plan`: when what waits will be done, what takes so long, and which settings will not do what they seem to.

Nothing is sent or changed. Exit codes: 0; 2 for a batch that does not exist.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from poller.answers.foresight import foreseen, why_unknown
from poller.answers.standing import standing_of, waiting_of
from poller.cli.screen import say, say_table
from poller.cli.session import Misused, as_json, configuration, database, in_words
from poller.forecast import warnings
from poller.outbox.report import glance, held_rows
from poller.outbox.waiting import has_batch
from poller.units import format_duration
from poller.visible import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.forecast import Forecast

MOST_DESTINATIONS = 10


@click.command()
@click.option("--batch", help="Only rows of this batch, as if the others were not there.")
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.pass_context
@in_words
def plan(context: click.Context, *, batch: str | None, json_: bool) -> None:
    """When the queue, or a batch, will be done, and what takes so long. Nothing is sent."""
    config = configuration(context)
    engine = database(config)
    if batch is not None and not has_batch(engine, batch):
        raise Misused(f"there is no batch {batch!r}")
    seen = glance(engine)
    standing = standing_of(config, engine, seen.at)
    waiting = waiting_of(config, engine, standing, batch)
    found = foreseen(config, engine, seen, standing, waiting)
    unknown = list(why_unknown(config, engine, seen)) if found.messages else []
    messages, workers = sum(some.messages for some in waiting), max(1, len(seen.alive))
    doubts = warnings(standing, config.poll, config.retry, messages=messages, workers=workers)
    later = sum(some.messages for some in waiting if some.first_due and some.first_due > seen.at)
    if json_:
        more = {"batch": batch, "due_later": later, "notes": _notes(found, held_rows(engine)), "warnings": doubts}
        click.echo(as_json({**_values(found, unknown), **more}))
        return
    say(f"waiting   {found.messages:,} messages" + (f", {later:,} of them due later" if later else ""))
    _show(found, unknown, _notes(found, held_rows(engine)), doubts)


def _notes(found: Forecast, held: int) -> list[str]:
    """What the forecast has not reckoned with."""
    notes = [f"{count} rows name the relay {name}, which is not configured" for name, count in found.unknown_relays]
    if held:
        notes.append(f"{held} rows that a person holds or must decide are left out")
    return notes


def _values(found: Forecast, unknown: list[str]) -> dict[str, Any]:
    """Times are None while nobody can say; `seconds` is then what it takes once mail can go."""
    values = {name: value for name, value in asdict(found).items() if name != "unknown_relays"}
    times = {"first_at": None, "last_at": None} if unknown else {}
    return {**values, **times, "per_minute": found.per_minute, "seconds": found.seconds, "unknown_because": unknown}


def _show(found: Forecast, unknown: list[str], notes: list[str], doubts: tuple[str, ...]) -> None:
    if unknown:
        say(("unknown", "yellow"), f"   when they will have gone: {unknown[0]}")
        for reason in unknown[1:]:
            say(f"          and: {reason}")
        say(f"after it  {format_duration(found.seconds)}, held by {found.bottleneck or 'nothing'}")
    elif found.messages:
        say(f"rate      {_rounded(found.per_minute)} a minute")
        say(f"held by   {found.bottleneck or 'nothing'}")
        say(f"first at  {moment(found.first_at)} UTC")
        say(f"last at   {moment(found.last_at)} UTC, in {format_duration(found.seconds)}")
    if len(found.destinations) > 1 or any(one.limit for one in found.destinations):
        say_table(_table(found))
    for note in notes:
        say(f"note      {note}")
    for doubt in doubts:
        say(("warning", "yellow"), f"   {doubt}")


def _table(found: Forecast) -> Iterator[tuple[str, ...]]:
    yield "slowest", "waiting", "limit", "done at (UTC)"
    for one in found.destinations[:MOST_DESTINATIONS]:
        yield one.name, f"{one.messages:,}", one.limit, moment(one.done_at)
    if len(found.destinations) > MOST_DESTINATIONS:
        yield f"and {len(found.destinations) - MOST_DESTINATIONS} more", "", "", ""


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"  # noqa: PLR2004 - two digits are enough
