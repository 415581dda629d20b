"""Mail to a limited destination stands in front, a hundred thousand rows of it: when does a row for another one leave?

From before its INSERT to its acceptance, by the server's clock, which is ours.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa
from chaos.ground import NAMES, Line
from manners.blocks import BIG, OTHER, needs
from manners.crew import Crew, until
from servers.provider import OTHERS, ProviderServer

from poller.outbox.database import transaction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chaos.ground import Ground
    from service.bench import Bench

INTERVAL_S = 5.0  # [poll] interval, the default
NOTIFIED_S = 0.1
GRACE_S = 0.25  # claim, compose and SMTP, beyond the interval
LIMIT = "1/m"
FEW_S = 60.0

CROWD = {
    "postgresql": """INSERT INTO outbox (recipients, subject, body_text)
        SELECT 'r' || n || '@{domain}', 'Hello', 'Hello' FROM generate_series(1, {rows}) AS n""",
    "mariadb": """INSERT INTO outbox (recipients, subject, body_text)
        SELECT CONCAT('r', seq, '@{domain}'), 'Hello', 'Hello' FROM seq_1_to_{rows}""",
    "sqlite": """INSERT INTO outbox (recipients, subject, body_text)
        WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {rows})
        SELECT 'r' || n || '@{domain}', 'Hello', 'Hello' FROM counted""",
}


def front(
    ground: Ground, *, rows: int = 100_000, times: int = 20, interval: float = INTERVAL_S, grace: float = GRACE_S
) -> Iterator[Line]:
    """A line for each database, and one for NOTIFY. Beyond the interval a message may take `grace` seconds."""
    for kind in ground.kinds:
        for listen in (False, True) if kind == "postgresql" else (False,):
            ground.say(f"{NAMES[kind]}, {rows} rows in front{', NOTIFY' if listen else ''}")
            yield _run(ground, kind, rows, times, interval, grace=grace, listen=listen)


def _run(ground: Ground, kind: str, rows: int, times: int, interval: float, *, grace: float, listen: bool) -> Line:
    needs(ground, kind)
    settings = {
        "poll": {"interval": f"{interval * 1000:.0f}ms", "listen": listen},
        f'throttle.domains."{BIG}"': {"rates": [LIMIT]},
    }
    with ground.bench(kind) as bench, ProviderServer() as server:
        crew = Crew(bench=bench, server=server, settings=settings)
        if listen:
            config = bench.configure(server.host, server.port, **settings)
            done = bench.poller(config, "migrate")
            assert done.returncode == 0, done.stderr
        crowd(bench, kind, rows)
        with crew:
            crew.start("w1")
            assert until(lambda: server.times("") or server.accepted, FEW_S), "nothing left at all"
            waits = [_one(ground, bench, server, number, interval) for number in range(times)]
            gone = crew.ended()
        paced = len(server.accepted) - times
    allowed = NOTIFIED_S if listen else interval + grace
    late = sum(wait > allowed for wait in waits)
    cells = {
        "database": NAMES[kind],
        "rows in front": f"{rows:,}",
        "told by": "NOTIFY" if listen else f"[poll] interval = {interval:g} s",
        "times": times,
        "least": _in_words(min(waits)),
        "median": _in_words(statistics.median(waits)),
        "most": _in_words(max(waits)),
        "allowed": _in_words(allowed),
        "late": late,
        "of the others meanwhile": paced,
    }
    broken = [f"{late} of {times} left later than {_in_words(allowed)}"] if late else []
    return Line(cells=cells, broken=(*broken, *(f"{name} ended by itself" for name in gone)))


def crowd(bench: Bench, kind: str, rows: int, domain: str = BIG) -> None:
    """`rows` rows for `domain`, in one statement, and the planner told of them."""
    transaction(bench.engine, lambda c: c.execute(sa.text(CROWD[kind].format(domain=domain, rows=rows))))
    if kind != "sqlite":
        table = "TABLE outbox" if kind == "mariadb" else "outbox"
        transaction(bench.engine, lambda c: c.execute(sa.text(f"ANALYZE {table}")))


def _one(ground: Ground, bench: Bench, server: ProviderServer, number: int, interval: float) -> float:
    """Insert one row at a random moment of the interval, and wait for its acceptance; returns the seconds."""
    time.sleep(ground.chance.random() * interval)
    recipient = f"one{number}@{OTHER}"
    before = time.monotonic()
    bench.insert(recipients=recipient)
    found: list[float] = []

    def came() -> Sequence[float]:
        found[:] = [entry.at for entry in server.accepted[-50:] if entry.recipients == (recipient,)]
        return found

    assert until(came, FEW_S, every=0.002), f"{recipient} did not leave within {FEW_S:g} s"
    assert OTHERS in server.accepted[-1].providers
    return found[0] - before


def _in_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
