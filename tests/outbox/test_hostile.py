"""PostgreSQL 13 and 14 let everybody make functions in `public`: none of them is ever called with the poller's rights.

A name without a schema means the best match in the search path, not the first: `convert_to(text, text)` in `public`
beats the server's own `convert_to(text, name)`. So every name and operator that the poller's statements use is made
here for every other combination of types, and says so when it is called.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.test_roles import work_of_the_poller
from servers.fault import Faults, FaultServer
from service.bench import Bench

from poller.outbox.database import connect
from poller.outbox.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

pytestmark = pytest.mark.parametrize("kind", ["postgresql"])

TYPES = ("text", "varchar", "bigint", "integer", "smallint", "timestamptz", "jsonb", "boolean", "numeric", "float8")
OPERATORS = {
    **dict.fromkeys(("=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~", "@>"), "boolean"),
    "||": "text",
    **dict.fromkeys(("+", "-", "*", "/"), "bigint"),
    "->>": "text",
    "->": "jsonb",
}
MOST_ARGUMENTS = 3
CALL = re.compile(r"(?<!\w)([a-z_][a-z0-9_]*)\s*\(")
BODY = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hostile: {name}'; END $$"


@pytest.fixture
def said() -> Iterator[set[str]]:
    """Every function that a statement of this process names."""
    names: set[str] = set()

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def listen(_c: object, _cursor: object, statement: str, *_: object) -> None:
        names.update(CALL.findall(re.sub(r"'[^']*'", "''", statement)))

    yield names
    sa.event.remove(sa.Engine, "before_cursor_execute", listen)


def known(owner: Engine, names: set[str]) -> set[str]:
    """Of `names`, those that the server has a function of."""
    query = sa.text("SELECT DISTINCT proname FROM pg_catalog.pg_proc WHERE proname = ANY(:names)")
    with owner.connect() as connection:
        return set(connection.execute(query, {"names": sorted(names)}).scalars())


def make_hostile(owner: Engine, names: set[str]) -> int:
    """Functions of these names and operators, for every combination of types that the server has not. Their number."""
    with owner.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        taken = {
            (row.proname, row.types)
            for row in connection.execute(
                sa.text(
                    "SELECT proname, pg_catalog.oidvectortypes(proargtypes) AS types FROM pg_catalog.pg_proc"
                    " WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(:names)"
                ),
                {"names": sorted(names)},
            )
        }
        statements: list[str] = []
        for name in sorted(names):
            for number in range(MOST_ARGUMENTS + 1):
                for types in itertools.product(TYPES if number < MOST_ARGUMENTS else TYPES[:4], repeat=number):
                    if (name, ", ".join(types)) not in taken:
                        body = BODY.format(name=name)
                        statements.append(f"CREATE FUNCTION public.{name}({', '.join(types)}) RETURNS text {body}")
        for number, ((operator, result), left, right) in enumerate(itertools.product(OPERATORS.items(), TYPES, TYPES)):
            exists = connection.execute(
                sa.text("SELECT pg_catalog.to_regoperator(:name) IS NOT NULL"),
                {"name": f"pg_catalog.{operator}({left}, {right})"},
            ).scalar()
            if not exists:
                function = f"hostile_{number}"
                body = BODY.format(name=f"{left} {operator} {right}")
                statements += [
                    f"CREATE FUNCTION public.{function}({left}, {right}) RETURNS {result} {body}",
                    f"CREATE OPERATOR public.{operator} (FUNCTION = {function}, LEFTARG = {left}, RIGHTARG = {right})",
                ]
        cursor = connection.connection.cursor()
        for begin in range(0, len(statements), 500):
            cursor.execute("; ".join(statements[begin : begin + 500]))  # type: ignore[arg-type]
    return len(statements)


def test_no_function_or_operator_of_somebody_else_is_called(
    login: Callable[[str], Engine], database: DatabaseSettings, said: set[str], tmp_path: Path
) -> None:
    engine, owner = login("outbox_poller"), connect(database)
    app = login("outbox_app")
    work_of_the_poller(engine)
    names = known(owner, said)
    assert {"convert_to", "encode", "statement_timestamp", "unnest", "generate_series"} <= names
    with owner.begin() as connection:
        connection.exec_driver_sql("DELETE FROM outbox")
        connection.exec_driver_sql("DELETE FROM outbox_worker")
        connection.exec_driver_sql("GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert make_hostile(owner, names) > 1000
    work_of_the_poller(engine)
    url = engine.url.render_as_string(hide_password=False)
    bench = Bench(database=DatabaseSettings(url=url), directory=tmp_path)
    with owner.begin() as connection:
        connection.exec_driver_sql("DELETE FROM outbox")
    with FaultServer(Faults()) as relay:
        for n in range(5):
            with app.begin() as connection:
                connection.exec_driver_sql(
                    f"INSERT INTO outbox (recipients, body_text) VALUES ('u{n}@example.com', 'x')"
                )
        config = bench.configure(relay.host, relay.port)
        assert bench.run(config, "--once") == 0
        assert bench.statuses() == Counter(sent=5)
        for command in (
            ["status"],
            ["show", str(bench.rows()[0].id)],
            ["plan"],
            ["check"],
            ["pause", "--all", "--yes"],
        ):
            done = bench.poller(config, *command)
            assert "hostile" not in done.stdout + done.stderr
            assert done.returncode == 0, done.stdout + done.stderr
    bench.close()
    owner.dispose()
