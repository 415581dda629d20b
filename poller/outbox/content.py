"""What is kept of a row's content: written with its outcome, read when it is claimed again or looked at.

Rule 1. It is written in the transaction that records the outcome, and only for rows where something changes.
Rule 2. It goes with its row, earlier where `[retention] kept` says so, and what a template gave when the row ends, or
        when a person starts it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.judgement.keeping import Kept
from poller.outbox.database import transaction
from poller.outbox.tables import content, outbox
from poller.outbox.upsert import upsert

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

    from poller.judgement.retry import Step

_AT_ONCE = 1_000_000
"""Bytes in one statement, but for a single one that has more."""


def write(connection: Connection, steps: Sequence[Step]) -> None:
    """What is to be kept after `steps`, all of which were recorded."""
    changes = [(step, step.keep) for step in steps if step.keep is not None]
    if not changes:
        return
    with_copy = [_values(step, kept) for step, kept in changes if kept.sha256]
    renderings = [_values(step, kept) for step, kept in changes if kept.rendered and not kept.sha256]
    for row in renderings:
        del row["sha256"], row["message"]
    for group in (*_groups(with_copy), *_groups(renderings)):
        upsert(connection, content, group)
    forget_renderings(connection, [s.row_id for s, kept in changes if not (kept.sha256 or kept.rendered)])


def _values(step: Step, kept: Kept) -> dict[str, Any]:
    return {
        "outbox_id": step.row_id,
        "rendered": kept.rendered,
        "made_of": kept.made_of,
        "sha256": kept.sha256,
        "message": kept.message,
        "kept_at": step.at,
    }


def _groups(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As few as there can be of at most `_AT_ONCE` bytes."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        more = len(row["rendered"] or b"") + len(row.get("message") or b"")
        if group and size + more > _AT_ONCE:
            yield group
            group, size = [], 0
        group.append(row)
        size += more
    if group:
        yield group


def forget_renderings(connection: Connection, ids: Collection[int]) -> None:
    """What templates gave for these rows; what was sent of them stays."""
    if ids:
        theirs = content.c.outbox_id.in_(ids)
        connection.execute(sa.delete(content).where(theirs, content.c.sha256.is_(None)))
        connection.execute(sa.update(content).where(theirs).values(rendered=None, made_of=None))


def kept_of(connection: Connection, ids: Collection[int]) -> dict[int, Kept]:
    """What is kept of rows that are tried again, without the message."""
    columns = (content.c.outbox_id, content.c.rendered, content.c.made_of, content.c.sha256)
    found = connection.execute(sa.select(*columns).where(content.c.outbox_id.in_(ids)))
    return {row.outbox_id: Kept(rendered=row.rendered, made_of=row.made_of, sha256=row.sha256) for row in found}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptContent:
    """All that is kept of one row."""

    kept: Kept = field(repr=False)
    at: datetime


def content_of(engine: Engine, row_id: int) -> KeptContent | None:
    """All that is kept of a row, or None."""
    query = sa.select(content).where(content.c.outbox_id == row_id)
    row = transaction(engine, lambda c: c.execute(query).first(), reading=True)
    if row is None:
        return None
    kept = Kept(rendered=row.rendered, made_of=row.made_of, sha256=row.sha256, message=row.message)
    return KeptContent(kept=kept, at=row.kept_at)


def purge_portion(connection: Connection, before: datetime, portion: int) -> int:
    """Delete what has been kept since `before`, of so many rows that have ended, the longest kept first."""
    query = (
        sa.select(content.c.outbox_id)
        .select_from(content.join(outbox, outbox.c.id == content.c.outbox_id))
        .where(content.c.kept_at < before, outbox.c.finished_at.is_not(None))
        .order_by(content.c.kept_at)
        .limit(portion)
    )
    ids = list(connection.execute(query).scalars())
    if ids:
        connection.execute(sa.delete(content).where(content.c.outbox_id.in_(ids)))
    return len(ids)
