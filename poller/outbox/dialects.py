"""The dialects, by the name that SQLAlchemy gives them. Each has a file; what they have in common is in `dialect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poller.outbox.mariadb import MYSQL
from poller.outbox.postgresql import POSTGRESQL
from poller.outbox.sqlite import SQLITE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from poller.outbox.dialect import Dialect

DIALECTS: Final[Mapping[str, Dialect]] = {
    "postgresql": POSTGRESQL,
    "sqlite": SQLITE,
    "mysql": MYSQL,
    "mariadb": MYSQL,
}


def dialect_of(connection: Connection) -> Dialect:
    """The answers of the database at hand."""
    return DIALECTS[connection.dialect.name]
