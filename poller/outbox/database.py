"""The connection to the database: one engine per process, set up alike on every dialect, and what its errors mean.

`connect` returns an Engine whose connections
  - speak UTC, have a bounded wait for locks, and settings that they depend on whatever the server's defaults are;
    behind a pooler in front of PostgreSQL these are set in each transaction, and nothing lives in the session,
  - on SQLite take the write lock when a transaction begins, because a transaction that reads first and writes later
    fails at once, whatever the busy timeout; a connection with the execution option `poller_reading` only reads,
  - on MariaDB run at READ COMMITTED, so that a claim locks rows and not gaps.

Raises `DatabaseRefused` for a database we will not run on. Each error of a running database surfaces as
`DatabaseUnavailable` or a kind of it (`poller.outbox.trouble` has the table): wait and come back.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from poller.frozen import Unreadable
from poller.outbox.trouble import IS_IT_RUNNING, ROOM, Meaning, meaning_of, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy.engine import URL, Connection

    from poller.outbox.settings import DatabaseSettings

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10  # A database that does not answer by then is treated as away, and asked again.
READ_TIMEOUT_S = 120  # MariaDB only: far above any statement of ours; a dead peer must not hold us for hours.
SAFE_TRIES = 5  # Of a transaction that the server rolled back as a victim: deadlock, serialization failure, lock wait.
TRY_AGAIN_AFTER_S = 0.05
UNKNOWN_OID = 705  # PostgreSQL's pg_type: a literal without a type
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

    def __init__(self, words: str, remedy: str = IS_IT_RUNNING) -> None:
        super().__init__(words)
        self.remedy = remedy


class RowsLocked(DatabaseUnavailable):
    """The database is there, but somebody else holds a lock for longer than we wait."""


class DatabaseRefusal(DatabaseUnavailable):
    """The database is there and says no: to the data of one row, by a trigger, or for a reason that nobody foresaw.

    Where there are rows, the one is looked for. Else it is waited for like the others.
    """

    def __init__(self, error: DBAPIError) -> None:
        super().__init__(words_of(error), "look at the database's triggers and checks")


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
        from poller.outbox.postgresql import send_plain_text  # noqa: PLC0415 - takes a while

        send_plain_text(engine)
    _prepare(engine, settings)
    return engine


def _url_with_driver(text: str) -> URL:
    url = make_url(text)
    name = url.get_backend_name()
    if name not in DRIVERS:
        raise DatabaseRefused(
            f"{name} is not supported: use postgresql, mariadb, mysql or sqlite (SKIP LOCKED is silently "
            "dropped for others, and mail would go out twice)"
        )
    url = url.difference_update_query(["prepare_threshold"])  # others need it; we prepare nothing
    return url if "+" in url.drivername else url.set(drivername=DRIVERS[name])


def _connect_args(dialect: str) -> dict[str, Any]:
    match dialect:
        case "postgresql":
            return {
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "poller",
                "client_encoding": "utf8",
                # A named statement is not there behind a pooler, and outlives what DDL changes. It bought no speed.
                "prepare_threshold": None,
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
    options["isolation_level"] = "READ COMMITTED"
    return options


def _prepare(engine: Engine, settings: DatabaseSettings) -> None:
    @event.listens_for(engine, "do_connect")
    def _do_connect(dialect: Any, _record: Any, given: Any, named: Any) -> Any:
        try:
            return dialect.loaded_dbapi.connect(*given, **named)
        except (TypeError, ValueError, dialect.loaded_dbapi.ProgrammingError) as error:
            if getattr(error, "sqlstate", None):
                raise
            raise DatabaseRefused(f"[database] url names something that the driver does not take: {error}") from None

    prepare = {"postgresql": _prepare_postgresql, "sqlite": _prepare_sqlite}.get(engine.dialect.name, _prepare_mysql)
    prepare(engine, settings)


def _prepare_sqlite(engine: Engine, settings: DatabaseSettings) -> None:
    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        # Text that is not UTF-8 (an application wrote Latin-1) must not break the reading of other rows.
        connection.text_factory = readable_text
        connection.create_function("poller_message_id", 4, keyed_message_id, deterministic=True)
        connection.execute(f"PRAGMA busy_timeout = {max(1, round(settings.lock_timeout * 1000))}").close()
        _use_wal(connection, settings.lock_timeout)
        connection.execute("PRAGMA synchronous = FULL").close()  # a commit survives a power cut: a 250 is a fact
        connection.execute("PRAGMA foreign_keys = ON").close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("poller_reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    _follow_the_file(engine)


def _prepare_mysql(engine: Engine, settings: DatabaseSettings) -> None:
    wait_s = max(1, round(settings.lock_timeout))
    # MySQL knows these not. A long list of closed domains stays a list: as a subquery it would be joined.
    only_mariadb = (
        f" /*M! , idle_transaction_timeout = {IDLE_WITHIN_S}, in_predicate_conversion_threshold = 0,"
        " check_constraint_checks = 1 */"
    )
    waits = f"innodb_lock_wait_timeout = {wait_s}, lock_wait_timeout = {wait_s}"

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute(f"SET {waits}, {_MY_SESSION}{only_mariadb}")


def _use_wal(connection: sqlite3.Connection, wait_s: float) -> None:
    """Change to WAL. SQLite's busy timeout does not cover this: of two at a new file one is refused at once."""
    until = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            primary = error.sqlite_errorcode & 0xFF  # SQLITE_BUSY_RECOVERY and others are kinds of it
            if primary != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(TRY_AGAIN_AFTER_S)
        else:
            return


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


_MY_SESSION = (
    "sql_select_limit = 18446744073709551615, sql_safe_updates = 0, sql_big_selects = 1, sql_auto_is_null = 0,"
    " foreign_key_checks = 1, unique_checks = 1, wait_timeout = 28800, completion_type = 0, sql_quote_show_create = 1"
)
"""What we depend on, whatever the server's defaults are."""

_pooled: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()


def is_pooled(engine: Engine) -> bool:
    """Whether a pooler stands in front of PostgreSQL: then nothing of a session outlives its transaction.

    The first connection tells: a pooler answers with a number of its own for the server's process.
    """
    if engine.dialect.name != "postgresql":
        return False
    if engine not in _pooled:
        engine.connect().close()
    return _pooled[engine]


def _prepare_postgresql(engine: Engine, settings: DatabaseSettings) -> None:
    wanted = _pg_wanted(settings)
    each_time = sa.text(_pg_set(wanted, ":{name}", "true"))
    at_once = _pg_set(wanted, "%({name})s", "false")
    if settings.pooled is not None:
        _pooled[engine] = settings.pooled

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            _bear_any_bytes(connection)
            connection.execute("SET client_encoding TO 'SQL_ASCII'")  # else the server itself refuses such bytes
        cursor = connection.cursor()
        if engine not in _pooled:
            own = cursor.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()[0]
            _pooled[engine] = own != connection.pgconn.backend_pid
        if not _pooled[engine]:
            cursor.execute(at_once, wanted)
            if connection.info.server_version >= 140000:  # noqa: PLR2004 - the first that has it
                cursor.execute("SET idle_session_timeout = 0")
        cursor.close()
        connection.commit()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        if _pooled[engine] and connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.execute(each_time, wanted)


def _pg_wanted(settings: DatabaseSettings) -> dict[str, str]:
    """What we depend on, whatever the server's, the database's and the role's defaults are."""
    path = {"search_path": _identifier(settings.schema)} if settings.schema else {}
    return {
        "timezone": "UTC",
        "datestyle": "ISO, MDY",
        "intervalstyle": "postgres",
        "bytea_output": "hex",
        "standard_conforming_strings": "on",
        "extra_float_digits": "1",
        "quote_all_identifiers": "off",  # else SQLAlchemy knows no type
        "lock_timeout": f"{max(1, round(settings.lock_timeout * 1000))}",
        "idle_in_transaction_session_timeout": f"{IDLE_WITHIN_S * 1000}",
        "row_security": "off",  # rows that a policy hides are an error, and not an outbox that looks empty
        **path,
    }


def _pg_set(names: Iterable[str], value: str, is_local: str) -> str:
    each = [f"pg_catalog.set_config('{name}', {value.format(name=name)}, {is_local})" for name in names]
    # A claim that was committed must not be forgotten by a crash.
    now = "pg_catalog.current_setting('synchronous_commit')"
    safe = f"CASE {now} WHEN 'off' THEN 'local' ELSE {now} END"
    return f"SELECT {', '.join(each)}, pg_catalog.set_config('synchronous_commit', {safe}, {is_local})"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _bear_any_bytes(connection: Any) -> None:
    """A database without an encoding holds any bytes: one row's Latin-1 must not break the reading of others."""
    from psycopg.adapt import Loader  # noqa: PLC0415 - an extra

    class AnyText(Loader):
        def load(self, data: Any) -> str:
            return readable_text(bytes(data))

    for name in ("text", "varchar", "bpchar", "name", UNKNOWN_OID):
        connection.adapters.register_loader(name, AnyText)


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
    if engine.dialect.name == "postgresql":  # the dialect's own doubles each % for the driver
        return _identifier(name)
    return engine.dialect.identifier_preparer.quote_identifier(name)


def require_supported(connection: Connection) -> None:
    """Raise DatabaseRefused for a server that is older than the schema needs."""
    dialect = connection.dialect
    _require_honest(connection)
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    version = dialect.server_version_info or ()
    oldest = OLDEST[name]
    if version[: len(oldest)] < oldest:
        have, want = (".".join(str(part) for part in numbers) for numbers in (version[:3], oldest))
        raise DatabaseRefused(f"{name} {have} is too old: poller needs {want} or newer")


_LOOKALIKES = {
    "tidb": "TiDB says that it is MySQL and ignores SKIP LOCKED: mail would go out twice",
    "cockroachdb": "CockroachDB says that it is PostgreSQL, and misses rows with SKIP LOCKED",
}


def _require_honest(connection: Connection) -> None:
    """Refuse an engine that speaks the language of another and does not keep its promises."""
    if connection.dialect.name == "sqlite":
        return
    banner = str(connection.exec_driver_sql("SELECT version()").scalar_one())
    for name, why in _LOOKALIKES.items():
        if name in banner.lower():
            raise DatabaseRefused(f"{why}; use PostgreSQL, MariaDB, MySQL or SQLite")


_READING: dict[str, dict[str, Any]] = {
    "sqlite": {"poller_reading": True},
    # Without BEGIN and COMMIT a question costs one round trip and not three.
    "postgresql": {"isolation_level": "AUTOCOMMIT"},
}
_readers: WeakKeyDictionary[Engine, Engine] = WeakKeyDictionary()


def _reader(engine: Engine) -> Engine:
    """The same engine, for questions. Behind a pooler they need a transaction, for the settings that it has."""
    if is_pooled(engine):
        return engine
    reader = _readers.get(engine)
    if reader is None:
        reader = _readers[engine] = engine.execution_options(**_READING.get(engine.dialect.name, {}))
    return reader


def transaction(engine: Engine, work: Callable[[Connection], T], *, reading: bool = False) -> T:
    """`work` in a transaction of its own, repeated when the server rolled it back as a victim.

    Raises DatabaseUnavailable when the database is away; then it is unknown whether the transaction was committed.
    Raises RowsLocked, which is one, when a lock was not given up in time; then it was not. (SQLite has one lock for
    all, and is then away.) Raises DatabaseRefusal, which is one too, for all else that the database
    says: nothing was committed.
    """
    for attempt in range(1, SAFE_TRIES + 1):
        try:
            with (_reader(engine) if reading else engine).begin() as connection:
                return work(connection)
        except DBAPIError as error:
            meaning, remedy = meaning_of(error)
            if meaning is Meaning.AGAIN and attempt < SAFE_TRIES:
                time.sleep(TRY_AGAIN_AFTER_S * attempt)
                continue
            if meaning is Meaning.LOCKED:
                raise RowsLocked(words_of(error), remedy) from error
            if meaning is Meaning.REFUSED:
                raise DatabaseRefusal(error) from error
            if engine.dialect.name != "sqlite":  # the next try has new connections: settings and servers change
                engine.dispose()
            raise DatabaseUnavailable(words_of(error), remedy) from error
        except PoolTimeoutError as error:
            raise DatabaseUnavailable("no connection was free in time", ROOM) from error
    raise AssertionError("unreachable")  # pragma: no cover - the last try returns or raises


def refusal_of(connection: Connection, work: Callable[[], object]) -> str:
    """Why the database refuses `work`, which is done and undone within the open transaction; "" if it does not."""
    trial = connection.begin_nested()
    try:
        work()
    except DBAPIError as error:
        if meaning_of(error)[0] is not Meaning.REFUSED:
            raise
        return words_of(error)
    finally:
        trial.rollback()
    return ""
