"""INSERT … or UPDATE what has that key, and INSERT … unless it is there: three spellings of one thing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import sqlalchemy as sa
    from sqlalchemy.engine import Connection


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


def _insert(connection: Connection, table: sa.Table) -> Any:
    """The dialect's own INSERT. Only that one dialect is imported: they take a while."""
    name = "mysql" if connection.dialect.name == "mariadb" else connection.dialect.name
    return import_module(f"sqlalchemy.dialects.{name}").insert(table)
