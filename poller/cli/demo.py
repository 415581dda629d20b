"""`poller demo`: the whole of it with nothing to set up, and nothing that leaves this machine.

An SQLite outbox made by the real migration, rows written in plain SQL, a mail catcher, and the real service that
drains the outbox while one watches. Everything lies in one directory, and what the screen says is read from the tables,
as anybody could.

Rule 1. Nothing is pretended: the screen shows the INSERT that was run, the settings that differ from the defaults, and
        exits 0 only if the tables say what was planned and the catcher holds as many files.
Rule 2. It ends by itself; on a terminal the page and the service stay until Ctrl-C. Ctrl-C ends it earlier, in order; a
        second one cuts the line.
Rule 3. Without a terminal it prints lines instead of drawing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from poller import log
from poller.cli.catcher import Catcher
from poller.cli.samples.page import page_of
from poller.cli.samples.place import BATCH, PAUSE_S, RETRY_S, NotOurs, Place
from poller.cli.samples.rows import FEWEST, FIRST_INSERT, GREYLISTED, greylist, insert
from poller.cli.samples.watch import GLANCE_S, Glance, Watch, by_count, say
from poller.cli.session import Misused, in_words
from poller.judgement.retry import RetrySettings
from poller.outbox.database import connect
from poller.outbox.migrate import apply
from poller.settings import LogSettings
from poller.units import format_duration
from poller.worker.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config
    from poller.worker.service import Finished

PATIENCE_S = 60.0  # beyond what the pauses take; a demo that needs longer has failed
PLANNED = {"failed": 1, "suppressed": 1}
"""Rows by status; all others are to be sent."""

_NOT_SIMPLY_SENT = """\
SELECT id, status, attempts, coalesce(error,
    (SELECT 'at first: ' || a.error FROM outbox_attempt AS a
     WHERE a.outbox_id = o.id AND a.error IS NOT NULL ORDER BY a.id LIMIT 1), reply_text, '')
FROM outbox AS o WHERE status NOT IN ('sent', 'queued') OR attempts > (status = 'sent') ORDER BY id LIMIT 20"""
_FIRST_TO_SHOW = "SELECT coalesce((SELECT id FROM outbox WHERE recipients = ? AND status = 'sent'), 1)"


def demo(directory: Path, console: Console, messages: int = 300) -> int:
    """Run the demo in `directory` and return the exit code. Raises Misused for a directory that is not a demo's."""
    place = Place(directory)
    try:
        place.prepare()
    except NotOurs as why:
        raise Misused(str(why)) from None
    except OSError as why:
        raise Misused(f"{directory} can't be used: {why.strerror}; choose another --directory") from None
    with _log_into(place), Catcher(place.mail, refuse=greylist()) as catcher:
        config = place.config(catcher.host, catcher.port)
        place.write_config(catcher.host, catcher.port)
        _make_outbox(config)
        with closing(sqlite3.connect(place.database)) as connection, page_of(config) as address:
            insert(connection, messages)
            _introduce(console, place, catcher, messages, address)
            run = _run(config, connection, console, messages)
            code = _conclude(run, connection, console, place, caught=catcher.caught)
            if address and console.is_terminal and not run.was_stopped:
                _stay(config, console, address)
            return code


@click.command("demo")
@click.option("--messages", type=click.IntRange(FEWEST, 10_000), default=300, show_default=True, help="How many.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("poller-demo"),
    show_default=True,
    help="Where everything is put; an earlier demo there is replaced.",
)
@in_words
def demo_command(messages: int, directory: Path) -> None:
    """Show everything at work on this machine, with nothing to set up; no mail leaves it."""
    click.get_current_context().exit(demo(directory, Console(highlight=False), messages))


@contextmanager
def _log_into(place: Place) -> Iterator[None]:
    with place.log.open("a", encoding="utf-8") as stream:
        log.configure(LogSettings(format="console"), stream)
        try:
            yield
        finally:
            log.configure(LogSettings())  # to stderr again: the file is about to be closed


def _make_outbox(config: Config) -> None:
    engine = connect(config.database)
    try:
        apply(engine)
    finally:
        engine.dispose()


def _introduce(console: Console, place: Place, catcher: Catcher, messages: int, address: str) -> None:
    usual = format_duration(RetrySettings().first)
    pause, retry = format_duration(PAUSE_S), format_duration(RETRY_S)
    say(console, f"An outbox in {place.database}, and a mail catcher on {catcher.host}:{catcher.port}.")
    say(console, "No mail leaves this machine.\n")
    if address:
        say(console, f"Watch it, and read the mail, on a page: {address}\n", style="bold")
    else:
        say(console, 'For the page to watch it on: pip install "poller[web]"\n')
    say(console, f"An application writes a row, and {messages - 1} others of all kinds:\n")
    say(console, f"{indent(FIRST_INSERT, '  ')}\n", style="cyan")
    say(console, f"The service takes {BATCH} at a time. For your eyes it pauses {pause} after each batch,")
    say(console, f"and tries again {retry} after a refusal for now (usual: {usual}).\n")


# ---- the service


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How the service ended, and whether Ctrl-C was what ended it."""

    finished: Finished
    last: Glance
    was_stopped: bool


def _run(config: Config, connection: sqlite3.Connection, console: Console, messages: int) -> Run:
    limit = PATIENCE_S + 2 * PAUSE_S * messages / BATCH
    service = Service(config, mode="drain", limit=limit)
    draws = console.is_terminal and not console.is_dumb_terminal
    live = Live(console=console, auto_refresh=False, transient=True) if draws else None
    watch = Watch(connection=connection, console=console, live=live)
    with _ctrl_c(service, watch), ThreadPoolExecutor(1, "demo-service") as threads, live or nullcontext():
        running = threads.submit(service.run, signals=False)
        while not wait((running,), timeout=GLANCE_S).done:  # the service ends at its limit at the latest
            watch.look()
        watch.look()
    return Run(finished=running.result(), last=watch.glance(), was_stopped=watch.stop_asked)


@contextmanager
def _ctrl_c(service: Service, watch: Watch) -> Iterator[None]:
    """Ctrl-C stops the service. As a KeyboardInterrupt it could come in the middle of a drawing, or of the stop."""

    def stop(*_: object) -> None:
        watch.stop_asked = True
        service.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stay(config: Config, console: Console, address: str) -> None:
    """Go on until Ctrl-C: anyone who reads on the page may act there, or INSERT a row, and see it go."""
    say(console, f"The page stays at {address}, and the service goes on, until Ctrl-C.", style="bold")
    service = Service(config, mode="forever")
    before = signal.signal(signal.SIGINT, lambda *_: service.stop())
    try:
        with ThreadPoolExecutor(1, "demo-service") as threads:
            running = threads.submit(service.run, signals=False)
            while not wait((running,), timeout=GLANCE_S).done:
                pass
    finally:
        signal.signal(signal.SIGINT, before)


# ---- the end


def _conclude(run: Run, connection: sqlite3.Connection, console: Console, place: Place, *, caught: int) -> int:
    """Say how it ended, and what to try next; the exit code."""
    surprises = _surprises(run, connection, caught)
    seconds = format_duration(round(run.last.seconds, 1))
    say(console, f"\n{'Stopped' if run.was_stopped else 'Done'} after {seconds}. The table outbox says:\n")
    console.print(_statuses(run.last))
    odd = connection.execute(_NOT_SIMPLY_SENT).fetchall()
    if odd:
        say(console, "\nNot simply sent:\n")
        console.print(_table(("id", "status", "attempts", "why"), odd))
    first = connection.execute(_FIRST_TO_SHOW, (GREYLISTED,)).fetchone()[0]
    _point(console, place, caught=caught, row=first)
    for surprise in surprises:
        console.print(Text(surprise, style="bold red"))
    return int(bool(surprises))


def _surprises(run: Run, connection: sqlite3.Connection, caught: int) -> list[str]:
    """In what the outcome differs from the plan; empty when it does not."""
    if run.was_stopped and run.last.left:
        return [f"Stopped with {run.last.left} messages left: they wait in the outbox. A new demo starts anew."]
    found = []
    planned = Counter(PLANNED) + Counter({"sent": run.last.total - sum(PLANNED.values())})
    if run.finished.crashed:
        found.append("The service ended in an error: its log says which.")
    if run.last.by_status != planned:
        found.append(f"That is not what was planned: {Glance(by_status=planned, claimed=0, seconds=0).counts}.")
    if caught != run.last.by_status["sent"]:
        found.append(f"{run.last.by_status['sent']} rows are sent, but the catcher holds {caught} messages.")
    retried = connection.execute("SELECT attempts FROM outbox WHERE recipients = ?", (GREYLISTED,)).fetchone()
    if retried != (2,):  # put off once
        found.append(f"The row to {GREYLISTED} should have been sent at attempt 2.")
    return found


def _statuses(last: Glance) -> Padding:
    return _table(("status", "rows"), sorted(last.by_status.items(), key=by_count))


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Padding:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(names):
        is_number = all(isinstance(row[place], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    return Padding(table, (0, 0, 0, 2))


def _point(console: Console, place: Place, *, caught: int, row: int) -> None:
    """Where to look, and what to try."""
    database, config = shlex.quote(str(place.database)), shlex.quote(str(place.config_file))
    say(console, f"\nThe mail   {place.mail}/*.eml ({caught} files; a mail program opens them)")
    say(console, f"The log    {place.log}\n")
    say(console, "Try next:\n")
    say(console, f"  sqlite3 {database} \"SELECT id, status, error FROM outbox WHERE status <> 'sent'\"")
    say(console, f"  {_typed()} --config {config} status")
    say(console, f"  {_typed()} --config {config} show {row}\n")


def _typed() -> str:
    """How a person calls us in this shell. `uv run` puts us on the path of what it starts, and on no other."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        return "uv run poller"
    return "poller" if shutil.which("poller") else f"{shlex.quote(sys.executable)} -m poller"
