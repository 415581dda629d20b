"""Putting a message into the outbox from Python: one INSERT on the caller's own connection, in its own transaction.

Any language can do the same with plain SQL; this is only the convenience of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.columns import APPLICATION_COLUMNS
from poller.outbox.database import DatabaseRefusal, transaction
from poller.outbox.tables import attachment, outbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.engine import Connection, Engine


class RowRefused(Exception):  # noqa: N818 - named by who is to blame
    """The database refused the row; the text is its own, with the name of the rule."""


def enqueue_alone(engine: Engine, *, attachments: Iterable[Mapping[str, Any]] = (), **columns: Any) -> int:
    """`enqueue` in a transaction of its own. Raises RowRefused, DatabaseUnavailable."""
    try:
        return transaction(engine, lambda c: enqueue(c, attachments=attachments, **columns))
    except DatabaseRefusal as error:
        raise RowRefused(f"the database refused the row: {error}") from None


def enqueue_once(engine: Engine, **columns: Any) -> int:
    """`enqueue_alone`, or the id of the row that has its `dedupe_key`. Raises RowRefused, DatabaseUnavailable."""
    try:
        return enqueue_alone(engine, **columns)
    except RowRefused:
        query = sa.select(outbox.c.id).where(outbox.c.dedupe_key == columns.get("dedupe_key"))
        found = transaction(engine, lambda c: c.execute(query).scalar(), reading=True)
        if found is None:
            raise
        return int(found)


def enqueue(connection: Connection, *, attachments: Iterable[Mapping[str, Any]] = (), **columns: Any) -> int:
    """Insert one row of `outbox` and return its id; it goes out when the caller commits.

    `columns` are those of APPLICATION_COLUMNS. `attachments` have `name`, one of `content` (bytes), `blob_sha256` (from
    `share`) and `path`, and if they like `content_type`, `content_id` and `part`. Times are aware datetimes.

    Raises TypeError for a column an application may not write, and SQLAlchemy's DBAPIError where the database
    refuses the row (its CHECK's name says why): an IntegrityError, but an OperationalError for a CHECK on MariaDB.
    """
    unknown = sorted(set(columns) - set(APPLICATION_COLUMNS))
    if unknown:
        raise TypeError(f"not a column that an application writes: {', '.join(unknown)}")
    given = {name: value for name, value in columns.items() if value is not None}
    result = connection.execute(sa.insert(outbox).values(given))
    key = result.inserted_primary_key
    assert key is not None  # noqa: S101 - a single INSERT always has one
    row_id = int(key[0])
    files = [{"outbox_id": row_id, **file} for file in attachments]
    for file in files:
        connection.execute(sa.insert(attachment).values(file))
    return row_id
