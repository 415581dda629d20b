"""`poller status | show | explain`: what an operator looks at."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from poller.answers.foresight import left_of
from poller.answers.reasons import Reasons
from poller.answers.standing import as_values, screen_lines, standing_of
from poller.cli.health import unknown, verdict
from poller.cli.screen import say, styled
from poller.cli.session import ROW_ID, Duration, Stop, as_json, configuration, database, in_words
from poller.config.load import ConfigError
from poller.outbox.database import DatabaseRefused, DatabaseUnavailable
from poller.outbox.migrate import SchemaTrouble
from poller.outbox.report import Overview, Story, overview, story
from poller.units import format_duration
from poller.visible import moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.cli.screen import Line, Part
    from poller.config.load import Config
    from poller.forecast import Standing
    from poller.outbox import Engine

WATCH_S = 1.0


@click.command()
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Until Ctrl-C.")
@click.option("--check", is_flag=True, help="One line and an exit code, for cron and Nagios: 0, 1, 2, or 3 unknown.")
@click.option("--max-age", type=Duration(), default=600.0, help="With --check: how long mail may be due unsent [10m].")
@click.pass_context
@in_words
def status(context: click.Context, *, json_: bool, watch: bool, check: bool, max_age: float) -> None:
    """Queue, rates, workers, limits, batches with progress and time left."""
    if check:
        _check(context, max_age)
    config = configuration(context)
    engine = database(config)
    if json_:
        seen = overview(engine)
        standing = standing_of(config, engine, seen.at)
        unknown, seconds = left_of(config, engine, seen, standing)
        progress = {"percent_done": seen.percent_done(), "seconds_left": seconds, "unknown_because": unknown}
        click.echo(as_json({**asdict(seen), **progress, **as_values(standing)}))
        return
    if not watch:
        for line in _now(config, engine):
            say(*line)
        return
    _watch(config, engine)


def _check(context: click.Context, max_age: float) -> NoReturn:
    try:
        config = configuration(context)
        found = verdict(config, database(config), max_age=max_age)
    except (ConfigError, DatabaseRefused, DatabaseUnavailable, SchemaTrouble) as why:
        found = unknown(str(why))
    say(found.text)
    sys.exit(found.level)


def _watch(config: Config, engine: Engine) -> None:
    """The screen with a clock. When the outbox can't be looked at, it says so beside what was seen last."""
    from rich.live import Live  # noqa: PLC0415 - takes a while to import
    from rich.text import Text  # noqa: PLC0415 - the same

    screen = list(_now(config, engine))
    with Live(auto_refresh=False) as live:
        while True:
            trouble: tuple[Part, ...] = ()
            try:
                screen = list(_now(config, engine))
            except DatabaseUnavailable as error:
                trouble = "; ", (f"can't look: {error}", "bold red")
            clock = (f"watch     {moment(datetime.now(UTC))} UTC, Ctrl-C ends it", *trouble)
            lines = "\n".join(styled(*line) for line in (*screen, clock))
            live.update(Text.from_ansi(lines), refresh=True)
            time.sleep(WATCH_S)


def _now(config: Config, engine: Engine) -> Iterator[Line]:
    seen = overview(engine)
    standing = standing_of(config, engine, seen.at)
    return _screen(seen, standing, *left_of(config, engine, seen, standing))


def _screen(seen: Overview, standing: Standing, unknown: list[str], left: float | None) -> Iterator[Line]:
    counts = ", ".join(f"{number} {name}" for name, number in sorted(seen.by_status.items())) or "empty"
    yield (f"outbox    {counts}",)
    if seen.paused is not None:
        yield (("OFF", "bold red"), f"       {seen.paused}; switch it on with: poller resume --all")
    when = "nothing is due" if not seen.due else "" if left is None else f"gone in {format_duration(left)}"
    when = f"unknown when they will have gone: {unknown[0]}" if unknown else when
    waiting = f"; next at {moment(seen.next_due_at)} UTC" if seen.next_due_at and not seen.due else ""
    yield (f"due       {seen.due} now, {seen.retrying} waiting for a retry; {when}{waiting}",)
    last = f"{seen.sent_last_minute} in the last minute, {seen.sent_last_hour} in the last hour"
    yield (f"sent      {last}",)
    for worker in seen.workers:
        yield ("worker    ", *_worker(seen, worker))
    for word, line in screen_lines(standing):
        style = "yellow" if word in {"paused", "slow", "closed"} else ""
        yield ((f"{word:<9}", style), f" {line}")
    for batch in seen.batches:
        counts = f"{batch['sent']} of {batch['messages']} sent, {batch['not_sent']} not, {batch['open']} open"
        done = f"{batch['held']} held ({batch['percent_done']:.0f}%)"
        yield (f"batch     {batch['batch']}: {counts}, {done}",)
    for failure in seen.failures[:5]:
        who = failure["address"] or failure["recipients"]
        yield ((f"{failure['status']:<9}", "yellow"), f" {failure['id']} {who}: {failure['error']}")


def _worker(seen: Overview, worker: Any) -> Iterator[Part]:
    yield f"{worker['name']} on {worker['host']} (pid {worker['pid']}): "
    if worker["state"] == "stopped":
        yield f"stopped at {moment(worker['stopped_at'])} UTC"
    elif worker["state"] == "silent":
        yield "silent", "bold red"
        yield f" since {moment(worker['heartbeat_at'])} UTC"
    else:
        ago = (seen.at - worker["heartbeat_at"]).total_seconds()
        yield f"alive, heartbeat {format_duration(max(0.0, ago))} ago"
        if worker["trouble"]:
            yield "; "
            yield worker["trouble"], "yellow"


@click.command()
@click.argument("row_id", type=ROW_ID, metavar="ID")
@click.option("--raw", is_flag=True, help="The message as it would go out now.")
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.pass_context
@in_words
def show(context: click.Context, row_id: int, *, raw: bool, json_: bool) -> None:
    """A row's whole story; with --raw the message as it would go out now."""
    config = configuration(context, to_compose=raw)
    engine = database(config)
    told = _story(engine, row_id)
    if raw:
        from poller.cli.raw import show_raw  # noqa: PLC0415 - what composes takes a while to import

        show_raw(config, engine, told)
    elif json_:
        click.echo(as_json(asdict(told)))
    else:
        _show_story(told)


def _story(engine: Engine, row_id: int) -> Story:
    told = story(engine, row_id)
    if told is None:
        raise Stop(f"there is no row {row_id}")
    return told


def _show_story(told: Story) -> None:
    for name, value in told.row.items():
        if value is not None and name not in {"body_text", "body_html", "raw"}:
            say(f"{name:<17}{moment(value) if name.endswith('_at') else value}")
        elif value is not None:
            say(f"{name:<17}{len(value)} {'bytes' if name == 'raw' else 'characters'}")
    for file in told.attachments:
        where = f"{file['size']} bytes" if file["path"] is None else f"at {file['path']}"
        say(f"attachment       {file['name']} ({file['content_type']}, {where})")
    for one in told.recipients:
        reply = " ".join(str(one[name]) for name in ("reply_code", "reply_status", "reply_text") if one[name])
        say(f"recipient        {one['address']}: {one['status']}, {one['attempts']} attempts; {one['error'] or reply}")
    for line in told.attempts:
        who = f" {line['recipient']}" if line["recipient"] else ""
        blame = f" ({line['blame']})" if line["blame"] else ""
        why = line["error"] or line["reply_text"] or ""
        say(f"{moment(line['at'])}  {line['outcome']}{who}{blame} by {line['worker']}: {why}")


@click.command()
@click.argument("row_id", type=ROW_ID, metavar="ID")
@click.pass_context
@in_words
def explain(context: click.Context, row_id: int) -> None:
    """Why a row is or is not going out."""
    config = configuration(context)
    engine = database(config)
    for line in Reasons(config, engine, _story(engine, row_id)).lines():
        say(line)
