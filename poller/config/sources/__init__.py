"""Where settings are written: a TOML file, the environment, and what holds secrets. Standard library only.

Says which value was written where, and what is wrong with the writing: a file that can't be read, a name that no room
knows, a secret that can't be had. What the values mean is the business of `poller.config.load`, which states the rules.

    known.py     the names that may be written, read off the settings; tables within tables
    file.py      the TOML file, and the line of each key
    layers.py    what the file says, and what the environment says
    secrets.py   what stands in a file or comes from a command
    problems.py  what is wrong, and where

`read` raises ConfigError when there is no file to go on with; every other problem is collected.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from poller.config.sources.file import SYSTEM_CONFIG, at_home, find
from poller.config.sources.known import Key, Known, is_below, is_settings
from poller.config.sources.layers import MARK, Given, Layer, environment_layer, file_layer
from poller.config.sources.problems import ConfigError, Problem, dotted
from poller.config.sources.secrets import UNREAD, bases_of, with_secrets

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "MARK",
    "SYSTEM_CONFIG",
    "UNREAD",
    "ConfigError",
    "Given",
    "Key",
    "Known",
    "Layer",
    "Problem",
    "Written",
    "at_home",
    "dotted",
    "is_below",
    "is_settings",
    "read",
]


class Written(NamedTuple):
    """All that was written, with the environment above the file."""

    given: Layer
    problems: list[Problem]
    source: Path | None
    looked: tuple[Path, ...]
    base: Path
    """Where a relative path starts that nobody wrote: a default."""


def read(path: Path | None, environ: Mapping[str, str], known: Known, unread: Collection[str] = ()) -> Written:
    """Read `path`, else `$POLLER_CONFIG`, else the usual places, and the environment. Raises ConfigError.

    Secrets of the sections `unread` are not looked at.
    """
    file, looked = find(path, environ)
    problems: list[Problem] = []
    below = file_layer(file, known, problems) if file else {}
    above, whole = environment_layer(environ, known, file.tables if file else {}, problems)
    elsewhere = bases_of(above, known)
    below = {
        key: given
        for key, given in below.items()
        if known.secret_of(key) not in elsewhere and not any(is_below(key, table) for table in whole)
    }
    given = with_secrets(below, known, problems, unread) | with_secrets(above, known, problems, unread)
    return Written(given, problems, file.path if file else None, looked, file.base if file else Path())
