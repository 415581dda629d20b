"""The peers, from outside: their environment, made once with uv, and a run of each on a database of its own.

Each is tuned in its favour (one connection kept open, no log of successes) and timed without its start.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import databases
from bench.outboxes import HTML, TEXT
from bench.processes import LIMIT_S, measured

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(__file__).parents[2] / ".cache" / "bench"
PROGRAMS = Path(__file__).parent / "peers"
PACKAGES = ("django-post_office==3.12.*", "django-mailer==2.3.*", "psycopg[binary]>=3.2.4,<4")
PEERS = ("post_office", "mailer", "naive")
AS_IT_COMES = "post_office_default"
"""The fastest of them with its own defaults: it writes down a hundred at a time, and a log row for each message."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The sending alone."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def interpreter() -> Path:
    """Of the peers' environment; installed at the first call."""
    home = CACHE / "peers"
    python = home / "bin" / "python"
    wanted = home / "installed"
    if wanted.exists() and wanted.read_text() == "\n".join(PACKAGES):
        return python
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run(["uv", "venv", "-q", str(home)], check=True, timeout=LIMIT_S)
    subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *PACKAGES], check=True, timeout=LIMIT_S)
    wanted.write_text("\n".join(PACKAGES))
    return python


def versions() -> dict[str, str]:
    """Of what is compared with."""
    command = ["uv", "pip", "list", "-q", "--format", "json", "--python", str(interpreter())]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    return {package["name"]: package["version"] for package in listed}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One peer with a database full of mail."""

    name: str
    environment: dict[str, str]
    directory: Path

    def send(self, port: int) -> Timed:
        """Everything to this port."""
        log = self.directory / f"{self.name}.log"
        cost = measured(self._command("send"), log, environment=self.environment | {"BENCH_SMTP_PORT": str(port)})
        said = log.read_text()
        if cost.exit_code:
            raise RuntimeError(f"{self.name} ended with {cost.exit_code}\n{said[-2000:]}")
        alone = json.loads(said.splitlines()[-1])
        return Timed(seconds=alone["seconds"], cpu_seconds=alone["cpu_seconds"], peak_mb=cost.peak_mb)

    def fill(self, count: int) -> None:
        """Make its tables and this many messages."""
        log = self.directory / f"{self.name}-fill.log"
        cost = measured(self._command("fill", str(count)), log, environment=self.environment)
        if cost.exit_code:
            raise RuntimeError(f"{self.name} ended with {cost.exit_code}\n{log.read_text()[-2000:]}")

    def _command(self, *arguments: str) -> list[str]:
        program = PROGRAMS / f"drain_{self.name.removesuffix('_default')}.py"
        return [str(interpreter()), str(program), *arguments]


@contextlib.contextmanager
def peer(name: str, directory: Path, count: int) -> Iterator[Peer]:
    """A peer on PostgreSQL with `count` messages to send."""
    (directory / "text").write_text(TEXT)
    (directory / "html").write_text(HTML)
    with databases.database("postgresql", directory, migrated=False) as settings:
        environment = {
            "BENCH_DATABASE": settings.url,
            "BENCH_TEXT": str(directory / "text"),
            "BENCH_HTML": str(directory / "html"),
            "BENCH_AS_IT_COMES": "yes" if name == AS_IT_COMES else "",
        }
        found = Peer(name=name, environment=environment, directory=directory)
        found.fill(count)
        yield found


def smtp_source(port: int, count: int, size: int, *, sessions: int = 1) -> float:
    """Postfix's own generator, each session in lock-step: seconds for `count` messages of `size` bytes."""
    sizes = ["-s", str(sessions), "-m", str(count), "-l", str(size)]
    ends = ["-f", "shop@example.com", "-t", "user@example.com", f"127.0.0.1:{port}"]
    log = CACHE / "smtp-source.log"
    cost = measured(["smtp-source", "-d", *sizes, *ends], log)
    if cost.exit_code:
        raise RuntimeError(f"smtp-source ended with {cost.exit_code}\n{log.read_text()[-2000:]}")
    return cost.seconds
