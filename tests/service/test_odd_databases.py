"""A database with settings of its own, or one that answers oddly: what `check` says of it, and what `run` does.

A setting changes nothing: `check` is content, and all rows are sent. An outage is waited for: `check` names it with a
remedy, `run` says so once, lives, and sends all rows when it is over. A few of each always; all behind
POLLER_TEST_LONG=1.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import databases
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from servers.fault import Faults, FaultServer
from servers.mariadb import MariaDB, Unavailable
from service.bench import Bench, terminate

from poller.cli import main
from poller.outbox.database import connect
from poller.outbox.migrate import apply
from poller.outbox.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = bool(os.environ.get("POLLER_TEST_LONG"))
ROWS = 40

POSTGRESQL_SETTINGS = {
    "datestyle": "German, DMY",
    "timezone": "Asia/Kathmandu",
    "intervalstyle": "iso_8601",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "extra_float_digits": "-15",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "900",
    "idle_session_timeout": "500",
    "client_encoding": "latin1",
    "row_security": "off",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "enable_seqscan": "off",
    "enable_indexscan": "off",
    "enable_bitmapscan": "off",
    "enable_nestloop": "off",
    "enable_hashjoin": "off",
    "force_parallel_mode": "on",
    "plan_cache_mode": "force_generic_plan",
    "jit_above_cost": "0",
    "work_mem": "64",
    "join_collapse_limit": "1",
    "session_replication_role": "replica",
    "search_path": '"$user", public, pg_catalog',
}
MARIADB_SETTINGS = {
    "sql_mode": "ANSI,ONLY_FULL_GROUP_BY,NO_ZERO_DATE",
    "time_zone": "+05:45",
    "autocommit": "0",
    "tx_isolation": "SERIALIZABLE",
    "group_concat_max_len": "4",
    "max_statement_time": "60",
    "innodb_lock_wait_timeout": "1",
    "lock_wait_timeout": "1",
    "sql_safe_updates": "1",
    "sql_select_limit": "1",
    "sql_big_selects": "0",
    "max_join_size": "1",
    "wait_timeout": "1",
    "interactive_timeout": "1",
    "foreign_key_checks": "0",
    "unique_checks": "0",
    "check_constraint_checks": "0",
    "sql_auto_is_null": "1",
    "completion_type": "CHAIN",
    "character_set_client": "latin1",
    "character_set_results": "latin1",
    "character_set_connection": "latin1",
    "collation_connection": "latin1_german1_ci",
    "lc_time_names": "de_DE",
    "div_precision_increment": "0",
    "default_storage_engine": "MyISAM",
    "max_sort_length": "64",
    "max_heap_table_size": "16384",
    "max_length_for_sort_data": "4",
    "join_cache_level": "0",
    "sql_quote_show_create": "0",
}
SETTINGS = {"postgresql": POSTGRESQL_SETTINGS, "mariadb": MARIADB_SETTINGS}


def _cases() -> Iterator[object]:
    for kind, settings in SETTINGS.items():
        # The planner without all its ways at once takes half a minute.
        together = {
            name: value for name, value in settings.items() if not name.startswith(("enable_", "force_", "jit"))
        }
        yield pytest.param(kind, together, id=f"{kind}-all")
        if LONG:
            for name, value in settings.items():
                yield pytest.param(kind, {name: value}, id=f"{kind}-{name}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A migrated outbox: `admin` may do anything, `bench` works as a user of little power."""

    kind: str
    admin: sa.Engine
    bench: Bench
    user: str

    def do(self, *statements: str) -> None:
        """As the administrator."""
        with self.admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                named = statement.format(db=self.admin.url.database, user=self.user)
                connection.exec_driver_sql(named.replace("%", "%%"))


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    try:
        with MariaDB() as server:
            yield server
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    user = f"u_{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        if kind == "postgresql":
            settings = stack.enter_context(databases.database(kind, tmp_path))
            made = [
                "CREATE ROLE {user} LOGIN",
                "GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}",
                "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {user}",
            ]
        else:
            server = request.getfixturevalue("mariadb")
            settings = DatabaseSettings(url=server.url, lock_timeout=2.0)
            made = ["CREATE USER {user}@'%'", "GRANT ALL ON {db}.* TO {user}@'%'"]
        admin = connect(settings)
        apply(admin)
        url = sa.make_url(settings.url).set(username=user).render_as_string(hide_password=False)
        bench = Bench(database=settings, directory=tmp_path, through=url)
        place = Place(kind=kind, admin=admin, bench=bench, user=user)
        place.do(*made)
        yield place
        bench.close()
        if kind == "postgresql":
            place.do("DROP OWNED BY {user}", "DROP ROLE {user}")
        else:
            place.do("DROP USER {user}@'%'", "DROP DATABASE {db}", "CREATE DATABASE {db}")
        admin.dispose()


def check(config: Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["--config", str(config), "check"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@contextlib.contextmanager
def having(place: Place, settings: dict[str, str]) -> Iterator[None]:
    """New sessions have these settings."""
    if place.kind == "postgresql":
        ours = {name: value for name, value in settings.items() if _is_known(place, name)}
        values = {name: value if name == "search_path" else f"'{value}'" for name, value in ours.items()}
        place.do(*(f"ALTER DATABASE {{db}} SET {name} = {value}" for name, value in values.items()))
        yield
        return
    with place.admin.connect() as connection:
        before = {name: connection.exec_driver_sql(f"SELECT @@GLOBAL.{name}").scalar() for name in settings}
    place.do(*(f"SET GLOBAL {name} = {_value(value)}" for name, value in settings.items()))
    try:
        yield
    finally:
        place.do(*(f"SET GLOBAL {name} = {_value(value)}" for name, value in before.items()))


def _is_known(place: Place, name: str) -> bool:
    with place.admin.connect() as connection:
        query = sa.text("SELECT count(*) FROM pg_settings WHERE name = :name")
        return bool(connection.execute(query, {"name": name}).scalar())


def _value(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\d.]+", text) else f"'{text}'"


@pytest.mark.parametrize(("kind", "settings"), [*_cases()])
def test_a_setting_changes_nothing(place: Place, settings: dict[str, str]) -> None:
    bench = place.bench
    with having(place, settings), FaultServer() as relay:
        files = {"recipients": "zoë@example.com", "subject": "Grüße 🚀"}
        bench.insert(ROWS)
        bench.insert(3, **files)
        config = bench.configure(relay.host, relay.port)
        code, said = check(config)
        assert (code, "FAIL" in said) == (0, False), said
        assert bench.run(config, "--drain", "--for", "60s") == 0, bench.log()[-3:]
    assert bench.statuses() == Counter(sent=ROWS + 3)
    assert [line for line in bench.log() if line["level"] == "error"] == []


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What an administrator does, and undoes; `said` is what both `check` and the log must say."""

    begin: tuple[str, ...]
    end: tuple[str, ...]
    said: str
    is_seen_by_check: bool = True


_CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}' AND pid <> pg_backend_pid()"
_TRIGGER = """CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'the audit table is full'; END $$"""
_SIGNAL = (
    "CREATE TRIGGER odd BEFORE UPDATE ON outbox FOR EACH ROW"
    " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the audit table is full'"
)
OUTAGES: dict[str, dict[str, Outage]] = {
    "postgresql": {
        "read-only": Outage(
            begin=("ALTER ROLE {user} SET default_transaction_read_only = on", _CUT),
            end=("ALTER ROLE {user} RESET default_transaction_read_only",),
            said="read-only transaction.*primary server",
        ),
        "schema renamed": Outage(
            begin=("ALTER SCHEMA public RENAME TO elsewhere",),
            end=("ALTER SCHEMA elsewhere RENAME TO public",),
            said="",
        ),
        "table renamed": Outage(
            begin=("ALTER TABLE outbox RENAME TO outbox_gone",),
            end=("ALTER TABLE outbox_gone RENAME TO outbox",),
            said="outbox",
        ),
        "column renamed": Outage(
            begin=("ALTER TABLE outbox RENAME claim_seq TO gone",),
            end=("ALTER TABLE outbox RENAME gone TO claim_seq",),
            said="",
        ),
        "statement timeout": Outage(
            begin=("ALTER ROLE {user} SET statement_timeout = 1", _CUT),
            end=("ALTER ROLE {user} RESET statement_timeout",),
            said="",
            is_seen_by_check=False,
        ),
        "no login": Outage(
            begin=("ALTER ROLE {user} NOLOGIN", _CUT),
            end=("ALTER ROLE {user} LOGIN",),
            said="not permitted to log in.*user and password",
        ),
        "too many connections": Outage(
            begin=("ALTER ROLE {user} CONNECTION LIMIT 0", _CUT),
            end=("ALTER ROLE {user} CONNECTION LIMIT -1",),
            said="too many connections.*needs room",
        ),
        "no connections": Outage(
            begin=("REVOKE CONNECT ON DATABASE {db} FROM PUBLIC", _CUT),
            end=("GRANT CONNECT ON DATABASE {db} TO PUBLIC",),
            said="permission denied.*roles.sql",
        ),
        "no right to update": Outage(
            begin=("REVOKE UPDATE ON outbox FROM {user}",),
            end=("GRANT UPDATE ON outbox TO {user}",),
            said="permission denied.*roles.sql",
        ),
        "no right to the worker's line": Outage(
            begin=("REVOKE ALL ON outbox_worker FROM {user}",),
            end=("GRANT ALL ON outbox_worker TO {user}",),
            said="permission denied.*roles.sql",
        ),
        "row level security": Outage(
            begin=("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY",),
            end=("ALTER TABLE outbox DISABLE ROW LEVEL SECURITY",),
            said="row-level security",
        ),
        "a trigger that refuses all": Outage(
            begin=(_TRIGGER, "CREATE TRIGGER odd BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION odd()"),
            end=("DROP TRIGGER odd ON outbox", "DROP FUNCTION odd"),
            said="audit table is full",
        ),
        "a trigger on the worker's line": Outage(
            begin=(_TRIGGER, "CREATE TRIGGER odd BEFORE UPDATE ON outbox_worker FOR EACH ROW EXECUTE FUNCTION odd()"),
            end=("DROP TRIGGER odd ON outbox_worker", "DROP FUNCTION odd"),
            said="",
            is_seen_by_check=False,
        ),
        "terminated": Outage(begin=(_CUT,), end=(), said="", is_seen_by_check=False),
    },
    "mariadb": {
        "read-only": Outage(
            begin=("SET GLOBAL read_only = 1",), end=("SET GLOBAL read_only = 0",), said="read-only.*primary server"
        ),
        "table renamed": Outage(
            begin=("ALTER TABLE outbox RENAME TO outbox_gone",),
            end=("ALTER TABLE outbox_gone RENAME TO outbox",),
            said="outbox",
        ),
        "meta table renamed": Outage(
            begin=("ALTER TABLE outbox_meta RENAME TO outbox_gone",),
            end=("ALTER TABLE outbox_gone RENAME TO outbox_meta",),
            said="outbox_meta|lacks",
        ),
        "account locked": Outage(
            begin=("ALTER USER {user}@'%' ACCOUNT LOCK", "KILL USER {user}"),
            end=("ALTER USER {user}@'%' ACCOUNT UNLOCK",),
            said="locked",
        ),
        "no right to update": Outage(
            begin=("REVOKE UPDATE ON {db}.* FROM {user}@'%'", "KILL USER {user}"),
            end=("GRANT ALL ON {db}.* TO {user}@'%'",),
            said="denied.*roles.sql",
        ),
        "no rights": Outage(
            begin=("REVOKE ALL ON {db}.* FROM {user}@'%'", "KILL USER {user}"),
            end=("GRANT ALL ON {db}.* TO {user}@'%'",),
            said="denied",
        ),
        "too many connections": Outage(
            begin=("ALTER USER {user}@'%' WITH MAX_CONNECTIONS_PER_HOUR 1", "KILL USER {user}"),
            end=("ALTER USER {user}@'%' WITH MAX_CONNECTIONS_PER_HOUR 0",),
            said="",
            is_seen_by_check=False,
        ),
        "statement time": Outage(
            begin=("ALTER USER {user}@'%' WITH MAX_STATEMENT_TIME 0.00001", "KILL USER {user}"),
            end=("ALTER USER {user}@'%' WITH MAX_STATEMENT_TIME 0",),
            said="",
            is_seen_by_check=False,
        ),
        "transactions that only read": Outage(
            begin=("SET GLOBAL tx_read_only = 1", "KILL USER {user}"),
            end=("SET GLOBAL tx_read_only = 0",),
            said="READ ONLY.*primary server",
        ),
        "a trigger that refuses all": Outage(
            begin=(_SIGNAL,),
            end=("DROP TRIGGER odd",),
            said="audit table is full",
        ),
        "terminated": Outage(begin=("KILL USER {user}",), end=(), said="", is_seen_by_check=False),
    },
}
USUAL = {"read-only", "table renamed", "schema renamed", "a trigger that refuses all", "row level security"}


def _outages() -> Iterator[object]:
    for kind, outages in OUTAGES.items():
        for name, outage in outages.items():
            if LONG or name in USUAL:
                yield pytest.param(kind, outage, id=f"{kind}-{name}")


@pytest.mark.parametrize(("kind", "outage"), [*_outages()])
def test_an_outage_is_waited_for(place: Place, outage: Outage) -> None:
    bench = place.bench
    bench.insert(ROWS)
    with FaultServer(Faults(reply_delay=0.02)) as relay:
        config = bench.configure(relay.host, relay.port, poll={"batch_size": 10}, worker={"heartbeat": "300ms"})
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 5)
            place.do(*outage.begin)
            if outage.is_seen_by_check:
                code, said = check(config)
                assert (code, "Traceback" in said) == (1, False), said
                assert re.search(outage.said, said), said
                bench.wait_for(lambda: _outcries(bench) != [])
            time.sleep(1)
            assert process.poll() is None
            place.do(*outage.end)
            bench.wait_for(lambda: bench.statuses() == Counter(sent=ROWS))
            terminate(process)
        assert process.returncode == 0
        assert len(relay.messages) == ROWS
    assert "Traceback" not in (bench.directory / "w1.log").read_text()
    # Once by each thread that meets it, not at each try; in other words when it says something else.
    assert max(Counter(_outcries(bench)).values(), default=0) <= 3
    if outage.said:
        assert any(re.search(outage.said, words) for words in _outcries(bench)), _outcries(bench)


def _outcries(bench: Bench) -> list[str]:
    lines = [line for line in bench.log() if line["event"] in {"database.unavailable", "row.unclaimable"}]
    return [f"{line['reason']}; {line.get('remedy')}" for line in lines if "reason" in line]


ONE_ROW = {
    "postgresql": """CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN IF NEW.status = '{status}' AND NEW.batch = 'odd' THEN RAISE EXCEPTION 'not this one'; END IF;
RETURN NEW; END $$; CREATE TRIGGER odd BEFORE UPDATE ON outbox FOR EACH ROW EXECUTE FUNCTION odd()""",
    "mariadb": """CREATE TRIGGER odd BEFORE UPDATE ON outbox FOR EACH ROW BEGIN
IF NEW.status = '{status}' AND NEW.batch = 'odd' THEN
SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF; END""",
    "sqlite": """CREATE TRIGGER odd BEFORE UPDATE ON outbox WHEN NEW.status = '{status}' AND NEW.batch = 'odd'
BEGIN SELECT RAISE(ABORT, 'not this one'); END""",
}
NAMED = {"sending": "row.unclaimable", "sent": "record.stubborn"}


@pytest.mark.parametrize("status", NAMED)
def test_a_trigger_that_raises_for_one_row_harms_that_row_alone(bench: Bench, kind: str, status: str) -> None:
    bench.insert(10)
    (odd,) = bench.insert(1, batch="odd")
    bench.insert(10)
    with bench.engine.begin() as connection:
        connection.exec_driver_sql(ONE_ROW[kind].format(status=status))
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            bench.wait_for(lambda: bench.statuses()["sent"] == ROWS // 2)
            bench.wait_for(lambda: any(line["event"] == NAMED[status] for line in bench.log()))
            assert process.poll() is None
            terminate(process)
    (named,) = [line for line in bench.log() if line["event"] == NAMED[status]]
    assert (named["id"], "not this one" in named["reason"]) == (odd, True)
    assert bench.row(odd).status != "sent"


COLUMNS = {
    "postgresql": ("ALTER TABLE outbox_meta ALTER COLUMN value TYPE varchar(900)",),
    "mariadb": ("ALTER TABLE outbox_meta MODIFY COLUMN value VARCHAR(900) NOT NULL",),
    "sqlite": (),
}


def test_a_table_that_is_altered_under_a_worker_does_not_stop_it(bench: Bench, kind: str) -> None:
    """What a prepared statement would return changes: PostgreSQL refuses the plan that it has kept."""
    kind_of_text = "TEXT" if kind == "sqlite" else "VARCHAR(9)"
    tables = ("outbox", "outbox_recipient", "outbox_attempt", "outbox_worker", "outbox_throttle", "outbox_meta")
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            for number in range(4):
                bench.insert(ROWS)
                bench.wait_for(lambda number=number: bench.statuses()["sent"] == ROWS * (number + 1))
                with bench.engine.begin() as connection:
                    for table in tables:
                        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN of_theirs{number} {kind_of_text}")
                    for change in COLUMNS[kind] if number == 2 else ():
                        connection.exec_driver_sql(change)
            assert process.poll() is None
            terminate(process)
    assert [line["event"] for line in bench.log() if line["level"] == "error"] == []


def test_a_run_that_could_not_write_an_outcome_down_says_so_by_its_exit_code(bench: Bench, kind: str) -> None:
    (odd,) = bench.insert(1, batch="odd")
    with bench.engine.begin() as connection:
        connection.exec_driver_sql(ONE_ROW[kind].format(status="sent"))
    with FaultServer() as relay:
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 1
        assert len(relay.messages) == 1
    (stopped,) = [line for line in bench.log() if line["event"] == "worker.stopped"]
    assert stopped["unwritten"] == [odd]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_lock_on_the_workers_own_line_is_said_and_does_not_stop_the_mail(bench: Bench) -> None:
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, database={"lock_timeout": "1s"}, worker={"heartbeat": "300ms"})
        with bench.running(config) as process:
            bench.wait_for(lambda: any(line["event"] == "worker.started" for line in bench.log()))
            with bench.engine.connect() as forgotten:
                forgotten.exec_driver_sql("UPDATE outbox_worker SET host = 'x'")
                bench.insert(ROWS)
                bench.wait_for(lambda: bench.statuses() == Counter(sent=ROWS))
                bench.wait_for(lambda: _outcries(bench) != [])
                forgotten.rollback()
            bench.wait_for(lambda: any(line["event"] == "database.available" for line in bench.log()))
            terminate(process)
    (said,) = _outcries(bench)
    assert re.search("lock on the line of 'w1' in outbox_worker.*transaction that was left open", said), said


def test_a_name_that_does_not_resolve_is_waited_for(bench: Bench, kind: str) -> None:
    url = {"postgresql": "postgresql://poller@", "mariadb": "mysql://poller@", "sqlite": ""}[kind]
    if not url:
        pytest.skip("SQLite is no server")
    there = replace(bench, through=f"{url}no-such-host.invalid/shop")
    with FaultServer() as relay:
        config = there.configure(relay.host, relay.port)
        code, said = check(config)
        assert (code, "look at [database] url" in said) == (1, True), said
        assert "Traceback" not in there.poller(config, "status").stderr
        with there.running(config) as process:
            there.wait_for(lambda: _outcries(there) != [])
            time.sleep(1)
            assert process.poll() is None
            terminate(process)
    assert "Traceback" not in (there.directory / "w1.log").read_text()


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_database_without_an_encoding_and_a_schema_with_a_percent_sign(kind: str, tmp_path: Path) -> None:
    admin = connect(DatabaseSettings(url=databases.server_url(kind)))
    name = f"poller_ascii_{secrets.token_hex(4)}"
    alone = admin.connect().execution_options(isolation_level="AUTOCOMMIT")
    alone.exec_driver_sql(f"CREATE DATABASE {name} ENCODING SQL_ASCII LOCALE 'C' TEMPLATE template0")
    url = sa.make_url(databases.server_url(kind)).set(database=name).render_as_string(hide_password=False)
    bench = Bench(database=DatabaseSettings(url=url, schema='100% "mail"'), directory=tmp_path)
    try:
        apply(bench.engine, bench.database.schema)
        bench.insert(1, subject="Grüße 🚀")
        with bench.engine.begin() as connection:
            latin = "convert_from('\\xe4'::bytea, 'SQL_ASCII')"
            connection.exec_driver_sql(
                f"INSERT INTO outbox (recipients, subject, body_text) VALUES ('a@example.com', {latin}, 'x')"
            )
        bench.insert(1)
        with FaultServer() as relay:
            config = bench.configure(relay.host, relay.port, database={"schema": bench.database.schema})
            code, said = check(config)
            assert code == 0, said
            bench.run(config, "--drain", "--for", "30s")
        assert [row.status for row in bench.rows()] == ["sent", "failed", "sent"]
    finally:
        bench.close()
        alone.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        alone.close()
        admin.dispose()
