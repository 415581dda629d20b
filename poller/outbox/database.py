"""The connection to the database: one engine per process, set up alike on every dialect, and what its errors mean.

`connect` returns an Engine whose connections
  - speak UTC, have a bounded wait for locks, and settings that they depend on whatever the server's defaults are;
    behind a pooler in front of PostgreSQL these are set in each transaction, and nothing lives in the session,
  - on SQLite take the write lock when a transaction begins, because a transaction that reads first and writes later
    fails at once, whatever the busy timeout; a connection with the execution option `poller_reading` only reads,
  - on MariaDB run at READ COMMITTED, so that a claim locks rows and not gaps.

Raises `DatabaseRefused` for a database we will not run on. Each error of a running database surfaces as
`DatabaseUnavailable` or a kind of it (`poller.outbox.trouble` has the table): wait and come back. What a session
of each dialect depends on stands in the file of that dialect.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from poller.outbox import mariadb, postgresql, sqlite
from poller.outbox.dialect import CONNECT_TIMEOUT_S
from poller.outbox.readable import readable_json
from poller.outbox.trouble import (
    ROOM,
    DatabaseRefusal,
    DatabaseRefused,
    DatabaseUnavailable,
    Meaning,
    RowsLocked,
    meaning_of,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL, Connection

    from poller.outbox.settings import DatabaseSettings

__all__ = [
    "DatabaseRefusal",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "Engine",
    "RowsLocked",
    "connect",
    "is_pooled",
    "quoted",
    "refusal_of",
    "require_supported",
    "transaction",
]

T = TypeVar("T")

SAFE_TRIES = 5  # Of a transaction that the server rolled back as a victim: deadlock, serialization failure, lock wait.
TRY_AGAIN_AFTER_S = 0.05

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "sqlite": "sqlite+pysqlite",
}
_OF: dict[str, Any] = {"postgresql": postgresql, "mysql": mariadb, "mariadb": mariadb, "sqlite": sqlite}
OLDEST = {"postgresql": (13,), "mariadb": (10, 6), "mysql": (8, 0, 17), "sqlite": (3, 37)}


Engine = sa.Engine
"""What `connect` gives: rooms that hold one without SQLAlchemy name its type from here."""


def connect(settings: DatabaseSettings) -> Engine:
    """An Engine for `settings`; connects to nothing yet. Raises DatabaseRefused."""
    url = _url_with_driver(settings.url)
    dialect = url.get_backend_name()
    try:
        engine = sa.create_engine(
            url,
            connect_args=_OF[dialect].CONNECT_ARGS,
            hide_parameters=True,
            json_deserializer=readable_json,
            **_pool(dialect),
        )
    except ModuleNotFoundError as error:
        extra = "postgresql" if dialect == "postgresql" else "mysql"
        raise DatabaseRefused(f'the driver {error.name} is not installed; run: pip install "poller[{extra}]"') from None
    except NoSuchModuleError:
        raise DatabaseRefused(f"no driver for {url.drivername}; write {dialect}://… without one") from None
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

    _OF[engine.dialect.name].prepare(engine, settings)


def is_pooled(engine: Engine) -> bool:
    """Whether a pooler stands in front of PostgreSQL: then nothing of a session outlives its transaction.

    The first connection tells: a pooler answers with a number of its own for the server's process.
    """
    if engine.dialect.name != "postgresql":
        return False
    if engine not in postgresql.pooled:
        engine.connect().close()
    return postgresql.pooled[engine]


def quoted(engine: Engine, name: str) -> str:
    """`name` as an SQL identifier of the engine's dialect."""
    if engine.dialect.name == "postgresql":  # the dialect's own doubles each % for the driver
        return postgresql.identifier(name)
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
