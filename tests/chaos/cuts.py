"""Lines that break: to the relay before every reply, and to the database at a COMMIT."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args

import sqlalchemy as sa
from chaos.ground import NAMES, Ground, Line, Skipped, drain, fill, findings
from chaos.proxy import CommitCutter, When
from chaos.recorder import PHASES, Cut, How, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chaos.ledger import Findings
    from service.bench import Bench

HOWS: tuple[How, ...] = ("closed", "reset", "half a reply", "silence", "byte by byte")
TIMES = frozenset({1, 2, 4})
ONCE = frozenset({1})
TWICE = frozenset({1, 2})
PATIENCE = "400ms"  # instead of 5 to 10 minutes: how long the worker waits for a reply that does not come
ROWS = 30
DEFER_EVERY = 5
CHARGED = "an attempt that was not the message's own"
LIMIT_S = 120.0  # for a drain with all its cuts
ALONE, ALONE_S = 100, 6.0  # rows, and the limit of a drain with one cut; it usually takes one second
BIG = 4_000_000  # bytes: more than both socket buffers hold


def smtp_cut(
    ground: Ground, *, phases: tuple[str, ...] = PHASES, hows: tuple[How, ...] = HOWS, content: bool = True
) -> Iterator[Line]:
    """Each phase in each way; a line of the table for each phase. The dialect has no part in it: one will do."""
    for phase in phases:
        outcomes = {how: _smtp_cut(ground, Cut(phase=phase, how=how)) for how in hows}
        said = {how: outcome for how, (outcome, _) in outcomes.items()}
        broken = tuple(f"{how}: {what}" for how, (_, promises) in outcomes.items() for what in promises)
        yield Line(cells={"cut at the reply to": phase, **said}, broken=broken)
    if content:
        cut = Cut(phase="content", how="in content")
        outcome, broken = _smtp_cut(ground, cut, rows=3, body="x" * 70 + "\n", lines=BIG // 71)
        yield Line(cells={"cut at the reply to": "in mid-content", "reset": outcome}, broken=broken)


def _times(cut: Cut) -> frozenset[int]:
    """A worker that is left alone has one session, and says QUIT once; when it is cut at its start it has another."""
    if cut.phase in {"greeting", "EHLO"}:
        return ONCE if cut.how == "byte by byte" else TWICE
    return ONCE if cut.phase in {"QUIT", "content"} else TIMES


def _smtp_cut(
    ground: Ground, cut: Cut, *, rows: int = ROWS, body: str = "Hello {n}\n", lines: int = 1
) -> tuple[str, tuple[str, ...]]:
    """What became of `rows` rows, in words, and the broken promises."""
    patience = dict.fromkeys(("reply_timeout", "data_timeout", "end_timeout"), PATIENCE)
    defer = DEFER_EVERY if cut.phase == "RSET" else 0
    with (
        ground.bench(ground.kinds[-1]) as bench,
        Recorder(cut=replace(cut, times=_times(cut)), defer_every=defer) as relay,
    ):
        committed = fill(bench, rows, body_text=body * lines)
        config = bench.configure(relay.host, relay.port, smtp=patience if cut.how == "silence" else {})
        drain(bench, config, seconds=60)
        found = findings(bench, committed, relay)
        attempts = sum(row.attempts for row in bench.rows())
    ground.say(f"smtp-cut: {cut.phase}, {cut.how}")
    deferred = rows // DEFER_EVERY if defer else 0
    return _in_words(found, relay.done), _smtp_broken(found, cut, relay.done, attempts - rows - deferred)


def _in_words(found: Findings, cuts: int) -> str:
    seen = {"in doubt": found.doubts, "sent twice": len(found.duplicates), "lost": len(found.lost)}
    words = ", ".join(f"{count} {what}" for what, count in seen.items() if count)
    return f"{cuts}: {words or 'no trace'}"


def _smtp_broken(found: Findings, cut: Cut, cuts: int, charged: int) -> tuple[str, ...]:
    may_doubt = cuts if cut.phase == "end" and cut.how != "byte by byte" else 0
    wrong = {
        "in doubt without need": max(0, found.doubts - may_doubt),
        "sent twice without need": max(0, len(found.duplicates) - may_doubt),
        "cuts did not take place": len(_times(cut)) - cuts,
        f"cost {CHARGED}": max(0, charged),
    }
    return (*found.broken, *(f"{count} {what}" for what, count in wrong.items() if count))


def db_cut(
    ground: Ground, *, cuts: int, each: int, most: int, whens: tuple[When, ...] = get_args(When)
) -> Iterator[Line]:
    """Each server, each way: each of the first `each` COMMITs alone, then `cuts` cuts, 1 to `most` COMMITs apart.

    An SQLite file has no line to cut.
    """
    kinds = [kind for kind in ground.kinds if kind != "sqlite"]
    if not kinds:
        raise Skipped("an SQLite file has no line that could be cut")
    for kind in kinds:
        for when in whens:
            if each:
                yield _each_alone(ground, kind, when, each)
            yield _db_cut(ground, kind, when, cuts, most)


@contextlib.contextmanager
def _through(bench: Bench, decide: Callable[[], When | None]) -> Iterator[tuple[CommitCutter, dict[str, Any]]]:
    """A proxy before the bench's database, and the configuration that leads through it."""
    url = sa.make_url(bench.database.url)
    with CommitCutter(host=url.host or "", port=url.port or 0, decide=decide) as proxy:
        through = url.set(host="127.0.0.1", port=proxy.listens)
        if url.get_backend_name() == "postgresql":
            through = through.update_query_dict({"sslmode": "disable"})
        yield proxy, {"url": through.render_as_string(hide_password=False)}


def _each_alone(ground: Ground, kind: str, when: When, each: int) -> Line:
    """One batch and one cut for each run; as in production the line to the relay is not kept between two polls."""
    outcomes: list[Findings] = []
    seconds: list[float] = []
    for number in range(1, each + 1):
        with ground.bench(kind) as bench, Recorder() as relay:
            committed = fill(bench, ALONE)
            counted = iter(range(1, 1_000_000))

            def decide(at: int = number, counted: Iterator[int] = counted) -> When | None:
                return when if next(counted) == at else None

            with _through(bench, decide) as (_, database):
                config = bench.configure(relay.host, relay.port, database=database, smtp={"idle_close": "100ms"})
                began = time.monotonic()
                drain(bench, config, seconds=ALONE_S)
                seconds.append(time.monotonic() - began)
            outcomes.append(findings(bench, committed, relay))
        ground.say(f"db-cut: {kind}, {when}, {number} of {each}")
    stuck = [number for number, found in enumerate(outcomes, 1) if found.stuck]
    cells = {
        "database": NAMES[kind],
        "cut": f"at each of the first {each} COMMITs, alone",
        "where": when,
        "cuts": each,
        "rows": sum(found.committed for found in outcomes),
        "accepted": sum(found.accepted for found in outcomes),
        "lost": sum(len(found.lost) for found in outcomes),
        "stuck": sum(len(found.stuck) for found in outcomes),
        "wrongly marked": sum(len(found.wrongly_marked) for found in outcomes),
        "sent twice": sum(len(found.duplicates) for found in outcomes),
        "doubts": sum(found.doubts for found in outcomes),
        "longest run": f"{max(seconds):.1f} s",
    }
    wrong = {name: cells[name] for name in ("lost", "wrongly marked", "sent twice", "doubts")}
    broken = tuple(f"{count} {what}" for what, count in wrong.items() if count)
    held = (f"rows stuck after a cut at COMMIT {', '.join(map(str, stuck))}",) if stuck else ()
    return Line(cells=cells, broken=(*broken, *held))


def _db_cut(ground: Ground, kind: str, when: When, cuts: int, most: int) -> Line:
    with ground.bench(kind) as bench, Recorder() as relay:
        committed = fill(bench, cuts * most * 4)
        due = iter(accumulate(ground.chance.randint(1, most) for _ in range(cuts)))
        counted, at = iter(range(1, 1_000_000)), [next(due, 0)]

        def decide() -> When | None:
            if next(counted) != at[0]:
                return None
            at[0] = next(due, 0)
            return when

        with _through(bench, decide) as (proxy, database):
            began = time.monotonic()
            code = drain(bench, bench.configure(relay.host, relay.port, database=database), seconds=LIMIT_S)
            seconds = time.monotonic() - began
            done = proxy.cuts
        found = findings(bench, committed, relay)
        ground.say(f"db-cut: {kind}, {when}")
        charged = sum(row.attempts for row in bench.rows()) - len(committed)
    cells = {
        "database": NAMES[kind],
        "cut": f"1 to {most} COMMITs apart",
        "where": when,
        "cuts": done,
        "rows": found.committed,
        "accepted": found.accepted,
        "lost": len(found.lost),
        "stuck": len(found.stuck),
        "wrongly marked": len(found.wrongly_marked),
        "sent twice": len(found.duplicates),
        "doubts": found.doubts,
        "longest run": f"{seconds:.1f} s",
    }
    wrong = {
        "sent twice": len(found.duplicates),
        "in doubt": found.doubts,
        f"cost {CHARGED}": max(0, charged),
        "as exit code": code,
    }
    return Line(cells=cells, broken=(*found.broken, *(f"{count} {what}" for what, count in wrong.items() if count)))
