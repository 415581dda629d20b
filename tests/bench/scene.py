"""What every measurement is given: where to work, how much to do, and the book."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import databases
from bench.outboxes import Outbox, fresh

from poller.settings import PollSettings
from poller.smtp.settings import SmtpSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.book import Book

T = TypeVar("T")

WINDOW = 16  # messages under way on a pipelined connection, where that is asked for
HAS_WINDOW = hasattr(SmtpSettings, "window")
HAS_LISTEN = hasattr(PollSettings, "listen")
NOT_BUILT = "not built yet"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One run of the benchmark."""

    directory: Path
    rounds: int
    quick: bool
    long: bool
    book: Book

    def scale(self, full: T, quick: T) -> T:
        """How much to do."""
        return quick if self.quick else full

    @contextlib.contextmanager
    def outbox(self, kind: str) -> Iterator[Outbox]:
        """An empty one."""
        with fresh(kind, self.directory) as found:
            yield found

    def kinds(self) -> list[str]:
        """The databases that can be had here."""
        return [kind for kind in databases.KINDS if kind == "sqlite" or self._has(kind)]

    def tell(self, text: str) -> None:
        """Progress, for who watches."""
        print(f"  {text}", flush=True)  # noqa: T201 - a command with a person before it

    def _has(self, kind: str) -> bool:
        try:
            databases.server_url(kind)
        except databases.Missing as why:
            self.tell(str(why))
            return False
        return True
