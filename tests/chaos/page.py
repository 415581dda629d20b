"""Results as Markdown, for people and for `docs/reliability.md`. Nothing in those tables is typed by hand."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import databases
import sqlalchemy as sa

from poller import __version__
from poller.outbox.database import connect, transaction
from poller.outbox.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.ground import Line

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def table(lines: Sequence[Line]) -> str:
    """The cells of `lines`, and below them the promises that were broken."""
    columns = list(dict.fromkeys(column for line in lines for column in line.cells))
    rows = [[str(line.cells.get(column, "")) for column in columns] for line in lines if line.cells]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows) if columns)
    broken = [f"- **Broken:** {_of_what(line)}: {what}" for line in lines for what in line.broken]
    return "\n".join([text, *(["", *broken] if broken else [])])


def _of_what(line: Line) -> str:
    return ", ".join(str(value) for value in list(line.cells.values())[:3]) or "run"


def section(does: str, lines: Sequence[Line], *, command: str, seconds: float, skipped: Sequence[str]) -> str:
    """What stands between a scenario's markers: method, machine, versions, table."""
    words = " ".join(does.split())
    how = f"`{command}`, {seconds:.0f} s on {dt.datetime.now(dt.UTC):%Y-%m-%d}; {machine()}; {software()}."
    missing = [f"Not run: {why}." for why in skipped]
    return "\n\n".join(filter(None, [words, table(lines), *missing, how]))


def write(name: str, text: str, to: Path = PAGE) -> None:
    """Put `text` between the markers of scenario `name`. Raises ValueError when there are none."""
    page = to.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{to} has no place for {name}: {begin.strip()} … {end}")
    to.write_text(f"{before}{begin}{text}\n{end}{after}")


def machine() -> str:
    """This machine, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.machine()}"


def software() -> str:
    """The versions that matter."""
    parts = [f"poller {__version__}{_commit()}", f"Python {platform.python_version()}"]
    parts += [f"{name} {found}" for name in ("postgresql", "mariadb") if (found := _server(name))]
    parts += [f"SQLite {_sqlite()}", f"SQLAlchemy {version('sqlalchemy')}", f"psycopg {version('psycopg')}"]
    return ", ".join(parts)


def _commit() -> str:
    command = ["git", "-C", str(PAGE.parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return f" ({found.stdout.strip()})" if found.returncode == 0 else ""


def _sqlite() -> str:
    return _asked("sqlite:///:memory:", "SELECT sqlite_version()")


def _server(kind: str) -> str:
    try:
        return _asked(databases.server_url(kind), "SELECT version()").removeprefix("PostgreSQL ").split()[0]
    except databases.Missing:
        return ""


def _asked(url: str, query: str) -> str:
    engine = connect(DatabaseSettings(url=url))
    try:
        return str(transaction(engine, lambda c: c.execute(sa.text(query)).scalar_one(), reading=True))
    finally:
        engine.dispose()
