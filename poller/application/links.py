"""The caller's connection, whatever it comes from: `link(connection)` gives one way to run a statement on it.

Rule 1. Nothing is imported for it. What an object is, the names of its classes say; what is needed beside comes from
        modules that the caller has loaded.
Rule 2. SQLAlchemy hears of every statement (`exec_driver_sql`), so that it begins and commits as it always does.
Rule 3. A connection that commits each statement by itself is refused: a rolled-back order would leave its mail behind.

Statements are written with `%s` and have no other per cent sign. Raises NotInTransaction, and TypeError for an object
that is no connection or not of the kind that the call takes.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from poller.application.refusals import NotInTransaction
from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Copy = Callable[[str, Iterable[Sequence[Any]]], None]

Database = Literal["postgresql", "mysql", "sqlite"]
_DATABASES: dict[str, Database] = {
    "postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}
_IN_TRANSACTION = 1  # SERVER_STATUS_IN_TRANS of the MySQL protocol
_IDLE = 0  # libpq's PQTRANS_IDLE
_REMEDY = {
    "sqlalchemy": "leave out isolation_level AUTOCOMMIT, or use engine.begin()",
    "psycopg": "use `with connection.transaction():`, or connect without autocommit",
    "pymysql": "call connection.begin() first, or connect without autocommit",
    "sqlite3": "execute BEGIN first, or connect without isolation_level=None",
    "django": "use `with transaction.atomic():`, or ATOMIC_REQUESTS",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """How statements run on the caller's connection. `copy` is None where the driver has none."""

    database: Database
    execute: Callable[[str, Sequence[Any]], list[Any]]
    """Runs one statement; gives its rows, as tuples."""
    execute_many: Callable[[str, Sequence[Sequence[Any]]], None]
    copy: Copy | None = None


def link(connection: Any) -> Link:
    """The way to the database, or NotInTransaction, or TypeError."""
    for name in _classes(connection):
        if name in _ASYNC:
            call = "use the method whose name ends in _async, and await it"
            raise TypeError(f"{type(connection).__name__} is asynchronous: {call}")
        if made := _LINKS.get(name):
            return made(connection)
    raise TypeError(f"{type(connection).__name__} is no connection that is known here; {_KNOWN}")


async def asynchronous(connection: Any) -> Any:
    """The `run_sync` of an AsyncConnection or AsyncSession."""
    names = _classes(connection)
    if not _ASYNC.intersection(names) or "psycopg.AsyncConnection" in names:
        raise TypeError(f"{type(connection).__name__} is neither AsyncConnection nor AsyncSession of SQLAlchemy")
    if hasattr(connection, "run_sync"):
        return connection.run_sync
    return (await connection.connection()).run_sync


def _classes(thing: object) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(thing).__mro__]


def _refuse(kind: str) -> None:
    raise NotInTransaction(
        "the connection is in autocommit mode, and the mail would go out whatever becomes of your transaction; "
        + _REMEDY[kind]
    )


# ---- SQLAlchemy


def _session(session: Any) -> Link:
    return _alchemy(session.connection())


def _alchemy(connection: Any) -> Link:
    database = _DATABASES.get(connection.dialect.name)
    if database is None:
        raise TypeError(f"an outbox lives in PostgreSQL, MariaDB, MySQL or SQLite, not in {connection.dialect.name}")
    if not connection.in_transaction():
        connection.begin()
    if _commits_by_itself(connection, database):
        _refuse("sqlalchemy")
    marked = _marker(connection.dialect.paramstyle)

    def execute(statement: str, values: Sequence[Any]) -> list[Any]:
        result = connection.exec_driver_sql(marked(statement), tuple(values))
        return list(result.fetchall()) if result.returns_rows else []

    def execute_many(statement: str, rows: Sequence[Sequence[Any]]) -> None:
        connection.exec_driver_sql(marked(statement), [tuple(row) for row in rows])

    copy = _copy_of(connection.connection.driver_connection)
    return Link(database=database, execute=execute, execute_many=execute_many, copy=copy)


def _commits_by_itself(connection: Any, database: Database) -> bool:
    if database == "sqlite":  # a listener for `begin` may have sent BEGIN by itself
        return _is_outside(connection.connection.driver_connection)
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    detect = getattr(connection.dialect, "detect_autocommit_setting", None)
    try:
        return bool(detect and detect(connection.connection.dbapi_connection))
    except NotImplementedError:
        return False


def _marker(style: str) -> Callable[[str], str]:
    """Statements in the driver's style of parameters."""
    if style == "qmark":
        return lambda statement: statement.replace("%s", "?")
    if style.startswith("numeric"):
        return _numbered("$" if style == "numeric_dollar" else ":")
    return lambda statement: statement


def _numbered(sign: str) -> Callable[[str], str]:
    def marked(statement: str) -> str:
        first, *rest = statement.split("%s")
        return first + "".join(f"{sign}{number}{part}" for number, part in enumerate(rest, start=1))

    return marked


# ---- drivers by themselves


def _psycopg(connection: Any) -> Link:
    if connection.autocommit and connection.info.transaction_status == _IDLE:
        _refuse("psycopg")
    plain = sys.modules["psycopg.rows"].tuple_row
    cursors = _Cursors(lambda: connection.cursor(row_factory=plain), _marker("format"))
    return cursors.link("postgresql", partial(_copy, connection))


def _copy_of(driver: Any) -> Copy | None:
    """COPY, where the driver beneath is psycopg 3."""
    names = _classes(driver)
    if "psycopg.Connection" in names:
        return partial(_copy, driver)
    return partial(_copy_in_step, driver) if "psycopg.AsyncConnection" in names else None


def _copy(connection: Any, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as writing:
        for row in rows:
            writing.write_row(row)


def _copy_in_step(connection: Any, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """Inside SQLAlchemy's `run_sync`."""
    sys.modules["sqlalchemy.util"].await_only(_copy_async(connection, statement, rows))


async def _copy_async(connection: Any, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    async with connection.cursor() as cursor, cursor.copy(statement) as writing:
        for row in rows:
            await writing.write_row(row)


def _pymysql(connection: Any) -> Link:
    if connection.get_autocommit() and not connection.server_status & _IN_TRANSACTION:
        _refuse("pymysql")
    plain = sys.modules["pymysql.cursors"].Cursor
    return _Cursors(lambda: connection.cursor(plain), _marker("format")).link("mysql")


def _sqlite(connection: Any) -> Link:
    if _is_outside(connection):
        _refuse("sqlite3")
    return _Cursors(lambda: _plain(connection.cursor()), _marker("qmark")).link("sqlite")


def _is_outside(connection: Any) -> bool:
    """Whether SQLite would commit the next statement."""
    by_itself = getattr(connection, "autocommit", -1) is True  # Python 3.12; -1 leaves it to isolation_level
    return (by_itself or connection.isolation_level is None) and not connection.in_transaction


def _plain(cursor: Any) -> Any:
    cursor.row_factory = None
    return cursor


def _django(connection: Any) -> Link:
    database = _DATABASES.get(connection.vendor)
    if database is None:
        raise TypeError(f"an outbox lives in PostgreSQL, MariaDB, MySQL or SQLite, not in {connection.vendor}")
    if connection.get_autocommit() and not connection.in_atomic_block:
        _refuse("django")
    connection.ensure_connection()
    return _Cursors(connection.cursor, _marker("format")).link(database, _copy_of(connection.connection))


@dataclass(frozen=True, slots=True)
class _Cursors:
    """A DB-API connection: a cursor for each statement, closed after it."""

    open: Callable[[], Any]
    marked: Callable[[str], str]

    def link(self, database: Database, copy: Copy | None = None) -> Link:
        return Link(database=database, execute=self.execute, execute_many=self.execute_many, copy=copy)

    def execute(self, statement: str, values: Sequence[Any]) -> list[Any]:
        with contextlib.closing(self.open()) as cursor:
            cursor.execute(self.marked(statement), tuple(values))
            return list(cursor.fetchall()) if cursor.description else []

    def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        with contextlib.closing(self.open()) as cursor:
            cursor.executemany(self.marked(statement), [tuple(row) for row in rows])


_LINKS: dict[str, Callable[[Any], Link]] = {
    "sqlalchemy.engine.base.Connection": _alchemy,
    "sqlalchemy.orm.session.Session": _session,
    "sqlalchemy.orm.scoping.scoped_session": _session,
    "psycopg.Connection": _psycopg,
    "pymysql.connections.Connection": _pymysql,
    "sqlite3.Connection": _sqlite,
    "django.db.backends.base.base.BaseDatabaseWrapper": _django,
}
_ASYNC = frozenset(
    {
        "sqlalchemy.ext.asyncio.engine.AsyncConnection",
        "sqlalchemy.ext.asyncio.session.AsyncSession",
        "sqlalchemy.ext.asyncio.scoping.async_scoped_session",
        "psycopg.AsyncConnection",
    }
)
_KNOWN = (
    "give a Connection or Session of SQLAlchemy, a connection of psycopg 3, PyMySQL or sqlite3, or django.db.connection"
)
