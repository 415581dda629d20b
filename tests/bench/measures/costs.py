"""What it costs: memory, round trips, statements, the composing alone, an idle hour."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from bench.book import percentile
from bench.delay import Delay
from bench.outboxes import HTML, SENDER, TEXT
from bench.processes import STOP_LIMIT_S, WORKER, cpu_seconds, lines_reach, log_of, worker
from bench.scene import HAS_LISTEN, NOT_BUILT
from servers.processes import wait_until
from servers.sink import Sink
from sqlalchemy import event

import poller.cli.samples
from poller import log
from poller.config.load import load
from poller.message.composer import Composer
from poller.message.draft import Draft
from poller.message.settings import MessageSettings, TemplateSettings
from poller.outbox.listen import install
from poller.outbox.tables import outbox as table
from poller.settings import LogSettings
from poller.worker.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.outboxes import Outbox
    from bench.scene import Scene

    from poller.worker.service import Mode

ATTACHMENT_BYTES = 10_000_000
INSERTS_PER_SECOND = 50
START_S = 2.0  # after which a worker has done what it does once


# --- memory ---


def backlog(scene: Scene) -> None:
    """Target 2: the first 10,000 of a hundred thousand, of a million: rate and memory; and of a hundred, memory."""
    first = scene.scale(10_000, 1_000)
    scene.book.say("backlog.first", f"{first:,}")
    for kind in scene.kinds():
        for waiting in (100, *scene.scale((10_000, 100_000, 1_000_000), (1_000, 10_000, 100_000))):
            with scene.outbox(kind) as outbox, Sink() as sink:
                outbox.fill(min(first, waiting))
                if waiting > first:
                    outbox.fill(waiting - first, body_html=None, body_text="Hello")
                outbox.settle()
                config = outbox.configure(sink.port)
                cost = worker(config, until=lines_reach(log_of(config), min(first, waiting)))
                count, seconds = outbox.drained()
            scene.book.add(f"backlog.{kind}.peak.{waiting}", cost.peak_mb)
            scene.book.add(f"backlog.{kind}.rate.{waiting}", count / seconds)
            scene.tell(f"{kind}, {waiting:,} waiting: {count / seconds:,.0f}/s, {cost.peak_mb:.1f} MB")


def attachments(scene: Scene) -> None:
    """Target 8: peak memory with an attachment of 10 MB on each message."""
    rows = scene.scale(100, 10)
    with scene.outbox("postgresql") as outbox, Sink() as sink:
        outbox.fill(rows)
        content = f"decode(repeat('8a5f', {ATTACHMENT_BYTES // 2}), 'hex')"
        outbox.run(
            "INSERT INTO outbox_attachment (outbox_id, name, content)"
            f" SELECT id, 'invoice.bin', file.content FROM outbox CROSS JOIN (SELECT {content} AS content) AS file"
        )
        cost = worker(outbox.configure(sink.port), "--drain")
        count, seconds = outbox.drained()
    if count != rows:
        raise RuntimeError(f"{count} of {rows} rows were sent")
    scene.book.add("attachments.peak", cost.peak_mb)
    scene.book.add("attachments.rate", count / seconds)
    scene.tell(f"{rows} attachments of 10 MB: {cost.peak_mb:.0f} MB, {count / seconds:.1f}/s")


# --- composing ---


def compose(scene: Scene) -> None:
    """Target 3: microseconds for one message, ready-made and from the demo's template."""
    templates = Path(poller.cli.samples.__file__).parent / "templates"
    composer = Composer(MessageSettings(sender=SENDER), TemplateSettings(directory=str(templates)))
    books: dict[str, Any] = {"name": "Jane", "customer": "C-1001", "books": ["Emma", "Persuasion"]}
    written = {"subject": "Your order 1", "body_text": TEXT, "body_html": HTML}
    for _ in range(scene.rounds):
        scene.book.add("compose.ready", _microseconds(scene, composer, written))
        scene.book.add("compose.template", _microseconds(scene, composer, {"template": "welcome", "context": books}))


def _microseconds(scene: Scene, composer: Composer, content: dict[str, Any]) -> float:
    date = dt.datetime.now(dt.UTC).replace(microsecond=0)
    drafts = [
        Draft(id=n, message_id=f"<{n}@example.com>", date=date, recipients=f"user{n}@example.com", **content)
        for n in range(scene.scale(2_000, 200))
    ]
    composer.compose(drafts[0])  # compiles the template
    began = time.perf_counter()
    for draft in drafts:
        composer.compose(draft)
    return (time.perf_counter() - began) / len(drafts) * 1e6


# --- counted ---


@dataclass(kw_only=True)
class Asked:
    """What one engine was asked."""

    times: list[float] = field(default_factory=list, repr=False)
    """When each was asked, by the monotonic clock."""
    commits: int = 0
    connections: int = 0

    @property
    def statements(self) -> int:
        """How many, BEGIN and COMMIT apart."""
        return len(self.times)


def _count(engine: sa.Engine) -> Asked:
    seen = Asked()

    @event.listens_for(engine, "before_cursor_execute")
    def _statement(*_: Any) -> None:
        seen.times.append(time.monotonic())

    @event.listens_for(engine, "commit")
    def _commit(_: sa.Connection) -> None:
        seen.commits += 1

    @event.listens_for(engine, "connect")
    def _connect(*_: Any) -> None:
        seen.connections += 1

    return seen


def _in_process(config: Path, mode: Mode, limit: float | None = None) -> Asked:
    """The service within this process, with its statements counted."""
    settings = load(config, os.environ)
    log.configure(LogSettings(level="error"))
    service = Service(settings, mode=mode, limit=limit)
    seen = _count(service.tick.store.engine)
    service.run(signals=False)
    return seen


def counts(scene: Scene) -> None:
    """Target 5: round trips and connections, counted on the wire; statements and commits, counted at the engine."""
    rows = scene.scale(3_000, 1_000)
    for kind in scene.kinds():
        with scene.outbox(kind) as outbox, Sink() as sink:
            outbox.fill(rows)
            with Delay(sink.port) as wire, _to_database(outbox) as (url, database_wire):
                seen = _in_process(outbox.configure(wire.port, database={"url": url}), "drain")
        book = scene.book
        if database_wire is not None:
            book.add(f"counts.{kind}.database-round-trips", database_wire.passed.round_trips / rows * 1000)
        book.add(f"counts.{kind}.round-trips", wire.passed.round_trips / rows)
        book.add(f"counts.{kind}.smtp-connections", wire.passed.connections / rows * 1000)
        book.add(f"counts.{kind}.statements", seen.statements / rows * 1000)
        book.add(f"counts.{kind}.commits", seen.commits / rows * 1000)
        book.add(f"counts.{kind}.connections", seen.connections)
        scene.tell(f"{kind}: {wire.passed.round_trips / rows:.2f} round trips a message, {seen.statements} statements")


@contextlib.contextmanager
def _to_database(outbox: Outbox) -> Iterator[tuple[str, Delay | None]]:
    """The outbox's URL by way of a proxy that counts; SQLite has no wire."""
    url = sa.make_url(outbox.url)
    if url.port is None:
        yield outbox.url, None
        return
    with Delay(url.port) as wire:
        yield url.set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False), wire


# --- waiting ---


def latency(scene: Scene) -> None:
    """Target 7: INSERT to acceptance at 50 inserts a second, with the default interval; with listen where it exists."""
    if not HAS_LISTEN:
        scene.book.say("latency.listen", f"[poll] listen: {NOT_BUILT}")
    ways: dict[str, dict[str, Any]] = {"polling": {}} | ({"listen": {"listen": True}} if HAS_LISTEN else {})
    for name, poll in ways.items():
        with _heard(scene, poll) as outbox, Sink() as sink, _running(outbox, sink.port, poll=poll):
            _insert_steadily(outbox, scene.scale(20.0, 6.0))
            wait_until(lambda outbox=outbox: not outbox.scalar(_OPEN), "the last acceptance")
            waited = _latencies(outbox)
        scene.book.add(f"latency.{name}.p50", percentile(waited, 0.5) * 1000)
        scene.book.add(f"latency.{name}.p99", percentile(waited, 0.99) * 1000)
        scene.tell(f"{name}: p50 {percentile(waited, 0.5) * 1000:.0f} ms, p99 {percentile(waited, 0.99) * 1000:.0f} ms")


def idle(scene: Scene) -> None:
    """Target 7: what a worker with nothing to do costs in a minute."""
    seconds = scene.scale(30.0, 6.0)
    ways: dict[str, dict[str, Any]] = {"polling": {}} | ({"listen": {"listen": True}} if HAS_LISTEN else {})
    for name, poll in ways.items():
        with _heard(scene, poll) as outbox, Sink() as sink:
            with _running(outbox, sink.port, poll=poll) as process:
                before = cpu_seconds(process.pid)
                time.sleep(seconds)
                used = cpu_seconds(process.pid) - before
            seen = _in_process(outbox.configure(sink.port, poll=poll), "forever", seconds + START_S)
        asked = sum(1 for at in seen.times if at > seen.times[0] + START_S)
        scene.book.add(f"idle.{name}.cpu", used / seconds * 60)
        scene.book.add(f"idle.{name}.statements", asked / seconds * 60)
        scene.tell(f"{name}, idle: {used / seconds * 60:.2f} CPU s and {asked / seconds * 60:.0f} statements a minute")


@contextlib.contextmanager
def _heard(scene: Scene, poll: dict[str, Any]) -> Iterator[Outbox]:
    """An outbox on PostgreSQL, which notifies where that is listened to."""
    with scene.outbox("postgresql") as outbox:
        if poll.get("listen"):
            install(outbox.engine)
        yield outbox


_OPEN = "SELECT count(*) FROM outbox WHERE status IN ('queued', 'sending')"


@contextlib.contextmanager
def _running(outbox: Outbox, port: int, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The worker as a process that has entered itself; ended by SIGTERM."""
    config = outbox.configure(port, **settings)
    with log_of(config).open("wb") as output:
        process = subprocess.Popen([*WORKER, "--config", str(config), "run"], stdout=output, stderr=output)
    try:
        wait_until(lambda: b"worker.started" in log_of(config).read_bytes(), "the worker's start")
        time.sleep(START_S)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_LIMIT_S)


def _insert_steadily(outbox: Outbox, seconds: float) -> None:
    values = {"recipients": "user@example.com", "subject": "Now", "body_text": TEXT, "body_html": HTML}
    began = time.monotonic()
    with outbox.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for number in range(int(seconds * INSERTS_PER_SECOND)):
            time.sleep(max(0.0, began + number / INSERTS_PER_SECOND - time.monotonic()))
            connection.execute(sa.insert(table).values(values))


def _latencies(outbox: Outbox) -> list[float]:
    """Seconds from the INSERT's own time to the acceptance, both on the database's clock."""
    with outbox.engine.connect() as connection:
        pairs = connection.execute(sa.select(table.c.created_at, table.c.sent_at)).all()
    return [(sent - created).total_seconds() for created, sent in pairs]
