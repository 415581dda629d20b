"""One INSERT by the database's own driver, for who is started anew for each message.

SQLAlchemy takes longer to import than all the rest.

Rule 1. It knows the plain case only: a URL that the driver takes as it is. All else raises `NotPlain` before anything
        was committed; then `poller.outbox.enqueue` does the same, with words for what is wrong.
Rule 2. Once COMMIT has been sent it never raises NotPlain: what comes out then is `CommitUnknown`.
Rule 3. A row with the same `dedupe_key` is a row that is there: no error.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.outbox.settings import DatabaseSettings

CONNECT_TIMEOUT_S: Final = 10
_DUPLICATE: Final = 1062
"""MariaDB's number for a key that is there already (ER_DUP_ENTRY)."""
_SQLITE = re.compile(r"sqlite:///(?P<path>[^?]+)")
SQL_MODE: Final = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION"
"""Of MariaDB: a value that does not fit is an error, never cut."""


class NotPlain(Exception):  # noqa: N818 - a fact about the case
    """It has to be done the long way. Nothing was committed."""


class CommitUnknown(Exception):  # noqa: N818 - a fact about the row
    """COMMIT was sent and not confirmed: the row may be there."""


def insert(settings: DatabaseSettings, columns: Mapping[str, Any]) -> None:
    """One row, committed. Raises NotPlain, CommitUnknown."""
    given = {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in columns.items()
        if value is not None
    }
    way = next((way for scheme, way in _WAYS.items() if settings.url.startswith(f"{scheme}://")), None)
    if way is None:
        raise NotPlain("another dialect or driver")
    try:
        connection = way(settings, given)
    except Exception as error:
        raise NotPlain(str(error)) from error
    try:
        connection.commit()
    except Exception as error:
        raise CommitUnknown(str(error)) from error
    connection.close()


def _postgresql(settings: DatabaseSettings, given: Mapping[str, Any]) -> Any:
    import psycopg  # noqa: PLC0415 - the driver that is used, and no other
    from psycopg import sql  # noqa: PLC0415

    connection = psycopg.connect(
        settings.url, connect_timeout=CONNECT_TIMEOUT_S, client_encoding="utf8", prepare_threshold=None
    )
    if settings.schema:
        connection.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(settings.schema)))
    connection.execute(f"{_statement(given, '%s')} ON CONFLICT DO NOTHING".encode(), list(given.values()))
    return connection


def _mariadb(settings: DatabaseSettings, given: Mapping[str, Any]) -> Any:
    import pymysql  # noqa: PLC0415 - as above

    url = urlsplit(settings.url)
    if url.query or not url.hostname:
        raise NotPlain("options of a driver, or a socket")
    connection = pymysql.connect(
        host=url.hostname,
        port=url.port or 3306,
        user=unquote(url.username or ""),
        password=unquote(url.password or ""),
        database=url.path.lstrip("/"),
        charset="utf8mb4",
        connect_timeout=CONNECT_TIMEOUT_S,
        sql_mode=SQL_MODE,
        init_command="SET SESSION time_zone = '+00:00'",
    )
    try:
        connection.cursor().execute(_statement(given, "%s"), list(given.values()))
    except pymysql.err.IntegrityError as error:
        if error.args[0] != _DUPLICATE:
            raise
    return connection


def _sqlite(settings: DatabaseSettings, given: Mapping[str, Any]) -> Any:
    import sqlite3  # noqa: PLC0415 - as above

    found = _SQLITE.fullmatch(settings.url)
    if found is None:
        raise NotPlain("options of the driver")
    connection = sqlite3.connect(
        f"file:{found['path']}?mode=rw", uri=True, timeout=CONNECT_TIMEOUT_S, isolation_level=None
    )
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"{_statement(given, '?')} ON CONFLICT (dedupe_key) DO NOTHING", list(given.values()))
    return connection


def _statement(given: Mapping[str, Any], mark: str) -> str:
    return f"INSERT INTO outbox ({', '.join(given)}) VALUES ({', '.join([mark] * len(given))})"


_WAYS = {"postgresql": _postgresql, "mysql": _mariadb, "mariadb": _mariadb, "sqlite": _sqlite}
