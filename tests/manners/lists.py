"""A long list in small batches with a rest between them: what `poller plan` foresaw, and what came."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from chaos.ground import NAMES, Line
from manners.blocks import elapsed
from manners.crew import Crew, is_done, mixed, until
from servers.provider import ProviderServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.ground import Ground
    from service.bench import Bench

BATCH = 20
PAUSE_S = 17.0
SCALE = 100
QUARTER = 0.25
"""A hundred times as fast, the machine's own time for a batch is no longer small beside the pause."""
SEVERAL = 4  # times the forecast: by then something is wrong


def foreseen(ground: Ground, *, count: int = 5000) -> Iterator[Line]:
    """Twenty, then seventeen seconds of rest, and so on; a hundred times as fast."""
    for kind in ground.kinds:
        ground.say(f"{NAMES[kind]}: {count} rows, {BATCH} at a time")
        yield _run(ground, kind, count)


def _run(ground: Ground, kind: str, count: int) -> Line:
    with ground.bench(kind) as bench, ProviderServer() as server:
        mixed(bench, count, ("example.com",), batch="newsletter")
        unscaled = _plan(bench, server, PAUSE_S)
        crew = Crew(bench=bench, server=server, settings=_settings(PAUSE_S / SCALE))
        with crew:
            before = _plan(bench, server, PAUSE_S / SCALE)
            ideal = (count / BATCH - 1) * PAUSE_S / SCALE
            crew.start("w1")
            until(lambda: len(server.accepted) >= count / 5, SEVERAL * ideal)
            at_a_fifth, sent = elapsed(crew.began), len(server.accepted)
            midway = _plan(bench, server, PAUSE_S / SCALE)
            complete = until(lambda: is_done(bench), SEVERAL * ideal + 10)
        times = server.times()
    took = times[-1] - times[0] if times else 0.0
    left = times[-1] - (crew.began + at_a_fifth) if times else 0.0
    cells = {
        "database": NAMES[kind],
        "rows": count,
        f"foreseen, unscaled ({BATCH} per {PAUSE_S:g} s)": _in_words(unscaled),
        f"that is, over {SCALE}": _in_words(unscaled / SCALE if unscaled else None),
        "foreseen, scaled, before the first": _in_words(before),
        f"foreseen with {sent} sent": _in_words(midway),
        "took from then on": f"{left:.1f} s",
        "took in all": f"{took:.1f} s",
    }
    broken = [] if complete else ["rows were still open at the end"]
    if midway is None or abs(midway - left) > QUARTER * left:
        broken.append(f"with {sent} sent the forecast was {_in_words(midway)}, and it took {left:.1f} s")
    return Line(cells=cells, broken=tuple(broken))


def _settings(pause: float) -> dict[str, dict[str, object]]:
    return {"poll": {"interval": "200ms", "batch_size": BATCH, "batch_pause": f"{pause * 1000:.0f}ms"}}


def _plan(bench: Bench, server: ProviderServer, pause: float) -> float | None:
    """The seconds that `poller plan` foresees; None if it says nothing."""
    name, bench.name = bench.name, "plan"
    config = bench.configure(server.host, server.port, **_settings(pause))
    bench.name = name
    done = bench.poller(config, "plan", "--json")
    try:
        return float(json.loads(done.stdout)["seconds"])
    except (ValueError, KeyError, TypeError):
        return None


def _in_words(seconds: float | None) -> str:
    return "nothing" if seconds is None else f"{seconds:.1f} s"
