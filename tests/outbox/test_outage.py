"""The database goes away and comes back: the store says so, and works again by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import databases
import pytest
import sqlalchemy as sa
from outbox.ground import claimed, deferred, insert, locking, row_of, sent, status_of, store_for

from poller.outbox.database import DatabaseUnavailable, RowsLocked, connect, transaction
from poller.outbox.migrate import apply
from poller.outbox.rows import Late
from poller.outbox.settings import DatabaseSettings
from poller.outbox.store import Store
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection, Engine

SERVERS = pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
_ALIVE = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE pid = :id",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE id = :id",
}
OWN_ID = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}


def kill(engine: Engine, victim: int) -> None:
    """As a DBA would: end one connection from another, and wait until it is gone."""
    other = sa.create_engine(engine.url, poolclass=sa.NullPool)
    words = f"SELECT pg_terminate_backend({victim})" if engine.dialect.name == "postgresql" else f"KILL {victim}"
    seen = sa.text(_ALIVE[engine.dialect.name])
    deadline = time.monotonic() + 10
    with other.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(words)
        while connection.execute(seen, {"id": victim}).scalar() and time.monotonic() < deadline:
            time.sleep(0.01)


@pytest.fixture
def own_connections(engine: Engine) -> Iterator[None]:
    """The pool begins with none, so that the first one is the one; and leaves no dead one behind."""
    engine.dispose()
    yield
    engine.dispose()


def id_of(connection: Connection) -> int:
    return int(connection.execute(sa.text(OWN_ID[connection.dialect.name])).scalar_one())


@SERVERS
@pytest.mark.usefixtures("own_connections")
def test_a_connection_that_was_cut_while_idle_is_replaced_after_one_complaint(store: Store) -> None:
    insert(store.engine)
    with store.engine.connect() as connection:
        victim = id_of(connection)
    kill(store.engine, victim)
    with pytest.raises(DatabaseUnavailable):
        store.now()
    assert len(store.claim(Gate(limit=10))) == 1


@SERVERS
@pytest.mark.usefixtures("own_connections")
def test_a_connection_cut_before_a_file_is_asked_for_is_an_outage_and_no_fault_of_the_row(store: Store) -> None:
    row_id = insert(store.engine)

    def cut(connection: Connection) -> None:
        kill(store.engine, id_of(connection))

    sa.event.listen(store.engine, "begin", cut, once=True)
    with pytest.raises(DatabaseUnavailable):
        store.attachments(row_id)
    assert store.attachments(row_id) == []


class _Cut(Store):
    """A store whose connection is cut in the midst of its next transaction, or after its COMMIT."""

    when = ""

    def _write(self, work: Callable) -> object:  # type: ignore[type-arg]
        when, self.when = self.when, ""

        def cut(connection: Connection) -> object:
            result = work(connection)
            if when == "before commit":
                kill(self.engine, id_of(connection))
            return result

        result = transaction(self.engine, cut)
        if when == "after commit":
            raise DatabaseUnavailable("the reply to COMMIT was lost")
        return result


@SERVERS
@pytest.mark.usefixtures("own_connections")
@pytest.mark.parametrize(("when", "seq"), [("before commit", 1), ("after commit", 2)])
def test_a_claim_that_was_cut_off_is_repeated_whether_it_happened_or_not(engine: Engine, when: str, seq: int) -> None:
    store = _Cut(engine, worker="w1", message_id_domain="d")
    store.claim(Gate(limit=1))  # the key is made
    row_id = insert(engine)
    store.when = when
    with pytest.raises(DatabaseUnavailable):
        store.claim(Gate(limit=10))
    again = claimed(store)
    assert (again.id, again.claim_seq, status_of(engine, row_id)) == (row_id, seq, "sending")


@SERVERS
def test_handing_back_that_was_cut_off_happens_before_the_next_claim(engine: Engine) -> None:
    store = _Cut(engine, worker="w1", message_id_domain="d")
    row_id = insert(engine)
    row = claimed(store)
    store.when = "before commit"
    with pytest.raises(DatabaseUnavailable):
        store.hand_back([row])
    assert status_of(engine, row_id) == "sending"
    assert claimed(store).claim_seq == 2


@SERVERS
def test_a_lock_on_a_workers_own_line_is_a_database_not_available_now(store: Store) -> None:
    store.register(identity="d", host="h", pid=1, version="0", lease=60)
    with store.engine.connect() as other:
        other.execute(sa.text("UPDATE outbox_worker SET host = 'x'"))
        with pytest.raises(RowsLocked):
            store.heartbeat(identity="d", incarnation=1, lease=60)
        other.rollback()
    assert store.heartbeat(identity="d", incarnation=1, lease=60)


@pytest.mark.parametrize("kind", ["sqlite"])
def test_sqlite_locked_by_another_is_not_available_and_then_works_again(shared: DatabaseSettings) -> None:
    engine = connect(DatabaseSettings(url=shared.url, lock_timeout=0.1))
    store = store_for(engine, "w1")
    row_id = insert(engine)
    rows = [row for row in store.claim(Gate(limit=10)) if row.id == row_id]
    steps = [sent(store, rows[0])]
    with locking(engine, row_id), pytest.raises(DatabaseUnavailable, match="locked"):
        store.record(steps)
    assert store.record(steps).written == {row_id}
    engine.dispose()


def test_postgresql_killed_and_started_again_remembers_what_was_committed() -> None:
    try:
        server = databases.EmbeddedPostgres()
    except databases.Missing as why:
        pytest.skip(str(why))
    engine = connect(DatabaseSettings(url=server.url))
    try:
        apply(engine)
        store = store_for(engine, "w1")
        ids = [insert(engine) for _ in range(2)]
        first, second = store.claim(Gate(limit=10))
        store.record([sent(store, first)])
        steps = [sent(store, first), deferred(store, second)]
        server.kill()
        with pytest.raises(DatabaseUnavailable):
            store.record(steps)
        server.start()
        _until_it_answers(store)
        found = store.record(steps)
        assert (found.written, found.late) == ({ids[1]}, {ids[0]: Late.RECORDED})
        assert row_of(engine, ids[0]).attempts == 1
    finally:
        engine.dispose()
        server.stop()


def _until_it_answers(store: Store) -> None:
    for _ in range(5):
        try:
            store.now()
        except DatabaseUnavailable:
            continue
        return
