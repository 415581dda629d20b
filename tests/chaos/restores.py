"""A dump of the outbox is restored: under another name, as on a staging machine, and yesterday's under its own.

The latter with the worker stopped, and into the very database from under a worker that is idle or at work.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from chaos.ground import NAMES, Ground, Line, Skipped, drain, wait_until
from chaos.recorder import Recorder
from service import zygote
from service.bench import Bench, terminate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.zygote import Process

    Running = contextlib.AbstractContextManager[Process] | contextlib.AbstractContextManager[subprocess.Popen[bytes]]

ROWS = 120
"""Open when the dump is made, sent by the time it is restored: more than a worker mends without asking."""
NEW = 10
"""Written after the restoration under its own name, by an application that knows of nothing."""
LOOK_S = 3.0  # how long a worker runs on the copy; it polls every 0.2 s
TOOLS = {"postgresql": ("pg_dump", "psql"), "mariadb": ("mariadb-dump", "mariadb"), "sqlite": ()}
Where = Literal["under another name", "under its own name"]
State = Literal["idle", "at work"]
STATES: tuple[State, ...] = ("idle", "at work")
ANSWER_S = 0.005  # while it is at work, so that the dump comes back in the midst of it


def restore(ground: Ground, *, seconds: float = LOOK_S) -> Iterator[Line]:
    """Each database, each way."""
    why_not = _has_no_guard()
    if why_not:
        raise Skipped(why_not)
    for kind in ground.kinds:
        missing = [tool for tool in TOOLS[kind] if shutil.which(tool) is None]
        if missing:
            raise Skipped(f"not installed: {', '.join(missing)}")
        wheres: tuple[Where, ...] = ("under another name", "under its own name")
        for where in wheres:
            yield _restored(ground, kind, where, seconds)
        for state in STATES:
            yield _restored_in_place(ground, kind, state, seconds)


def _has_no_guard() -> str:
    asked = subprocess.run(
        [sys.executable, "-m", "poller", "adopt", "--help"], capture_output=True, check=False, env=zygote.environment()
    )
    return "this version has no guard against a restored outbox (poller adopt)" if asked.returncode else ""


def _restored(ground: Ground, kind: str, where: Where, seconds: float) -> Line:
    with ground.bench(kind) as bench, Recorder() as relay:
        config = bench.configure(relay.host, relay.port)
        bench.insert(5, recipients="first{n}@example.com")
        drain(bench, config, seconds=60)  # so that the outbox knows whose it is
        bench.insert(ROWS, recipients="later{n}@example.com")
        copy = Copy(bench, kind)
        copy.dump()
        drain(bench, config, seconds=60)
        with copy.restored(where) as there:
            if there is bench:  # its worker remembers what it sent, so that only what is new is left to send
                there.insert(NEW, recipients="new{n}@example.com")
            else:
                config = there.configure(relay.host, relay.port)
            expected = NEW if there is bench else ROWS
            asked, said = let_it_run(there, config, relay, seconds)
            before = len(relay.entries)
            adopted = there.poller(config, "adopt", "--yes")
            drain(there, config, seconds=60)
            after = len(relay.entries) - before
    cells = {
        "database": NAMES[kind],
        "restored": where,
        "open rows in the dump": ROWS,
        "new rows": NEW if expected == NEW else 0,
        "sent without being asked": asked,
        "says": said,
        "poller adopt": f"exit code {adopted.returncode}",
        "sent after it": after,
    }
    broken = [f"{asked} sent again without being asked"] if asked else []
    broken += [] if after == expected else [f"{after} and not {expected} sent after poller adopt"]
    broken += [] if said else ["nobody says why"]
    return Line(cells=cells, broken=tuple(broken))


def _restored_in_place(ground: Ground, kind: str, state: State, seconds: float) -> Line:
    """The dump comes back into the very database, table by table as the tool does it, and the worker goes on."""
    pause = ANSWER_S if state == "at work" else 0.0
    with ground.bench(kind) as bench, Recorder(on_taken=lambda _: time.sleep(pause) is None) as relay:
        config = bench.configure(relay.host, relay.port, worker={"heartbeat": "500ms"})
        bench.insert(5, recipients="first{n}@example.com")
        drain(bench, config, seconds=60)
        with bench.running(config) as process:
            bench.insert(ROWS, recipients="later{n}@example.com")
            copy = Copy(bench, kind)
            copy.dump()
            enough = 5 + ROWS if state == "idle" else 5 + ROWS // 2
            wait_until(lambda: len(relay.entries) >= enough, f"{enough} messages were sent")
            if state == "idle":
                wait_until(lambda: bench.statuses() == {"sent": 5 + ROWS}, "they were written down")
            copy.load_in_place()
            bench.insert(NEW, recipients="new{n}@example.com")
            wait_until(lambda: _has_noticed(bench) or process.poll() is not None, "the worker noticed", every=0.1)
            time.sleep(seconds)
            before = len(relay.entries)
            adopted = bench.poller(config, "adopt", "--yes")
            if process.poll() is None:
                terminate(process)
        events = {line["event"] for line in bench.log() if line.get("level") in {"warning", "error"}}
        drain(bench, config, seconds=60)
        sent = Counter(address for entry in relay.entries for address in entry.recipients)
    twice = sum(count - 1 for count in sent.values())
    lost = 5 + ROWS + NEW - len(sent)
    cells = {
        "database": NAMES[kind],
        "restored": f"in place, the worker {state}",
        "open rows in the dump": ROWS,
        "new rows": NEW,
        "sent without being asked": twice,
        "says": "; ".join(sorted(events)),
        "poller adopt": f"exit code {adopted.returncode}",
        "sent after it": len(relay.entries) - before,
    }
    broken = [f"{twice} sent twice"] if twice else []
    broken += [f"{lost} lost"] if lost else []
    broken += [] if "outbox.older" in events else ["nobody says why"]
    return Line(cells=cells, broken=tuple(broken))


def _has_noticed(bench: Bench) -> bool:
    """The worker has found an older outbox, and written down again what it knew: it asks a person only then."""
    events = [line["event"] for line in bench.log()]
    return "journal.replayed" in events[events.index("outbox.older") :] if "outbox.older" in events else False


def let_it_run(
    bench: Bench, config: Path, relay: Recorder, seconds: float, *, running: Running | None = None
) -> tuple[int, str]:
    """A worker for some seconds; the messages it sent, and what it says in the log or in outbox_worker."""
    before, lines = len(relay.entries), len(bench.log())
    log = bench.directory / f"{bench.name}.log"
    size = log.stat().st_size if log.exists() else 0
    with running or bench.running(config) as process:
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with bench.engine.connect() as connection:
            trouble = connection.execute(sa.text("SELECT max(trouble) FROM outbox_worker")).scalar()
        if process.poll() is None:
            terminate(process)
    events = {line["event"] for line in bench.log()[lines:] if line.get("level") in {"warning", "error"}}
    events = {event for event in events if not event.startswith("attempt.")}
    words = log.read_text()[size:].strip().splitlines()[-1:] if process.returncode == 2 else []
    return len(relay.entries) - before, "; ".join(filter(None, [trouble, *sorted(events), *words]))


@dataclass
class Copy:
    """A dump by the database's own tools, and its restoration."""

    bench: Bench
    kind: str
    programs: Path | None = None
    """Where the server's own are, which no older ones can stand in for."""

    def __post_init__(self) -> None:
        self.file = self.bench.directory / "dump"
        self.url = sa.make_url(self.bench.database.url)

    def dump(self) -> None:
        if self.kind == "sqlite":
            source, target = sqlite3.connect(self.url.database or ""), sqlite3.connect(self.file)
            with contextlib.closing(source), contextlib.closing(target):
                source.backup(target)
            return
        with self.file.open("wb") as out:
            self._tool(*self._dumper(), self.url.database or "", out=out)

    def load_anew(self) -> None:
        """As a database of the same name, at the same address."""
        self._load(self.url.database or "", anew=True)

    def load_in_place(self) -> None:
        """Over what is there, as an operator does it who has stopped nothing."""
        name = self.url.database or ""
        if self.kind == "sqlite":
            source, target = sqlite3.connect(self.file), sqlite3.connect(name)
            with contextlib.closing(source), contextlib.closing(target):
                source.backup(target)
            return
        with self.file.open("rb") as source:
            self._tool(*self._client(), name, source=source)

    @contextlib.contextmanager
    def restored(self, where: Where) -> Iterator[Bench]:
        """A bench on the restored outbox; the former one when it has the same name."""
        if where == "under its own name":
            self.bench.engine.dispose()
            self.load_anew()
            yield self.bench
            return
        name = f"poller_test_{secrets.token_hex(6)}"
        if self.kind == "sqlite":
            name = str(self.bench.directory / "copy.db")
        url = self.url.set(database=name).render_as_string(hide_password=False)
        try:
            self._load(name, anew=False)
            there = Bench(
                database=replace(self.bench.database, url=url), directory=self.bench.directory, name="staging"
            )
            there.settings = self.bench.settings
            try:
                yield there
            finally:
                there.close()
        finally:
            self._drop(name)

    def _load(self, name: str, *, anew: bool) -> None:
        if anew:
            self._drop(name)
        if self.kind == "sqlite":
            shutil.copy(self.file, name)
            return
        self._statement(f"CREATE DATABASE {name}")
        with self.file.open("rb") as source:
            self._tool(*self._client(), name, source=source)

    def _drop(self, name: str) -> None:
        if self.kind == "sqlite":
            for suffix in ("", "-wal", "-shm"):
                Path(name + suffix).unlink(missing_ok=True)
            return
        force = " WITH (FORCE)" if self.kind == "postgresql" else ""
        self._statement(f"DROP DATABASE IF EXISTS {name}{force}")

    def _statement(self, sql: str) -> None:
        if self.kind == "postgresql":
            self._tool(*self._client(), "postgres", "-c", sql)
        else:
            self._tool(*self._client(), "-e", sql)

    def _dumper(self) -> list[str]:
        if self.kind == "postgresql":
            return ["pg_dump", "--clean", "--if-exists", *self._at()]
        return ["mariadb-dump", *self._at()]

    def _client(self) -> list[str]:
        return (
            ["psql", "-q", "-v", "ON_ERROR_STOP=1", *self._at()]
            if self.kind == "postgresql"
            else ["mariadb", *self._at()]
        )

    def _at(self) -> list[str]:
        port = "-p" if self.kind == "postgresql" else "-P"
        user = "-U" if self.kind == "postgresql" else "-u"
        return ["-h", self.url.host or "", port, str(self.url.port), user, self.url.username or ""]

    def _tool(self, *command: str, source: Any = subprocess.DEVNULL, out: Any = subprocess.PIPE) -> None:
        secret = {"PGPASSWORD": self.url.password, "MYSQL_PWD": self.url.password} if self.url.password else {}
        environment = {**os.environ, **{name: str(word) for name, word in secret.items()}}
        if self.programs is not None:
            environment["PATH"] = f"{self.programs}{os.pathsep}{environment.get('PATH', '')}"
        subprocess.run(
            command, stdin=source, stdout=out, stderr=subprocess.PIPE, check=True, timeout=60, env=environment
        )
