"""The program is killed: alone, without its state directory, and together with its database."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from chaos.ground import NAMES, Ground, Line, Trap, bury, drain, fill, findings, wait_until
from chaos.recorder import Recorder
from service import zygote

from poller.outbox.database import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from chaos.ledger import Findings
    from service.bench import Bench
    from service.zygote import Process

BATCH = 100
MOST_MESSAGES = 60
"""A life ends when the relay has accepted 1 to so many messages in it."""
LIFE_S = 90.0
AGAIN_S = 1.0  # a supervisor's pause before it starts a worker again that has ended
TAKEN = 2  # the exit code of a worker whose name is still another's
TWICE_PER_CRASH = 1
"""What one crash may send twice, by one connection without a window: what was complete and unanswered."""


def cells(found: Findings) -> dict[str, object]:
    """The columns that every ledger of crashes shares."""
    least, median, most = found.per_crash
    return {
        "crashes": found.crashes,
        "rows": found.committed,
        "accepted": found.accepted,
        "lost": len(found.lost),
        "stuck": len(found.stuck),
        "wrongly marked": len(found.wrongly_marked),
        "sent twice": len(found.duplicates),
        "per crash, min / median / max": f"{least} / {median:g} / {most}",
        "with the same Message-ID": found.same_id,
        "doubts": found.doubts,
        "held in doubt": len(found.in_doubt),
        "of them delivered": found.delivered_in_doubt,
    }


def per_crash(ground: Ground) -> int:
    """What one crash may send twice, with the window that was asked for."""
    return max(TWICE_PER_CRASH, int(ground.settings.get("smtp", {}).get("window", 1)))


def kill9(
    ground: Ground,
    *,
    crashes: int,
    elsewhere: int | None = None,
    policies: tuple[str, ...] = ("resend", "hold"),
    batch: int = BATCH,
) -> Iterator[Line]:
    """`kill -9` at full speed, started again at once: `crashes` times on the first database, `elsewhere` on others."""
    for kind in ground.kinds:
        times = crashes if kind == ground.kinds[0] else elsewhere or crashes
        for policy in policies:
            yield killed(ground, kind, crashes=times, policy=policy, batch=batch, allowed=per_crash(ground))


def window(ground: Ground, *, crashes: int, messages: int = 16) -> Iterator[Line]:
    """`kill9` with so many messages in flight, on the first database."""
    settings = {**ground.settings, "smtp": {**ground.settings.get("smtp", {}), "window": messages}}
    yield from kill9(replace(ground, kinds=ground.kinds[:1], settings=settings), crashes=crashes)


def no_state(ground: Ground, *, crashes: int, waited: int, batch: int = BATCH) -> Iterator[Line]:
    """The same, and the state directory is gone each time. Of `waited` crashes the lease's end is really waited for."""
    for kind in ground.kinds:
        yield killed(ground, kind, crashes=crashes, policy="resend", batch=batch, between=_forget_everything)
    for kind in ground.kinds[:1] if waited else ():
        short = {"smtp": {"end_timeout": "1s"}, "worker": {"takeover": "3s", "heartbeat": "500ms"}}
        yield killed(ground, kind, crashes=waited, policy="resend", between=_lose_state, settings=short)


def killed(
    ground: Ground,
    kind: str,
    *,
    crashes: int,
    policy: str,
    allowed: int = BATCH,
    batch: int = BATCH,
    between: Callable[[Bench], str] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
) -> Line:
    """One outbox, so many crashes; `between` two lives something may happen to it."""
    with ground.bench(kind) as bench, Recorder() as relay:
        committed = fill(bench, (crashes + 1) * (batch + MOST_MESSAGES))
        unheld = {"on_doubt": policy, "max_doubts": crashes + 1}
        given = {"retry": unheld, "poll": {"batch_size": batch}, **(settings or {})}
        config = bench.configure(relay.host, relay.port, **given)
        trap = Trap(relay, ground.chance)
        pauses: list[float] = []
        manner = ""
        for crash in range(crashes):
            pauses.append(_one_life(ground, bench, config, relay, trap))
            ground.say(f"kill -9, {kind}, {policy}: {crash + 1} of {crashes}")
            if between:
                manner = between(bench)
        wait_until(lambda: drain(bench, config) != TAKEN, "a worker that is let in", LIFE_S, every=AGAIN_S)
        found = findings(bench, committed, relay, crashes=crashes)
    allowed = 0 if policy == "hold" else allowed
    worst = found.per_crash[2]
    broken = (f"{worst} sent twice by one crash, at most {allowed} may be",) if worst > allowed else ()
    what = {"database": NAMES[kind], "on_doubt": policy}
    waits = {"lease": manner} if between else {}
    back = {"first mail after a start, median / max": f"{statistics.median(pauses):.2f} / {max(pauses):.2f} s"}
    return Line(cells=what | waits | cells(found) | back, broken=(*found.broken, *broken), twice=found.duplicates)


def _one_life(ground: Ground, bench: Bench, config: Path, relay: Recorder, trap: Trap) -> float:
    """Start, again if it will not stay, and kill; returns the seconds from the first start to the first message."""
    before, began = len(relay.entries), time.monotonic()
    process = _start(bench, config)

    def kill() -> None:
        process.kill()  # the one that runs by then

    try:
        trap.set(ground.chance.randint(1, MOST_MESSAGES), kill)
        while not trap.wait(AGAIN_S):
            assert time.monotonic() - began < LIFE_S, f"nothing to kill: {bench.log()[-3:]}"
            process = _start(bench, config) if process.poll() is not None else process
    finally:
        process.kill()
        bury(process, relay)
    return relay.entries[before].at - began


def _start(bench: Bench, config: Path) -> Process:
    return zygote.start(["--config", str(config), "run"], bench.directory / f"{bench.name}.log")


def _lose_state(bench: Bench) -> str:
    shutil.rmtree(bench.directory / f"state-{bench.name}")
    return "waited for, 3 s"


def _forget_everything(bench: Bench) -> str:
    """As `_lose_state`; and of the dead worker's lease the rest is skipped in the table, which is what waiting does."""
    _lose_state(bench)
    ended = sa.text("UPDATE outbox_worker SET lease_until = heartbeat_at")
    transaction(bench.engine, lambda c: c.execute(ended))
    return "ended in the table"
