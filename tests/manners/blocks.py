"""A provider that allows so many and then blocks: what comes of it, with nothing configured, and with its limit.

Half of the mail goes to it, half to others, in turn.

Time is scaled: see `crew.scaled`. Where nothing is configured it need not be (`factor=1`): then it takes as long as it
takes. All manners at once, each with a database, a worker and a server of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import databases
import sqlalchemy as sa
from chaos.ground import NAMES, Line, Skipped
from manners.crew import Crew, is_done, merged, mixed, scaled, until
from servers.provider import OTHERS, Manner, Provider, ProviderServer

from poller.outbox.database import transaction
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from chaos.ground import Ground

BIG = "big.example"
OTHER = "other.example"
ALLOWED = 30
PERIOD_S = 60.0
BLOCK_S = 600.0
FACTOR = 60
MANNERS: tuple[Manner, ...] = ("421", "451", "550", "drop")
WORDS: Mapping[Manner, str] = {
    "421": "421, closes",
    "451": "451",
    "550": "550 user unknown",
    "drop": "drops the line",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One provider in one manner, how much mail to it, and how much faster than in life."""

    manner: Manner
    count: int
    allowed: int = ALLOWED
    factor: float = FACTOR

    @property
    def provider(self) -> Provider:
        """The simulated one."""
        return Provider(
            name="big",
            domains=frozenset({BIG}),
            count=self.allowed,
            seconds=PERIOD_S / self.factor,
            block=BLOCK_S / self.factor,
            manner=self.manner,
        )

    def in_words(self, seconds: float) -> str:
        """Minutes where nothing is scaled."""
        return f"{seconds / 60:.1f} min" if self.factor == 1 else f"{seconds:.1f} s"


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What became of one run."""

    statuses: Counter[str]
    charged: int
    """Attempts beyond one for each row."""
    complete: bool
    began: float


def unasked(
    ground: Ground,
    *,
    count: int = 500,
    allowed: int = ALLOWED,
    factor: float = FACTOR,
    bound: float = 300.0,
    manners: Sequence[Manner] = MANNERS,
    kinds: Sequence[str] = ("postgresql",),
) -> Iterator[Line]:
    """Default settings, all manners at once. Raises Skipped."""
    for kind in kinds:
        needs(ground, kind)
        ground.say(f"{NAMES[kind]}: {', '.join(WORDS[manner] for manner in manners)}; nothing configured")
        cases = [Case(manner=manner, count=count, allowed=allowed, factor=factor) for manner in manners]
        with ThreadPoolExecutor(len(cases)) as together:
            yield from together.map(lambda case, kind=kind: ours(ground, kind, case, {}, bound), cases)


def configured(
    ground: Ground,
    *,
    count: int = 500,
    bound: float = 120.0,
    manners: Sequence[Manner] = MANNERS,
    shares: Sequence[float] = (1.0, 0.9),
) -> Iterator[Line]:
    """The provider's own limit in the configuration, and a share of it."""
    for kind in ground.kinds:
        for manner in manners:
            for share in shares:
                rate = f"{round(ALLOWED * share)}/s"
                ground.say(f"{NAMES[kind]}: {WORDS[manner]}, configured {rate}")
                settings = {f'throttle.domains."{BIG}"': {"rates": [rate]}}
                yield ours(ground, kind, Case(manner=manner, count=count), settings, bound)


def ours(ground: Ground, kind: str, case: Case, settings: Mapping[str, Mapping[str, Any]], bound: float) -> Line:
    """One run of our own program."""
    with ground.bench(kind) as bench, ProviderServer(case.provider) as server:
        mixed(bench, case.count, (BIG, OTHER))
        crew = Crew(bench=bench, server=server, settings=merged(scaled(case.factor), settings))
        with crew:
            crew.start("w1")
            complete = until(lambda: is_done(bench), bound)
            gone = crew.ended()
        query = sa.select(outbox.c.status, outbox.c.attempts)
        rows = transaction(bench.engine, lambda c: c.execute(query).all(), reading=True)
        statuses = Counter(row.status for row in rows)
        charged = sum(max(0, row.attempts - 1) for row in rows)
        ended = Ended(statuses=statuses, charged=charged, complete=complete, began=crew.began)
        limits = [rate for values in settings.values() for rate in values.get("rates", ())]
        how = f"limit {', '.join(limits)}" if limits else "nothing configured"
        cells = {"mailer": "poller", "how": how, "database": NAMES[kind], **cells_of(case, server, ended)}
        return Line(cells=cells, broken=_broken(case, server, ended, gone, limited=bool(limits)))


def cells_of(case: Case, server: ProviderServer, ended: Ended) -> dict[str, object]:
    """What the server counted, and what the rows say."""
    big, others = server.counted("big"), server.counted(OTHERS)
    last = max((at for at in (big.last, others.last) if at), default=ended.began)
    return {
        "provider blocks with": WORDS[case.manner],
        "delivered to it": f"{big.accepted} of {case.count}",
        "failed for good": ended.statuses["failed"],
        "still open": ended.statuses["queued"] + ended.statuses["sending"],
        "sent twice": server.duplicates(),
        f"most in any {PERIOD_S / case.factor:g} s": f"{big.most_in_window} of {case.allowed}",
        "blocks provoked": big.blocks,
        "attempts in blocks": big.attempts_in_blocks,
        "attempts charged": ended.charged,
        "took": case.in_words((big.last or last) - ended.began),
        "ideal": case.in_words(case.count / case.provider.count * case.provider.seconds),
        "last of the others after": case.in_words((others.last or last) - ended.began)
        + ("" if others.accepted == case.count else f", {others.accepted} of {case.count}"),
    }


def _broken(case: Case, server: ProviderServer, ended: Ended, gone: list[str], *, limited: bool) -> tuple[str, ...]:
    big, others = server.counted("big"), server.counted(OTHERS)
    return tuple(
        words
        for words, holds in {
            f"{ended.statuses['failed']} rows failed for good": not ended.statuses["failed"],
            f"{big.accepted} of {case.count} were delivered": big.accepted == case.count,
            f"{others.accepted} of {case.count} others were delivered": others.accepted == case.count,
            f"{server.duplicates()} were sent twice": not server.duplicates(),
            f"{big.refused} refusals in spite of the limit": not (limited and big.refused),
            "rows were still open at the end": ended.complete,
            f"{', '.join(gone)} ended by itself": not gone,
        }.items()
        if not holds
    )


def needs(ground: Ground, kind: str) -> None:
    """Raise Skipped where this kind of database was not asked for, or can't be had."""
    if kind not in ground.kinds:
        raise Skipped(f"it is tried on {NAMES[kind]}")
    try:
        databases.server_url(kind) if kind != "sqlite" else None
    except databases.Missing as why:
        raise Skipped(str(why)) from None


def elapsed(since: float) -> float:
    """Seconds."""
    return time.monotonic() - since
