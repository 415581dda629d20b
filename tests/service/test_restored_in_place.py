"""An older outbox comes back under a worker at work, and no connection breaks: what was sent is not sent again."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer
from service.bench import Bench, books

from poller.outbox.database import transaction
from poller.outbox.guard import adopt, home_of
from poller.outbox.tables import attachment, attempt, meta, outbox, recipient, suppression, throttle, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

How = Literal["at once", "table by table"]
WAYS: tuple[How, ...] = ("at once", "table by table")
EACH = [
    pytest.param(kind, how, marks=pytest.mark.long if how == "table by table" and kind != "mariadb" else ())
    for kind in ("postgresql", "mariadb", "sqlite")
    for how in WAYS
]
"""As mariadb-dump brings them back, on MariaDB; elsewhere in the long run."""
TABLES = (outbox, attachment, attempt, meta, recipient, suppression, throttle, worker)
"""As mariadb-dump brings them back: by name, the workers last."""
COMPUTED = {"domain", "lane", "flow"}
HEARTBEAT = {"worker": {"heartbeat": "300ms"}}


class Dump:
    """The rows of all tables as they are at one moment, as a dump has them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        isolation = "SERIALIZABLE" if bench.engine.dialect.name == "sqlite" else "REPEATABLE READ"
        with bench.engine.connect() as connection:
            connection.execution_options(isolation_level=isolation)
            self.rows = self._read(connection)

    def _read(self, connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for table in TABLES:
            columns = [column for column in table.c if column.name not in COMPUTED]
            found[table.name] = [dict(row._mapping) for row in connection.execute(sa.select(*columns))]
        return found

    def restore(self, how: How) -> None:
        """In one transaction, or in one for each table, with time in between for a worker to look."""
        if how == "at once":
            transaction(self.bench.engine, lambda c: [self._load(c, table) for table in TABLES])
            return
        for table in TABLES:
            transaction(self.bench.engine, lambda c, table=table: self._load(c, table))
            time.sleep(0.3)

    def _load(self, connection: sa.Connection, table: sa.Table) -> None:
        connection.execute(sa.delete(table))
        if self.rows[table.name]:
            connection.execute(sa.insert(table), self.rows[table.name])


@contextlib.contextmanager
def at_work(bench: Bench, relay: FaultServer) -> Iterator[None]:
    """A worker, until the end of the block; then it must end in order."""
    with bench.running(bench.configure(relay.host, relay.port)) as process:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def why_off(bench: Bench) -> str | None:
    query = sa.select(meta.c.value).where(meta.c.name == "paused")
    return transaction(bench.engine, lambda c: c.execute(query).scalar(), reading=True)


def settled(bench: Bench, **statuses: int) -> None:
    """Wait until the rows are as told; a person adopts the outbox when it asks for that."""

    def is_so() -> bool:
        if why_off(bench):
            adopt(bench.engine, home_of(bench.database, bench.engine))
        return bench.statuses() == Counter(statuses)

    bench.wait_for(is_so)


@pytest.mark.parametrize(("kind", "how"), EACH)
def test_what_was_sent_since_the_dump_is_known_from_the_journal_and_not_sent_again(bench: Bench, how: How) -> None:
    bench.settings = HEARTBEAT
    with FaultServer(Faults()) as relay, at_work(bench, relay):
        bench.insert(2)
        bench.wait_for(lambda: bench.statuses() == Counter(sent=2))
        bench.insert(150)
        dump = Dump(bench)
        settled(bench, sent=152)
        dump.restore(how)
        bench.wait_for(lambda: any(line["event"] == "outbox.older" for line in bench.log()))
        bench.insert(3, recipients="new{n}@example.com")
        settled(bench, sent=155)
        found = books(bench, relay)
    assert (found.accepted, found.duplicates, found.lost, found.doubts) == (155, 0, 0, 0)


@pytest.mark.parametrize(("kind", "how"), EACH)
def test_a_worker_in_the_midst_of_a_batch_notices_too(bench: Bench, how: How) -> None:
    bench.settings = HEARTBEAT
    with FaultServer(Faults(reply_delay=0.002)) as relay, at_work(bench, relay):
        bench.insert(2)
        bench.wait_for(lambda: bench.statuses() == Counter(sent=2))
        bench.insert(200)
        dump = Dump(bench)
        bench.wait_for(lambda: len(relay.messages) > 120)
        dump.restore(how)
        settled(bench, sent=202)
        found = books(bench, relay)
    assert (found.accepted, found.duplicates, found.lost, found.doubts) == (202, 0, 0, 0)


def test_a_dump_from_before_the_first_start_is_the_same_outbox(bench: Bench) -> None:
    bench.settings = HEARTBEAT
    ids = bench.insert(5)
    dump = Dump(bench)
    assert not dump.rows[worker.name]
    with FaultServer(Faults()) as relay, at_work(bench, relay):
        settled(bench, sent=len(ids))
        dump.restore("at once")
        bench.wait_for(lambda: any(line["event"] == "outbox.older" for line in bench.log()))
        settled(bench, sent=len(ids))
        found = books(bench, relay)
    assert (found.accepted, found.duplicates, found.lost, found.doubts) == (len(ids), 0, 0, 0)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_what_another_worker_sent_waits_until_that_worker_has_written_it_again(bench: Bench) -> None:
    bench.settings = {**HEARTBEAT, "poll": {"batch_size": 10}}
    other = Bench(database=bench.database, directory=bench.directory, settings=bench.settings, name="w2")
    with FaultServer(Faults(reply_delay=0.001)) as relay, at_work(bench, relay), at_work(other, relay):
        bench.insert(100)
        bench.wait_for(lambda: bench.statuses() == Counter(sent=100))
        bench.insert(200)
        dump = Dump(bench)
        settled(bench, sent=300)
        time.sleep(0.5)  # for a heartbeat of each, by which it knows of the other
        dump.restore("at once")
        bench.wait_for(lambda: all(any(x["event"] == "outbox.older" for x in b.log()) for b in (bench, other)))
        settled(bench, sent=300)
        found = books(bench, relay)
    other.close()
    assert (found.accepted, found.duplicates, found.lost, found.doubts) == (300, 0, 0, 0)


def test_a_table_that_begins_anew_with_its_ids_has_all_its_mail_sent(bench: Bench) -> None:
    anew = {
        "postgresql": ["TRUNCATE outbox RESTART IDENTITY CASCADE"],
        "mariadb": ["DELETE FROM outbox", "ALTER TABLE outbox AUTO_INCREMENT = 1"],
        "sqlite": ["DELETE FROM outbox", "DELETE FROM sqlite_sequence WHERE name = 'outbox'"],
    }[bench.engine.dialect.name.replace("mysql", "mariadb")]
    with FaultServer(Faults()) as relay, at_work(bench, relay):
        first = bench.insert(20)
        settled(bench, sent=20)
        for statement in anew:
            transaction(bench.engine, lambda c, statement=statement: c.exec_driver_sql(statement))
        assert bench.insert(20, recipients="second{n}@example.com") == first
        settled(bench, sent=20)
    assert Counter(message.recipients for message in relay.messages) == Counter(
        (f"{name}{n}@example.com",) for name in ("user", "second") for n in range(20)
    )


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_file_put_in_place_of_the_one_at_work_is_the_outbox_from_then_on(bench: Bench) -> None:
    bench.settings = HEARTBEAT
    file = Path(str(bench.engine.url.database))
    with FaultServer(Faults()) as relay, at_work(bench, relay):
        bench.insert(2)
        bench.wait_for(lambda: bench.statuses() == Counter(sent=2))
        backup = bench.directory / "backup.db"
        with contextlib.closing(sqlite3.connect(file)) as now, contextlib.closing(sqlite3.connect(backup)) as then:
            now.backup(then)
        bench.insert(20)
        settled(bench, sent=22)
        for companion in (Path(f"{file}-wal"), Path(f"{file}-shm")):
            companion.unlink(missing_ok=True)
        backup.replace(file)
        bench.insert(20, recipients="second{n}@example.com")
        settled(bench, sent=22)
        found = books(bench, relay)
    assert (found.accepted, found.duplicates) == (2 + 20 + 20, 0)
