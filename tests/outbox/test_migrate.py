"""Migrating: the same files by `poller migrate` or by hand, once, and never over somebody else's tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.ground import claimed, insert, store_for

from poller.outbox.database import DatabaseRefused, DatabaseUnavailable, connect
from poller.outbox.guard import hold
from poller.outbox.migrate import (
    SchemaTrouble,
    apply,
    migrations,
    pending,
    refused_trigger,
    require_current,
    sql_directory,
)
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import meta, outbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

NAMES = ["0001_outbox"]


@pytest.fixture
def bare(bare_database: DatabaseSettings) -> Iterator[Engine]:
    """An engine for a database without any table."""
    engine = connect(bare_database)
    yield engine
    engine.dispose()


def run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def record_of(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(meta.c.name, meta.c.value).where(meta.c.name.like("migration%")))
        return {row.name: row.value for row in rows}


def test_the_first_time_applies_everything_and_the_second_nothing(bare: Engine) -> None:
    assert [m.name for m in pending(bare)] == NAMES
    with pytest.raises(SchemaTrouble, match="0001_outbox; run: poller migrate"):
        require_current(bare)
    assert apply(bare) == NAMES
    assert (apply(bare), pending(bare)) == ([], [])
    require_current(bare)
    assert record_of(bare) == {f"migration {m.name}": m.checksum for m in migrations(bare.dialect.name)}


def test_of_many_at_once_one_applies_and_the_others_wait(bare_database: DatabaseSettings) -> None:
    found: list[list[str]] = []

    def migrate() -> None:
        engine = connect(replace(bare_database, lock_timeout=30.0))
        found.append(apply(engine))
        engine.dispose()

    threads = [threading.Thread(target=migrate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [*[[]] * 7, NAMES]


def test_a_file_that_changed_after_it_was_applied_is_refused(bare: Engine) -> None:
    apply(bare)
    run(bare, "UPDATE outbox_meta SET value = 'abc' WHERE name = 'migration 0001_outbox'")
    with pytest.raises(SchemaTrouble, match="other contents"):
        require_current(bare)


def test_a_migration_that_this_version_does_not_know_is_refused(bare: Engine) -> None:
    apply(bare)
    run(bare, "INSERT INTO outbox_meta (name, value) VALUES ('migration 0999_future', 'abc')")
    with pytest.raises(SchemaTrouble, match=r"0999_future.*upgrade poller"):
        apply(bare)


@pytest.mark.parametrize("name", ["outbox", "outbox_meta", "outbox_worker"])
def test_a_table_of_somebody_else_is_refused_and_left_alone(bare: Engine, name: str) -> None:
    run(bare, f"CREATE TABLE {name} (id int, payload varchar(20))")
    run(bare, f"INSERT INTO {name} VALUES (1, 'theirs')")
    with pytest.raises(SchemaTrouble, match=f"`{name}` that poller did not make"):
        apply(bare)
    with bare.connect() as connection:
        assert connection.execute(sa.text(f"SELECT * FROM {name}")).one() == (1, "theirs")
    assert sa.inspect(bare).get_table_names() == [name]


def test_a_view_of_somebody_else_is_refused(bare: Engine) -> None:
    run(bare, "CREATE VIEW outbox AS SELECT 1 AS id")
    with pytest.raises(SchemaTrouble, match="`outbox` that poller did not make"):
        apply(bare)


def test_a_file_that_was_run_in_part_is_finished_or_refused(bare: Engine, kind: str) -> None:
    apply(bare)
    run(bare, "DELETE FROM outbox_meta WHERE name = 'migration 0001_outbox'")
    if kind == "mariadb":  # each statement there can be repeated
        assert apply(bare) == NAMES
    else:
        with pytest.raises(SchemaTrouble, match="a file was run in part"):
            apply(bare)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_schema_is_created_and_holds_everything(bare_database: DatabaseSettings) -> None:
    settings = replace(bare_database, schema='Mail "1"')
    engine = connect(settings)
    run(engine, "CREATE TABLE public.outbox (theirs text)")
    assert (apply(engine, settings.schema), apply(engine, settings.schema)) == (NAMES, [])
    require_current(engine)
    insert(engine)
    assert claimed(store_for(engine, "w1")).id == 1
    with engine.connect() as connection:
        where = sa.text("SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name LIKE 'outbox_%'")
        assert connection.execute(where).scalars().all() == ['Mail "1"']
        assert connection.execute(sa.text("SELECT count(*) FROM public.outbox")).scalar() == 0
    engine.dispose()


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_schema_that_exists_needs_no_right_to_create_one(bare_database: DatabaseSettings) -> None:
    admin = connect(bare_database)
    role = "u_" + os.urandom(4).hex()
    run(admin, f"CREATE ROLE {role} LOGIN PASSWORD 'x'; CREATE SCHEMA mail AUTHORIZATION {role}")
    url = sa.make_url(bare_database.url).set(username=role, password="x")
    engine = connect(DatabaseSettings(url=url.render_as_string(hide_password=False), schema="mail"))
    try:
        assert apply(engine, "mail") == NAMES
    finally:
        engine.dispose()
        run(admin, f"DROP OWNED BY {role}; DROP ROLE {role}")
        admin.dispose()


def client(kind: str, url: sa.URL) -> list[str]:
    """The command line of the dialect's own program."""
    host = ["-h", str(url.host)]
    user = str(url.username)
    return {
        "postgresql": [
            *("psql", *host, "-p", str(url.port or 5432), "-U", user, "-d", str(url.database)),
            *("-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f", "-"),
        ],
        "mariadb": ["mariadb", *host, "-P", str(url.port or 3306), "-u", user, str(url.database)],
        "sqlite": ["sqlite3", "-bail", str(url.database)],
    }[kind]


def by_client(kind: str, settings: DatabaseSettings, text: str) -> None:
    url = sa.make_url(settings.url)
    command = client(kind, url)
    if shutil.which(command[0]) is None:
        pytest.skip(f"no program {command[0]} on this machine")
    secrets = {"PGPASSWORD": url.password or "", "MYSQL_PWD": url.password or ""}
    subprocess.run(command, input=text.encode(), check=True, env={**os.environ, **secrets}, capture_output=True)


def test_a_file_that_a_person_ran_counts_as_applied(bare: Engine, kind: str, bare_database: DatabaseSettings) -> None:
    for migration in migrations(bare.dialect.name):
        by_client(kind, bare_database, migration.sql)
    assert (pending(bare), apply(bare)) == ([], [])
    assert set(record_of(bare).values()) == {"by hand"}
    insert(bare)
    claimed(store_for(bare, "w1"))


def test_by_hand_or_not_the_columns_are_the_same(bare: Engine, kind: str, bare_database: DatabaseSettings) -> None:
    by_client(kind, bare_database, migrations(bare.dialect.name)[0].sql)
    there = [c["name"] for c in sa.inspect(bare).get_columns("outbox")]
    assert [name for name in there if name != "address"] == [c.name for c in outbox.columns]  # which is for an index


@pytest.mark.parametrize("kind", ["mariadb"])
def test_on_mariadb_a_file_may_be_run_again(bare: Engine, kind: str, bare_database: DatabaseSettings) -> None:
    apply(bare)
    before = record_of(bare)
    by_client(kind, bare_database, migrations("mysql")[0].sql)
    assert record_of(bare) == before


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb", "sqlite"])
def test_the_files_of_each_dialect_are_found(dialect: str) -> None:
    assert [m.name for m in migrations(dialect)] == NAMES
    assert sql_directory(dialect).name == dialect.replace("mariadb", "mysql")


@pytest.mark.parametrize("url", ["mssql://sa@db/x", "oracle://x@db/x", "mssql+pyodbc://sa@db/x"])
def test_other_databases_are_refused_with_the_reason(url: str) -> None:
    with pytest.raises(DatabaseRefused, match="is not supported: use postgresql, mariadb, mysql or sqlite"):
        connect(DatabaseSettings(url=url))


def test_the_wheel_carries_the_files(tmp_path: Path) -> None:
    installed = tmp_path / "poller" / "outbox"
    shutil.copytree(sql_directory("sqlite").parent, tmp_path / "poller" / "sql")
    shutil.copytree(sql_directory("sqlite").parents[1] / "poller", tmp_path / "poller", dirs_exist_ok=True)
    program = "from poller.outbox.migrate import *; print(sql_directory('mysql'), len(migrations('mysql')))"
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(installed.parent / "sql" / "mysql"), "1"]


def test_of_many_at_a_new_sqlite_file_none_is_refused(tmp_path: Path) -> None:
    answers: list[object] = []

    def ask(settings: DatabaseSettings, start: threading.Barrier) -> None:
        engine = connect(settings)
        start.wait()
        try:
            with engine.connect() as connection:
                answers.append(connection.exec_driver_sql("PRAGMA journal_mode").scalar())
        except sa.exc.OperationalError as error:
            answers.append(error.orig)
        engine.dispose()

    for n in range(20):  # whether two meet is chance: of old code about one file in five told
        settings, start = DatabaseSettings(url=f"sqlite:///{tmp_path / str(n)}"), threading.Barrier(4)
        threads = [threading.Thread(target=ask, args=(settings, start)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["wal"] * 80


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_server_that_refuses_the_trigger_is_quoted_and_the_schema_works_without_it(
    bare: Engine, bare_database: DatabaseSettings
) -> None:
    apply(bare)
    name = f"poller_{os.getpid()}"
    user = f"'{name}'@'%%'"
    run(bare, f"CREATE USER {user} IDENTIFIED BY 'secret'")
    try:
        run(bare, f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, INDEX, REFERENCES ON {bare.url.database}.* TO {user}")
        lesser = connect(replace(bare_database, url=_as_user(bare, name)))
        assert "TRIGGER command denied" in refused_trigger(lesser)
        run(lesser, "INSERT INTO outbox (recipients, body_text) VALUES ('a@b.c', 'x')")
        run(lesser, "UPDATE outbox SET status = 'cancelled'")
        lesser.dispose()
        assert refused_trigger(bare) == ""
    finally:
        run(bare, f"DROP USER {user}")


def _as_user(engine: Engine, name: str) -> str:
    return engine.url.set(username=name, password="secret").render_as_string(hide_password=False)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_in_the_midst_of_a_restoration_nothing_is_added_to_what_comes_back(bare: Engine) -> None:
    """A dump makes a table, fills it, and gives it its key last: what is added before that makes the key fail."""
    apply(bare)
    store = store_for(bare, "w1")
    identity = store.outbox_identity()
    run(bare, "ALTER TABLE outbox_meta DROP CONSTRAINT outbox_meta_pkey")
    assert store.outbox_identity() == identity
    with pytest.raises(DatabaseUnavailable):
        hold(bare, "why")
    run(bare, "ALTER TABLE outbox_meta ADD PRIMARY KEY (name)")
    hold(bare, "why")
    with bare.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).where(meta.c.name == "paused")).scalar_one() == 1
