"""The part of the configuration that `poller sendmail` needs, read without pydantic: it is started for each message.

Rule 1. It reads `[database]`, `[message]` and `[submission]`, by the rules of `poller.config.load` and from the same
        places. What is wrong in another section keeps no message from coming in.
Rule 2. It reads what is plainly right. For anything else it says None: then `load` reads all, and has the words.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from poller.config.sources import ConfigError, Known, read
from poller.frozen import dataclass
from poller.message.settings import MessageSettings
from poller.outbox.settings import DatabaseSettings
from poller.submission.settings import SubmissionSettings, check_domain
from poller.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from poller.config.load import Config

_SECTIONS: Final = {"database": DatabaseSettings, "message": MessageSettings, "submission": SubmissionSettings}
_RELATIVE: Final = "sqlite:///"
_ABSOLUTE: Final = "sqlite:////"


@dataclass(frozen=True, kw_only=True)
class Part:
    """As in `Config`, of these sections the keys that say where a message goes and how it is read."""

    database: DatabaseSettings
    message: MessageSettings
    submission: SubmissionSettings


def load_part(path: Path | None, environ: Mapping[str, str]) -> Part | None:
    """None where it needs the long way (Rule 2)."""
    with suppress(ConfigError, ValueError, TypeError):
        return _part(path, environ)
    return None


def part_of(config: Config) -> Part:
    """The same, of all."""
    return Part(database=config.database, message=config.message, submission=config.submission)


def _part(path: Path | None, environ: Mapping[str, str]) -> Part | None:
    written = read(path, environ, Known(_SECTIONS), unread=("submission",))
    if any(problem.key.partition(".")[0] in {"", *_SECTIONS} for problem in written.problems):
        return None
    given = {key: item.value for key, item in written.given.items()}
    url = _text(given, "database", "url")
    if url is None or (url.startswith(_RELATIVE) and not url.startswith(_ABSOLUTE)):
        return None  # a path that starts from somewhere
    domain = _text(given, "submission", "default_domain")
    size = given.get(("message", "max_size"))
    return Part(
        database=DatabaseSettings(url=url, schema=_text(given, "database", "schema")),
        message=MessageSettings(
            sender=_text(given, "message", "sender"),
            max_size=MessageSettings.max_size if size is None else parse_size(size),
        ),
        submission=SubmissionSettings(
            default_domain=domain and check_domain(domain), dedupe=_flag(given, "submission", "dedupe")
        ),
    )


def _text(given: Mapping[Any, Any], *key: str) -> str | None:
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise TypeError("not text")
    return value


def _flag(given: Mapping[Any, Any], *key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise TypeError("not true or false")
    return value
