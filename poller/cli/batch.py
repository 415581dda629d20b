"""`poller batch`: how far each batch is; of one, what is on its way now, how fast it goes, and when it will be done.

What is said of all of them is what the workers saw last (outbox_batch): it costs nothing to read. One is counted anew.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from poller.answers.foresight import foreseen, why_unknown
from poller.answers.standing import standing_of, waiting_of
from poller.cli.screen import say, say_table
from poller.cli.session import Misused, as_json, configuration, database, in_words
from poller.outbox.batches import SharedBatches
from poller.outbox.report import glance
from poller.units import format_duration
from poller.visible import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.outbox.batches import Detail

MOST = 50


@click.command()
@click.argument("name", required=False)
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.pass_context
@in_words
def batch(context: click.Context, name: str | None, *, json_: bool) -> None:
    """How far the batches are that moved last; or one of them: where it is, how fast it goes, when it will be done.

    Act on one with: poller pause, resume, cancel (the rest) or retry (the failed), each with --batch NAME.
    """
    config = configuration(context)
    engine = database(config)
    if name is None:
        _show_all(engine, json_=json_)
        return
    detail = SharedBatches(engine).detail(name)
    if not detail.progress.messages:
        raise Misused(f"there is no batch {name!r}")
    left, why = _left(config, engine, name) if detail.progress.open else (0.0, "")
    if json_:
        facts = {"batch": name, **asdict(detail.progress), "sending": detail.sending, "retrying": detail.retrying}
        more = {"per_minute": detail.per_minute, "seconds_left": left, "unknown_because": why or None}
        click.echo(as_json({**facts, **more, "state": detail.state}))
        return
    for line in _lines(name, detail, left, why):
        say(line)


def _left(config: Config, engine: Engine, name: str) -> tuple[float | None, str]:
    """Seconds until all of it will have gone, as limits, retries and pauses have it; or why nobody can say."""
    seen = glance(engine)
    if unknown := next(why_unknown(config, engine, seen), ""):
        return None, unknown
    standing = standing_of(config, engine, seen.at)
    found = foreseen(config, engine, seen, standing, waiting_of(config, engine, standing, name))
    return found.seconds, found.bottleneck or ""


def _lines(name: str, detail: Detail, left: float | None, why: str) -> Iterator[str]:
    progress = detail.progress
    yield f"batch     {name}: {where(detail)}"
    yield f"sent      {progress.sent:,}, not sent {progress.not_sent:,}, held {progress.held:,}"
    yield f"waiting   {progress.open - detail.sending:,}, {detail.retrying:,} of them for another try"
    yield f"rate      {detail.per_minute:,.0f} a minute"
    if left is None:
        yield f"left      unknown: {why}"
    elif progress.open:
        yield f"left      {format_duration(left)}" + (f", held by {why}" if why else "")
    if progress.held:
        yield f"held      {progress.held:,} wait for a person: poller resume --batch {name}, or poller resolve"
    if progress.first_attempt_at:
        yield f"began     {moment(progress.first_attempt_at)} UTC"
    if not (progress.open or progress.held):
        yield f"ended     {moment(progress.last_finished_at)} UTC"
    if progress.not_sent:
        yield f"why not   poller failures --batch {name}; again: poller retry --batch {name}"


def where(detail: Detail) -> str:
    """Which messages are on their way now."""
    progress, first = detail.progress, detail.progress.ended + 1
    if not detail.sending:
        return f"{progress.ended:,} of {progress.messages:,} have ended"
    if detail.sending == 1:
        return f"message {first:,} of {progress.messages:,} is on its way"
    return f"messages {first:,} to {first + detail.sending - 1:,} of {progress.messages:,} are on their way"


def _show_all(engine: Engine, *, json_: bool) -> None:
    found = SharedBatches(engine).latest(MOST)
    if json_:
        click.echo(as_json(found))
        return
    if not found:
        say("no batch has moved yet; workers look after them where [batches] watch is on")
        return
    lines = [_line(row) for row in found]
    say_table([("batch", "state", "messages", "sent", "not sent", "open", "held", "seen (UTC)"), *lines])


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    counts = (f"{row[name]:,}" for name in ("messages", "sent", "not_sent", "open", "held"))
    return (row["batch"], row["state"], *counts, moment(row["looked_at"]))
