"""What relays want: one takes over from another and gives back, a limit that is learnt, and few connections."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from chaos.ground import NAMES, Line
from manners.blocks import needs
from manners.crew import Crew, count_of, in_name, is_done, merged, mixed, until
from servers.provider import ProviderServer

from poller.outbox.database import transaction
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from chaos.ground import Ground
    from servers.provider import Mood
    from service.bench import Bench

QUICK: Mapping[str, Mapping[str, Any]] = {
    "poll": {"interval": "200ms"},
    "smtp": {"rest_first": "200ms", "rest_longest": "1s"},
    "retry": {"first": "300ms", "longest": "1s"},
}
LOGIN = {"username": "shop", "password": "secret"}
STORY = ("relay.unavailable", "relay.available", "relay.incident", "relay.learnt", "throttle.paused")
DONE_S = 60.0


# ---- one takes over


def taken_over(ground: Ground, *, phase: float = 6.0, rows: int = 20, every: float = 0.25) -> Iterator[Line]:
    """A relay refuses logins, drops lines, and recovers; the next in order is there."""
    for kind in ground.kinds:
        ground.say(f"{NAMES[kind]}: relay A fails, B takes over")
        yield _failing(ground, kind, phase, rows, every)


def _failing(ground: Ground, kind: str, phase: float, rows: int, every: float) -> Line:
    users = {LOGIN["username"]: LOGIN["password"]}
    moods: Sequence[Mood] = ("well", "no logins", "drops", "well")
    with ground.bench(kind) as bench, ProviderServer(users=users) as first, ProviderServer(users=users) as second:
        settings = merged(
            QUICK,
            {
                "smtp": {**LOGIN, "order": 1},
                "relays.b": {"host": second.host, "port": second.port, "security": "none", "order": 2, **LOGIN},
            },
        )
        crew = Crew(bench=bench, server=first, settings=settings)
        shares: list[str] = []
        with crew:
            crew.start("w1")
            for mood in moods:
                first.turn(mood)
                before = len(first.accepted), len(second.accepted)
                until_then = time.monotonic() + phase
                while time.monotonic() < until_then:
                    mixed(bench, rows, ("example.com",))
                    time.sleep(every)
                shares.append(f"{len(first.accepted) - before[0]} / {len(second.accepted) - before[1]}")
            complete = until(lambda: is_done(bench), DONE_S)
            gone = crew.ended()
        last = [entry.at for entry in first.accepted][-1:]
        with in_name(bench, "w1"):
            story = told(bench)
        books = _books(bench, (first, second))
    cells = {
        "database": NAMES[kind],
        **{f"A {mood}: by A / by B": share for mood, share in zip(_phases(moods), shares, strict=True)},
        **books,
        "story": "; ".join(story),
    }
    given_back = bool(last) and int(shares[-1].split(" / ")[0]) > 0
    return Line(
        cells=cells,
        broken=tuple(
            words
            for words, holds in {
                "rows were still open at the end": complete,
                f"{books['attempts charged']} attempts were charged": not books["attempts charged"],
                f"{books['lost']} were lost": not books["lost"],
                f"{books['sent twice']} were sent twice": not books["sent twice"],
                f"{books['failed']} failed": not books["failed"],
                "B took nothing over": len(second.accepted) > 0,
                "A was not given back": given_back,
                f"{', '.join(gone)} ended by itself": not gone,
            }.items()
            if not holds
        ),
    )


def _phases(moods: Sequence[Mood]) -> list[str]:
    words = {"well": "well", "no logins": "refuses logins", "drops": "drops lines"}
    return [words[mood] if moods.index(mood) == place else f"{words[mood]} again" for place, mood in enumerate(moods)]


def _books(bench: Bench, servers: Sequence[ProviderServer]) -> dict[str, int]:
    taken = Counter(entry.message_id for server in servers for entry in server.accepted)
    query = sa.select(outbox.c.status, outbox.c.attempts, outbox.c.message_id)
    rows = transaction(bench.engine, lambda c: c.execute(query).all(), reading=True)
    return {
        "rows": len(rows),
        "accepted": taken.total(),
        "attempts charged": sum(max(0, row.attempts - 1) for row in rows),
        "lost": sum(row.status == "sent" and not taken[row.message_id] for row in rows),
        "failed": sum(row.status == "failed" for row in rows),
        "sent twice": sum(count - 1 for count in taken.values()),
    }


def told(bench: Bench) -> list[str]:
    """What the log says of relays, in order, each line in a few words; the same in a row is said once."""
    lines: list[str] = []
    for entry in bench.log():
        if entry["event"] in STORY:
            words = f"{entry['event']} {entry.get('relay', entry.get('scope', ''))}".strip()
            reason = str(entry.get("reason") or entry.get("error") or "")[:60]
            line = f"{words} ({reason})" if reason else words
            if lines[-1:] != [line]:
                lines.append(line)
    return lines


# ---- a limit that is learnt


def learnt(
    ground: Ground,
    *,
    count: int = 500,
    each: int = 50,
    crews: Sequence[int] = (1, 2),
    kind: str = "postgresql",
    bound: float = DONE_S,
) -> Iterator[Line]:
    """A relay takes so many messages on a connection and then says 421."""
    needs(ground, kind)
    for workers in crews:
        ground.say(f"a relay takes {each} on a connection, {workers} workers")
        with ground.bench(kind) as bench, ProviderServer(per_connection=each) as server:
            mixed(bench, count, ("example.com",))
            crew = Crew(bench=bench, server=server, settings=QUICK)
            with crew:
                crew.start(*(f"w{number + 1}" for number in range(workers)))
                complete = until(lambda: is_done(bench), bound)
                config = bench.directory / "w1.toml"
                status = bench.poller(config, "status", "--json")
            cut = sum(line.cut_off for line in server.connections)
            full = sum(line.taken == each for line in server.connections)
            books = _books(bench, (server,))
        cells = {
            "database": NAMES[kind],
            "workers": workers,
            "messages": count,
            "taken on a connection": each,
            "connections": len(server.connections),
            "of them full": full,
            "421 was said": cut,
            "attempts charged": books["attempts charged"],
            "sent twice": books["sent twice"],
            "status shows": shown(status.stdout, str(each)),
        }
        broken = {
            f"421 was said {cut} times to {workers} workers": cut <= workers,
            f"{books['attempts charged']} attempts were charged": not books["attempts charged"],
            f"{books['accepted']} of {count} were delivered": books["accepted"] == count and complete,
            "poller status does not show it": cells["status shows"] != "nothing",
        }
        yield Line(cells=cells, broken=tuple(words for words, holds in broken.items() if not holds))


def shown(status: str, each: str) -> str:
    """Where `poller status --json` shows this number beside a word of sessions or connections; "nothing" if nowhere."""
    try:
        tree = json.loads(status)
    except ValueError:
        return "nothing"
    found = [path for path, value in _leaves(tree) if str(value) == each and ("session" in path or "connect" in path)]
    return found[0] if found else "nothing"


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}".strip("."))
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from _leaves(value, f"{path}[{place}]")
    else:
        yield path, tree


# ---- few connections


def few_connections(
    ground: Ground,
    *,
    count: int = 2000,
    workers: int = 4,
    most: int = 2,
    delay: float = 0.005,
    kinds: Sequence[str] = ("postgresql", "mariadb"),
) -> Iterator[Line]:
    """`max_connections` and more workers than that; the server bears any number and counts. Raises Skipped."""
    for kind in kinds:
        needs(ground, kind)
        ground.say(f"{NAMES[kind]}: max_connections = {most}, {workers} workers")
        with ground.bench(kind) as bench, ProviderServer(reply_delay=delay) as server:
            mixed(bench, count, ("example.com",))
            settings = merged(QUICK, {"smtp": {"max_connections": most}})
            crew = Crew(bench=bench, server=server, settings=settings)
            with crew:
                crew.start(*(f"w{number + 1}" for number in range(workers)))
                complete = until(lambda: is_done(bench), 2 * DONE_S)
                at_the_end = count_of(bench, "sent")
            books = _books(bench, (server,))
        cells = {
            "database": NAMES[kind],
            "workers": workers,
            "max_connections": most,
            "most at the same time": server.most_open,
            "connections in all": len(server.connections),
            "messages": count,
            "sent": at_the_end,
            "attempts charged": books["attempts charged"],
            "sent twice": books["sent twice"],
        }
        broken = {
            f"{server.most_open} connections at the same time": server.most_open <= most,
            f"{at_the_end} of {count} were sent": complete and at_the_end == count,
            f"{books['attempts charged']} attempts were charged": not books["attempts charged"],
        }
        yield Line(cells=cells, broken=tuple(words for words, holds in broken.items() if not holds))
