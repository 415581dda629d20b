"""`poller status | show | explain`: what an operator looks at."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.live import Live
from rich.table import Table

from poller.cli.session import ROW_ID, Stop, as_json, configuration, database, in_words, moment, out
from poller.message import Attachment, Composer, Draft, Unsendable
from poller.outbox.report import Overview, Story, attachments_of, overview, story
from poller.units import format_duration

if TYPE_CHECKING:
    from poller.config import Config
    from poller.outbox import Engine

WATCH_S = 1.0


@click.command()
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Until Ctrl-C.")
@click.pass_context
@in_words
def status(context: click.Context, *, json_: bool, watch: bool) -> None:
    """Queue, rates, workers, batches with progress and time left."""
    engine = database(configuration(context))
    if json_:
        seen = overview(engine)
        click.echo(as_json({**asdict(seen), "percent_done": seen.percent_done(), "seconds_left": seen.seconds_left()}))
        return
    if not watch:
        out.print(_screen(overview(engine)))
        return
    with Live(_screen(overview(engine)), console=out, refresh_per_second=2) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(_screen(overview(engine)))


def _screen(seen: Overview) -> Table:
    grid = Table.grid(padding=(0, 0))
    counts = ", ".join(f"{number} {name}" for name, number in sorted(seen.by_status.items())) or "empty"
    grid.add_row(f"outbox    {counts}")
    if seen.paused is not None:
        grid.add_row(f"[bold red]OFF[/bold red]       {seen.paused}; switch it on with: poller resume --all")
    left = seen.seconds_left() if seen.paused is None else None
    when = (
        format_duration(left) + " left at this rate"
        if left
        else "nothing is due"
        if not seen.due
        else "nothing is going out"
    )
    waiting = f"; next at {moment(seen.next_due_at)} UTC" if seen.next_due_at and not seen.due else ""
    grid.add_row(f"due       {seen.due} now, {seen.retrying} waiting for a retry; {when}{waiting}")
    grid.add_row(f"sent      {seen.sent_last_minute} in the last minute, {seen.sent_last_hour} in the last hour")
    for worker in seen.workers:
        grid.add_row(f"worker    {_worker(seen, worker)}")
    for batch in seen.batches:
        grid.add_row(
            f"batch     {batch['batch']}: {batch['sent']} of {batch['messages']} sent, {batch['not_sent']} not, "
            f"{batch['open']} open, {batch['held']} held ({batch['percent_done']:.0f}%)"
        )
    for failure in seen.failures[:5]:
        who = failure["address"] or failure["recipients"]
        grid.add_row(f"[yellow]{failure['status']:<9}[/yellow] {failure['id']} {who}: {failure['error']}")
    return grid


def _worker(seen: Overview, worker: Any) -> str:
    if worker["stopped_at"]:
        state = f"stopped at {moment(worker['stopped_at'])} UTC"
    elif worker["lease_until"] < seen.at:
        state = f"[bold red]silent[/bold red] since {moment(worker['heartbeat_at'])} UTC"
    else:
        ago = (seen.at - worker["heartbeat_at"]).total_seconds()
        state = f"alive, heartbeat {format_duration(max(0.0, ago))} ago"
        if worker["trouble"]:
            state += f"; [yellow]{worker['trouble']}[/yellow]"
    return f"{worker['name']} on {worker['host']} (pid {worker['pid']}): {state}"


@click.command()
@click.argument("row_id", type=ROW_ID, metavar="ID")
@click.option("--raw", is_flag=True, help="The message itself, as it would go out.")
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.pass_context
@in_words
def show(context: click.Context, row_id: int, *, raw: bool, json_: bool) -> None:
    """A row's whole story; with --raw the message as it would go out."""
    config = configuration(context)
    engine = database(config)
    told = _story(engine, row_id)
    if raw:
        _show_raw(config, engine, told)
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
        if value is not None and name not in {"body_text", "body_html"}:
            click.echo(f"{name:<17}{moment(value) if name.endswith('_at') else value}")
        elif value is not None:
            click.echo(f"{name:<17}{len(value)} characters")
    for file in told.attachments:
        click.echo(f"attachment       {file['name']} ({file['content_type']}, {file['size']} bytes)")
    for one in told.recipients:
        reply = " ".join(str(one[name]) for name in ("reply_code", "reply_status", "reply_text") if one[name])
        click.echo(
            f"recipient        {one['address']}: {one['status']}, {one['attempts']} attempts; {one['error'] or reply}"
        )
    for line in told.attempts:
        who = f" {line['recipient']}" if line["recipient"] else ""
        blame = f" ({line['blame']})" if line["blame"] else ""
        why = line["error"] or line["reply_text"] or ""
        click.echo(f"{moment(line['at'])}  {line['outcome']}{who}{blame} by {line['worker']}: {why}")


def _show_raw(config: Config, engine: Engine, told: Story) -> None:
    row = told.row
    composer = Composer(config.message, config.templates)
    files = tuple(Attachment(**file) for file in attachments_of(engine, row["id"]))
    names = Draft.__dataclass_fields__.keys() - {"id", "message_id", "date", "attachments"}
    draft = Draft(
        id=row["id"],
        message_id=row["message_id"] or f"<given-at-the-first-claim@{composer.message_id_domain}>",
        date=(row["first_attempt_at"] or row["created_at"]).replace(microsecond=0),
        attachments=files,
        **{name: row[name] for name in names},
    )
    try:
        sys.stdout.buffer.write(composer.compose(draft).content)
    except Unsendable as error:
        raise Stop(f"this row can't become a message: {error}") from None


@click.command()
@click.argument("row_id", type=ROW_ID, metavar="ID")
@click.pass_context
@in_words
def explain(context: click.Context, row_id: int) -> None:
    """Why a row is or is not going out."""
    engine = database(configuration(context))
    told = _story(engine, row_id)
    click.echo(_reason(told.row, overview(engine)))


def _reason(row: Any, seen: Overview) -> str:
    if row["status"] == "queued":
        return _why_waiting(row, seen)
    ended = f"it is {row['status']}: {row['error'] or 'by an operator'}; start it afresh with: poller retry {row['id']}"
    return {
        "sending": f"{row['claimed_by']} has it since {moment(row['claimed_at'])} UTC",
        "paused": f"an operator holds it; let it go with: poller resume {row['id']}",
        "in_doubt": f"{row['error']}; decide with: poller resolve {row['id']} --sent | --resend | --failed",
        "sent": f"it was sent at {moment(row['sent_at'])} UTC: {row['reply_code']} {row['reply_text']}",
    }.get(row["status"], ended)


def _why_waiting(row: Any, seen: Overview) -> str:
    before = f"; last time: {row['error']}" if row["error"] else ""
    if seen.paused is not None:
        return f"the whole outbox is off: {seen.paused}; switch it on with: poller resume --all"
    if row["due_at"] > seen.at:
        wait = format_duration((row["due_at"] - seen.at).total_seconds())
        return f"it is due in {wait}, at {moment(row['due_at'])} UTC{before}"
    trouble = next((w["trouble"] for w in seen.workers if w["trouble"] and w["lease_until"] >= seen.at), None)
    if trouble:
        return f"it is due, but {trouble}{before}"
    if not _alive(seen):
        return f"it is due, and no worker is alive; start one with: poller run{before}"
    return f"it is due, with priority {row['priority']} among {seen.due} due rows{before}"


def _alive(seen: Overview) -> bool:
    return any(worker["lease_until"] >= seen.at for worker in seen.workers)
