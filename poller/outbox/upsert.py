"""INSERT … or UPDATE what has that key, and INSERT … unless it is there: three spellings of one thing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import sqlalchemy as sa
    from sqlalchemy.engine import Connection

_ER_DUP_ENTRY = 1062


def upsert(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert `rows` (all with the same columns), or update the row that has their primary key.

    A single row may hold SQL expressions among its values; several may not.
    """
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    columns = [name for name in rows[0] if name not in keys]
    statement: Any
    if connection.dialect.name in {"mysql", "mariadb"}:
        insert = _insert(connection, table)
        statement = insert.on_duplicate_key_update({name: insert.inserted[name] for name in columns})
    else:
        conflict = _insert(connection, table)
        changes = {name: conflict.excluded[name] for name in columns}
        statement = conflict.on_conflict_do_update(index_elements=keys, set_=changes)
    if len(rows) == 1:
        connection.execute(statement.values(dict(rows[0])))
    else:
        connection.execute(statement, [dict(row) for row in rows])


def insert_unless_there(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
    """Insert `row`; do nothing when its primary key is taken.

    A table without its key is in the midst of a restoration: refused, else a second row spoils what is restored.
    """
    statement: Any
    if connection.dialect.name in {"mysql", "mariadb"}:
        statement = _insert(connection, table).prefix_with("IGNORE")
    else:
        keys = [column.name for column in table.primary_key]
        statement = _insert(connection, table).on_conflict_do_nothing(index_elements=keys)
    connection.execute(statement.values(dict(row)))


def insert_if_new(connection: Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
    """Insert `row`; do nothing when its key is taken, but let every other rule of the table speak.

    Needs no right but to insert, and leaves the caller's transaction as it is. Raises SQLAlchemy's DBAPIError.
    """
    if connection.dialect.name == "postgresql":  # where a statement that is refused ends the whole transaction
        connection.execute(_insert(connection, table).on_conflict_do_nothing().values(dict(row)))
        return
    try:
        connection.execute(_insert(connection, table).values(dict(row)))
    except IntegrityError as error:
        if not _is_taken(error.orig):
            raise


def _is_taken(error: BaseException | None) -> bool:
    """MariaDB's ER_DUP_ENTRY, or what SQLite calls it. IGNORE of either would hide every other rule too."""
    return error is not None and (
        error.args[:1] == (_ER_DUP_ENTRY,) or getattr(error, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_PRIMARYKEY"
    )


def insert_all_unless_there(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same for many rows, all with the same columns and none with an SQL expression."""
    if not rows:
        return
    statement: Any
    if connection.dialect.name in {"mysql", "mariadb"}:
        statement = _insert(connection, table).prefix_with("IGNORE")
    else:
        keys = [column.name for column in table.primary_key]
        statement = _insert(connection, table).on_conflict_do_nothing(index_elements=keys)
    connection.execute(statement, [dict(row) for row in rows])


def _insert(connection: Connection, table: sa.Table) -> Any:
    """The dialect's own INSERT. Only that one dialect is imported: they take a while."""
    name = "mysql" if connection.dialect.name == "mariadb" else connection.dialect.name
    return import_module(f"sqlalchemy.dialects.{name}").insert(table)
