"""What other mailers do when they are killed: by the same relay, the same trap and the same three books.

They live in a virtual environment of their own below `.cache/`, made at the first run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import databases
import sqlalchemy as sa
from chaos import crashes as ours
from chaos.crashes import BATCH, LIFE_S, MOST_MESSAGES
from chaos.ground import Ground, Line, Skipped, Trap, bury
from chaos.ledger import RowSays, compare
from chaos.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from chaos.ledger import Findings

REQUIREMENTS = ("django==5.2.*", "django-post_office==3.12.*", "django-mailer==2.3.*", "psycopg[binary]>=3.2.4,<4")
PROGRAM = Path(__file__).with_name("peer_program.py")
CACHE = Path(__file__).parents[2] / ".cache" / "chaos"
IDLE_LIVES = 2  # in a row, without a message: it does not come back by itself
INSTALL_S = 300.0
DRAINS = 5  # runs at the end, at most
DRAIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way to run one mailer."""

    name: str
    how: str
    program: str
    settings: Mapping[str, Any] = field(default_factory=dict)


PEERS = (
    Peer(name="django-post_office 3.12", how="as shipped: 5 connections, no Message-IDs kept", program="post_office"),
    Peer(
        name="django-post_office 3.12",
        how="1 connection, MESSAGE_ID_ENABLED",
        program="post_office",
        settings={"POST_OFFICE": {"THREADS_PER_PROCESS": 1, "MESSAGE_ID_ENABLED": True}},
    ),
    Peer(name="django-mailer 2.3", how="as shipped: a lock file", program="mailer"),
    Peer(
        name="django-mailer 2.3",
        how="MAILER_USE_FILE_LOCK = False",
        program="mailer",
        settings={"MAILER_USE_FILE_LOCK": False},
    ),
    Peer(name="a naive loop", how="SELECT … SKIP LOCKED, smtplib, a commit for each 100", program="naive"),
)


def peers(ground: Ground, *, crashes: int) -> Iterator[Line]:
    """Each of them, and we, on PostgreSQL."""
    if "postgresql" not in ground.kinds:
        raise Skipped("the peers are tried on PostgreSQL")
    python = interpreter()
    for peer in PEERS:
        found, survived = _killed(ground, peer, python, crashes)
        name = {"mailer": peer.name, "how": peer.how}
        yield Line(cells=name | _cells(found, survived), twice=found.duplicates)
    for policy in ("resend", "hold"):
        line = ours.killed(ground, "postgresql", crashes=crashes, policy=policy, allowed=ours.per_crash(ground))
        yield Line(
            cells={
                "mailer": "poller",
                "how": f'on_doubt = "{policy}"',
                "crashes": crashes,
                **{name: line.cells[name] for name in _SHARED},
            },
            broken=line.broken,
            twice=line.twice,
        )


_SHARED = (
    "rows",
    "accepted",
    "lost",
    "stuck",
    "wrongly marked",
    "sent twice",
    "per crash, min / median / max",
    "with the same Message-ID",
    "held in doubt",
)


def _cells(found: Findings, survived: int) -> dict[str, object]:
    everything = ours.cells(found)
    return {"crashes": survived, **{name: everything[name] for name in _SHARED}}


def _killed(ground: Ground, peer: Peer, python: Path, crashes: int) -> tuple[Findings, int]:
    """Kill it over and over; the findings and how many crashes there were: one that does not come back has few."""
    directory = ground.directory / f"peer-{peer.program}-{len(list(ground.directory.iterdir()))}"
    directory.mkdir()
    try:
        context = databases.database("postgresql", directory, migrated=False)
        settings = context.__enter__()
    except databases.Missing as why:
        raise Skipped(str(why)) from None
    try:
        with Recorder() as relay:
            run = _Run(peer, python, directory, environment_of(peer, settings.url, relay.port))
            count = (crashes + 1) * (BATCH + MOST_MESSAGES)
            run.to_its_end("setup")
            run.to_its_end("insert", str(count))
            done = _lives(ground, relay, run, crashes)
            _drain(run, relay)
            said = {to: RowSays(status=status) for to, status in json.loads(run.to_its_end("say")).items()}
            committed = [f"p{number}@example.com" for number in range(count)]
            found = compare(committed, relay.entries, said, crashes=max(1, done))
    finally:
        context.__exit__(None, None, None)
    return found, done


def _lives(ground: Ground, relay: Recorder, run: _Run, crashes: int) -> int:
    trap = Trap(relay, ground.chance)
    idle = done = 0
    while done < crashes and idle < IDLE_LIVES:
        process = run.start("work")
        trap.set(ground.chance.randint(1, MOST_MESSAGES), process.kill)
        deadline = time.monotonic() + LIFE_S
        while not (sprung := trap.wait(0.05)) and process.poll() is None:
            assert time.monotonic() < deadline, f"{run.peer.name} neither sends nor ends"
        process.kill()
        bury(process, relay)
        idle = 0 if sprung else idle + 1
        done += sprung
        ground.say(f"{run.peer.name}, {run.peer.how}: {done} of {crashes}")
    trap.disarm()
    return done


def _drain(run: _Run, relay: Recorder) -> None:
    """Run it again until a run sends nothing more."""
    for _ in range(DRAINS):
        before = len(relay.entries)
        run.to_its_end("work")
        if len(relay.entries) == before:
            return


class _Run:
    def __init__(self, peer: Peer, python: Path, directory: Path, environment: dict[str, str]) -> None:
        self.peer = peer
        self._command = [str(python), str(PROGRAM), peer.program]
        self._directory = directory
        self._environment = environment

    def start(self, *order: str) -> subprocess.Popen[bytes]:
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*self._command, *order], cwd=self._directory, env=self._environment, stdout=log, stderr=log
            )

    def to_its_end(self, *order: str) -> str:
        done = subprocess.run(
            [*self._command, *order],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=DRAIN_S,
            check=False,
        )
        assert done.returncode == 0, f"{self.peer.name} {order}: {done.stderr[-1000:]}"
        return done.stdout.strip().splitlines()[-1] if order[0] == "say" else done.stdout


def environment_of(peer: Peer, url: str, port: int) -> dict[str, str]:
    at = sa.make_url(url)
    here = {
        "host": at.host,
        "port": at.port or 5432,
        "user": at.username,
        "database": at.database,
        "smtp": port,
        "settings": dict(peer.settings),
    }
    password = {"PGPASSWORD": str(at.password)} if at.password else {}
    return {**os.environ, **password, "PEER": json.dumps(here), "PYTHONDONTWRITEBYTECODE": "1"}


def interpreter() -> Path:
    """Of the peers' environment, made if need be. Raises Skipped."""
    mark = hashlib.sha256(repr((REQUIREMENTS, sys.version_info[:2])).encode()).hexdigest()[:8]
    home = CACHE / f"peers-{mark}"
    python = home / "bin" / "python"
    if (home / "complete").exists():
        return python
    uv = shutil.which("uv")
    make = [uv, "venv", "-q", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    install = [uv, "pip", "install", "-q", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    shutil.rmtree(home, ignore_errors=True)
    try:
        for command in ([*make, str(home)], [*install, *REQUIREMENTS]):
            subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
        raise Skipped(f"the peers can't be installed here: {' '.join(said)}") from None
    (home / "complete").touch()
    return python
