"""Alarms that all workers share: lines of outbox_meta, `alert NAME`, each changed only as it was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.tables import meta
from poller.outbox.upsert import insert_unless_there

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

PREFIX: Final = "alert "
NAME_MOST: Final = 255
"""Characters of outbox_meta.name."""


class SharedAlarms:
    """Each call is one short transaction. Raises DatabaseUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self) -> tuple[float, dict[str, str]]:
        """The database's time in seconds since the epoch, and each alarm's state by its name."""

        def work(connection: Connection) -> tuple[float, dict[str, str]]:
            query = sa.select(meta.c.name, meta.c.value).where(meta.c.name.startswith(PREFIX))
            found = {row.name.removeprefix(PREFIX): row.value for row in connection.execute(query)}
            return now_of(connection).timestamp(), found

        return transaction(self._engine, work, reading=True)

    def change(self, name: str, before: str | None, after: str | None) -> bool:
        """From one state to another; None is no alarm. False: it was not, or not so any more."""
        key = f"{PREFIX}{name}"[:NAME_MOST]
        mine = sa.and_(meta.c.name == key, meta.c.value == before)

        def work(connection: Connection) -> bool:
            if before is None:
                there = connection.execute(sa.select(meta.c.name).where(meta.c.name == key)).first()
                if there is None and after is not None:
                    insert_unless_there(connection, meta, {"name": key, "value": after})
                return _is(connection, key, after)
            if after is None:
                return connection.execute(sa.delete(meta).where(mine)).rowcount == 1
            return connection.execute(sa.update(meta).where(mine).values(value=after)).rowcount == 1

        return transaction(self._engine, work)


def _is(connection: Connection, key: str, value: str | None) -> bool:
    return connection.execute(sa.select(meta.c.value).where(meta.c.name == key)).scalar() == value
