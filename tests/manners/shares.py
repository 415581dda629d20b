"""One limit for several workers: the server's own count in every window, while one of them is killed and comes back.

The limit is that of one destination, or of the whole outbox. More is due than may go, all the time. The crews work at
the same time, each with an outbox of its own: they mostly wait.
"""

from __future__ import annotations

import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chaos.ground import Line
from manners.blocks import BIG, OTHER, elapsed, needs
from manners.crew import Crew, merged, mixed, until
from servers.provider import ProviderServer, most_within

from poller.units import parse_rate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from chaos.ground import Ground

SPARE = 200  # rows beyond what may go in the time
START_S = 60.0
LEAST_SHARE = 0.75
"""Of what the limit lets through: a limit that is held by sending next to nothing is none."""
QUICK: Mapping[str, Mapping[str, Any]] = {"poll": {"interval": "200ms"}}


def shared(
    ground: Ground,
    *,
    crews: Sequence[int] = (2, 4),
    runs: Sequence[tuple[tuple[str, ...], float]] = ((("60/5s", "200/30s"), 75.0), (("60/m", "1000/h"), 150.0)),
    scopes: Sequence[str] = ("one destination", "the whole outbox"),
    kind: str = "postgresql",
    least: float = LEAST_SHARE,
) -> Iterator[Line]:
    """A line for each number of workers, limit and scope. Raises Skipped."""
    needs(ground, kind)
    for rates, seconds in runs:
        ground.say(f"{', '.join(rates)}: {', '.join(scopes)}; {', '.join(map(str, crews))} workers")
        several = [
            Share(rates=rates, scope=scope, seconds=seconds, workers=workers, least=least)
            for scope, workers in itertools.product(scopes, crews)
        ]
        with ThreadPoolExecutor(len(several)) as together:
            yield from together.map(lambda share: _run(ground, kind, share), several)


@dataclass(frozen=True, kw_only=True)
class Share:
    """One limit, of "one destination" or of "the whole outbox", and who shares it for how long."""

    rates: tuple[str, ...]
    scope: str
    seconds: float
    workers: int
    least: float


def _run(ground: Ground, kind: str, share: Share) -> Line:
    rates, scope, seconds, workers = share.rates, share.scope, share.seconds, share.workers
    section = f'throttle.domains."{BIG}"' if scope == "one destination" else "throttle"
    most = most_that_may_go(rates, seconds)
    names = [f"w{number + 1}" for number in range(workers)]
    with ground.bench(kind) as bench, ProviderServer() as server:
        mixed(bench, most + SPARE, (BIG,) if scope != "one destination" else (BIG, OTHER))
        crew = Crew(bench=bench, server=server, settings=merged(QUICK, {section: {"rates": list(rates)}}))
        with crew:
            crew.start(*names)
            assert until(lambda: server.accepted, START_S), "nothing left at all"
            began = server.accepted[0].at
            until(lambda: elapsed(began) >= seconds / 2, seconds)
            before = len(server.accepted)
            crew.kill("w1")
            time.sleep(seconds / 20)
            meanwhile = len(server.accepted) - before
            crew.start("w1")
            until(lambda: elapsed(began) >= seconds, seconds)
            gone = crew.ended()
        times = [entry.at for entry in server.accepted if entry.recipients[0].endswith(BIG)]
        windows = {rate: most_within(times, parse_rate(rate).period) for rate in rates}
        twice = server.duplicates()
    went = len(times) / most
    cells: dict[str, object] = {
        "limit": ", ".join(rates),
        "of": scope,
        "workers": workers,
        "for": f"{seconds:.0f} s",
        "accepted": len(times),
        "of what might": f"{went:.0%}",
        **{f"most in a window of the {which}": f"{windows[rate]} in {parse_rate(rate).span}"
           for which, rate in zip(("first", "second"), rates, strict=False)},
        "while one was dead": meanwhile,
        "sent twice": twice,
    }  # fmt: skip
    return Line(cells=cells, broken=_broken(windows, twice, gone, slow=went < share.least))


def most_that_may_go(rates: Sequence[str], seconds: float) -> int:
    """As many as the limit lets through in so many seconds: the pace evenly, and the quotas at once."""
    pace, *quotas = sorted(map(parse_rate, rates))
    evenly = int(pace.count * seconds / pace.period) + 1
    return min([evenly, *(quota.count * math.ceil(seconds / quota.period) for quota in quotas)])


def _broken(windows: Mapping[str, int], twice: int, gone: Sequence[str], *, slow: bool) -> tuple[str, ...]:
    over = [
        f"{most} in a window of {rate}"
        for rate, most in windows.items()
        if most > parse_rate(rate).count + 1  # burst
    ]
    # Killed once: at most the message that was on the wire may go twice.
    again = [f"{twice} were sent twice at one crash"] if twice > 1 else []
    late = ["much less went than might"] if slow else []
    return (*over, *late, *again, *(f"{name} ended by itself" for name in gone))
