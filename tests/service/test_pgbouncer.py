"""Behind a real PgBouncer: nothing of a session outlives its transaction, and it works by itself."""

from __future__ import annotations

import os
import signal
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer
from servers.pgbouncer import PgBouncer, reason_against
from service.bench import Bench, books

from poller.outbox.database import connect, is_pooled, transaction
from poller.outbox.listen import install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.outbox.settings import DatabaseSettings

pytestmark = [
    pytest.mark.parametrize("kind", ["postgresql"]),
    pytest.mark.skipif(bool(reason_against()), reason=reason_against()),
]
MODES = pytest.mark.parametrize("mode", ["transaction", "session"])
LONG = bool(os.environ.get("POLLER_TEST_LONG"))
ROWS = 10_000 if LONG else 600


@pytest.fixture
def pooler(database: DatabaseSettings, mode: Literal["transaction", "session"]) -> Iterator[PgBouncer]:
    # In session mode each connection of ours keeps one of the server's.
    with PgBouncer(database.url, mode=mode, most=3 if mode == "transaction" else 20) as pooler:
        yield pooler


def behind(bench: Bench, pooler: PgBouncer, name: str = "w1") -> Bench:
    """The same outbox, whose worker goes by the pooler; the test itself goes directly."""
    return Bench(database=bench.database, directory=bench.directory, name=name, through=pooler.url)


@MODES
def test_a_pooler_is_found_out_and_settings_hold_in_each_transaction(
    database: DatabaseSettings, pooler: PgBouncer
) -> None:
    direct, pooled = connect(database), connect(replace(database, url=pooler.url + "?prepare_threshold=0"))
    query = sa.text("SELECT current_setting('lock_timeout'), current_setting('TimeZone')")
    try:
        found = [transaction(pooled, lambda c: tuple(c.execute(query).one()), reading=r) for r in (True, False) * 10]
        assert (is_pooled(direct), is_pooled(pooled)) == (False, True)
        assert set(found) == {("2s", "UTC")}
        other = sa.create_engine(sa.make_url(pooler.url).set(drivername="postgresql+psycopg"))
        with other.connect() as connection:  # nothing is left in the sessions that others get
            assert connection.execute(query).one()[0] == "0"
        other.dispose()
    finally:
        direct.dispose()
        pooled.dispose()


@MODES
def test_every_command_works_behind_it_and_its_deafness_is_said_once(bench: Bench, pooler: PgBouncer) -> None:
    install(bench.engine)
    there = behind(bench, pooler)
    bench.insert(30)
    with FaultServer() as relay:
        config = there.configure(relay.host, relay.port, poll={"listen": True})
        checked = there.poller(config, "check")
        assert (checked.returncode, "FAIL" in checked.stdout) == (0, False), checked.stdout
        with there.running(config):
            bench.wait_for(lambda: bench.statuses() == Counter(sent=30))
            bench.insert(5)
            bench.wait_for(lambda: bench.statuses() == Counter(sent=35))
    deaf = [line for line in there.log() if line["event"] == "database.unavailable"]
    assert [("listen_url" in line["reason"]) for line in deaf] == [True]


@pytest.mark.parametrize("mode", ["transaction"])
def test_a_way_around_the_pooler_hears(bench: Bench, pooler: PgBouncer) -> None:
    install(bench.engine)
    there = behind(bench, pooler)
    with FaultServer() as relay:
        there.settings = {"database": {"listen_url": bench.database.url}}
        config = there.configure(relay.host, relay.port, poll={"listen": True, "interval": "1h"})
        with there.running(config):
            bench.wait_for(lambda: any(line["event"] == "worker.started" for line in there.log()))
            bench.insert(5)
            bench.wait_for(lambda: bench.statuses() == Counter(sent=5))
    assert [line for line in there.log() if line["event"] == "database.unavailable"] == []


@pytest.mark.parametrize("mode", ["transaction"])
def test_two_workers_one_killed_send_everything_once(bench: Bench, pooler: PgBouncer) -> None:
    bench.insert(ROWS)
    first, second = behind(bench, pooler, "w1"), behind(bench, pooler, "w2")
    with FaultServer(Faults(reply_delay=0.001)) as relay:
        one, two = (there.configure(relay.host, relay.port) for there in (first, second))
        with second.running(two):
            with first.running(one) as killed:
                bench.wait_for(lambda: len(relay.messages) > ROWS // 4)
                killed.send_signal(signal.SIGKILL)
                killed.wait()
            with first.running(one):
                bench.wait_for(lambda: bench.statuses() == Counter(sent=ROWS), 300)
        found = books(bench, relay)
    assert (found.lost, found.duplicates <= found.doubts, found.doubts <= 1) == (0, True, True)
    assert [line for line in (*first.log(), *second.log()) if line["level"] == "error"] == []
