"""How long a claim takes, and the first message, when the table is large in every way that used to hurt.

A claim is `Store.claim` of a batch of 100, timed in this process; the first message is the real worker's, from its
entry in `outbox_worker` (written right after it has connected) to the first acceptance, both on the database's clock.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import sqlalchemy as sa
from bench.book import percentile
from bench.processes import worker
from servers.sink import Sink

from poller.outbox.database import connect
from poller.outbox.dialect import ClaimRequest
from poller.outbox.dialects import DIALECTS
from poller.outbox.settings import DatabaseSettings
from poller.outbox.store import Store
from poller.outbox.tables import outbox as table
from poller.outbox.tables import worker as worker_table
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.outboxes import Outbox
    from bench.scene import Scene

BATCH = 100
START_S = 4.0  # until both of two workers are sure to have started
LAST = 9  # the priority of what is due, behind everything else
WARM_UP = 3  # claims
MILLION = 1_000_000
REQUEST = ClaimRequest(worker="probe", limit=BATCH, message_id_key="key", message_id_domain="example.com")
INNODB_TRX_AGE_S = 0.2  # information_schema.innodb_trx is a copy, renewed ten times a second


def claim(scene: Scene) -> None:
    """Target 6, on every database: one difficulty on top of the other."""
    million = scene.scale(MILLION, MILLION // 10)
    scene.book.say("claim.million", f"{million:,}")
    for kind in scene.kinds():
        with scene.outbox(kind) as outbox, Sink() as sink:
            stages: list[tuple[str, Callable[[], object]]] = [
                ("empty", lambda: None),
                ("sent", lambda outbox=outbox: outbox.fill_sent(million)),
                ("scheduled", lambda outbox=outbox: outbox.fill_scheduled(million)),
                ("paused", lambda outbox=outbox: outbox.fill_paused(million // 10)),
            ]
            for name, prepare in stages:
                prepare()
                _stage(scene, outbox, sink.port, name)
            _two_workers(scene, outbox)
            if kind == "mariadb":
                _row_locks(scene, outbox)
            if scene.long and kind == "postgresql":  # last: its checkpoints and vacuums go on for a while
                for _ in range(9):
                    outbox.fill_sent(MILLION)
                _stage(scene, outbox, sink.port, "ten million sent")


def _stage(scene: Scene, outbox: Outbox, port: int, name: str) -> None:
    tries = scene.scale(100, 20)
    _due(outbox, (tries + WARM_UP) * BATCH)
    taken = claims_of(probe(outbox, "probe"), tries)
    _clear(outbox)
    _due(outbox, BATCH)
    scene.book.add(f"claim.{outbox.kind}.bare.{name}", statistics.median(_bare_claims(outbox, tries)) * 1000)
    worker(outbox.configure(port), "--once")
    first = _first_message(outbox)
    _clear(outbox)
    _write_down(scene, outbox.kind, name, taken)
    scene.book.add(f"claim.{outbox.kind}.first.{name}", first * 1000)
    scene.tell(
        f"{outbox.kind}, {name}: claim {statistics.median(taken) * 1000:.2f} ms, first message {first * 1000:.0f} ms"
    )


def _write_down(scene: Scene, kind: str, name: str, taken: list[float]) -> None:
    scene.book.add(f"claim.{kind}.p50.{name}", statistics.median(taken) * 1000)
    scene.book.add(f"claim.{kind}.p95.{name}", percentile(taken, 0.95) * 1000)


def _due(outbox: Outbox, rows: int) -> None:
    outbox.fill(rows, priority=LAST, body_html=None, body_text="Hello")
    outbox.settle()


def _clear(outbox: Outbox) -> None:
    with outbox.engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.priority == LAST))


def probe(outbox: Outbox, name: str) -> Store:
    return Store(outbox.engine, worker=name, message_id_domain="example.com")


def claims_of(store: Store, tries: int) -> list[float]:
    """Seconds of each."""
    for _ in range(WARM_UP):
        store.claim(Gate(limit=BATCH))
    taken = []
    for _ in range(tries):
        began = time.perf_counter()
        rows = store.claim(Gate(limit=BATCH))
        taken.append(time.perf_counter() - began)
        if len(rows) != BATCH:
            raise RuntimeError(f"a claim got {len(rows)} rows")
    return taken


def _claims_at(at: float, url: str, name: str, tries: int) -> list[float]:
    """In a process of its own, from that time on."""
    engine = connect(DatabaseSettings(url=url))
    try:
        store = Store(engine, worker=name, message_id_domain="example.com")
        time.sleep(max(0.0, at - time.time()))
        return claims_of(store, tries)
    finally:
        engine.dispose()


def _bare_claims(outbox: Outbox, tries: int) -> list[float]:
    """Seconds of the claim's statements alone, each rolled back: what the disk does at a commit hides the rest."""
    taken = []
    claim_rows = DIALECTS[outbox.kind].claim
    with outbox.engine.connect() as connection:
        for _ in range(tries + WARM_UP):
            began = time.perf_counter()
            claim_rows(connection, REQUEST)
            taken.append(time.perf_counter() - began)
            connection.rollback()
    return taken[WARM_UP:]


def _first_message(outbox: Outbox) -> float:
    query = sa.select(sa.func.min(table.c.sent_at)).where(table.c.priority == LAST)
    started = sa.select(worker_table.c.started_at).where(worker_table.c.name == "bench")
    with outbox.engine.connect() as connection:
        return (connection.execute(query).scalar_one() - connection.execute(started).scalar_one()).total_seconds()


def _two_workers(scene: Scene, outbox: Outbox) -> None:
    """Both at once, each a process of its own."""
    tries = scene.scale(100, 20)
    _due(outbox, 2 * (tries + WARM_UP) * BATCH)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        at = time.time() + START_S
        found = [processes.submit(_claims_at, at, outbox.url, name, tries) for name in ("one", "two")]
        taken = [seconds for future in found for seconds in future.result()]
    _clear(outbox)
    _write_down(scene, outbox.kind, "two workers", taken)
    scene.tell(f"{outbox.kind}, two workers: claim {statistics.median(taken) * 1000:.2f} ms")


def _row_locks(scene: Scene, outbox: Outbox) -> None:
    """What one claim has locked before it commits."""
    _due(outbox, BATCH)
    query = "SELECT trx_rows_locked FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID()"
    with outbox.engine.connect() as connection:
        DIALECTS["mariadb"].claim(connection, REQUEST)
        time.sleep(INNODB_TRX_AGE_S)
        locked = connection.execute(sa.text(query)).scalar_one()
        connection.rollback()
    scene.book.add("claim.mariadb.row-locks", float(locked))
    scene.tell(f"mariadb: a claim of {BATCH} locks {locked} rows")


def foreign(scene: Scene) -> None:
    """Target 9: a snapshot held open elsewhere keeps PostgreSQL from forgetting dead rows; beside it, without one."""
    rows = scene.scale(50_000, 5_000)
    scene.book.say("foreign.rows", f"{rows:,}")
    for name in ("without", "with"):
        with scene.outbox("postgresql") as outbox, Sink() as sink:
            outbox.fill(rows)
            outbox.settle()
            with outbox.engine.connect().execution_options(isolation_level="REPEATABLE READ") as snapshot:
                if name == "with":
                    snapshot.execute(sa.text("SELECT count(*) FROM outbox"))
                _foreign(scene, outbox, sink.port, name, rows)
                snapshot.rollback()


def _foreign(scene: Scene, outbox: Outbox, port: int, name: str, rows: int) -> None:
    tries = 10
    outbox.fill((tries + WARM_UP) * BATCH, priority=0)
    before = claims_of(probe(outbox, "probe"), tries)
    worker(outbox.configure(port), "--once")
    outbox.fill((tries + WARM_UP) * BATCH)
    after = claims_of(probe(outbox, "probe"), tries)
    times = sa.select(table.c.sent_at).where(table.c.status == "sent").order_by(table.c.sent_at)
    with outbox.engine.connect() as connection:
        sent = list(connection.execute(times).scalars())
    part = rows // 10
    for when, piece in (("start", sent[:part]), ("end", sent[-part:])):
        scene.book.add(f"foreign.{name}.rate.{when}", (part - 1) / (piece[-1] - piece[0]).total_seconds())
    start, end = statistics.median(before) * 1000, statistics.median(after) * 1000
    scene.tell(f"{name} a foreign snapshot: claim {start:.1f} ms, at the end {end:.1f} ms")
    scene.book.add(f"foreign.{name}.claim.start", start)
    scene.book.add(f"foreign.{name}.claim.end", end)
