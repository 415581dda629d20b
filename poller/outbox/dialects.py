"""The statements in which the three dialects truly differ, side by side.

Each dialect answers the same questions in its own SQL: what time is it, which rows are due, claim them, write these
outcomes. The values always travel as bound parameters; a set of rows travels as one JSON array.

Rule 1. A claim picks per priority: `priority = p AND due_at <= now ORDER BY due_at, id` is served by the index, so
        that a million rows scheduled for tomorrow cost nothing.
Rule 2. Rows locked by another worker are skipped. SQLite has one writer at a time and needs no skipping.
Rule 3. Every write after the claim names the fence: id, claim_seq, message_id, and the holder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller import statuses
from poller.outbox.database import DatabaseUnavailable
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection

PRIORITIES = range(10)

_CLAIM_NAMES = """
    id claim_seq message_id attempts doubts setbacks first_attempt_at claimed_by claimed_at expires_at max_attempts
    on_doubt relay status recipients cc bcc sender reply_to envelope_from subject body_text body_html template context
    locale headers batch domain priority due_at
"""
CLAIM_COLUMNS = tuple(outbox.c[name] for name in _CLAIM_NAMES.split())
HAS_ATTACHMENTS = "EXISTS (SELECT 1 FROM outbox_attachment AS a WHERE a.outbox_id = {o}.id) AS has_attachments"
CLAIMED = (*CLAIM_COLUMNS, sa.column("has_attachments", sa.Boolean))
"""What a claim gives of each row."""


def claimed_list(table: str) -> str:
    """CLAIMED, of `outbox` by the name of `table`."""
    return ", ".join((*(f"{table}.{column.name}" for column in CLAIM_COLUMNS), HAS_ATTACHMENTS.format(o=table)))


_HELD = ", ".join(f"'{status}'" for status in statuses.IN_HAND)
NOT_PAUSED = "NOT EXISTS (SELECT 1 FROM outbox_meta WHERE name = 'paused')"

# What the claim writes. Message-IDs are a keyed hash: they tell nobody how many messages there are. The time of the
# INSERT makes them a row's own for ever, even where a restored backup gives the same id to another row.
_CLAIM_SET = """
    status = 'sending', claim_seq = {o}claim_seq + 1, claimed_by = :worker, claimed_at = {now}, updated_at = {now},
    first_attempt_at = COALESCE({o}first_attempt_at, {now}),
    message_id = COALESCE({o}message_id, {message_id})"""

# The columns of one outcome, and how JSON names and types them on each dialect.
_STEP_TYPES = {
    "id": ("bigint", "BIGINT"),
    "claim_seq": ("bigint", "BIGINT"),
    "message_id": ("text", "VARCHAR(255)"),
    "status": ("text", "VARCHAR(10)"),
    "attempts": ("integer", "INT"),
    "doubts": ("integer", "INT"),
    "setbacks": ("integer", "INT"),
    "due_at": ("timestamptz", "DATETIME(6)"),
    "reply_code": ("smallint", "SMALLINT"),
    "reply_status": ("text", "VARCHAR(16)"),
    "reply_text": ("text", "TEXT"),
    "queue_id": ("text", "VARCHAR(191)"),
    "error": ("text", "TEXT"),
    "sent_at": ("timestamptz", "DATETIME(6)"),
    "finished_at": ("timestamptz", "DATETIME(6)"),
    "updated_at": ("timestamptz", "DATETIME(6)"),
    "begun": ("integer", "INT"),
}

# An operator's word (paused, cancelled) outlives a deferral, and nothing else. A row in doubt waits for a person, and
# is in no worker's hands. A row that was never on the wire and is handed back forgets that it was claimed, so that
# its age does not count from there.
_RECORD_SET = """
    status = CASE WHEN v.status = 'queued' AND o.status IN ('paused', 'cancelled') THEN o.status ELSE v.status END,
    attempts = o.attempts + v.attempts,
    doubts = o.doubts + v.doubts,
    setbacks = o.setbacks + v.setbacks,
    due_at = COALESCE(v.due_at, o.due_at),
    reply_code = COALESCE(v.reply_code, o.reply_code),
    reply_status = CASE WHEN v.reply_code IS NULL THEN o.reply_status ELSE v.reply_status END,
    reply_text = CASE WHEN v.reply_code IS NULL THEN o.reply_text ELSE v.reply_text END,
    queue_id = COALESCE(v.queue_id, o.queue_id),
    error = CASE WHEN v.begun = 0 THEN o.error ELSE v.error END,
    first_attempt_at = CASE WHEN v.begun = 0 AND o.attempts + o.doubts + o.setbacks = 0 THEN NULL
        ELSE o.first_attempt_at END,
    sent_at = CASE WHEN v.status = 'queued' THEN NULL ELSE v.sent_at END,
    finished_at = CASE WHEN v.status = 'queued' AND o.status = 'cancelled' THEN v.updated_at ELSE v.finished_at END,
    claimed_by = CASE WHEN v.status IN ('queued', 'in_doubt') THEN NULL ELSE o.claimed_by END,
    claimed_at = CASE WHEN v.status IN ('queued', 'in_doubt') THEN NULL ELSE o.claimed_at END,
    updated_at = v.updated_at"""
# MySQL assigns from left to right, and reads what it has just assigned: there `status`, which others look at, is last.
_STATUS_FIRST, _REST = _RECORD_SET.split(",\n", maxsplit=1)
_RECORD_SET_STATUS_LAST = f"{_REST},\n{_STATUS_FIRST}"

_FENCE = f"""o.id = v.id AND o.claim_seq = v.claim_seq AND o.message_id = v.message_id
    AND o.claimed_by = :worker AND o.status IN ({_HELD}) AND o.finished_at IS NULL"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimRequest:
    """Who claims, how many at most, and what a new Message-ID is made of."""

    worker: str
    limit: int
    message_id_key: str
    message_id_domain: str

    def values(self) -> dict[str, Any]:
        """As bound parameters."""
        return {
            "worker": self.worker,
            "limit": self.limit,
            "key": self.message_id_key,
            "domain": self.message_id_domain,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """One dialect's answers. `claim` gives rows of CLAIMED, `record` the ids that the fence let through."""

    now: str
    """An SQL expression: the database's clock, UTC, to at least a millisecond."""
    due: str
    """A query for the priorities that have a row due now; no rows while the outbox is paused."""
    claim: Callable[[Connection, ClaimRequest], Sequence[sa.Row[Any]]]
    claim_these: Callable[[Connection, ClaimRequest, Sequence[int]], Sequence[sa.Row[Any]]]
    """Rows by id, of those that are still queued."""
    record: Callable[[Connection, str, list[dict[str, Any]]], set[int]]
    message_id: str
    """An SQL expression for the Message-ID that a row's first claim gives it; `{o}` is the table's prefix."""
    row_lock: str
    """What follows a SELECT that must hold its rows until the end of the transaction."""

    def moment(self, seconds: str) -> str:
        """An SQL expression for the database's time, shifted by a bound number of seconds such as `:lease`."""
        return _SHIFTED[self.now].format(seconds=seconds)


# --- PostgreSQL ----------------------------------------------------------------------------------------------------

_PG_NOW = "clock_timestamp()"
# Each name with its schema, each value as the very type that the server's own operator takes: else one that somebody
# has made in a schema of the search path may fit better, and would run with our rights.
_PG_SHAPE = "CAST('YYYY-MM-DD HH24:MI:SS.US' AS text)"
_PG_CREATED = f"pg_catalog.to_char(pg_catalog.timezone(CAST('UTC' AS text), {{o}}created_at), {_PG_SHAPE})"
_PG_HASHED = f"CAST(:key AS text) || CAST(':' AS text) || CAST({{o}}id AS text) || CAST(':' AS text) || {_PG_CREATED}"
_PG_BYTES = f"pg_catalog.convert_to({_PG_HASHED}, CAST('UTF8' AS name))"
_PG_HASH = f"pg_catalog.left(pg_catalog.encode(pg_catalog.sha256({_PG_BYTES}), CAST('hex' AS text)), 32)"
_PG_MESSAGE_ID = f"CAST('<' AS text) || {_PG_HASH} || CAST('@' AS text) || CAST(:domain AS text) || CAST('>' AS text)"
_PG_CLAIM = sa.text(f"""
WITH pick AS MATERIALIZED (
    SELECT due.id
    FROM generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id FROM outbox
        WHERE status = 'queued' AND priority = p.priority AND due_at <= statement_timestamp()
        ORDER BY due_at, id
        LIMIT :limit
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS due
    WHERE {NOT_PAUSED}
    LIMIT :limit
)
UPDATE outbox AS o
SET {_CLAIM_SET.format(o="o.", now=_PG_NOW, message_id=_PG_MESSAGE_ID.format(o="o."))}
FROM pick
WHERE o.id = pick.id AND o.status = 'queued'
RETURNING {claimed_list("o")}
""").columns(*CLAIMED)

_PG_THESE = sa.text(f"""
UPDATE outbox AS o
SET {_CLAIM_SET.format(o="o.", now=_PG_NOW, message_id=_PG_MESSAGE_ID.format(o="o."))}
WHERE o.id = ANY(CAST(:ids AS bigint[])) AND o.status = 'queued'
RETURNING {claimed_list("o")}
""").columns(*CLAIMED)

_PG_STEPS = ", ".join(f"{name} {types[0]}" for name, types in _STEP_TYPES.items())
_PG_RECORD = sa.text(f"""
UPDATE outbox AS o SET {_RECORD_SET}
FROM jsonb_to_recordset(CAST(:steps AS jsonb)) AS v ({_PG_STEPS})
WHERE {_FENCE}
RETURNING o.id
""")


def _returning_claim(statement: Any) -> Callable[[Connection, ClaimRequest], Sequence[sa.Row[Any]]]:
    def claim(connection: Connection, request: ClaimRequest) -> Sequence[sa.Row[Any]]:
        return connection.execute(statement, request.values()).all()

    return claim


def _returning_these(
    statement: Any, listed: Callable[[Sequence[int]], Any]
) -> Callable[[Connection, ClaimRequest, Sequence[int]], Sequence[sa.Row[Any]]]:
    def claim(connection: Connection, request: ClaimRequest, ids: Sequence[int]) -> Sequence[sa.Row[Any]]:
        return connection.execute(statement, {**request.values(), "ids": listed(ids)}).all() if ids else []

    return claim


def _returning_record(
    statement: Any, time: Callable[[datetime], str]
) -> Callable[[Connection, str, list[dict[str, Any]]], set[int]]:
    def record(connection: Connection, worker: str, steps: list[dict[str, Any]]) -> set[int]:
        values = {"worker": worker, "steps": _as_json(steps, time)}
        return {row.id for row in connection.execute(statement, values)}

    return record


def _as_json(steps: list[dict[str, Any]], time: Callable[[datetime], str]) -> str:
    return json.dumps(steps, default=time, separators=(",", ":"))


def _naive(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def _per_priority(select: str) -> str:
    each = " UNION ALL ".join(f"SELECT * FROM ({select.format(priority=p)}) AS p{p}" for p in PRIORITIES)
    return f"SELECT priority FROM ({each}) AS due WHERE {NOT_PAUSED} ORDER BY priority"


_DUE_ONE = (
    "SELECT priority FROM outbox WHERE status = 'queued' AND priority = {{priority}} AND due_at <= {now}"
    " ORDER BY due_at, id LIMIT 1"
)

POSTGRESQL = Dialect(
    now=_PG_NOW,
    due=_per_priority(_DUE_ONE.format(now="statement_timestamp()")),
    claim=_returning_claim(_PG_CLAIM),
    claim_these=_returning_these(_PG_THESE, list),
    record=_returning_record(_PG_RECORD, lambda moment: moment.isoformat()),
    message_id=_PG_MESSAGE_ID,
    row_lock="FOR NO KEY UPDATE",
)

# --- SQLite --------------------------------------------------------------------------------------------------------

LITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_LITE_MESSAGE_ID = "poller_message_id(:key, {o}id, {o}created_at, :domain)"
_LITE_CLAIM = sa.text(f"""
UPDATE outbox
SET {_CLAIM_SET.format(o="", now=LITE_NOW, message_id=_LITE_MESSAGE_ID.format(o=""))}
WHERE id IN (
    SELECT id FROM ({
    " UNION ALL ".join(
        "SELECT * FROM (SELECT id, priority, due_at FROM outbox"
        f" WHERE status = 'queued' AND priority = {p} AND due_at <= {LITE_NOW} ORDER BY due_at, id LIMIT :limit)"
        for p in PRIORITIES
    )
})
    WHERE {NOT_PAUSED}
    LIMIT :limit
)
RETURNING {claimed_list("outbox")}
""").columns(*CLAIMED)

_LITE_THESE = sa.text(f"""
UPDATE outbox
SET {_CLAIM_SET.format(o="", now=LITE_NOW, message_id=_LITE_MESSAGE_ID.format(o=""))}
WHERE id IN (SELECT value FROM json_each(:ids)) AND status = 'queued'
RETURNING {claimed_list("outbox")}
""").columns(*CLAIMED)

_LITE_STEPS = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in _STEP_TYPES)
_LITE_RECORD = sa.text(f"""
WITH v AS MATERIALIZED (SELECT {_LITE_STEPS} FROM json_each(:steps))
UPDATE outbox AS o SET {_RECORD_SET}
FROM v
WHERE {_FENCE}
RETURNING id
""")

SQLITE = Dialect(
    now=LITE_NOW,
    due=_per_priority(_DUE_ONE.format(now=LITE_NOW)),
    claim=_returning_claim(_LITE_CLAIM),
    claim_these=_returning_these(_LITE_THESE, lambda ids: json.dumps(list(ids))),
    record=_returning_record(_LITE_RECORD, _naive),
    message_id=_LITE_MESSAGE_ID,
    row_lock="",
)

# --- MariaDB and MySQL ---------------------------------------------------------------------------------------------

MY_NOW = "UTC_TIMESTAMP(6)"
_MY_CREATED = "DATE_FORMAT({o}created_at, '%Y-%m-%d %H:%i:%s.%f')"
_MY_MESSAGE_ID = f"CONCAT('<', LEFT(SHA2(CONCAT(:key, ':', {{o}}id, ':', {_MY_CREATED}), 256), 32), '@', :domain, '>')"
MY_DUE = sa.text(_per_priority(_DUE_ONE.format(now=MY_NOW)))
_MY_PICK = sa.text(f"""
SELECT id FROM outbox FORCE INDEX (outbox_due)
WHERE status = 'queued' AND priority = :priority AND due_at <= {MY_NOW}
ORDER BY due_at, id
LIMIT :limit
FOR UPDATE SKIP LOCKED
""")
_MY_CLAIM_SET = _CLAIM_SET.format(o="", now=MY_NOW, message_id=_MY_MESSAGE_ID.format(o=""))
_MY_CLAIM = sa.text(
    f"UPDATE outbox FORCE INDEX (PRIMARY) SET {_MY_CLAIM_SET} WHERE id IN :ids AND status = 'queued'"
).bindparams(sa.bindparam("ids", expanding=True))
_MY_CLAIMED = (
    sa.text(
        f"SELECT {claimed_list('o')} FROM outbox AS o"
        " WHERE o.id IN :ids AND o.status = 'sending' AND o.claimed_by = :worker"
    )
    .bindparams(sa.bindparam("ids", expanding=True))
    .columns(*CLAIMED)
)
_MY_TEXT = "CHARACTER SET utf8mb4"  # else the database's default: in one of ucs2 or utf16 no fence would ever fit
_MY_STEPS = ", ".join(
    f"{name} {types[1]} {_MY_TEXT if types[0] == 'text' else ''} PATH '$.{name}'" for name, types in _STEP_TYPES.items()
)
_MY_TABLE = f"JSON_TABLE(:steps, '$[*]' COLUMNS ({_MY_STEPS})) AS v"
# In a small table the planner prefers a scan, and a scan stops at every row that somebody has locked.
_MY_OUTBOX = "outbox AS o FORCE INDEX (PRIMARY)"
_MY_FENCE = _FENCE.replace("o.message_id = v.message_id", "CAST(o.message_id AS BINARY) = CAST(v.message_id AS BINARY)")
_MY_LOCK = sa.text(
    f"SELECT o.id FROM {_MY_TABLE} STRAIGHT_JOIN {_MY_OUTBOX} ON o.id = v.id WHERE {_MY_FENCE} FOR UPDATE"
)
_MY_RECORD = sa.text(
    f"UPDATE {_MY_TABLE} STRAIGHT_JOIN {_MY_OUTBOX} ON o.id = v.id SET {{set}} WHERE {_MY_FENCE}".format(
        set=", ".join(f"o.{line.strip()}" for line in _RECORD_SET_STATUS_LAST.strip().split(",\n"))
    )
)


def _my_claim(connection: Connection, request: ClaimRequest) -> Sequence[sa.Row[Any]]:
    ids: list[int] = []
    for priority in connection.execute(MY_DUE).scalars().all():
        wanted = {"priority": priority, "limit": request.limit - len(ids)}
        ids += connection.execute(_MY_PICK, wanted).scalars()
        if len(ids) >= request.limit:
            break
    return _my_claim_these(connection, request, ids)


def _my_claim_these(connection: Connection, request: ClaimRequest, ids: Sequence[int]) -> Sequence[sa.Row[Any]]:
    """The ids are of rows that we have locked."""
    if not ids:
        return []
    values = request.values()
    del values["limit"]
    won = connection.execute(_MY_CLAIM, {**values, "ids": list(ids)}).rowcount
    rows = connection.execute(_MY_CLAIMED, {"ids": list(ids), "worker": request.worker}).all()
    if len(rows) != won:
        raise DatabaseUnavailable(f"{won} rows were claimed and {len(rows)} are ours: this server does not keep locks")
    return rows


def _my_record(connection: Connection, worker: str, steps: list[dict[str, Any]]) -> set[int]:
    values = {"worker": worker, "steps": _as_json(steps, _naive)}
    let_through = set(connection.execute(_MY_LOCK, values).scalars())
    if let_through:
        connection.execute(_MY_RECORD, values)
    return let_through


MYSQL = Dialect(
    now=MY_NOW,
    due=_per_priority(_DUE_ONE.format(now=MY_NOW)),
    claim=_my_claim,
    claim_these=_my_claim_these,
    record=_my_record,
    message_id=_MY_MESSAGE_ID,
    row_lock="FOR UPDATE",
)

_SHIFTED = {
    _PG_NOW: "(clock_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))",
    LITE_NOW: "strftime('%Y-%m-%d %H:%M:%f000', 'now', CAST({seconds} AS TEXT) || ' seconds')",
    MY_NOW: "(UTC_TIMESTAMP(6) + INTERVAL CAST({seconds} * 1000000 AS SIGNED) MICROSECOND)",
}

DIALECTS = {"postgresql": POSTGRESQL, "sqlite": SQLITE, "mysql": MYSQL, "mariadb": MYSQL}
