"""SQLite: its session, and its SQL for claim, record and the paths through the queue."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError

from poller.outbox.dialect import (
    BY,
    CLAIM_SET,
    CLAIMED,
    DUE_ONE,
    FENCE,
    LIST,
    LOOK,
    LOOKS,
    NOT_PAUSED,
    PRIORITIES,
    RECORD_SET,
    STEP_TYPES,
    Dialect,
    Key,
    Paths,
    behind,
    claimed_list,
    filters,
    naive,
    names_by,
    pairs_and_end,
    per_priority,
    placed,
    returning_claim,
    returning_record,
    returning_these,
    rows,
    typed,
)
from poller.outbox.readable import readable_text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import Connection

    from poller.outbox.database import Engine
    from poller.outbox.dialect import By, Pair
    from poller.outbox.settings import DatabaseSettings
    from poller.pacing.gate import Gate

# --- the session ---

CONNECT_ARGS = {"check_same_thread": False}
TRY_AGAIN_AFTER_S = 0.05


def prepare(engine: Engine, settings: DatabaseSettings) -> None:
    """Set up each connection of the engine, and begin each transaction by what it is for."""

    @event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        # Text that is not UTF-8 (an application wrote Latin-1) must not break the reading of other rows.
        connection.text_factory = readable_text
        connection.create_function("poller_message_id", 4, keyed_message_id, deterministic=True)
        connection.execute(f"PRAGMA busy_timeout = {max(1, round(settings.lock_timeout * 1000))}").close()
        _use_wal(connection, settings.lock_timeout)
        connection.execute("PRAGMA synchronous = FULL").close()  # a commit survives a power cut: a 250 is a fact
        connection.execute("PRAGMA foreign_keys = ON").close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("poller_reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    _follow_the_file(engine)


def _use_wal(connection: sqlite3.Connection, wait_s: float) -> None:
    """Change to WAL. SQLite's busy timeout does not cover this: of two at a new file one is refused at once."""
    until = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            primary = error.sqlite_errorcode & 0xFF  # SQLITE_BUSY_RECOVERY and others are kinds of it
            if primary != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(TRY_AGAIN_AFTER_S)
        else:
            return


def _follow_the_file(engine: Engine) -> None:
    """A connection to a file that was replaced by another would read and write what nobody else sees."""
    path = engine.url.database or ""

    @event.listens_for(engine, "connect")
    def _remember(_connection: Any, record: Any) -> None:
        record.info["file"] = _file_at(path)

    @event.listens_for(engine, "checkout")
    def _compare(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info["file"] != _file_at(path):
            raise DisconnectionError


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - at each checkout
    except OSError:
        return None
    return found.st_dev, found.st_ino


def keyed_message_id(key: str, row_id: int, created_at: str, domain: str) -> str:
    """The Message-ID of a row, as the other dialects compute it in SQL: 32 hex digits that tell nobody the id.

    `created_at` is written as SQLite stores it: 2026-11-22 03:00:00.000000, UTC.
    """
    digest = hashlib.sha256(f"{key}:{row_id}:{created_at}".encode()).hexdigest()
    return f"<{digest[:32]}@{domain}>"


# --- claim and record ---

_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_MESSAGE_ID = "poller_message_id(:key, {o}id, {o}created_at, :domain)"
_IS_RAW = "typeof({o}.raw) = 'blob' AS is_raw"
"""In RETURNING of an UPDATE of this table SQLite 3.40 says of each NULL that it is NOT NULL."""
_CLAIM = sa.text(f"""
UPDATE outbox
SET {CLAIM_SET.format(o="", now=_NOW, message_id=_MESSAGE_ID.format(o=""))}
WHERE id IN (
    SELECT id FROM ({
    " UNION ALL ".join(
        "SELECT * FROM (SELECT id, priority, due_at FROM outbox"
        f" WHERE status = 'queued' AND priority = {p} AND due_at <= {_NOW} ORDER BY due_at, id LIMIT :limit)"
        for p in PRIORITIES
    )
})
    WHERE {NOT_PAUSED}
    LIMIT :limit
)
RETURNING {claimed_list("outbox", _IS_RAW)}
""").columns(*CLAIMED)

_THESE = sa.text(f"""
UPDATE outbox
SET {CLAIM_SET.format(o="", now=_NOW, message_id=_MESSAGE_ID.format(o=""))}
WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 'queued'
RETURNING {claimed_list("outbox", _IS_RAW)}
""").columns(*CLAIMED)

_STEPS = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in STEP_TYPES)
_RECORD = sa.text(f"""
WITH v AS MATERIALIZED (SELECT {_STEPS} FROM json_each(:steps))
UPDATE outbox AS o SET {RECORD_SET}
FROM v
WHERE {FENCE}
RETURNING id
""")

# --- paths ---

_CLOSED = "{column} IN (SELECT value FROM json_each(:closed))"
_SAME_GATE = """(domain IN (SELECT value FROM json_each(:closed_domains))) IS NOT TRUE
    AND (lane IN (SELECT value FROM json_each(:closed_lanes))) IS NOT TRUE
    AND (relay IN (SELECT value FROM json_each(:closed_relays))) IS NOT TRUE
    AND id NOT IN (SELECT value FROM json_each(:closed_ids))"""


def _behind(columns: str, page: str) -> str:
    return " UNION ALL ".join(
        f"SELECT * FROM (SELECT {columns} FROM outbox WHERE status = 'queued' AND priority = {p}"
        f" AND :from_priority <= {p}"
        f" AND (due_at, id) > (CASE :from_priority WHEN {p} THEN :after_due ELSE '' END,"
        f" CASE :from_priority WHEN {p} THEN :after_id ELSE 0 END)"
        f" AND due_at <= {_NOW} ORDER BY due_at, id {page})"
        for p in PRIORITIES
    )


_WINDOW = f"""
SELECT {LIST} FROM ({_behind(LIST, "LIMIT :look")}) AS seen
WHERE {NOT_PAUSED} AND {_SAME_GATE}
LIMIT :limit"""
_EDGE = f"""
SELECT priority, due_at, id FROM ({_behind("priority, due_at, id", "LIMIT 1 OFFSET :skip")}) WHERE {NOT_PAUSED}
LIMIT 1"""
_PAIRS_OF = f"""
SELECT d.key AS place, d.value AS domain, p.value AS priority
FROM json_each(:domains) AS d CROSS JOIN json_each('[0,1,2,3,4,5,6,7,8,9]') AS p
WHERE {NOT_PAUSED}
  AND EXISTS (SELECT 1 FROM outbox WHERE status = 'queued' AND domain = d.value)
  AND EXISTS (SELECT 1 FROM outbox
              WHERE status = 'queued' AND domain = d.value AND priority = p.value AND due_at <= {_NOW})"""
# The one after it of the same name, else the first of the next name: for both at once it reads all that is between.
_FIRST = "(SELECT id FROM outbox WHERE status = 'queued' AND {} ORDER BY {{column}}, priority, due_at, id LIMIT 1)"
_SAME = _FIRST.format("{column} = step.name AND priority > step.priority")
_PAIRS_FROM = f"""
WITH RECURSIVE step (name, priority, due_at, closed, number) AS (
    SELECT {{column}}, priority, due_at, {_CLOSED}, 1
    FROM outbox WHERE id = {_FIRST.format("{column} >= :start")} AND {NOT_PAUSED}
    UNION ALL
    SELECT next.{{column}}, next.priority, next.due_at, next.{_CLOSED}, step.number + 1
    FROM step CROSS JOIN outbox AS next
    WHERE step.number < :steps AND next.id = coalesce(
        CASE WHEN NOT step.closed THEN {_SAME} END, {_FIRST.format("{column} > step.name")}
    )
)
SELECT name, priority, number, due_at <= {_NOW} AND NOT closed AS free
FROM step
WHERE free OR number = :steps"""
_HEADS = f"""
SELECT {LIST} FROM (
    SELECT {LIST} FROM outbox
    WHERE status = 'queued' AND {{column}} {{is_wanted}} AND priority = :priority AND due_at <= {_NOW}
    ORDER BY due_at, id LIMIT :look
)
WHERE {_SAME_GATE}
LIMIT :limit"""


_WINDOW_SQL = typed(rows(_WINDOW))
_EDGE_SQL = placed(sa.text(_EDGE))
_PAIRS_FROM_SQL = {by: sa.text(_PAIRS_FROM.format(column=by)) for by in BY}
_HEADS_SQL = {
    (by, named): rows(_HEADS.format(column=by, is_wanted="= :name" if named else "IS NULL"))
    for by in BY
    for named in (True, False)
}


def _window(
    connection: Connection,
    gate: Gate,
    after: Key,
    limit: int,
    *,
    lock: bool = True,  # noqa: ARG001 - the one who writes is alone
) -> list[Any]:
    values = {**_lists_as_json(filters(gate)), **behind(after), "look": LOOK, "limit": limit}
    return list(connection.execute(_WINDOW_SQL, values))


def _edge(connection: Connection, after: Key) -> Key | None:
    row = connection.execute(_EDGE_SQL, {**behind(after), "skip": LOOK - 1}).first()
    return Key.of(row) if row else None


def _pairs_of(connection: Connection, domains: Sequence[str]) -> list[Pair]:
    found = connection.execute(sa.text(_PAIRS_OF), _lists_as_json({"domains": list(domains)}))
    return [(row.domain, row.priority) for row in sorted(found, key=lambda row: (row.place, row.priority))]


def _pairs_from(
    connection: Connection, by: By, start: str, closed: Collection[str], steps: int
) -> tuple[list[Pair], str | None]:
    values = {"start": start, "steps": steps, **_lists_as_json({"closed": list(closed)})}
    return pairs_and_end(connection.execute(_PAIRS_FROM_SQL[by], values).all(), steps)


def _heads(
    connection: Connection,
    by: By,
    gate: Gate,
    wanted: Sequence[tuple[Pair, int]],
    *,
    lock: bool = True,  # noqa: ARG001 - the one who writes is alone
) -> list[Any]:
    same = {**_lists_as_json(filters(gate)), "look": LOOKS[by]}
    found: list[Any] = []
    for (name, priority), most in wanted:
        values = {**same, "name": name, "priority": priority, "limit": most}
        found += connection.execute(_HEADS_SQL[by, name is not None], values)
    return found


def _lists_as_json(lists: dict[str, list[Any]]) -> dict[str, str]:
    return {name: json.dumps(values) for name, values in lists.items()}


SQLITE = Dialect(
    now=_NOW,
    shifted="strftime('%Y-%m-%d %H:%M:%f000', 'now', CAST({seconds} AS TEXT) || ' seconds')",
    due=per_priority(DUE_ONE.format(now=_NOW)),
    claim=returning_claim(_CLAIM),
    claim_these=returning_these(_THESE, lambda ids: json.dumps(list(ids))),
    record=returning_record(_RECORD, naive),
    message_id=_MESSAGE_ID,
    row_lock="",
    paths=Paths(
        window=_window,
        edge=_edge,
        pairs_of=_pairs_of,
        pairs_from=_pairs_from,
        names_from=names_by(_pairs_from),
        heads=_heads,
    ),
)
