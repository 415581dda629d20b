"""PostgreSQL: its session, and its SQL for claim, record and the paths through the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event

from poller.outbox.dialect import (
    BY,
    CLAIM_SET,
    CLAIMED,
    CONNECT_TIMEOUT_S,
    DUE_ONE,
    FENCE,
    IDLE_WITHIN_S,
    LIST,
    LOOK,
    LOOKS,
    NOT_PAUSED,
    RECORD_SET,
    STEP_TYPES,
    Dialect,
    Key,
    Paths,
    behind,
    claimed_list,
    filters,
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
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy.engine import Connection

    from poller.outbox.database import Engine
    from poller.outbox.dialect import By, Pair
    from poller.outbox.settings import DatabaseSettings
    from poller.pacing.gate import Gate

# --- the session ---

CONNECT_ARGS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "application_name": "poller",
    "client_encoding": "utf8",
    # A named statement is not there behind a pooler, and outlives what DDL changes. It bought no speed.
    "prepare_threshold": None,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
UNKNOWN_OID = 705  # pg_type: a literal without a type
pooled: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()
"""Whether a pooler stands in front of the server, where that is known."""


def _send_plain_text(engine: Engine) -> None:
    """Texts travel as `text`: for `text = varchar` the server looks for an operator that fits better than its own."""
    from sqlalchemy.dialects.postgresql.base import PGTypeCompiler  # noqa: PLC0415 - takes a while

    class PlainText(PGTypeCompiler):
        def visit_VARCHAR(self, type_: Any, **kw: Any) -> str:  # noqa: N802 - SQLAlchemy's name
            return "TEXT" if type_.length is None else super().visit_VARCHAR(type_, **kw)

    engine.dialect.type_compiler_instance = PlainText(engine.dialect)


def prepare(engine: Engine, settings: DatabaseSettings) -> None:
    """Set up each connection of the engine; behind a pooler, each transaction."""
    _send_plain_text(engine)
    wanted = _wanted(settings)
    each_time = sa.text(_set(wanted, ":{name}", "true"))
    at_once = _set(wanted, "%({name})s", "false")
    if settings.pooled is not None:
        pooled[engine] = settings.pooled

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            _bear_any_bytes(connection)
            connection.execute("SET client_encoding TO 'SQL_ASCII'")  # else the server itself refuses such bytes
        cursor = connection.cursor()
        if engine not in pooled:
            own = cursor.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()[0]
            pooled[engine] = own != connection.pgconn.backend_pid
        if not pooled[engine]:
            cursor.execute(at_once, wanted)
            if connection.info.server_version >= 140000:  # noqa: PLR2004 - the first that has it
                cursor.execute("SET idle_session_timeout = 0")
        cursor.close()
        connection.commit()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        if pooled[engine] and connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.execute(each_time, wanted)


def _wanted(settings: DatabaseSettings) -> dict[str, str]:
    """What we depend on, whatever the server's, the database's and the role's defaults are."""
    path = {"search_path": identifier(settings.schema)} if settings.schema else {}
    return {
        "timezone": "UTC",
        "datestyle": "ISO, MDY",
        "intervalstyle": "postgres",
        "bytea_output": "hex",
        "standard_conforming_strings": "on",
        "extra_float_digits": "1",
        "quote_all_identifiers": "off",  # else SQLAlchemy knows no type
        "lock_timeout": f"{max(1, round(settings.lock_timeout * 1000))}",
        "idle_in_transaction_session_timeout": f"{IDLE_WITHIN_S * 1000}",
        "row_security": "off",  # rows that a policy hides are an error, and not an outbox that looks empty
        **path,
    }


def _set(names: Iterable[str], value: str, is_local: str) -> str:
    each = [f"pg_catalog.set_config('{name}', {value.format(name=name)}, {is_local})" for name in names]
    # A claim that was committed must not be forgotten by a crash.
    now = "pg_catalog.current_setting('synchronous_commit')"
    safe = f"CASE {now} WHEN 'off' THEN 'local' ELSE {now} END"
    return f"SELECT {', '.join(each)}, pg_catalog.set_config('synchronous_commit', {safe}, {is_local})"


def identifier(name: str) -> str:
    """`name` in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _bear_any_bytes(connection: Any) -> None:
    """A database without an encoding holds any bytes: one row's Latin-1 must not break the reading of others."""
    from psycopg.adapt import Loader  # noqa: PLC0415 - an extra

    class AnyText(Loader):
        def load(self, data: Any) -> str:
            return readable_text(bytes(data))

    for name in ("text", "varchar", "bpchar", "name", UNKNOWN_OID):
        connection.adapters.register_loader(name, AnyText)


# --- claim and record ---

_NOW = "clock_timestamp()"
# Each name with its schema, each value as the very type that the server's own operator takes: else one that somebody
# has made in a schema of the search path may fit better, and would run with our rights.
_SHAPE = "CAST('YYYY-MM-DD HH24:MI:SS.US' AS text)"
_CREATED = f"pg_catalog.to_char(pg_catalog.timezone(CAST('UTC' AS text), {{o}}created_at), {_SHAPE})"
_HASHED = f"CAST(:key AS text) || CAST(':' AS text) || CAST({{o}}id AS text) || CAST(':' AS text) || {_CREATED}"
_BYTES = f"pg_catalog.convert_to({_HASHED}, CAST('UTF8' AS name))"
_HASH = f"pg_catalog.left(pg_catalog.encode(pg_catalog.sha256({_BYTES}), CAST('hex' AS text)), 32)"
_MESSAGE_ID = f"CAST('<' AS text) || {_HASH} || CAST('@' AS text) || CAST(:domain AS text) || CAST('>' AS text)"
_CLAIM = sa.text(f"""
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
SET {CLAIM_SET.format(o="o.", now=_NOW, message_id=_MESSAGE_ID.format(o="o."))}
FROM pick
WHERE o.id = pick.id AND o.status = 'queued'
RETURNING {claimed_list("o")}
""").columns(*CLAIMED)

_THESE = sa.text(f"""
UPDATE outbox AS o
SET {CLAIM_SET.format(o="o.", now=_NOW, message_id=_MESSAGE_ID.format(o="o."))}
WHERE o.id = ANY(CAST(:ids AS bigint[])) AND o.status = 'queued'
RETURNING {claimed_list("o")}
""").columns(*CLAIMED)

_STEPS = ", ".join(f"{name} {types[0]}" for name, types in STEP_TYPES.items())
_RECORD = sa.text(f"""
UPDATE outbox AS o SET {RECORD_SET}
FROM jsonb_to_recordset(CAST(:steps AS jsonb)) AS v ({_STEPS})
WHERE {FENCE}
RETURNING o.id
""")

# --- paths ---

_LOCK = "FOR NO KEY UPDATE SKIP LOCKED"
_DUE = "status = 'queued' AND due_at <= statement_timestamp()"
# Each list becomes a hash table once. A bare `= ANY(array)` is searched from end to end for each row.
_CLOSED = "{column} IN (SELECT unnest(CAST(:closed AS text[])))"
_SAME_GATE = """(domain IN (SELECT unnest(CAST(:closed_domains AS text[])))) IS NOT TRUE
      AND (lane IN (SELECT unnest(CAST(:closed_lanes AS text[])))) IS NOT TRUE
      AND (relay IN (SELECT unnest(CAST(:closed_relays AS text[])))) IS NOT TRUE
      AND (id IN (SELECT unnest(CAST(:closed_ids AS bigint[])))) IS NOT TRUE"""
_BEHIND = f"""FROM generate_series(CAST(:from_priority AS integer), 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id, priority, due_at, domain, lane, relay FROM outbox
        WHERE {_DUE} AND priority = p.priority
          AND (due_at, id) > (CASE WHEN p.priority = :from_priority THEN :after_due
                              ELSE CAST('1000-01-01 00:00:00Z' AS timestamptz) END,
                              CASE WHEN p.priority = :from_priority THEN CAST(:after_id AS bigint) ELSE 0 END)
        ORDER BY due_at, id
        {{page}}
    ) AS seen
    WHERE {NOT_PAUSED}"""
# A lateral subquery that locks is never turned into another kind of join: the rows come in order, and no more than
# are asked for are locked.
_TAKE = f"""CROSS JOIN LATERAL (
    SELECT {LIST} FROM outbox AS o WHERE o.id = free.id AND o.status = 'queued' {{lock}}
) AS taken"""
_WINDOW = f"""
SELECT taken.*
FROM (
    SELECT id FROM (SELECT seen.* {_BEHIND.format(page="LIMIT :look")}) AS seen
    WHERE {_SAME_GATE}
) AS free
{_TAKE}
LIMIT :limit"""
_EDGE = f"SELECT seen.priority, seen.due_at, seen.id {_BEHIND.format(page='OFFSET :skip LIMIT 1')} LIMIT 1"
# Written as ranges: for `domain = x` the planner may take outbox_due instead, and read all that stands in front.
_OF_PAIR = """status = 'queued'
    AND ({column}, priority, due_at) >= ({name}, {priority}, CAST('1000-01-01 00:00:00Z' AS timestamptz))
    AND ({column}, priority, due_at) <= ({name}, {priority}, statement_timestamp())"""
_NAMELESS = f"{_DUE} AND domain IS NULL AND priority = wanted.priority"
_PAIRS_OF = f"""
SELECT d.domain, p.priority
FROM unnest(CAST(:domains AS text[])) WITH ORDINALITY AS d (domain, place)
CROSS JOIN LATERAL (
    SELECT priority FROM outbox WHERE status = 'queued' AND domain >= d.domain AND domain <= d.domain
    ORDER BY domain, priority, due_at, id LIMIT 1
) AS first
CROSS JOIN LATERAL generate_series(first.priority, 9) AS p (priority)
CROSS JOIN LATERAL (
    SELECT 1 FROM outbox WHERE {_OF_PAIR.format(column="domain", name="d.domain", priority="p.priority")}
    ORDER BY domain, priority, due_at, id LIMIT 1
) AS due
WHERE {NOT_PAUSED}
ORDER BY d.place, p.priority"""
_NEXT = """SELECT {{column}}, priority, due_at FROM outbox WHERE status = 'queued' AND {}
        ORDER BY {{column}}, priority, due_at, id LIMIT 1"""
_PAIRS_FROM = f"""
WITH RECURSIVE step (name, priority, due_at, closed, number) AS (
    SELECT first.*, {_CLOSED}, 1
    FROM ({_NEXT.format("{column} >= :start")}) AS first
    WHERE {NOT_PAUSED}
    UNION ALL
    SELECT next.*, next.{_CLOSED}, step.number + 1
    FROM step
    CROSS JOIN LATERAL ({
    _NEXT.format(
        "({column}, priority) > (step.name, CAST(CASE WHEN step.closed THEN 9 ELSE step.priority END AS smallint))"
    )
}) AS next
    WHERE step.number < :steps
)
SELECT name, priority, number, due_at <= statement_timestamp() AND NOT closed AS free
FROM step
WHERE (due_at <= statement_timestamp() AND NOT closed) OR number = :steps"""
_HEADS = f"""
SELECT taken.*
FROM unnest(CAST(:names AS text[]), CAST(:priorities AS integer[]), CAST(:counts AS integer[]))
    AS wanted (name, priority, most)
CROSS JOIN LATERAL (
    SELECT taken.*
    FROM (
        SELECT id FROM (
            SELECT id, domain, lane, relay FROM outbox
            WHERE {{of_pair}}
            ORDER BY {{column}}, priority, due_at, id
            LIMIT :look
        ) AS seen
        WHERE {_SAME_GATE}
    ) AS free
    {_TAKE}
    LIMIT wanted.most
) AS taken"""


_WINDOW_SQL = {lock: typed(rows(_WINDOW.format(lock=_LOCK if lock else ""))) for lock in (True, False)}
_EDGE_SQL = placed(sa.text(_EDGE))
_PAIRS_FROM_SQL = {by: sa.text(_PAIRS_FROM.format(column=by)) for by in BY}
_HEADS_SQL = {
    (by, lock, named): rows(
        _HEADS.format(
            column=by,
            lock=_LOCK if lock else "",
            of_pair=_OF_PAIR.format(column=by, name="wanted.name", priority="wanted.priority") if named else _NAMELESS,
        )
    )
    for by in BY
    for lock in (True, False)
    for named in (True, False)
}


def _window(connection: Connection, gate: Gate, after: Key, limit: int, *, lock: bool = True) -> list[Any]:
    values = {**filters(gate), **behind(after), "look": LOOK, "limit": limit}
    return list(connection.execute(_WINDOW_SQL[lock], values))


def _edge(connection: Connection, after: Key) -> Key | None:
    row = connection.execute(_EDGE_SQL, {**behind(after), "skip": LOOK - 1}).first()
    return Key.of(row) if row else None


def _pairs_of(connection: Connection, domains: Sequence[str]) -> list[Pair]:
    found = connection.execute(sa.text(_PAIRS_OF), {"domains": list(domains)})
    return [(row.domain, row.priority) for row in found]


def _pairs_from(
    connection: Connection, by: By, start: str, closed: Collection[str], steps: int
) -> tuple[list[Pair], str | None]:
    values = {"start": start, "closed": list(closed), "steps": steps}
    return pairs_and_end(connection.execute(_PAIRS_FROM_SQL[by], values).all(), steps)


def _heads(
    connection: Connection, by: By, gate: Gate, wanted: Sequence[tuple[Pair, int]], *, lock: bool = True
) -> list[Any]:
    found: list[Any] = []
    for named in (True, False):
        some = [want for want in wanted if (want[0][0] is not None) is named]
        values = {
            "names": [name or "" for (name, _), _ in some],
            "priorities": [priority for (_, priority), _ in some],
            "counts": [most for _, most in some],
            "look": LOOKS[by],
            **filters(gate),
        }
        found += connection.execute(_HEADS_SQL[by, lock, named], values).all() if some else []
    return found


POSTGRESQL = Dialect(
    now=_NOW,
    shifted="(clock_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))",
    due=per_priority(DUE_ONE.format(now="statement_timestamp()")),
    claim=returning_claim(_CLAIM),
    claim_these=returning_these(_THESE, list),
    record=returning_record(_RECORD, lambda moment: moment.isoformat()),
    message_id=_MESSAGE_ID,
    row_lock="FOR NO KEY UPDATE",
    paths=Paths(
        window=_window,
        edge=_edge,
        pairs_of=_pairs_of,
        pairs_from=_pairs_from,
        names_from=names_by(_pairs_from),
        heads=_heads,
    ),
)
