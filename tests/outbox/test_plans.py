"""What a claim costs: a due row of the last priority behind fifty thousand that wait costs next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import store_for

from poller.outbox import dialect, postgresql, sqlite
from poller.outbox.database import connect
from poller.outbox.dialects import DIALECTS, dialect_of
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

WAITING, DUE, LIMIT = 50_000, 40, 20
COLUMNS = "recipients, body_text, priority, due_at"
NUMBERS = {
    "postgresql": "SELECT generate_series(1, {n}) AS n",
    "mariadb": "SELECT seq AS n FROM seq_1_to_{n}",
    "sqlite": "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {n}) SELECT n FROM c",
}
TOMORROW = {
    "postgresql": "now() + interval '1 day' + n * interval '1 second'",
    "mariadb": "UTC_TIMESTAMP(6) + INTERVAL 1 DAY + INTERVAL n SECOND",
    "sqlite": "datetime('now', '+1 day', n || ' seconds')",
}
NOW = {"postgresql": "now()", "mariadb": "UTC_TIMESTAMP(6)", "sqlite": "datetime('now')"}
REQUEST = dialect.ClaimRequest(worker="w1", limit=LIMIT, message_id_key="k", message_id_domain="d")


@pytest.fixture
def full(kind: str, database: DatabaseSettings) -> Iterator[Engine]:
    """Most rows wait for tomorrow at priority 0, a few are due at priority 9."""
    engine = connect(database)
    with engine.begin() as connection:
        for count, priority, due in ((WAITING, 0, TOMORROW[kind]), (DUE, 9, NOW[kind])):
            numbers = NUMBERS[kind].format(n=count)
            connection.exec_driver_sql(
                f"INSERT INTO outbox ({COLUMNS}) SELECT 'a@example.com', 'x', {priority}, {due} FROM ({numbers}) AS s"
            )
        connection.exec_driver_sql("ANALYZE TABLE outbox" if kind == "mariadb" else "ANALYZE outbox")
    yield engine
    engine.dispose()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_postgresql_reads_few_rows_and_by_the_index(full: Engine) -> None:
    statement = sa.text("EXPLAIN (ANALYZE, FORMAT JSON) " + str(postgresql._CLAIM.element))
    with full.connect() as connection:
        plan = connection.execute(statement, REQUEST.values()).scalar_one()[0]["Plan"]
        connection.rollback()
    scans = [node for node in nodes(plan) if node.get("Relation Name") == "outbox" and "Scan" in node["Node Type"]]
    assert {node["Node Type"] for node in scans} <= {"Index Scan", "Index Only Scan"}
    assert "outbox_due" in {node["Index Name"] for node in scans}
    read = sum(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) for node in scans)
    assert read <= 3 * LIMIT
    assert len(store_for(full, "w1").claim(Gate(limit=WAITING))) == DUE


@pytest.mark.parametrize("kind", ["sqlite"])
def test_sqlite_searches_each_priority_by_the_index(full: Engine) -> None:
    statement = sa.text("EXPLAIN QUERY PLAN " + str(sqlite._CLAIM.element))
    with full.connect() as connection:
        plan = [row.detail for row in connection.execute(statement, REQUEST.values())]
        connection.rollback()
    searches = [line for line in plan if "outbox_due" in line]
    assert len(searches) == 10
    assert all("SEARCH outbox USING" in line and "priority=? AND due_at<?" in line for line in searches)
    assert [line for line in plan if "SCAN outbox" in line.replace("outbox_meta", "") or "TEMP B-TREE" in line] == []
    assert len(store_for(full, "w1").claim(Gate(limit=WAITING))) == DUE


@pytest.mark.parametrize("kind", ["mariadb"])
def test_mariadb_examines_and_locks_few_rows(full: Engine) -> None:
    def handler_reads(connection: sa.Connection) -> int:
        rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        return sum(int(row[1]) for row in rows)

    mine = sa.text(
        "SELECT trx_rows_locked FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID()"
    )
    with full.connect() as connection:
        connection.exec_driver_sql("FLUSH STATUS")
        claimed = DIALECTS["mysql"].claim(connection, REQUEST)
        read = handler_reads(connection)
        locked = connection.execute(mine).scalar_one()
        connection.rollback()
    assert len(claimed) == LIMIT
    assert read <= 10 * LIMIT
    assert locked <= 4 * LIMIT
    assert len(store_for(full, "w1").claim(Gate(limit=WAITING))) == DUE


@pytest.mark.parametrize("kind", ["sqlite"])
def test_sqlite_looks_for_the_rows_in_somebodys_hands_by_the_index(full: Engine) -> None:
    store = store_for(full, "w1")
    query = store._orphan_query("o.claimed_by = :me", ()).bindparams(me="w1")
    text = str(query.compile(full, compile_kwargs={"literal_binds": True, "render_postcompile": True}))
    with full.connect() as connection:
        plan = [row.detail for row in connection.execute(sa.text("EXPLAIN QUERY PLAN " + text))]
    assert [line for line in plan if "outbox_held" in line]
    assert [line for line in plan if line.startswith("SCAN o")] == []


# ---- through a gate


CLOSED, FREE, BESIDE = 20_000, 3, 500
MANY = tuple(f"d{n}.example" for n in range(BESIDE))
GATE = Gate(limit=LIMIT, closed_domains=("closed.example", *MANY), open_domains=((MANY[7], 2), ("gone.example", 2)))
BY_SENDER = Gate(limit=LIMIT, closed_lanes=tuple(f" a@{domain}" for domain in GATE.closed_domains))
DOMAIN = {
    "postgresql": "'d' || (n % {n}) || '.example'",
    "mariadb": "CONCAT('d', MOD(n, {n}), '.example')",
    "sqlite": "'d' || (n % {n}) || '.example'",
}


@pytest.fixture
def blocked(kind: str, database: DatabaseSettings) -> Iterator[Engine]:
    """In front of a few free rows stand as many of one closed domain as of many."""
    engine = connect(database)
    with engine.begin() as connection:
        many = DOMAIN[kind].format(n=BESIDE)
        for count, domain in ((CLOSED, "'closed.example'"), (CLOSED, many), (FREE, "'free.example'")):
            to = f"CONCAT('a@', {domain})" if kind == "mariadb" else f"'a@' || {domain}"
            rows = f"SELECT {to}, 'x', 5, {NOW[kind]}, {to} FROM ({NUMBERS[kind].format(n=count)}) AS s"
            connection.execute(sa.text(f"INSERT INTO outbox ({COLUMNS}, sender) {rows}"))
        connection.exec_driver_sql("ANALYZE TABLE outbox" if kind == "mariadb" else "ANALYZE outbox")
    yield engine
    engine.dispose()


def walked(connection: sa.Connection, by: dialect.By) -> None:
    """Every path once, as a claim takes them."""
    found = dialect_of(connection).paths
    gate, prefix = (GATE, "") if by == "domain" else (BY_SENDER, " a@")
    found.window(connection, gate, dialect.FIRST, LIMIT)
    found.edge(connection, dialect.FIRST)
    found.pairs_of(connection, [domain for domain, _ in GATE.open_domains])
    found.pairs_from(connection, by, "", gate.closed_domains or gate.closed_lanes, 2000)
    wanted = [((f"{prefix}closed.example", 5), 2), ((f"{prefix}free.example", 5), LIMIT), ((None, 5), LIMIT)]
    assert len(found.heads(connection, by, Gate(limit=LIMIT), wanted)) == 2 + FREE


@pytest.mark.parametrize("by", ["domain", "lane"])
@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_postgresql_passes_by_closed_rows_by_the_index(blocked: Engine, mode: str, by: dialect.By) -> None:
    plans: list[dict[str, Any]] = []

    def explained(_: sa.Connection, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        with cursor.connection.cursor() as own:
            own.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters)
            plans.append(own.fetchone()[0][0]["Plan"])

    with blocked.connect() as connection:
        connection.exec_driver_sql(f"SET plan_cache_mode = {mode}")
        sa.event.listen(connection, "before_cursor_execute", explained)
        walked(connection, by)
        connection.rollback()
    assert len(plans) == 6
    for plan in plans:
        scans = [node for node in nodes(plan) if node.get("Relation Name") == "outbox" and "Scan" in node["Node Type"]]
        assert {node["Node Type"] for node in scans} <= {"Index Scan", "Index Only Scan"}, plan
        read = sum(n["Actual Loops"] * (n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) for n in scans)
        assert read <= 2 * dialect.LOOK, plan


@pytest.mark.parametrize("by", ["domain", "lane"])
@pytest.mark.parametrize("kind", ["sqlite"])
def test_sqlite_passes_by_closed_rows_by_the_index(blocked: Engine, by: dialect.By) -> None:
    plan: list[str] = []

    def explained(_: sa.Connection, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        own = cursor.connection.cursor()
        plan.extend(row[3] for row in own.execute("EXPLAIN QUERY PLAN " + statement, parameters))

    with blocked.connect() as connection:
        sa.event.listen(connection, "before_cursor_execute", explained)
        walked(connection, by)
        connection.rollback()
    assert [line for line in plan if line in {"SCAN outbox", "SCAN o"} or "FOR ORDER BY" in line] == []
    searches = {line for line in plan if line.startswith(("SEARCH outbox ", "SEARCH o "))}
    assert {line for line in searches if "outbox_due" not in line and "rowid=?" not in line} == set()


@pytest.mark.parametrize("by", ["domain", "lane"])
@pytest.mark.parametrize("kind", ["mariadb"])
def test_mariadb_passes_by_closed_rows_and_locks_none_of_them(blocked: Engine, by: dialect.By) -> None:
    mine = "SELECT trx_rows_locked FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = CONNECTION_ID()"
    with blocked.connect() as connection:
        connection.exec_driver_sql("FLUSH STATUS")
        walked(connection, by)
        rows = connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        read = sum(int(row[1]) for row in rows)
        locked = connection.exec_driver_sql(mine).scalar_one()
        connection.rollback()
    assert read <= 12 * dialect.LOOK
    assert locked <= 4 * LIMIT


@pytest.mark.parametrize("by", ["domain", "lane"])
def test_free_rows_behind_all_others_come_with_the_first_claim(blocked: Engine, by: dialect.By) -> None:
    store = store_for(blocked, "w1")
    gate = GATE if by == "domain" else BY_SENDER
    opened = [MANY[7]] * 2 if by == "domain" else []
    assert store.anything_due(gate)
    assert [row.domain for row in store.claim(gate)] == opened + ["free.example"] * FREE
