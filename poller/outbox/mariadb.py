"""MariaDB and MySQL: the session, and the SQL for claim, record and the paths through the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import event

from poller.outbox.dialect import (
    AT_ONCE,
    CLAIM_SET,
    CLAIMED,
    COLUMNS,
    CONNECT_TIMEOUT_S,
    DUE_ONE,
    ENOUGH,
    FENCE,
    FIRST,
    GAPS_AT_ONCE,
    IDLE_WITHIN_S,
    LAST_DOMAIN,
    LIST,
    LOOK,
    LOOKS,
    MOST_LOOKS,
    NOT_PAUSED,
    RECORD_SET_STATUS_LAST,
    SHORT_LOOK,
    STEP_TYPES,
    STEPS_OF_STRETCH,
    Dialect,
    Key,
    Paths,
    claimed_list,
    filters,
    naive,
    per_priority,
    placed,
    steps_as_json,
)
from poller.outbox.plain import SQL_MODE
from poller.outbox.trouble import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from poller.outbox.database import Engine
    from poller.outbox.dialect import By, ClaimRequest, Pair
    from poller.outbox.settings import DatabaseSettings
    from poller.pacing.gate import Gate

# --- the session ---

READ_TIMEOUT_S = 120  # Far above any statement of ours; a dead peer must not hold us for hours.
CONNECT_ARGS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": READ_TIMEOUT_S,
    "write_timeout": READ_TIMEOUT_S,
    "charset": "utf8mb4",
    "sql_mode": SQL_MODE,  # from the first word on: SQLAlchemy asks at once how names are quoted
}
_SESSION = (
    "sql_select_limit = 18446744073709551615, sql_safe_updates = 0, sql_big_selects = 1, sql_auto_is_null = 0,"
    " foreign_key_checks = 1, unique_checks = 1, wait_timeout = 28800, completion_type = 0, sql_quote_show_create = 1"
)
"""What we depend on, whatever the server's defaults are."""


def prepare(engine: Engine, settings: DatabaseSettings) -> None:
    """Set up each connection of the engine."""
    wait_s = max(1, round(settings.lock_timeout))
    # MySQL knows these not. A long list of closed domains stays a list: as a subquery it would be joined.
    only_mariadb = (
        f" /*M! , idle_transaction_timeout = {IDLE_WITHIN_S}, in_predicate_conversion_threshold = 0,"
        " check_constraint_checks = 1 */"
    )
    waits = f"innodb_lock_wait_timeout = {wait_s}, lock_wait_timeout = {wait_s}"

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
            cursor.execute(f"SET {waits}, {_SESSION}{only_mariadb}")


# --- claim and record ---

_NOW = "UTC_TIMESTAMP(6)"
_CREATED = "DATE_FORMAT({o}created_at, '%Y-%m-%d %H:%i:%s.%f')"
_MESSAGE_ID = f"CONCAT('<', LEFT(SHA2(CONCAT(:key, ':', {{o}}id, ':', {_CREATED}), 256), 32), '@', :domain, '>')"
_DUE = sa.text(per_priority(DUE_ONE.format(now=_NOW)))
_PICK = sa.text(f"""
SELECT id FROM outbox FORCE INDEX (outbox_due)
WHERE status = 'queued' AND priority = :priority AND due_at <= {_NOW}
ORDER BY due_at, id
LIMIT :limit
FOR UPDATE SKIP LOCKED
""")
_CLAIM_SET = CLAIM_SET.format(o="", now=_NOW, message_id=_MESSAGE_ID.format(o=""))
_CLAIM = sa.text(
    f"UPDATE outbox FORCE INDEX (PRIMARY) SET {_CLAIM_SET} WHERE id IN :ids AND status = 'queued'"
).bindparams(sa.bindparam("ids", expanding=True))
_CLAIMED = (
    sa.text(
        f"SELECT {claimed_list('o')} FROM outbox AS o"
        " WHERE o.id IN :ids AND o.status = 'sending' AND o.claimed_by = :worker"
    )
    .bindparams(sa.bindparam("ids", expanding=True))
    .columns(*CLAIMED)
)
_TEXT = "CHARACTER SET utf8mb4"  # else the database's default: in one of ucs2 or utf16 no fence would ever fit
_STEPS = ", ".join(
    f"{name} {types[1]} {_TEXT if types[0] == 'text' else ''} PATH '$.{name}'" for name, types in STEP_TYPES.items()
)
_TABLE = f"JSON_TABLE(:steps, '$[*]' COLUMNS ({_STEPS})) AS v"
# In a small table the planner prefers a scan, and a scan stops at every row that somebody has locked.
_OUTBOX = "outbox AS o FORCE INDEX (PRIMARY)"
_FENCE = FENCE.replace("o.message_id = v.message_id", "CAST(o.message_id AS BINARY) = CAST(v.message_id AS BINARY)")
_LOCK = sa.text(f"SELECT o.id FROM {_TABLE} STRAIGHT_JOIN {_OUTBOX} ON o.id = v.id WHERE {_FENCE} FOR UPDATE")
_RECORD = sa.text(
    f"UPDATE {_TABLE} STRAIGHT_JOIN {_OUTBOX} ON o.id = v.id SET {{set}} WHERE {_FENCE}".format(
        set=", ".join(f"o.{line.strip()}" for line in RECORD_SET_STATUS_LAST.strip().split(",\n"))
    )
)


def _claim(connection: Connection, request: ClaimRequest) -> Sequence[sa.Row[Any]]:
    ids: list[int] = []
    for priority in connection.execute(_DUE).scalars().all():
        wanted = {"priority": priority, "limit": request.limit - len(ids)}
        ids += connection.execute(_PICK, wanted).scalars()
        if len(ids) >= request.limit:
            break
    return _claim_these(connection, request, ids)


def _claim_these(connection: Connection, request: ClaimRequest, ids: Sequence[int]) -> Sequence[sa.Row[Any]]:
    """The ids are of rows that we have locked."""
    if not ids:
        return []
    values = request.values()
    del values["limit"]
    won = connection.execute(_CLAIM, {**values, "ids": list(ids)}).rowcount
    rows = connection.execute(_CLAIMED, {"ids": list(ids), "worker": request.worker}).all()
    if len(rows) != won:
        raise DatabaseUnavailable(f"{won} rows were claimed and {len(rows)} are ours: this server does not keep locks")
    return rows


def _record(connection: Connection, worker: str, steps: list[dict[str, Any]]) -> set[int]:
    values = {"worker": worker, "steps": steps_as_json(steps, naive)}
    let_through = set(connection.execute(_LOCK, values).scalars())
    if let_through:
        connection.execute(_RECORD, values)
    return let_through


# --- paths ---

_OPEN = (
    "(domain IS NULL OR domain NOT IN :closed_domains) AND lane NOT IN :closed_lanes"
    " AND (relay IS NULL OR relay NOT IN :closed_relays) AND id NOT IN :closed_ids"
)
_BEHIND = f"""FROM outbox FORCE INDEX (outbox_due)
    WHERE status = 'queued' AND priority = :priority AND due_at <= {_NOW}
      AND due_at >= :after_due AND (due_at > :after_due OR id > :after_id)
    ORDER BY due_at, id"""
_WINDOW = f"""
SELECT id, priority, due_at
FROM (SELECT id, priority, due_at, domain, lane, relay {_BEHIND} LIMIT :look) AS seen
WHERE {_OPEN}
ORDER BY due_at, id
LIMIT :limit"""
_EDGE = f"SELECT priority, due_at, id {_BEHIND} LIMIT 1 OFFSET :skip"
_TAKE = f"SELECT {LIST} FROM outbox FORCE INDEX (PRIMARY) WHERE id IN :ids AND status = 'queued' {{lock}}"
_BY = "FROM outbox FORCE INDEX (outbox_due_by_{by}) WHERE status = 'queued' AND {by}"
_NEXT = "ORDER BY {by}, priority, due_at, id LIMIT"
# A column that is constant in the ORDER BY costs the index: all is read and sorted.
_PAIR = f"""
(SELECT {{by}} AS name, priority, due_at <= {_NOW} AS due {_BY} = %s AND priority > %s
 ORDER BY priority, due_at, id LIMIT 1)"""
# A MIN between two constants is one leap in the index; the server leaps by itself in no other way.
_FIRST_OF_GAP = f"(SELECT {{n}} AS n, MIN({{by}}) AS name {_BY} {{above}} %s AND {{by}} < %s)"
_STRETCH = f"""
SELECT name, priority, MIN(due_at) <= {_NOW} AS due, COUNT(*) AS number
FROM (SELECT {{by}} AS name, priority, due_at {_BY} {{above}} %s AND {{by}} < %s {_NEXT} %s) AS seen
GROUP BY name, priority
ORDER BY name, priority"""
_ON = sa.text(f"SELECT 1 WHERE {NOT_PAUSED}")
_HEAD = f"""
(SELECT id FROM (
    SELECT id, domain, lane, relay FROM outbox FORCE INDEX (outbox_due_by_{{by}})
    WHERE status = 'queued' AND {{by}} {{is_wanted}} AND priority = :priority_{{n}} AND due_at <= {_NOW}
    ORDER BY due_at, id LIMIT :look_{{n}}
) AS seen_{{n}} WHERE {_OPEN} LIMIT :limit_{{n}})"""


def _text(statement: str, *expanding: str) -> Any:
    return sa.text(statement).bindparams(*(sa.bindparam(name, expanding=True) for name in expanding))


def _filters(gate: Gate) -> dict[str, Any]:
    """An empty list is no list there: one thing in it that no row has."""
    nothing: dict[str, list[Any]] = {
        "closed_domains": ["@"],
        "closed_lanes": [""],
        "closed_relays": [""],
        "closed_ids": [0],
    }
    return {name: values or nothing[name] for name, values in filters(gate).items()}


_CLOSED = ("closed_domains", "closed_lanes", "closed_relays", "closed_ids")
_WINDOW_SQL = placed(_text(_WINDOW, *_CLOSED))
_EDGE_SQL = placed(sa.text(_EDGE))
_TAKE_SQL = {
    lock: _text(_TAKE.format(lock="FOR UPDATE SKIP LOCKED" if lock else ""), "ids").columns(*COLUMNS)
    for lock in (True, False)
}


def _window(connection: Connection, gate: Gate, after: Key, limit: int, *, lock: bool = True) -> list[Any]:
    taken: list[Any] = []
    for at in _starts(connection, after):
        taken += _within(connection, gate, at, limit - len(taken), lock=lock)
        if len(taken) >= limit:
            break
    return taken


def _starts(connection: Connection, after: Key) -> Iterator[Key]:
    """Where each priority that has rows due begins behind `after`."""
    for priority in connection.execute(_DUE).scalars().all():
        if priority >= after.priority:
            yield after if priority == after.priority else FIRST._replace(priority=priority)


def _within(connection: Connection, gate: Gate, at: Key, limit: int, *, lock: bool) -> list[Any]:
    """Of one priority. A short look is enough nearly always; else a long one; else others have locked many."""
    taken: list[Any] = []
    look = min(2 * limit, LOOK)
    for _ in range(MOST_LOOKS):
        wanted = limit - len(taken)
        values = {**_filters(gate), **_behind(at), "look": look, "limit": wanted}
        found = connection.execute(_WINDOW_SQL, values).all()
        taken += _taken(connection, [row.id for row in found], lock=lock)
        if len(taken) >= limit or (len(found) < wanted and look == LOOK):
            break
        look = look if len(found) == wanted else LOOK
        at = Key.of(found[-1]) if found else at
    return taken


def _taken(connection: Connection, ids: Sequence[int], *, lock: bool) -> list[Any]:
    if not ids:
        return []
    rows = connection.execute(_TAKE_SQL[lock], {"ids": list(ids)}).all()
    return sorted(rows, key=Key.of)


def _edge(connection: Connection, after: Key) -> Key | None:
    for at in _starts(connection, after):
        row = connection.execute(_EDGE_SQL, {**_behind(at), "skip": LOOK - 1}).first()
        if row:
            return Key.of(row)
    return None


def _pairs_of(connection: Connection, domains: Sequence[str]) -> list[Pair]:
    return _pairs(connection, "domain", domains) if connection.execute(_ON).first() else []


def _pairs(connection: Connection, by: By, names: Sequence[str]) -> list[Pair]:
    due: list[Pair] = []
    for begin in range(0, len(names), AT_ONCE):
        asked = [(name, -1) for name in names[begin : begin + AT_ONCE]]
        while asked:  # each priority once
            rows = connection.exec_driver_sql(
                " UNION ALL ".join([_PAIR.format(by=by)] * len(asked)),
                tuple(value for pair in asked for value in pair),
            ).all()
            due += [(row.name, row.priority) for row in rows if row.due]
            asked = [(row.name, row.priority) for row in rows]
    place = {name: number for number, name in enumerate(names)}
    return sorted(due, key=lambda pair: (place[pair[0] or ""], pair[1]))


def _pairs_from(
    connection: Connection, by: By, start: str, closed: Collection[str], steps: int
) -> tuple[list[Pair], str | None]:
    """The closed ones are known: what is free lies in the gaps between them, and most of these are empty."""
    pairs: list[Pair] = []
    gaps = _gaps(start, closed) if connection.execute(_ON).first() else []
    for begin in range(0, len(gaps), GAPS_AT_ONCE):
        if len(pairs) >= ENOUGH or begin >= steps:
            return pairs, gaps[begin].low
        for gap in _filled(connection, by, gaps[begin : begin + GAPS_AT_ONCE]):
            rest: _Gap | None = gap
            while rest is not None:
                found, rest = _stretch(connection, by, rest)
                pairs += found
                steps -= STEPS_OF_STRETCH
                if rest is not None and (len(pairs) >= ENOUGH or begin >= steps):
                    return pairs, f"{rest.low}\0"  # the very next
    return pairs, None


class _Gap(NamedTuple):
    """The domains (or lanes) above `low`, itself too if `above` is ">=", and below `high`."""

    low: str
    above: str
    high: str


def _gaps(start: str, closed: Collection[str]) -> list[_Gap]:
    bounds = sorted(domain for domain in closed if domain >= start)
    lows = [(start, ">="), *((domain, ">") for domain in bounds)]
    return [_Gap(low, above, high) for (low, above), high in zip(lows, [*bounds, LAST_DOMAIN], strict=True)]


def _filled(connection: Connection, by: By, gaps: Sequence[_Gap]) -> list[_Gap]:
    statement = " UNION ALL ".join(_FIRST_OF_GAP.format(n=n, by=by, above=gap.above) for n, gap in enumerate(gaps))
    values = tuple(value for gap in gaps for value in (gap.low, gap.high))
    found = {row.n: row.name for row in connection.exec_driver_sql(statement, values)}
    return [gap for n, gap in enumerate(gaps) if found[n] is not None]


def _names_from(
    connection: Connection,
    by: By,
    _priority: int,
    start: str,
    closed: Collection[str],
    steps: int,
) -> tuple[list[str], str | None]:
    """A leap to each, whatever priority it has: a stretch would read all the rows of a large one."""
    names: list[str] = []
    for gap in _filled(connection, by, _gaps(start, closed)):
        rest: list[_Gap] = [gap]
        while rest:
            if len(names) + len(closed) >= steps:
                return names, rest[0].low
            name = _first(connection, by, rest.pop())
            if name is not None:
                names.append(name)
                rest = [_Gap(name, ">", gap.high)]
    return names, None


def _first(connection: Connection, by: By, gap: _Gap) -> str | None:
    statement = _FIRST_OF_GAP.format(n=0, by=by, above=gap.above)
    return connection.exec_driver_sql(statement, (gap.low, gap.high)).one().name  # type: ignore[no-any-return]


def _stretch(connection: Connection, by: By, gap: _Gap) -> tuple[list[Pair], _Gap | None]:
    """The pairs of a gap, and what is left of it."""
    rows = connection.exec_driver_sql(_STRETCH.format(by=by, above=gap.above), (gap.low, gap.high, LOOK)).all()
    due = [(row.name, row.priority) for row in rows if row.due]
    if sum(row.number for row in rows) < LOOK:
        return due, None
    last = rows[-1].name  # perhaps not all of its priorities were seen
    whole = [*(pair for pair in due if pair[0] != last), *_pairs(connection, by, [last])]
    return whole, _Gap(last, ">", gap.high)


def _heads(
    connection: Connection, by: By, gate: Gate, wanted: Sequence[tuple[Pair, int]], *, lock: bool = True
) -> list[Any]:
    found: list[Any] = []
    for begin in range(0, len(wanted), AT_ONCE):
        some = wanted[begin : begin + AT_ONCE]
        values: dict[str, Any] = {}
        for n, ((name, priority), most) in enumerate(some):
            values |= {
                f"priority_{n}": priority,
                f"limit_{n}": most,
                f"look_{n}": LOOKS[by] if by != "flow" else min(SHORT_LOOK, 4 * most),
            }
            values |= {} if name is None else {f"name_{n}": name}
        statement = " UNION ALL ".join(
            _HEAD.format(n=n, by=by, is_wanted="IS NULL" if name is None else f"= :name_{n}")
            for n, ((name, _), _) in enumerate(some)
        )
        ids = connection.execute(_text(statement, *_CLOSED), {**values, **_filters(gate)}).scalars().all()
        found += _taken(connection, ids, lock=lock)
    return found


def _behind(key: Key) -> dict[str, Any]:
    return {"priority": key.priority, "after_due": key.due_at, "after_id": key.id}


MYSQL = Dialect(
    now=_NOW,
    shifted="(UTC_TIMESTAMP(6) + INTERVAL CAST({seconds} * 1000000 AS SIGNED) MICROSECOND)",
    due=per_priority(DUE_ONE.format(now=_NOW)),
    claim=_claim,
    claim_these=_claim_these,
    record=_record,
    message_id=_MESSAGE_ID,
    row_lock="FOR UPDATE",
    paths=Paths(
        window=_window,
        edge=_edge,
        pairs_of=_pairs_of,
        pairs_from=_pairs_from,
        names_from=_names_from,
        heads=_heads,
    ),
)
