"""Files that several messages carry: stored once, named by the hash of their content.

A blob that no row names goes a day after it came, with the next purge; before that, who shares it again finds it there.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from poller.outbox.database import transaction
from poller.outbox.tables import attachment, blob
from poller.outbox.upsert import insert_unless_there

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

GRACE: Final = timedelta(days=1)
"""Between the blob and the rows that will name it."""
PIECE: Final = 2 * 1024 * 1024
"""Bytes that are fetched at a time."""


def share(connection: Connection, content: bytes) -> str:
    """Store a file once, and return its name. Attachments that have it as `blob_sha256` carry it."""
    sha256 = hashlib.sha256(content).hexdigest()
    there = connection.execute(sa.select(blob.c.sha256).where(blob.c.sha256 == sha256)).first()
    if there is None:
        insert_unless_there(connection, blob, {"sha256": sha256, "content": content})
    return sha256


def blob_of(engine: Engine, sha256: str) -> bytes | None:
    """The content, fetched piece by piece; None where there is none, or one that is not what its name says."""
    content = transaction(engine, lambda c: _fetched(c, sha256), reading=True)
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _fetched(connection: Connection, sha256: str) -> bytes:
    start = sa.bindparam("start", type_=sa.Integer)
    query = sa.select(sa.func.substr(blob.c.content, start, PIECE, type_=blob.c.content.type))
    query = query.where(blob.c.sha256 == sha256)
    pieces: list[bytes] = []
    while piece := connection.execute(query, {"start": 1 + PIECE * len(pieces)}).scalar():
        pieces.append(piece)
        if len(piece) < PIECE:
            break
    return b"".join(pieces)


def purge_portion(connection: Connection, now: datetime, portion: int) -> int:
    """Delete so many of those that no row names any more."""
    named = sa.exists().where(attachment.c.blob_sha256 == blob.c.sha256)
    query = sa.select(blob.c.sha256).where(blob.c.created_at < now - GRACE, ~named).limit(portion)
    names = list(connection.execute(query).scalars())
    if not names:
        return 0
    return connection.execute(sa.delete(blob).where(blob.c.sha256.in_(names), ~named)).rowcount
