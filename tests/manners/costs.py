"""What pacing costs those who are not paced: their rate while so many destinations have a limit and mail that waits.

The rate is theirs alone, by the server's clock, from the first of them to the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.ground import NAMES, Line
from manners.blocks import OTHER, needs
from manners.crew import Crew, mixed, until
from manners.front import crowd
from servers.provider import OTHERS, ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.ground import Ground

LIMIT = "6/m"
EACH = 10
"""Rows that wait for each limited destination."""
LONGEST_S = 60.0


def cost(ground: Ground, *, rows: int = 6000, limited: tuple[int, ...] = (0, 10, 1000)) -> Iterator[Line]:
    """A line for each database and each number of limited destinations; the first is what the others compare to."""
    for kind in ground.kinds:
        alone = 0.0
        for destinations in limited:
            ground.say(f"{NAMES[kind]}, {destinations} limited destinations")
            rate, complete = _rate(ground, kind, rows, destinations)
            alone = alone or rate
            cells = {
                "database": NAMES[kind],
                "limited destinations": destinations,
                "rows that wait for them": f"{destinations * EACH:,}",
                "other rows": f"{rows:,}",
                "of these per second": f"{rate:,.0f}",
                "to none limited": f"{rate / alone:.2f}" if alone else "-",
            }
            yield Line(cells=cells, broken=() if complete else ("the others were not all sent",))


def _rate(ground: Ground, kind: str, rows: int, destinations: int) -> tuple[float, bool]:
    needs(ground, kind)
    domains = [f"d{number}.limited.example" for number in range(destinations)]
    settings = {f'throttle.domains."{domain}"': {"rates": [LIMIT]} for domain in domains}
    with ground.bench(kind) as bench, ProviderServer() as server:
        if domains:
            mixed(bench, EACH, domains)
        crowd(bench, kind, rows, OTHER)
        with Crew(bench=bench, server=server, settings=settings) as crew:
            crew.start("w1")
            complete = until(lambda: _others(server) >= rows, LONGEST_S)
        times = [entry.at for entry in server.accepted if OTHERS in entry.providers and _is_other(entry.recipients)]
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0, complete


def _others(server: ProviderServer) -> int:
    return sum(_is_other(entry.recipients) for entry in server.accepted)


def _is_other(recipients: tuple[str, ...]) -> bool:
    return recipients[0].endswith("@" + OTHER)
