"""Which rows does a word belong to? An address, a Message-ID, a relay's queue id, a batch, a dedupe key, a row's id.

Rule 1. Exact words, by index: no row is read that is not found. An address is compared without regard to the case of
        ASCII letters; its domain in whichever spelling it was written.
Rule 2. On PostgreSQL a row is found by every address of its lists. On MariaDB and SQLite a row with one address is
        found by it, alone or behind a name; one with several by each from its first attempt on
        (outbox_recipient). To take a list apart in SQL at every change of a row would cost a drain too much there.
Rule 3. The latest rows first, `most` at most.

Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.domains import spellings
from poller.outbox.database import transaction
from poller.outbox.tables import outbox, recipient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

    from poller.outbox.selection import Selection

MOST = 50
MOST_OF_ALL = 10_000
"""By words, before a selection takes its own of them."""
LARGEST_ID = 2**63 - 1

_SHOWN = ("id", "status", "recipients", "cc", "bcc", "subject", "batch", "created_at", "message_id", "queue_id")
_TEMPLATE_WORDS = sa.func.coalesce(outbox.c.subject, outbox.c.template)

# Rows that are being sent are not in the index, and are few. It has hashes: what only has the same hash is left out.
_TRULY = """\
outbox_keys(recipients, cc, bcc, message_id, queue_id) && ARRAY(
          SELECT hashtext(word) FROM unnest(CAST(:words AS text[])) AS word
          UNION ALL
          SELECT hashtext(lower(address COLLATE "C")) FROM unnest(CAST(:addresses AS text[])) AS address)
      AND (message_id = ANY(CAST(:words AS text[])) OR queue_id = ANY(CAST(:words AS text[])) OR EXISTS (
          SELECT FROM unnest(CAST(:addresses AS text[])) AS address
          WHERE strpos(lower(concat_ws(',', recipients, cc, bcc) COLLATE "C"), lower(address COLLATE "C")) > 0))"""
_BY_KEY = f"""\
WITH settled AS MATERIALIZED (
    SELECT id FROM outbox WHERE status <> 'sending' AND {_TRULY}
)
SELECT id FROM settled
UNION ALL
SELECT id FROM outbox WHERE claimed_by IS NOT NULL AND status = 'sending' AND {_TRULY}
ORDER BY id DESC LIMIT :most"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A row, and by which of its columns it was found."""

    id: int
    by: str
    status: str
    recipients: str
    """All of them, as the application wrote them."""
    subject: str
    """Or the template's name, where that makes it."""
    batch: str
    created_at: datetime


def find(engine: Engine, text: str, *, most: int = MOST, among: Selection | None = None) -> list[Found]:
    """The rows that are known by these very words, and are `among` those that are chosen."""
    words = text.strip()
    if not words or "\0" in words:
        return []
    return transaction(engine, lambda c: _find(c, words, most, among), reading=True)


def by_message_id(connection: Connection, names: Sequence[str]) -> int | None:
    """The latest row that has one of these Message-IDs, by index."""
    if connection.dialect.name == "postgresql":
        query: Any = sa.text(_BY_KEY).bindparams(words=list(names), addresses=[], most=MOST)
    else:
        query = sa.select(outbox.c.id).where(outbox.c.message_id.in_(names)).order_by(outbox.c.id.desc()).limit(MOST)
    found = connection.execute(query).scalars().all()  # a queue id may be the same word
    named = sa.select(sa.func.max(outbox.c.id)).where(outbox.c.id.in_(found), outbox.c.message_id.in_(names))
    row_id: int | None = connection.execute(named).scalar() if found else None
    return row_id


def chosen(engine: Engine, selection: Selection, *, most: int = MOST) -> list[Found]:
    """The latest rows that are chosen; they may have to be looked for one by one."""

    def work(connection: Connection) -> list[Found]:
        query = sa.select(outbox.c.id).where(*selection.conditions()).order_by(outbox.c.id.desc()).limit(most)
        return _shown(connection, set(connection.execute(query).scalars()), "", most)

    return transaction(engine, work, reading=True)


def _find(connection: Connection, words: str, most: int, among: Selection | None) -> list[Found]:
    found = (
        connection.execute(query).scalars() for query in _queries(connection, words, MOST_OF_ALL if among else most)
    )
    ids = {row_id for some in found for row_id in some}
    if among is not None:
        query = sa.select(outbox.c.id).where(outbox.c.id.in_(ids), *among.conditions())
        ids = set(connection.execute(query).scalars())
    return _shown(connection, ids, words, most)


def _shown(connection: Connection, ids: set[int], words: str, most: int) -> list[Found]:
    """The latest of them; without words they were chosen."""
    columns = (*(outbox.c[name] for name in (*_SHOWN, "dedupe_key")), _TEMPLATE_WORDS.label("about"))
    latest = sorted(ids, reverse=True)[:most]
    rows = connection.execute(sa.select(*columns).where(outbox.c.id.in_(latest)).order_by(outbox.c.id.desc()))
    return [
        Found(
            id=row.id,
            by=_found_by(row, words) if words else "filters",
            status=row.status,
            recipients=", ".join(filter(None, (row.recipients, row.cc, row.bcc))),
            subject=row.about or "",
            batch=row.batch or "",
            created_at=row.created_at,
        )
        for row in rows
    ]


def _found_by(row: Any, words: str) -> str:
    if row.message_id in _message_ids(words):
        return "message_id"
    same = (name for name in ("id", "queue_id", "dedupe_key", "batch") if str(getattr(row, name)) == words)
    return next(same, "address")


def _message_ids(words: str) -> list[str]:
    """With the angle brackets that it has, and that people leave out."""
    return [words, f"<{words}>"]


def _addresses(words: str) -> list[str]:
    """How a database may have the address, in lower case; empty where it is none."""
    local, _, domain = words.strip("<>").rpartition("@")
    return [f"{local}@{spelling}" for spelling in spellings(domain)] if local and domain else []


def _queries(connection: Connection, words: str, most: int) -> Iterator[Any]:
    """Each gives ids, and asks one index."""
    rows = sa.select(outbox.c.id)
    if words.isascii() and words.isdecimal() and int(words) <= LARGEST_ID:
        yield rows.where(outbox.c.id == int(words))
    yield rows.where(outbox.c.dedupe_key == words)
    yield rows.where(outbox.c.batch == words).order_by(outbox.c.status).limit(most)  # as the index has them
    if connection.dialect.name == "postgresql":
        yield sa.text(_BY_KEY).bindparams(words=_message_ids(words), addresses=_addresses(words), most=most)
    else:
        yield from (query.limit(most) for query in _by_column(words))


def _by_column(words: str) -> Iterator[Any]:
    rows = sa.select(outbox.c.id)
    yield rows.where(outbox.c.message_id.in_(_message_ids(words)))
    yield rows.where(outbox.c.queue_id == words).order_by(outbox.c.id.desc())
    for address in _addresses(words):
        column: Any = sa.literal_column("outbox.address")
        yield rows.where(column == sa.func.lower(address)).order_by(outbox.c.id.desc())
        written = {address, address.lower(), words.strip("<>")}
        mine = sa.select(recipient.c.outbox_id).where(recipient.c.address.in_(sorted(written)))
        yield mine.order_by(recipient.c.outbox_id.desc())
