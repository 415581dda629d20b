"""What an outbox is known by: a key of its own, made when the schema is, and brought back by every dump of it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import sqlalchemy as sa

from poller.outbox.tables import meta
from poller.outbox.upsert import insert_unless_there

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

MESSAGE_ID_KEY = "message_id_key"
KEY_BYTES = 32


def message_id_key(connection: Connection) -> str:
    """The key that Message-IDs are made with; made here, where there is none."""
    query = sa.select(meta.c.value).where(meta.c.name == MESSAGE_ID_KEY)
    if (found := connection.execute(query).scalar()) is not None:
        return str(found)
    insert_unless_there(connection, meta, {"name": MESSAGE_ID_KEY, "value": secrets.token_hex(KEY_BYTES)})
    return str(connection.execute(query).scalar_one())
