"""Bring the schema up to date: numbered, plain SQL files, the very ones a DBA can read and run.

Rule 1. A file is applied once. Its name and SHA-256 are kept in `outbox_meta`; a file that changed after it was
        applied is an error, not a surprise. The last statement of each file enters its name with the value BY_HAND;
        `apply` puts the checksum there, and a file that a person ran counts as applied.
Rule 2. Two at once wait for each other (an advisory lock, or SQLite's own).
Rule 3. A table `outbox` that is not ours is left alone.
Rule 4. On PostgreSQL and SQLite a file is applied whole or not at all. MariaDB commits each statement: there the
        files can be repeated, and a file counts only when its last statement is through.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.database import DatabaseUnavailable, quoted, require_supported, transaction
from poller.outbox.identity import message_id_key
from poller.outbox.tables import meta, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_LOCK = "poller migrate"
BY_HAND = "by hand"
# Columns that tell our tables from those of others.
_MARKS = {
    "outbox": {"claim_seq", "dedupe_key", "due_at"},
    "outbox_meta": {"value"},
}
LOCK_WAIT_S = 60  # A migration on a large table takes its time; a second one waits this long for it.


class SchemaTrouble(Exception):  # noqa: N818 - named by who is to blame
    """The schema is not ours, was changed behind our back, or is not up to date. The text names the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Migration:
    """One numbered file: `name` is "0001_outbox", `sql` its text."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def sql_directory(dialect: str) -> Path:
    """Where the files of a dialect lie: in the installed package, or beside it in a checkout."""
    folder = "mysql" if dialect in {"mysql", "mariadb"} else dialect
    package = Path(__file__).resolve().parent.parent
    installed = package / "sql" / folder
    return installed if installed.is_dir() else package.parent / "sql" / folder


def migrations(dialect: str) -> list[Migration]:
    """All files of a dialect, in order."""
    files = sorted(path for path in sql_directory(dialect).iterdir() if _FILE.fullmatch(path.name))
    return [Migration(name=path.stem, sql=path.read_text(encoding="utf-8")) for path in files]


def pending(engine: Engine) -> list[Migration]:
    """What `apply` would run. Raises SchemaTrouble, DatabaseRefused, DatabaseUnavailable."""
    return transaction(engine, _pending, reading=True)


def require_current(engine: Engine) -> None:
    """Raise SchemaTrouble unless every migration is applied. Only `apply` makes a SQLite file that is not there."""
    if file := missing_file(engine):
        raise SchemaTrouble(
            f"there is no outbox {file}; run: poller migrate, or say with --config or [database] url where it lies"
        )
    missing = pending(engine)
    if missing:
        names = ", ".join(m.name for m in missing)
        raise SchemaTrouble(f"the outbox {place_of(engine)} lacks {names}; run: poller migrate")


def missing_file(engine: Engine) -> Path | None:
    """The SQLite file that the first connection would make."""
    file = _file_of(engine)
    return None if file is None or file.exists() else file


def place_of(engine: Engine) -> str:
    """Where the outbox lies, for a person: the file, or the URL without its password."""
    return str(_file_of(engine) or engine.url.render_as_string(hide_password=True))


def _file_of(engine: Engine) -> Path | None:
    url = engine.url
    if engine.dialect.name != "sqlite" or not url.database or "uri" in url.query:  # with `uri` it is no plain path
        return None
    return Path(url.database).absolute()


def apply(engine: Engine, schema: str | None = None) -> list[str]:
    """Apply what is pending and return the names. Raises like `pending`."""
    if schema and engine.dialect.name == "postgresql":
        transaction(engine, lambda c: _create_schema(c, schema, quoted(engine, schema)))
    if engine.dialect.name in {"postgresql", "sqlite"}:
        return transaction(engine, _apply_whole)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection, _locked(connection):
        return _apply_pending(connection)


def refused_trigger(engine: Engine) -> str:
    """On MariaDB, make the trigger of cancelled.sql. Why the server refuses it, in words; "" if it is there.

    A binary log wants more rights for it than for a table (error 1419), and a schema works without it.
    """
    if engine.dialect.name in {"postgresql", "sqlite"}:  # there it is part of the schema
        return ""
    text = (sql_directory(engine.dialect.name) / "cancelled.sql").read_text(encoding="utf-8")
    try:
        transaction(engine, lambda c: c.exec_driver_sql(text))
    except DatabaseUnavailable as why:
        return str(why)
    return ""


def _create_schema(connection: Connection, schema: str, identifier: str) -> None:
    if not sa.inspect(connection).has_schema(schema):  # IF NOT EXISTS wants the right to create even when it exists
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": _LOCK})
        _run(connection, [f"CREATE SCHEMA IF NOT EXISTS {identifier}"])


def _pending(connection: Connection) -> list[Migration]:
    require_supported(connection)
    known = migrations(connection.dialect.name)
    have = _require_ours(connection)
    applied = _applied(connection) if meta.name in have else {}
    _require_known(applied, known)
    if have and not applied and connection.dialect.name in {"postgresql", "sqlite"}:
        raise SchemaTrouble(
            f"there is {', '.join(sorted(have))}, and no record of a migration: a file was run in part; drop what it"
            " made, or run the rest of it"
        )
    return [m for m in known if m.name not in applied]


def _applied(connection: Connection) -> dict[str, str]:
    rows = connection.execute(sa.select(meta.c.name, meta.c.value).where(meta.c.name.like("migration %")))
    return {name.removeprefix("migration "): checksum for name, checksum in rows}


def _require_ours(connection: Connection) -> set[str]:
    """Which of our tables are there. Raises SchemaTrouble for one that bears our name and lacks our columns."""
    there = _columns_there(connection)
    ours = [table for table in metadata.sorted_tables if table.name in there]
    for table in ours:
        columns = there[table.name]
        if not columns >= {column.name for column in table.primary_key} | _MARKS.get(table.name, set()):
            raise SchemaTrouble(
                f"there is a table `{table.name}` that poller did not make; rename it, or give poller another database"
                " (on PostgreSQL: another [database] schema)"
            )
    return {table.name for table in ours}


_PG_COLUMNS = sa.text("""
SELECT CAST(c.relname AS text) AS relation, CAST(a.attname AS text) AS name
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
WHERE n.nspname = current_schema() AND a.attnum > CAST(0 AS smallint) AND NOT a.attisdropped
  AND CAST(c.relname AS text) = ANY (CAST(:names AS text[]))""")
"""The inspector's own questions let functions of others run, where others may make some."""


def _columns_there(connection: Connection) -> dict[str, set[str]]:
    """The columns of tables and views that bear our names."""
    names = list(metadata.tables)
    there: dict[str, set[str]] = {}
    if connection.dialect.name == "postgresql":
        for row in connection.execute(_PG_COLUMNS, {"names": names}):
            there.setdefault(row.relation, set()).add(row.name)
        return there
    look = sa.inspect(connection)
    for name in {*look.get_table_names(), *look.get_view_names()} & set(names):
        there[name] = {column["name"] for column in look.get_columns(name)}
    return there


def _require_known(applied: dict[str, str], known: list[Migration]) -> None:
    ours = {m.name: m.checksum for m in known}
    for name, checksum in sorted(applied.items()):
        if name not in ours:
            raise SchemaTrouble(f"the schema has {name}, which this version does not know; upgrade poller")
        if checksum not in {ours[name], BY_HAND}:
            raise SchemaTrouble(
                f"{name} was applied with other contents than this version ships; reinstall the version"
            )


def _apply_whole(connection: Connection) -> list[str]:
    if connection.dialect.name == "postgresql":  # SQLite's transaction began with the write lock
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": _LOCK})
    return _apply_pending(connection)


def _apply_pending(connection: Connection) -> list[str]:
    todo = _pending(connection)
    for migration in todo:
        _run(connection, statements(migration.sql, connection.dialect.name))
        mine = meta.c.name == f"migration {migration.name}"
        connection.execute(sa.update(meta).where(mine).values(value=migration.checksum))
    message_id_key(connection)  # now: a dump from before the first start is known again when it comes back
    return [m.name for m in todo]


def _run(connection: Connection, texts: list[str]) -> None:
    """Raw, without parameters: a `%` or `:x` in a comment must mean nothing."""
    dbapi: Any = connection.connection.driver_connection
    cursor = dbapi.cursor()
    try:
        for text in texts:
            cursor.execute(text)
    finally:
        cursor.close()


def statements(sql: str, dialect: str) -> list[str]:
    """A file cut into statements, as the dialect's own client would cut it."""
    if dialect == "postgresql":
        return [sql]
    found: list[str] = []
    piece = ""
    for line in sql.splitlines(keepends=True):
        piece += line
        ended = sqlite3.complete_statement(piece) if dialect == "sqlite" else line.rstrip().endswith(";")
        if ended:
            found.append(piece)
            piece = ""
    return [*found, piece] if _has_code(piece) else found


def _has_code(text: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("--") for line in text.splitlines())


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    name = {"name": f" {_LOCK}", "wait": LOCK_WAIT_S}
    got = connection.execute(sa.text("SELECT GET_LOCK(CONCAT(DATABASE(), :name), :wait)"), name)
    if got.scalar() != 1:
        raise SchemaTrouble(f"another `poller migrate` has been running for {LOCK_WAIT_S} s; try again when it is done")
    try:
        yield
    finally:
        connection.execute(sa.text("SELECT RELEASE_LOCK(CONCAT(DATABASE(), :name))"), {"name": name["name"]})
