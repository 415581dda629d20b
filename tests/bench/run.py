"""The benchmark: `uv run python tests/bench/run.py [--quick] [--only NAME …] [--rounds N] [--long] [--write]`.

Measures the worker as a real process beside its peers and Postfix's own tools, all in alternating rounds, and keeps
every value in `.cache/bench/book.json`. `--only` measures a part anew and keeps the rest; `--write` puts tables and
charts from the book into `docs/performance.md`, between its markers. Nothing here is a test: no figure can fail.

Needs: uv, Postfix's smtp-sink and smtp-source; PostgreSQL and MariaDB as the tests find them (`tests/databases.py`);
root for the real Postfix. The first run installs the peers in `.cache/bench/peers`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[0] = str(HERE.parent)  # beside the other tests' modules, not among the benchmark's own

import databases  # noqa: E402 - found by the line above
import sqlalchemy as sa  # noqa: E402
from bench import report, rivals  # noqa: E402
from bench.book import Book  # noqa: E402
from bench.measures import claims, costs, growth, profile, rates, signing, turns, writing  # noqa: E402
from bench.scene import Scene  # noqa: E402

from poller.outbox.database import connect  # noqa: E402
from poller.outbox.settings import DatabaseSettings  # noqa: E402

ROUNDS, QUICK_ROUNDS = 5, 2
MEASURES = {
    "drain": rates.drain,
    "rtt": rates.rtt,
    "relay": rates.relay,
    "proxy": rates.proxy,
    "compose": costs.compose,
    "counts": costs.counts,
    "latency": costs.latency,
    "idle": costs.idle,
    "backlog": costs.backlog,
    "attachments": costs.attachments,
    "claim": claims.claim,
    "foreign": claims.foreign,
    "growth": growth.growth,
    "turns": turns.turns,
    "signing": signing.signing,
    "writing": writing.writing,
    "profile": profile.profile,
}


def main() -> None:
    """As the command line says."""
    arguments = _arguments()
    rivals.CACHE.mkdir(parents=True, exist_ok=True)
    book = Book.load(rivals.CACHE / "book.json")
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    with tempfile.TemporaryDirectory(prefix="poller-bench-") as directory:
        Path(directory).chmod(0o755)
        scene = Scene(directory=Path(directory), rounds=rounds, quick=arguments.quick, long=arguments.long, book=book)
        try:
            for name in arguments.only:
                _measure(scene, name)
        finally:
            databases.stop_embedded()
    if arguments.write:
        report.write(book)
    print(report.targets_table(book))  # noqa: T201 - what the caller came for


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, two rounds: does it run at all?")
    parser.add_argument("--long", action="store_true", help="ten million sent rows on PostgreSQL")
    names = [*MEASURES]
    parser.add_argument("--only", nargs="*", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=0, help=f"{ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    return parser.parse_args()


def _measure(scene: Scene, name: str) -> None:
    print(f"{name}: {(MEASURES[name].__doc__ or '').strip()}", flush=True)  # noqa: T201 - progress
    scene.book.forget(name)
    scene.book.forget(f"about.{name}")
    commit, load, began = _commit(), os.getloadavg()[0], time.monotonic()
    MEASURES[name](scene)
    facts = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, commit {commit}"
    scale = ", quick" if scene.quick else ""
    scene.book.say(f"about.{name}.when", f"{facts}{scale}, load {load:.1f} before, {os.getloadavg()[0]:.1f} after")
    _describe(scene.book)
    scene.book.save(rivals.CACHE / "book.json")
    scene.tell(f"{time.monotonic() - began:.0f} s")


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    )
    return done.stdout.strip() or "unknown"


def _describe(book: Book) -> None:
    """The machine and the programs."""
    book.say("machine.processor", f"{_first('/proc/cpuinfo', 'model name.*: (.*)')}, {os.cpu_count()} cores")
    book.say("machine.memory", f"{int(_first('/proc/meminfo', 'MemTotal: *([0-9]+)') or 0) / 2**20:.0f} GiB")
    system = _first("/etc/os-release", 'PRETTY_NAME="(.*)"')
    book.say("machine.system", f"{system}, Linux {platform.release()}")
    book.say("machine.python", f"CPython {platform.python_version()}")
    for kind, query in (("postgresql", "SHOW server_version"), ("mariadb", "SELECT version()")):
        with contextlib.suppress(databases.Missing):
            book.say(f"machine.{kind}", _asked(databases.server_url(kind), query))
    book.say("machine.sqlite", _asked("sqlite://", "SELECT sqlite_version()"))
    if shutil.which("postconf"):
        done = subprocess.run(["postconf", "-h", "mail_version"], capture_output=True, text=True, check=False)
        book.say("machine.postfix", done.stdout.strip())
    wanted = ("django", "django-post-office", "django-mailer")
    book.say(
        "machine.peers", ", ".join(f"{name} {version}" for name, version in rivals.versions().items() if name in wanted)
    )


def _asked(url: str, query: str) -> str:
    engine = connect(DatabaseSettings(url=url))
    with engine.connect() as connection:
        answer = str(connection.execute(sa.text(query)).scalar())
    engine.dispose()
    return answer


def _first(path: str, pattern: str) -> str:
    found = re.search(pattern, Path(path).read_text()) if Path(path).exists() else None
    return found[1].strip() if found else ""


if __name__ == "__main__":
    main()
