"""Fair by default: nobody's million delays another's one of the same priority, and no priority starves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import insert, store_for
from outbox.test_plans import NOW, NUMBERS, nodes

from poller.outbox.database import connect
from poller.pacing.gate import Candidate, Choice, Gate, Grant, Record, ScopeKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from poller.outbox.rows import ClaimedRow
    from poller.outbox.settings import DatabaseSettings
    from poller.outbox.store import Store

MANY = 4_000
LIMIT = 20
MOST_READ = 1000
WAYS = {
    "wide open": Gate(limit=LIMIT),
    "with a closed domain": Gate(limit=LIMIT, closed_domains=("elsewhere.example",)),
    "paced": Gate(limit=LIMIT, paced=True),
}


@pytest.fixture
def engine(database: DatabaseSettings) -> Iterator[Engine]:
    engine = connect(database)
    yield engine
    engine.dispose()


def fill(engine: Engine, kind: str, count: int = MANY, **columns: str) -> None:
    """So many rows that are due, alike but for what is given; `n` in a value stands for the row's number."""
    values = {"recipients": "'you@example.com'", "body_text": "'x'", "sender": "'shop@example.com'", **columns}
    numbers = NUMBERS[kind].format(n=count)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                f"INSERT INTO outbox ({', '.join(values)}, due_at)"
                f" SELECT {', '.join(values.values())}, {NOW[kind]} FROM ({numbers}) AS s"
            )
        )
        connection.exec_driver_sql("ANALYZE TABLE outbox" if kind == "mariadb" else "ANALYZE outbox")


def everybody(shown: Sequence[Candidate], _: Mapping[ScopeKey, Record], __: datetime) -> Choice:
    return Choice(grants={candidate.id: Grant() for candidate in shown})


def claim(store: Store, gate: Gate) -> list[ClaimedRow]:
    return store.claim(gate, everybody)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("differs", ["batch", "template", "sender"])
def test_a_row_behind_thousands_of_another_flow_goes_with_the_next_claim(
    engine: Engine, kind: str, way: str, differs: str
) -> None:
    fill(engine, kind, batch="'newsletter'")
    store = store_for(engine, "w1")
    assert len(claim(store, WAYS[way])) == LIMIT
    others: dict[str, Any] = {"batch": "newsletter", "sender": "shop@example.com"}
    single = insert(engine, **others | {differs: "another"} | ({"body_text": None} if differs == "template" else {}))
    rows = claim(store, WAYS[way])
    assert single in [row.id for row in rows]
    assert len(rows) == LIMIT


def test_every_one_of_many_senders_is_served_within_two_rounds_of_their_number(engine: Engine, kind: str) -> None:
    fill(engine, kind, batch="'newsletter'")
    store = store_for(engine, "w1")
    claim(store, Gate(limit=LIMIT))
    singles = {insert(engine, sender=f"shop{n}@example.com") for n in range(100)}
    served: list[int] = []
    for _ in range(2 * 100 // (LIMIT // 2)):
        served += [row.id for row in claim(store, Gate(limit=LIMIT))]
    assert singles <= set(served)


def test_where_one_row_is_claimed_at_a_time_each_second_is_in_turn(engine: Engine, kind: str) -> None:
    fill(engine, kind, count=200, batch="'newsletter'")
    store = store_for(engine, "w1")
    claim(store, Gate(limit=1))
    single = insert(engine)
    assert single in [row.id for _ in range(4) for row in claim(store, Gate(limit=1))]


def test_within_a_flow_the_order_stays_due_time_and_id(engine: Engine, kind: str) -> None:
    fill(engine, kind, count=400, batch="'a'")
    fill(engine, kind, count=400, batch="'b'")
    store = store_for(engine, "w1")
    went: dict[str, list[int]] = {"a": [], "b": []}
    for _ in range(40):
        for row in claim(store, Gate(limit=LIMIT)):
            went[str(row.batch)].append(row.id)
    assert [ids == sorted(ids) for ids in went.values()] == [True, True]
    assert {name: len(ids) for name, ids in went.items()} == {"a": 400, "b": 400}


def test_a_higher_priority_is_still_first(engine: Engine, kind: str) -> None:
    fill(engine, kind, batch="'newsletter'")
    fill(engine, kind, count=50, priority="0", batch="'alarm'")
    store = store_for(engine, "w1")
    rows = [row for _ in range(5) for row in claim(store, Gate(limit=LIMIT))]
    assert Counter(row.batch for row in rows)["alarm"] == 50


@pytest.mark.parametrize("way", WAYS)
def test_the_lower_priorities_get_a_twentieth_each_in_its_turn(engine: Engine, kind: str, way: str) -> None:
    fill(engine, kind, priority="1")
    for priority in (4, 9):
        fill(engine, kind, count=100, priority=f"{priority}", batch=f"'p{priority}'")
    store = store_for(engine, "w1")
    went = Counter(row.batch for _ in range(161) for row in claim(store, WAYS[way]))
    assert went["p4"] + went["p9"] == 161 // 10 * (LIMIT // 2)
    assert min(went["p4"], went["p9"]) >= LIMIT // 2


def shapes(kind: str) -> dict[str, dict[str, str]]:
    """Twenty thousand rows: in one flow, in a hundred, in as many."""
    number, large = (
        ("CONCAT('b', n)", "CONCAT('b', n % 100)") if kind == "mariadb" else ("'b' || n", "'b' || (n % 100)")
    )
    return {"one": {"batch": "'b'"}, "a hundred": {"batch": large}, "one each": {"batch": number}}


@pytest.mark.parametrize("shape", ["one", "a hundred", "one each"])
def test_to_find_whose_turn_it_is_few_rows_are_read_and_by_the_index(engine: Engine, kind: str, shape: str) -> None:
    fill(engine, kind, count=20_000, **shapes(kind)[shape])
    store = store_for(engine, "w1")
    for _ in range(3):
        claim(store, Gate(limit=LIMIT))
    insert(engine, sender="another@example.com")
    with engine.connect() as connection:
        cost = Cost(connection, kind)
        rows = store._walk.turns.rows(connection, Gate(limit=LIMIT))
        assert rows
        assert cost.rows_read() < MOST_READ
        connection.rollback()


@dataclass
class Cost:
    """What the statements on `connection` read from now on; that they scan no table."""

    connection: sa.Connection
    kind: str

    def __post_init__(self) -> None:
        self.read = 0
        if self.kind == "mariadb":
            self.connection.exec_driver_sql("FLUSH STATUS")
        else:
            sa.event.listen(self.connection, "before_cursor_execute", self._explain)

    def _explain(self, _: sa.Connection, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if self.kind == "sqlite":
            own = cursor.connection.cursor()
            plan = [row[3] for row in own.execute("EXPLAIN QUERY PLAN " + statement, parameters)]
            assert [line for line in plan if line in {"SCAN outbox", "SCAN o"} or "FOR ORDER BY" in line] == []
            return
        with cursor.connection.cursor() as own:
            own.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters)
            plan = own.fetchone()[0][0]["Plan"]
        scans = [node for node in nodes(plan) if node.get("Relation Name") == "outbox" and "Scan" in node["Node Type"]]
        assert {node["Node Type"] for node in scans} <= {"Index Scan", "Index Only Scan"}, plan
        self.read += sum(n["Actual Loops"] * (n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) for n in scans)

    def rows_read(self) -> int:
        """Index entries and rows; SQLite does not tell."""
        if self.kind != "mariadb":
            return self.read
        found = self.connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        return sum(int(row[1]) for row in found)
