"""What the project wants of itself, each beside the figure that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.book import Book


@dataclass(frozen=True, kw_only=True)
class Target:
    """`measured` answers None where nothing was measured; then `otherwise` names the words in the book."""

    what: str
    limit: float
    way: Literal["at least", "at most"]
    unit: str
    measured: Callable[[Book], float | None]
    figure: str = ""
    """The figure whose rounds show the spread, if it is one figure."""
    otherwise: str = ""

    def met(self, value: float) -> bool:
        """Whether the value is good enough."""
        return value >= self.limit if self.way == "at least" else value <= self.limit


def _of(name: str) -> Callable[[Book], float | None]:
    return lambda book: book.median(name)


def _simple(  # noqa: PLR0917 - a row of the table below
    what: str, way: Literal["at least", "at most"], limit: float, unit: str, figure: str, otherwise: str = ""
) -> Target:
    return Target(what=what, way=way, limit=limit, unit=unit, measured=_of(figure), figure=figure, otherwise=otherwise)


def _growth(book: Book) -> float | None:
    """Peak memory with the most rows waiting, less that with a hundred."""
    waiting = [int(name.rpartition(".")[2]) for name in book.figures if name.startswith("backlog.postgresql.peak.")]
    if not waiting:
        return None
    least, most = (book.median(f"backlog.postgresql.peak.{n}") or 0.0 for n in (min(waiting), max(waiting)))
    return most - least


def _peak(book: Book) -> float | None:
    peaks = [max(values) for name, values in book.figures.items() if name.startswith("backlog.") and ".peak." in name]
    return max(peaks, default=None)


def _claim_growth(kind: str) -> Callable[[Book], float | None]:
    """The slowest of one worker's stages over the empty table's."""

    def measured(book: Book) -> float | None:
        empty = book.median(f"claim.{kind}.p95.empty")
        start = f"claim.{kind}.p95."
        others = [max(v) for name, v in book.figures.items() if name.startswith(start) and "two" not in name]
        return max(others) / empty if empty else None

    return measured


def _over_a_distance(ms: int) -> Callable[[Book], float | None]:
    """In the gear `transaction`."""

    def measured(book: Book) -> float | None:
        peers = [book.median(f"rtt.{name}.{ms}") for name in ("post_office", "mailer", "naive")]
        best, ours = max(filter(None, peers), default=None), book.median(f"rtt.transaction.{ms}")
        return ours / best if ours and best else None

    return measured


def _two_workers(kind: str) -> Callable[[Book], float | None]:
    """Each one's claim while the other claims, over that of one alone."""

    def measured(book: Book) -> float | None:
        alone, both = (book.median(f"claim.{kind}.p95.{stage}") for stage in ("empty", "two workers"))
        return both / alone if alone and both else None

    return measured


def _first_message(kind: str) -> Callable[[Book], float | None]:
    def measured(book: Book) -> float | None:
        return max(
            (max(v) for name, v in book.figures.items() if name.startswith(f"claim.{kind}.first.")), default=None
        )

    return measured


TIMES = "\N{MULTIPLICATION SIGN}"
KINDS = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
NO_WINDOW, NO_LISTEN = "relay.window", "latency.listen"

TARGETS = (
    _simple("drain, PostgreSQL, over the best peer's rate", "at least", 2.5, TIMES, "drain.postgresql.to-peer"),
    _simple("the same, overlapped", "at least", 3, TIMES, "drain.overlap.to-peer"),
    _simple("drain, PostgreSQL, over smtp-source's rate", "at least", 0.4, TIMES, "drain.postgresql.to-source"),
    _simple("drain, PostgreSQL", "at least", 3000, "/s", "drain.postgresql.rate"),
    _simple("CPU for 1,000 messages, PostgreSQL", "at most", 0.3, " s", "drain.postgresql.cpu"),
    _simple("drain, MariaDB", "at least", 1500, "/s", "drain.mariadb.rate"),
    _simple("drain, SQLite", "at least", 1500, "/s", "drain.sqlite.rate"),
    Target(
        what="peak memory, a million rows waiting over a hundred", way="at most", limit=10, unit=" MB", measured=_growth
    ),
    Target(what="peak memory, any backlog, any database", way="at most", limit=100, unit=" MB", measured=_peak),
    _simple("composing ready text and HTML", "at most", 100, " µs", "compose.ready"),
    _simple("composing from a template", "at most", 200, " µs", "compose.template"),
    *(
        Target(
            what=f"{ms} ms round trip, over the best peer's rate",
            way="at least",
            limit=2,
            unit=TIMES,
            measured=_over_a_distance(ms),
        )
        for ms in (5, 20, 50)
    ),
    _simple("5 ms round trip, overlapped", "at least", 170, "/s", "rtt.overlap.5"),
    _simple("20 ms round trip, overlapped", "at least", 43, "/s", "rtt.overlap.20"),
    _simple("50 ms round trip, overlapped", "at least", 18, "/s", "rtt.overlap.50"),
    _simple("20 ms, Postfix, window of 16", "at least", 300, "/s", "relay.poller.window-20ms", NO_WINDOW),
    _simple("Postfix, no delay, over smtp-source's rate", "at least", 1, TIMES, "relay.poller.to-source"),
    _simple("INSERT to acceptance with listen, p50", "at most", 20, " ms", "latency.listen.p50", NO_LISTEN),
    _simple("INSERT to acceptance with listen, p99", "at most", 100, " ms", "latency.listen.p99", NO_LISTEN),
    *(
        Target(
            what=f"claim in a full table over an empty one (p95), {name}",
            way="at most",
            limit=1.5,
            unit=TIMES,
            measured=_claim_growth(kind),
        )
        for kind, name in KINDS.items()
    ),
    *(
        Target(
            what=f"claim by two workers at once over one's (p95), {name}",
            way="at most",
            limit=1.5,
            unit=TIMES,
            measured=_two_workers(kind),
        )
        for kind, name in KINDS.items()
    ),
    *(
        Target(
            what=f"first message after the worker has connected, {name}",
            way="at most",
            limit=500,
            unit=" ms",
            measured=_first_message(kind),
        )
        for kind, name in KINDS.items()
    ),
    _simple("peak memory, 100 messages with 10 MB attached", "at most", 130, " MB", "attachments.peak"),
)
