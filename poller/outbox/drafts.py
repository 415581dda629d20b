"""The rows of a batch as their application wrote them, portion by portion, for who looks before they are sent.

Nothing is written or locked. Rows that come meanwhile are not seen, and one that goes meanwhile is left out.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.columns import DRAFT_COLUMNS
from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.tables import attachment, blob, outbox
from poller.statuses import UNENDED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

_READ_AT_ONCE = 50_000  # ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """One row. `row` has columns of `outbox`; `files` tell of its attachments, with size (0 for a path)."""

    row: Mapping[str, Any] = field(repr=False)
    files: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRows:
    """What a batch consists of: the ids of those that have not ended, how many have, and the database's time."""

    ids: array[int] = field(repr=False)
    ended: int
    at: datetime


def rows_of_batch(engine: Engine, batch: str) -> BatchRows:
    """All ids at once: they are few bytes, and each portion is then found by its key."""

    def work(connection: Connection) -> BatchRows:
        mine = outbox.c.batch == batch
        is_open = outbox.c.status.in_(UNENDED)
        ids: array[int] = array("q")
        query = sa.select(outbox.c.id).where(mine, is_open, outbox.c.id > sa.bindparam("after"))
        query = query.order_by(outbox.c.id).limit(_READ_AT_ONCE)
        while page := connection.execute(query, {"after": ids[-1] if ids else 0}).scalars().all():
            ids.extend(page)
        ended = sa.select(sa.func.count()).select_from(outbox).where(mine, ~is_open)
        return BatchRows(ids=ids, ended=int(connection.execute(ended).scalar_one()), at=now_of(connection))

    return transaction(engine, work, reading=True)


_NAMES = (
    "id",
    "message_id",
    "first_attempt_at",
    "created_at",
    "expires_at",
    "relay",
    "batch",
    "raw",
    "dsn",
    *DRAFT_COLUMNS,
)


def written(engine: Engine, ids: Collection[int]) -> list[Written]:
    """These rows, those of them that are there, by id."""

    def work(connection: Connection) -> list[Written]:
        columns = [outbox.c[name] for name in _NAMES]
        query = sa.select(*columns).where(outbox.c.id.in_(ids)).order_by(outbox.c.id)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        files = _files(connection, ids)
        return [Written(row=row, files=files.get(row["id"], ())) for row in rows]

    return transaction(engine, work, reading=True)


def _files(connection: Connection, ids: Collection[int]) -> dict[int, list[Mapping[str, Any]]]:
    size = sa.func.coalesce(sa.func.length(attachment.c.content), sa.func.length(blob.c.content), 0).label("size")
    told = ("name", "content_type", "content_id", "part", "path")
    query = (
        sa.select(attachment.c.outbox_id, *(attachment.c[name] for name in told), size)
        .select_from(attachment.outerjoin(blob, blob.c.sha256 == attachment.c.blob_sha256))
        .where(attachment.c.outbox_id.in_(ids))
    )
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in connection.execute(query.order_by(attachment.c.id)).mappings():
        file = dict(row)
        found.setdefault(file.pop("outbox_id"), []).append(file)
    return found
