"""What is wrong with a configuration: where, which key, and what to do; never a value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_BARE = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it was written, which key, and what to do."""

    where: str
    """`config.toml:12`, `$POLLER__SMTP__PORT`, or `defaults`."""
    key: str
    """`smtp.port`; empty when the file as a whole is meant."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.message) if part)


class ConfigError(Exception):
    """The configuration can't be used; `problems` holds every reason, in the order of the file.

    `readable` is the configuration as far as it could be read, a key with a problem at its default; None if not at all.
    """

    def __init__(self, *problems: Problem, readable: Any = None) -> None:
        super().__init__(*problems)
        self.problems = problems
        self.readable = readable

    def concerns(self, table: str) -> bool:
        """Whether a problem lies in this section, or in this table of one: "smtp", "relays.backup"."""
        return any(f"{problem.key}.".startswith(f"{table}.") for problem in self.problems)

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return "\n  ".join((f"{count} in the configuration:", *map(str, self.problems)))


def dotted(key: Iterable[str | int]) -> str:
    """A key as TOML writes it: `throttle.domains."example.com".burst`. Items of a list are told by their line."""
    return ".".join(_quoted(part) for part in key if isinstance(part, str))


def _quoted(part: str) -> str:
    return part if _BARE.fullmatch(part) else '"' + "".join(c if c.isprintable() else "?" for c in part) + '"'
