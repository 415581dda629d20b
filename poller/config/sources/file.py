"""The configuration file: found, read, and the line of each key.

Raises ConfigError when there is none to go on with.
"""

from __future__ import annotations

import os
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poller.config.sources.problems import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poller.config.sources.known import Key

SYSTEM_CONFIG: Final = Path("/etc/poller/config.toml")


class File(NamedTuple):
    """A configuration file that was read."""

    path: Path
    tables: dict[str, Any]
    lines: dict[Key, int]
    distrust: str

    @property
    def base(self) -> Path:
        """Where a relative path in it starts."""
        return self.path.absolute().parent

    def where(self, key: Key) -> str:
        """The place of a key, else of the table that it is in."""
        prefixes = (key[:length] for length in range(len(key), 0, -1))
        return f"{self.path}:{next((self.lines[prefix] for prefix in prefixes if prefix in self.lines), 1)}"


def at_home(path: Path) -> Path:
    """`~` written out; a home that nobody knows is left as written, and not found later."""
    with suppress(RuntimeError):
        return path.expanduser()
    return path


def find(path: Path | None, environ: Mapping[str, str]) -> tuple[File | None, tuple[Path, ...]]:
    """The file and where it was looked for. Raises ConfigError."""
    named = "--config" if path else "$POLLER_CONFIG"
    if path is None and environ.get("POLLER_CONFIG"):
        path = Path(environ["POLLER_CONFIG"])
    candidates = (path,) if path else (Path("config.toml"), SYSTEM_CONFIG)
    for number, candidate in enumerate(candidates, 1):
        try:
            return _read(candidate), candidates[:number]
        except OSError as error:
            if path or not isinstance(error, FileNotFoundError | NotADirectoryError):
                where = named if path else "looking for a configuration"
                raise ConfigError(Problem(where, str(candidate), error.strerror or "can't be read")) from None
    return None, candidates


def _read(path: Path) -> File:
    with at_home(path).open("rb") as stream:
        distrust = _distrust(path, os.fstat(stream.fileno()))
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        return File(at_home(path), tomllib.loads(text), _lines(text), distrust)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(Problem(f"{path}:{line}", "", "not UTF-8 text")) from None
    except (ValueError, RecursionError) as error:
        reason, _, place = str(error).partition(" (at ")
        told = re.search(r"line (\d+)", place)
        line = int(told[1]) if told else raw.count(b"\n") or 1  # else it is the end that is missing
        raise ConfigError(Problem(f"{path}:{line}", "", f"not TOML: {reason}")) from None


def _distrust(path: Path, status: os.stat_result) -> str:
    if status.st_uid not in {0, os.geteuid()}:
        return f"not run, because {path} belongs to someone else; make it yours or root's (chown)"
    if status.st_mode & 0o022:
        return f"not run, because others can write {path}; chmod go-w {path}"
    return ""


def _lines(text: str) -> dict[Key, int]:
    """The line of each table and key. tomllib tells none, so each statement is parsed by itself.

    A statement ends at the first line after which it parses: an open string or array does not.
    """
    found: dict[Key, int] = {}
    table: Key = ()
    items: dict[Key, int] = {}
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        with suppress(tomllib.TOMLDecodeError):
            keys = list(_keys(tomllib.loads(statement)))
            header = statement.lstrip().startswith("[")
            if statement.lstrip().startswith("[["):
                items[keys[-1]] = items.get(keys[-1], -1) + 1
                keys.append((*keys[-1], items[keys[-1]]))
            for key in keys:
                found.setdefault(key if header else table + key, start)
            table = keys[-1] if header else table
            statement, start = "", number + 1
    return found


def _keys(table: dict[str, Any]) -> Iterator[Key]:
    """Every key of nested tables, the deepest last."""
    for name, value in table.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *key) for key in _keys(value))
