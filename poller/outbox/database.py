"""The connection to the database: one engine per process, set up alike on every dialect, and what its errors mean.

`connect` returns an Engine whose connections
  - speak UTC and have a bounded wait for locks,
  - on SQLite take the write lock when a transaction begins, because a transaction that reads first and writes later
    fails at once, whatever the busy timeout; a connection with the execution option `poller_reading` only reads,
  - on MariaDB run at READ COMMITTED, so that a claim locks rows and not gaps.

Raises `DatabaseRefused` for a database we will not run on. Errors of a running database surface as
`DatabaseUnavailable` (wait and come back) or as SQLAlchemy's own (a bug or bad data).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    DisconnectionError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from poller.facts import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL, Connection

    from poller.outbox.settings import DatabaseSettings

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10  # A database that does not answer by then is treated as away, and asked again.
READ_TIMEOUT_S = 120  # MariaDB only: far above any statement of ours; a dead peer must not hold us for hours.
SAFE_TRIES = 5  # Of a transaction that the server rolled back as a victim: deadlock, serialization failure, lock wait.
TRY_AGAIN_AFTER_S = 0.05
IDLE_WITHIN_S = 30
"""Ours are idle within a transaction for milliseconds. A process that was stopped there, or a line that died, must not
keep its rows locked until somebody looks."""
SQL_MODE = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION"
"""On MariaDB, from the first word on: SQLAlchemy asks at once how names are quoted."""
MOST_LEVELS = 100  # of JSON; what walks through it may take many calls for each
_TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"
MOST_DIGITS = 4300  # of a whole number; Python writes no longer one

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "sqlite": "sqlite+pysqlite",
}
OLDEST = {"postgresql": (13,), "mariadb": (10, 6), "mysql": (8, 0, 17), "sqlite": (3, 37)}


class DatabaseRefused(Exception):  # noqa: N818 - named by who is to blame
    """A database that can't hold an outbox: dialect, version or driver. The text names the remedy."""


class DatabaseUnavailable(Exception):  # noqa: N818 - named by who is to blame
    """The database does not answer, or not now: wait, and ask again. Nothing of the row is at fault."""


class RowsLocked(DatabaseUnavailable):
    """The database is there, but somebody else holds a lock for longer than we wait."""


Engine = sa.Engine
"""What `connect` gives: rooms that hold one without SQLAlchemy name its type from here."""


def connect(settings: DatabaseSettings) -> Engine:
    """An Engine for `settings`; connects to nothing yet. Raises DatabaseRefused."""
    url = _url_with_driver(settings.url)
    dialect = url.get_backend_name()
    try:
        engine = sa.create_engine(
            url,
            connect_args=_connect_args(dialect),
            hide_parameters=True,
            json_deserializer=readable_json,
            **_pool(dialect),
        )
    except ModuleNotFoundError as error:
        extra = "postgresql" if dialect == "postgresql" else "mysql"
        raise DatabaseRefused(f'the driver {error.name} is not installed; run: pip install "poller[{extra}]"') from None
    except NoSuchModuleError:
        raise DatabaseRefused(f"no driver for {url.drivername}; write {dialect}://… without one") from None
    if dialect == "postgresql":
        engine.dialect.type_compiler_instance = _PlainText(engine.dialect)
    _prepare(engine, settings)
    return engine


class _PlainText(PGTypeCompiler):
    """Texts travel as `text`: for `text = varchar` the server looks for an operator that fits better than its own."""

    def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:  # noqa: N802 - SQLAlchemy's name
        return "TEXT" if type_.length is None else super().visit_VARCHAR(type_, **kw)


def _url_with_driver(text: str) -> URL:
    url = make_url(text)
    name = url.get_backend_name()
    if name not in DRIVERS:
        raise DatabaseRefused(
            f"{name} is not supported: use postgresql, mariadb, mysql or sqlite (SKIP LOCKED is silently "
            "dropped for others, and mail would go out twice)"
        )
    return url if "+" in url.drivername else url.set(drivername=DRIVERS[name])


def _connect_args(dialect: str) -> dict[str, Any]:
    match dialect:
        case "postgresql":
            return {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "poller",
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
            }
        case "sqlite":
            return {"check_same_thread": False}
        case _:
            return {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "write_timeout": READ_TIMEOUT_S,
                "charset": "utf8mb4",
                "sql_mode": SQL_MODE,
            }


def _pool(dialect: str) -> dict[str, Any]:
    if dialect == "sqlite":
        return {"pool_size": 4, "max_overflow": 4, "poolclass": sa.QueuePool}
    options: dict[str, Any] = {
        "pool_size": 2,
        "max_overflow": 2,
        "pool_timeout": CONNECT_TIMEOUT_S,
        "pool_recycle": 1800,
    }
    if dialect in {"mysql", "mariadb"}:
        options["isolation_level"] = "READ COMMITTED"
    return options


def _prepare(engine: Engine, settings: DatabaseSettings) -> None:
    statements = _session_statements(engine, settings)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        if engine.dialect.name == "sqlite":
            connection.isolation_level = None
            # Text that is not UTF-8 (an application wrote Latin-1) must not break the reading of other rows.
            connection.text_factory = readable_text
            connection.create_function("poller_message_id", 4, keyed_message_id, deterministic=True)
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        if engine.dialect.name == "postgresql":
            connection.commit()

    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "begin")
        def _on_begin(connection: Connection) -> None:
            reading = connection.get_execution_options().get("poller_reading")
            connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

        _follow_the_file(engine)


def _follow_the_file(engine: Engine) -> None:
    """A connection to a file that was replaced by another would read and write what nobody else sees."""
    path = engine.url.database or ""

    @event.listens_for(engine, "connect")
    def _remember(_connection: Any, record: Any) -> None:
        record.info["file"] = _file_at(path)

    @event.listens_for(engine, "checkout")
    def _compare(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != _file_at(path):
            raise DisconnectionError


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - at each checkout
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _session_statements(engine: Engine, settings: DatabaseSettings) -> list[str]:
    wait_ms = max(1, round(settings.lock_timeout * 1000))
    if engine.dialect.name == "sqlite":
        return [
            f"PRAGMA busy_timeout = {wait_ms}",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",  # a commit survives a power cut: a recorded 250 is a fact
            "PRAGMA foreign_keys = ON",
        ]
    if engine.dialect.name == "postgresql":
        path = [f"SET search_path TO {quoted(engine, settings.schema)}"] if settings.schema else []
        idle = f"SET idle_in_transaction_session_timeout = {IDLE_WITHIN_S * 1000}"
        return ["SET TIME ZONE 'UTC'", f"SET lock_timeout = {wait_ms}", idle, *path]
    # MySQL knows neither. A long list of closed domains stays a list: as a subquery it would be joined.
    idle = f" /*M! , idle_transaction_timeout = {IDLE_WITHIN_S}, in_predicate_conversion_threshold = 0 */"
    return [
        "SET time_zone = '+00:00'",
        f"SET innodb_lock_wait_timeout = {max(1, round(settings.lock_timeout))}{idle}",
    ]


def readable_text(raw: bytes) -> str:
    """The text. What is not UTF-8 is shown as well as can be, and marked."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        text = raw.decode(errors="replace")
        return Unreadable(text, f"not UTF-8: {error.reason} at byte {error.start + 1}; write it as UTF-8")


def readable_json(text: str | bytes) -> Any:
    """The JSON value. What the database takes for JSON and we can't read is given as its text, and marked."""
    if isinstance(text, Unreadable):
        return text
    text = text if isinstance(text, str) else text.decode(errors="replace")
    try:
        value = _JSON.decode(text)
    except RecursionError:
        value, reason = None, _TOO_DEEP
    except ValueError as error:
        value, reason = None, f"JSON to the database, but not to be read here: {error}"
    else:
        may_be_deep = text.count("[") + text.count("{") > MOST_LEVELS
        reason = _TOO_DEEP if may_be_deep and _is_deep(value) else ""
    return Unreadable(text, f"{reason}; write it anew") if reason else value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits, more than {MOST_DIGITS:,}")
    return int(digits)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is beyond every number that we know")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_JSON = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_no_number, strict=False)


def keyed_message_id(key: str, row_id: int, created_at: str, domain: str) -> str:
    """The Message-ID of a row, as the other dialects compute it in SQL: 32 hex digits that tell nobody the id.

    `created_at` is written as SQLite stores it: 2026-11-22 03:00:00.000000, UTC.
    """
    digest = hashlib.sha256(f"{key}:{row_id}:{created_at}".encode()).hexdigest()
    return f"<{digest[:32]}@{domain}>"


def quoted(engine: Engine, name: str) -> str:
    """`name` as an SQL identifier of the engine's dialect."""
    return engine.dialect.identifier_preparer.quote_identifier(name)


def require_supported(connection: Connection) -> None:
    """Raise DatabaseRefused for a server that is older than the schema needs."""
    dialect = connection.dialect
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    version = dialect.server_version_info or ()
    oldest = OLDEST[name]
    if version[: len(oldest)] < oldest:
        have, want = (".".join(str(part) for part in numbers) for numbers in (version[:3], oldest))
        raise DatabaseRefused(f"{name} {have} is too old: poller needs {want} or newer")


# PostgreSQL's SQLSTATEs and MySQL's numbers for "you were the victim; the same again may work".
_VICTIM_SQLSTATES = frozenset({"40001", "40P01"})
_VICTIM_NUMBERS = frozenset({1205, 1213})
# "not now", or not for us until somebody mends it: login and rights; shutting down, starting up, too many clients, disk
# or memory full, read-only.
_AWAY_SQLSTATES = ("08", "28", "3D000", "42501", "53", "57P", "25006", "58")
_AWAY_NUMBERS = frozenset(
    {
        1021,
        1040,
        1041,
        1044,
        1045,
        1049,
        1053,
        1142,
        1143,
        1152,
        1158,
        1159,
        1160,
        1161,
        1203,
        1226,
        1290,
        1317,
        1836,
        2002,
        2003,
        2006,
        2013,
        3032,
    }
)
_CHECK_NUMBERS = frozenset({3819, 4025})  # MySQL's and MariaDB's "a CHECK failed"
_AWAY_SQLITE = (
    "disk i/o error",
    "database or disk is full",
    "unable to open database file",
    "readonly",
    "database is locked",
)


def is_victim(error: DBAPIError) -> bool:
    """The server rolled the whole transaction back and repeating it is safe."""
    original = error.orig
    sqlstate = getattr(original, "sqlstate", None)
    return sqlstate in _VICTIM_SQLSTATES or _number(original) in _VICTIM_NUMBERS


def is_lock_wait(error: DBAPIError) -> bool:
    """Somebody else holds a lock for longer than we wait."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    return sqlstate == "55P03" or _number(error.orig) == 1205  # noqa: PLR2004 - ER_LOCK_WAIT_TIMEOUT


def is_away(error: DBAPIError) -> bool:
    """The database is not there, or not for us, for now."""
    if error.connection_invalidated:
        return True
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return bool(sqlstate.startswith(_AWAY_SQLSTATES))
    if _number(error.orig) in _AWAY_NUMBERS:
        return True
    text = str(error.orig).lower()
    if error.orig is not None and type(error.orig).__module__ == "sqlite3":
        return any(words in text for words in _AWAY_SQLITE)
    return isinstance(error, OperationalError) and "connection" in text


def is_refusal(error: DBAPIError) -> bool:
    """The database found the data at fault: a CHECK, a key, a type. (PyMySQL calls a failed CHECK operational.)"""
    return isinstance(error, IntegrityError | DataError) or _number(error.orig) in _CHECK_NUMBERS


def _number(original: BaseException | None) -> int | None:
    first = original.args[0] if original is not None and original.args else None
    return first if isinstance(first, int) else None


def words_of(error: BaseException) -> str:
    """A database error in one line without statement or parameters."""
    original = getattr(error, "orig", None) or error
    number = _number(original)
    text = str(original.args[1]) if number is not None and len(original.args) > 1 else str(original)
    return " ".join(text.split())[:500]


_READING: dict[str, dict[str, Any]] = {
    "sqlite": {"poller_reading": True},
    # Without BEGIN and COMMIT a question costs one round trip and not three.
    "postgresql": {"isolation_level": "AUTOCOMMIT"},
}
_readers: WeakKeyDictionary[Engine, Engine] = WeakKeyDictionary()


def _reader(engine: Engine) -> Engine:
    """The same engine, for questions."""
    reader = _readers.get(engine)
    if reader is None:
        reader = _readers[engine] = engine.execution_options(**_READING.get(engine.dialect.name, {}))
    return reader


def transaction(engine: Engine, work: Callable[[Connection], T], *, reading: bool = False) -> T:
    """`work` in a transaction of its own, repeated when the server rolled it back as a victim.

    Raises DatabaseUnavailable when the database is away; then it is unknown whether the transaction was committed.
    Raises RowsLocked, which is one, when a lock was not given up in time; then it was not. (SQLite has one lock for
    all, and is then away.)
    """
    if reading:
        engine = _reader(engine)
    for attempt in range(1, SAFE_TRIES + 1):
        try:
            with engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            if is_victim(error) and not is_lock_wait(error) and attempt < SAFE_TRIES:
                time.sleep(TRY_AGAIN_AFTER_S * attempt)
                continue
            if is_lock_wait(error):
                raise RowsLocked(words_of(error)) from error
            if is_away(error):
                raise DatabaseUnavailable(words_of(error)) from error
            raise
        except PoolTimeoutError as error:
            raise DatabaseUnavailable("no connection was free in time") from error
    raise AssertionError("unreachable")  # pragma: no cover - the last try returns or raises
