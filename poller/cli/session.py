"""What every command begins with: the configuration and the database, or a clear word and an exit code."""

from __future__ import annotations

import functools
import getpass
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from poller.config.load import COMPOSING, HTTP, RELAYS, Config, ConfigError, load
from poller.outbox.database import DatabaseRefused, DatabaseUnavailable, connect
from poller.outbox.migrate import SchemaTrouble, require_current
from poller.outbox.operate import named
from poller.outbox.rows import NameTaken
from poller.units import parse_duration
from poller.visible import visible
from poller.worker.state import StateTaken

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.outbox import Engine

P = ParamSpec("P")
R = TypeVar("R")

FAILED, MISUSED = 1, 2
"""Exit codes."""

ROW_ID = click.IntRange(1, 2**63 - 1)
"""The type of `outbox.id`."""


class Duration(click.ParamType[float]):
    """A duration on the command line."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Stop(click.ClickException):
    """End the command with words and exit code 1: the work failed."""

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(visible, message.split("\n"))))


class Misused(Stop):
    """The same with exit code 2: usage or configuration."""

    exit_code = MISUSED


def in_words(command: Callable[P, R]) -> Callable[P, R]:
    """Turn every error that a person can mend into a `Stop`."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ConfigError as error:
            raise Misused(str(error)) from None
        except (DatabaseRefused, SchemaTrouble, NameTaken, StateTaken) as error:
            raise Misused(str(error)) from None
        except DatabaseUnavailable as error:
            raise Stop(f"the database is not available: {error}; {error.remedy}") from None
        except UnicodeError:
            raise Misused("something on the command line is not UTF-8 text") from None

    return wrapped


def configuration(
    context: click.Context,
    *,
    to_send: bool = False,
    to_compose: bool = False,
    to_serve: bool = False,
    to_take: bool = False,
) -> Config:
    """The configuration that `--config` and the environment name. Raises ConfigError.

    Only who means `to_send` needs the relays' secrets, who means `to_compose` those of messages, who means `to_serve`
    those of messages and of the page, and who means `to_take` mail those of its senders: one that can't be read must
    not keep anybody from looking, or from switching all off.
    """
    named = context.find_root().obj
    page = () if to_serve else HTTP
    unread = () if to_send else (*RELAYS, *page) if to_compose or to_serve else (*RELAYS, *COMPOSING, *page)
    unread = unread if to_send or to_take else (*unread, "submission")
    return load(Path(named) if named else None, os.environ, unread=unread)


def database(config: Config) -> Engine:
    """An engine for the configured outbox, whose schema is up to date. It is closed when the command ends."""
    engine = connect(config.database)
    click.get_current_context().call_on_close(engine.dispose)
    require_current(engine)
    return engine


def agree(question: str, *, yes: bool, touched: int | None) -> None:
    """Ask a person, unless `yes` was said. Raises Misused where nobody is there and more than one row is touched.

    `touched` is None for what is never done unasked.
    """
    if yes:
        return
    if sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)
    elif touched != 1:
        many = "this" if touched is None else f"{touched} rows"
        raise Misused(f"nobody is there to be asked about {many}; if it is meant, add --yes")


def operator(name: str | None) -> str:
    """Who acts, for the history: as told, else who became root by sudo, else the login."""
    return named(name or os.environ.get("SUDO_USER") or _login())


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number that no name belongs to
        return f"uid {os.getuid()}"


def as_json(value: Any) -> str:
    """For `--json`: times in ISO format, UTC; in ASCII, so that no terminal obeys it and any encoding has it."""
    return json.dumps(value, default=_plain, indent=2)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return float(value)
