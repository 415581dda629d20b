"""What an error of the database means: one table for all of them.

  AGAIN    the server rolled the transaction back as a victim; the same again may work
  LOCKED   somebody else holds a lock for longer than we wait
  AWAY     the database is not there, or not for us, for now: wait, and ask again
  REFUSED  anything else: the data of one row, a trigger, or what nobody foresaw

Rule 1. What is known not to be a row's doing is AWAY. REFUSED is looked for row by row where there are rows.
Rule 2. No error of a database ends a worker. Each has words, and what is AWAY has a remedy.

A code is PostgreSQL's SQLSTATE, or its beginning; a number is MySQL's and MariaDB's; words are SQLite's, and those of a
server that lets nobody in: the driver passes no code of it on.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from sqlalchemy.exc import InterfaceError, OperationalError

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError


class Meaning(Enum):
    """See the top of the file."""

    AGAIN = "again"
    LOCKED = "locked"
    AWAY = "away"
    REFUSED = "refused"


IS_IT_RUNNING = "look at [database] url, and whether it is running"
LOGIN = "look at user and password in [database] url"
RIGHTS = "grant what sql/…/roles.sql grants to the poller's role"
WHERE_IS_IT = "look at [database] url and schema; if the outbox is not there yet: poller migrate"
ROOM = "the server needs room: connections, memory or disk"
READ_ONLY = "the poller has to write: give it the primary server, or end the read-only mode"
TIMEOUT = "a statement was cut off: look for a small time limit for statements, a lock, or somebody who cancels them"
LOCKS = "somebody holds a lock: look for a transaction that was left open"
AT_FAULT = "look at the server's own log"

_TABLE: tuple[tuple[Meaning, str, tuple[str, ...], tuple[int, ...], tuple[str, ...]], ...] = (
    # deadlock, serialization failure; MariaDB's snapshot that was overtaken
    (Meaning.AGAIN, LOCKS, ("40001", "40P01"), (1020, 1213, 1613, 1614), ()),
    (Meaning.LOCKED, LOCKS, ("55P03",), (1205, 3572), ()),
    (Meaning.AWAY, LOCKS, (), (), ("database is locked", "database table is locked", "database schema is locked")),
    (
        Meaning.AWAY,
        LOGIN,
        ("28",),
        (1044, 1045, 1129, 1130, 1251, 1275, 1698, 1820, 1862, 2059, 2061, 3118, 3159, 4151),
        ("password", "authentication", "pg_hba.conf", "not permitted to log in", "does not exist"),
    ),
    (Meaning.AWAY, RIGHTS, ("42501",), (1142, 1143, 1227, 1370), ("permission denied",)),
    # a database, schema, table or column that is not there; MySQL's table definition that has changed
    (
        Meaning.AWAY,
        WHERE_IS_IT,
        ("3D", "3F", "42P01", "42703", "42704"),
        (1046, 1049, 1051, 1054, 1109, 1146, 1305, 1412, 1615, 1932),
        ("no such table", "no such column", "database schema has changed"),
    ),
    (
        Meaning.AWAY,
        ROOM,
        ("53", "54023"),
        (3, 1021, 1026, 1037, 1038, 1040, 1041, 1114, 1135, 1203, 1226, 1461),
        ("database or disk is full", "out of memory", "too many c", "slots are reserved"),
    ),
    (Meaning.AWAY, READ_ONLY, ("25006",), (1223, 1290, 1792, 1836, 3100), ("readonly",)),
    (Meaning.AWAY, TIMEOUT, ("57014", "25P03", "25P04"), (1317, 1907, 1969, 3024), ("interrupted",)),
    (Meaning.AWAY, IS_IT_RUNNING, ("08", "57"), (1047, 1053, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 3032, 4031), ()),
    (Meaning.AWAY, IS_IT_RUNNING, (), tuple(range(2000, 2030)), ("unable to open database file",)),
    (
        Meaning.AWAY,
        AT_FAULT,
        ("58", "F0", "55006"),
        (1015, 1016, 1030, 1180, 1196, 1665, 1881),
        ("disk i/o error", "malformed", "not a database"),
    ),
)
_NUMBERS = {number: (meaning, remedy) for meaning, remedy, _, numbers, _ in _TABLE for number in numbers}
_CODES = {code: (meaning, remedy) for meaning, remedy, codes, _, _ in _TABLE for code in codes}


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


def meaning_of(error: DBAPIError) -> tuple[Meaning, str]:
    """What it means, and what to do about it; no remedy where the words of the error are all that is known."""
    if error.connection_invalidated:
        return Meaning.AWAY, IS_IT_RUNNING
    number, sqlstate = _number(error.orig), getattr(error.orig, "sqlstate", None)
    if number:
        return _NUMBERS.get(number, (Meaning.REFUSED, ""))
    if sqlstate is not None:
        return _of_code(str(sqlstate))
    known = _of_words(str(error.orig).lower())
    is_from_sqlite = type(error.orig).__module__ == "sqlite3"
    if known[0] is Meaning.REFUSED and not is_from_sqlite and isinstance(error, OperationalError | InterfaceError):
        return Meaning.AWAY, IS_IT_RUNNING  # by the driver: a name that does not resolve, a line that broke
    return known


def _of_code(sqlstate: str) -> tuple[Meaning, str]:
    codes = (sqlstate[:length] for length in (5, 3, 2))  # the most exact one that is known
    return next((_CODES[code] for code in codes if code in _CODES), (Meaning.REFUSED, ""))


def _of_words(text: str) -> tuple[Meaning, str]:
    found = ((meaning, remedy) for meaning, remedy, _, _, words in _TABLE if any(word in text for word in words))
    return next(found, (Meaning.REFUSED, ""))


def words_of(error: BaseException) -> str:
    """A database error in one line without statement or parameters."""
    original = getattr(error, "orig", None) or error
    number = _number(original)
    text = str(original.args[1]) if number is not None and len(original.args) > 1 else str(original)
    return " ".join(text.split())[:500]


def _number(original: BaseException | None) -> int | None:
    first = original.args[0] if original is not None and original.args else None
    return first if isinstance(first, int) else None
