"""The database's clock, as SQL and as a time. What is written and compared by it is right on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.dialects import dialect_of
from poller.outbox.tables import Utc

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection


def now_in_sql(connection: Connection) -> Any:
    """Now, as an expression."""
    return sa.literal_column(dialect_of(connection).now, type_=Utc())


def now_of(connection: Connection) -> datetime:
    """Now, aware UTC. As a parameter an index is searched by it, which by the expression is not always so."""
    found: datetime = connection.execute(sa.select(now_in_sql(connection))).scalar_one()
    return found
