"""What one watches while the demo's service works: the outbox's own tables, ten times a second.

On a terminal the end of the screen is drawn anew each time; elsewhere a line tells each batch. Either way the history
is told as it is written.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poller.cli.samples.place import RETRY_S
from poller.units import format_duration

if TYPE_CHECKING:
    import sqlite3

    from rich.console import Console
    from rich.live import Live

GLANCE_S = 0.1  # between two looks at the tables
BAR_WIDTH = 40

_COUNTS = "SELECT status, count(*), sum(claim_seq > 0) FROM outbox GROUP BY status"
_HISTORY = """\
SELECT a.id, a.outbox_id, a.outcome, a.error, a.blame, o.attempts
FROM outbox_attempt AS a JOIN outbox AS o ON o.id = a.outbox_id
WHERE a.id > ? ORDER BY a.id"""
_STYLES = {"deferred": "yellow", "accepted": "green", "suppressed": "yellow", "handed_back": "dim"}


def say(console: Console, text: str, *, style: str | None = None) -> None:
    """A line as it is: never wrapped, so that a path or a command can be copied."""
    console.print(text, style=style, soft_wrap=True, markup=False, highlight=False, emoji=False)


class Line(NamedTuple):
    """A line of the outbox's history."""

    id: int
    row: int
    outcome: str
    error: str | None
    blame: str | None
    attempts: int

    @property
    def words(self) -> str:
        """What happened."""
        match self.outcome:
            case "deferred" if self.blame != "session":
                return f"{self.error}; again in {format_duration(RETRY_S)}"
            case "accepted":
                return f"sent at attempt {self.attempts}"
            case _:
                return f"{self.outcome}: {self.error or 'no reason given'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """The table at one moment: rows by status, and how many were ever claimed."""

    by_status: Counter[str]
    claimed: int
    seconds: float

    @property
    def total(self) -> int:
        """All rows."""
        return self.by_status.total()

    @property
    def left(self) -> int:
        """Rows that still wait or are on the wire."""
        return self.by_status["queued"] + self.by_status["sending"]

    @property
    def counts(self) -> str:
        """The statuses that occur, in words."""
        return ", ".join(f"{count} {status}" for status, count in sorted(self.by_status.items(), key=by_count))

    @property
    def pace(self) -> str:
        """Messages in a second so far, and the time left at that pace."""
        rate = (self.total - self.left) / max(self.seconds, GLANCE_S)
        return f"{rate:.0f}/s, {self.left / rate:.0f}s left" if rate else ""


def by_count(item: tuple[str, int]) -> tuple[int, str]:
    """For sorting: the most frequent first."""
    return -item[1], item[0]


@dataclass(kw_only=True)
class Watch:
    """Reads the tables and tells what changed."""

    connection: sqlite3.Connection
    console: Console
    live: Live | None
    stop_asked: bool = False
    """Set by the one who stops the service."""
    since: float = field(default_factory=time.monotonic)
    _told: int = 0
    _stop_told: bool = False
    _before: int = 0
    _claimed: int = 0

    def glance(self) -> Glance:
        """The table now."""
        found = self.connection.execute(_COUNTS).fetchall()
        by_status = Counter({status: count for status, count, _ in found})
        claimed = sum(count for _, _, count in found)
        return Glance(by_status=by_status, claimed=claimed, seconds=time.monotonic() - self.since)

    def look(self) -> None:
        """Tell what is new, and draw the rest."""
        if self.stop_asked and not self._stop_told:
            self._stop_told = True
            say(self.console, "Stopping: the message in hand is finished first. Ctrl-C again cuts the line.")
        for found in self.connection.execute(_HISTORY, (self._told,)).fetchall():
            self._tell(Line(*found))
        now = self.glance()
        is_next = now.claimed > self._claimed
        if is_next:
            self._before, self._claimed = self._claimed, now.claimed
        if self.live:
            self.live.update(self._drawn(now), refresh=True)
        elif is_next:
            say(self.console, f"{self._batch(now)}: {now.counts}")

    def _tell(self, line: Line) -> None:
        self._told = line.id
        grid = Table.grid(padding=(0, 1))
        grid.add_row(f"  row {line.row}", Text(line.words, style=_STYLES.get(line.outcome, "red")))
        self.console.print(grid)

    def _where(self, now: Glance) -> str:
        if now.claimed < now.total or now.by_status["sending"] > 1:
            return self._batch(now)
        return f"{now.left} of {now.total} to be tried again" if now.left else f"all {now.total} messages"

    def _batch(self, now: Glance) -> str:
        return f"messages {self._before + 1} to {max(now.claimed, 1)} of {now.total}"

    def _drawn(self, now: Glance) -> Group:
        done = now.total - now.left
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=now.total, completed=done, width=BAR_WIDTH)
        grid.add_row(bar, f"{100 * done // now.total}%", now.pace)
        return Group("", Text(self._where(now), style="bold"), grid, now.counts)
