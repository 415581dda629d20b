"""A whole installation in a temporary directory: an outbox, a configuration file, and the real program as a process."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import default
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from service import zygote

from poller.outbox.database import connect, transaction
from poller.outbox.tables import attempt, outbox, recipient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from servers.fault import FaultServer
    from service.zygote import Process

    from poller.outbox.settings import DatabaseSettings

# Retry delays shortened openly: what takes minutes in production takes fractions of a second here.
HASTY: dict[str, dict[str, Any]] = {
    "retry": {"first": "300ms", "longest": "1s"},
    "poll": {"interval": "200ms"},
    "log": {"format": "json", "level": "info"},
    # The domains of the tests are nobody's: no name server need hear of them.
    "throttle": {"look_up_mx": False},
}


_IN_THE_LONG_RUN = [pytest.param(kind, marks=pytest.mark.long) for kind in ("postgresql", "mariadb")]
WHATEVER_THE_DATABASE = pytest.mark.parametrize("kind", ["sqlite", *_IN_THE_LONG_RUN])
"""For a rule that the database has no part in: on one of them, and on each in the long run."""


@dataclass(kw_only=True)
class Bench:
    """One outbox and how to work on it."""

    database: DatabaseSettings
    directory: Path
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    name: str = "w1"
    through: str = ""
    """The database's address for the program, if it is another than ours."""

    def __post_init__(self) -> None:
        self.engine = connect(self.database)

    def insert(self, count: int = 1, **columns: Any) -> list[int]:
        """Rows as an application writes them; `{n}` in a text column becomes the row's number."""
        base = {"recipients": "user{n}@example.com", "subject": "Message {n}", "body_text": "Hello {n}\n", **columns}
        rows = [
            {name: value.replace("{n}", str(n)) if isinstance(value, str) else value for name, value in base.items()}
            for n in range(count)
        ]

        def work(connection: sa.Connection) -> list[int]:
            before = connection.execute(sa.select(sa.func.coalesce(sa.func.max(outbox.c.id), 0))).scalar_one()
            connection.execute(sa.insert(outbox), rows)
            query = sa.select(outbox.c.id).where(outbox.c.id > before).order_by(outbox.c.id)
            return list(connection.execute(query).scalars())

        return transaction(self.engine, work)

    def rows(self, *ids: int) -> list[Any]:
        """Rows of outbox, by id."""
        query = sa.select(outbox).order_by(outbox.c.id)
        if ids:
            query = query.where(outbox.c.id.in_(ids))
        return transaction(self.engine, lambda c: c.execute(query).all(), reading=True)

    def row(self, row_id: int) -> Any:
        """One row."""
        return self.rows(row_id)[0]

    def statuses(self) -> Counter[str]:
        """How many rows have which status."""
        return Counter(row.status for row in self.rows())

    def recipients(self, row_id: int) -> dict[str, Any]:
        """The rows of outbox_recipient, by address."""
        query = sa.select(recipient).where(recipient.c.outbox_id == row_id)
        return {row.address: row for row in transaction(self.engine, lambda c: c.execute(query).all(), reading=True)}

    def history(self, row_id: int) -> list[Any]:
        """The rows of outbox_attempt."""
        query = sa.select(attempt).where(attempt.c.outbox_id == row_id).order_by(attempt.c.id)
        return transaction(self.engine, lambda c: c.execute(query).all(), reading=True)

    def configure(self, host: str, port: int, **settings: Mapping[str, Any]) -> Path:
        """Write the configuration file and return its path."""
        sections: dict[str, dict[str, Any]] = {
            "database": {"url": self.through or self.database.url, "lock_timeout": "2s"},
            "smtp": {"host": host, "port": port, "security": "none", "rest_first": "200ms", "rest_longest": "1s"},
            "message": {"sender": "Shop <shop@example.com>"},
            "worker": {"name": self.name, "state_dir": str(self.directory / f"state-{self.name}")},
            **{name: dict(values) for name, values in HASTY.items()},
        }
        for name, values in (*self.settings.items(), *settings.items()):
            sections.setdefault(name, {}).update(values)
        path = self.directory / f"{self.name}.toml"
        path.write_text("".join(_section(name, values) for name, values in sections.items()))
        return path

    @contextlib.contextmanager
    def running(self, config: Path, *arguments: str) -> Iterator[Process]:
        """`poller run` as a process; killed at the end if it still runs."""
        log = self.directory / f"{self.name}.log"
        process = zygote.start(["--config", str(config), "run", *arguments], log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def run(self, config: Path, *arguments: str, timeout: float = 100) -> int:
        """`poller run …` to its end; returns the exit code."""
        with self.running(config, *arguments) as process:
            return process.wait(timeout)

    def poller(self, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Any other command, to its end."""
        command = [sys.executable, "-m", "poller", "--config", str(config), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=zygote.environment()
        )

    def log(self) -> list[dict[str, Any]]:
        """What the process logged."""
        file = self.directory / f"{self.name}.log"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until `condition` holds; AssertionError with the log's end otherwise."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log()[-5:]
            time.sleep(0.02)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


@dataclass(frozen=True, kw_only=True)
class Books:
    """What was committed, what the relay accepted, and what the rows say, side by side."""

    committed: int
    accepted: int
    duplicates: int
    lost: int
    statuses: Counter[str]
    attempts: int
    doubts: int
    wrongly_marked: int


def books(bench: Bench, relay: FaultServer) -> Books:
    """Compare the three. A message is known by its Message-ID and recipient."""
    rows = bench.rows()
    taken: Counter[str] = Counter()
    for message in relay.messages:
        taken[str(BytesParser(policy=default).parsebytes(message.content, headersonly=True)["Message-ID"])] += 1
    open_or_held = {"queued", "sending", "in_doubt", "paused"}
    return Books(
        committed=len(rows),
        accepted=sum(taken.values()),
        duplicates=sum(count - 1 for count in taken.values()),
        lost=sum(1 for row in rows if row.status == "sent" and not taken[row.message_id]),
        statuses=Counter(row.status for row in rows),
        attempts=sum(row.attempts for row in rows),
        doubts=sum(row.doubts for row in rows),
        wrongly_marked=sum(
            1
            for row in rows
            if (row.status not in {"sent", *open_or_held}) and row.message_id and taken[row.message_id]
        ),
    )


def _section(name: str, values: Mapping[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()) + "\n"


def terminate(process: Process) -> float:
    """SIGTERM, and how long it took to end, in seconds."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    return time.monotonic() - began
