"""How rows are found for a gate that is not wide open: three dialects side by side.

Three paths lead through the queue, each served by an index, each bounded:

  the window  the next due rows of each priority, in the order of the claim, but for those that are closed
  the pairs   which pairs of a domain (or a lane, or a flow) and a priority have a row due: of given ones, or of all
              from one on
  the heads   the first due rows of given pairs

Rule 1. A path looks at so many rows as it is told, and at no row that is not due, but at one of a pair.
Rule 2. Rows are locked as they are found, and those that somebody has locked are passed by; SQLite has no need. The
        path itself locks nothing, and neither does the question whether there is anything.
Rule 3. Nothing is found while the outbox is paused.

A gate closes domains, lanes, relays and ids; NULL is never closed. By domain, by lane or by flow is the same path over
another column and its index: `By`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import sqlalchemy as sa

from poller.outbox.dialects import LITE_NOW, MY_DUE, MY_NOW, NOT_PAUSED, PRIORITIES
from poller.outbox.tables import Utc, outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from sqlalchemy.engine import Connection

    from poller.pacing.gate import Gate

LOOK = 1000
"""Rows of each priority that a window looks at: a millisecond or two, and ten batches."""
GAPS_AT_ONCE = 250
ENOUGH = 100
"""Pairs that have a row due: what is found so fills a claim."""
STEPS_OF_STRETCH = 20  # what a stretch costs beside a gap that is empty
LAST_DOMAIN = "\U0010ffff"  # behind every domain
SHORT_LOOK = 200
"""Rows that a path by flow looks at: it only says whose turn it is, and what it does not find has its turn later."""
LOOKS: dict[str, int] = {"domain": LOOK, "lane": LOOK, "flow": SHORT_LOOK}
AT_ONCE = 50  # heads asked for in one statement on MariaDB; each is a SELECT of its own within it

MOST_LOOKS = 10
"""On MariaDB, at one priority, while other workers lock what was found before we do."""

By = Literal["domain", "lane", "flow"]
"""The column that a path goes along."""
_NAMES = ("id", "domain", "lane", "flow", "relay", "sender", "recipients", "cc", "bcc", "priority", "due_at")
_BY: tuple[By, ...] = ("domain", "lane", "flow")
COLUMNS = tuple(outbox.c[name] for name in _NAMES)
"""What a path gives of each row."""
_LIST = ", ".join(_NAMES)


class Key(NamedTuple):
    """A place in the order of the claim."""

    priority: int
    due_at: datetime
    id: int

    @classmethod
    def of(cls, row: Any) -> Key:
        """Where a row stands."""
        return cls(row.priority, row.due_at, row.id)


FIRST = Key(0, datetime(1000, 1, 1, tzinfo=UTC), 0)  # before every row: a CHECK holds due_at
Pair = tuple[str | None, int]
"""Domain (or lane) and priority."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paths:
    """One dialect's answers. With `lock=False` nothing is locked."""

    window: Callable[..., list[Any]]
    """(connection, gate, after, limit, *, lock): up to `limit` free rows, in the order of the claim, among the next
    LOOK rows of each priority behind the key `after`."""
    edge: Callable[[Connection, Key], Key | None]
    """(connection, after): where the first priority goes on behind that window; None: the window shows them all."""
    pairs_of: Callable[[Connection, Sequence[str]], list[Pair]]
    """(connection, domains): their pairs that have a row due."""
    pairs_from: Callable[[Connection, By, str, Collection[str], int], tuple[list[Pair], str | None]]
    """(connection, by, start, closed, steps): the pairs of domains (or lanes) not `closed` that have a row due, from
    `start` on, as far as so many steps from pair to pair lead; and where to go on from, None at the end."""
    names_from: Callable[[Connection, By, int, str, Collection[str], int], tuple[list[str], str | None]]
    """(connection, by, priority, start, closed, steps): the names not `closed` of a column that may have a row due at
    this priority, as `pairs_from` finds them."""
    heads: Callable[..., list[Any]]
    """(connection, by, gate, wanted, *, lock): of each wanted pair so many free rows, in no order."""


def filters(gate: Gate) -> dict[str, Any]:
    """What a gate closes, as bound parameters that are lists."""
    return {
        "closed_domains": list(gate.closed_domains),
        "closed_lanes": list(gate.closed_lanes),
        "closed_relays": list(gate.closed_relays),
        "closed_ids": list(gate.closed_ids),
    }


def _behind(key: Key) -> dict[str, Any]:
    return {"from_priority": key.priority, "after_due": key.due_at, "after_id": key.id}


def _rows(statement: str) -> Any:
    return sa.text(statement).columns(*COLUMNS)


def _typed(statement: Any) -> Any:
    return statement.bindparams(sa.bindparam("after_due", type_=Utc()))


def _placed(statement: Any) -> Any:
    """One that gives keys."""
    return _typed(statement).columns(priority=sa.Integer, due_at=Utc, id=sa.BigInteger)


# --- PostgreSQL ----------------------------------------------------------------------------------------------------

_PG_LOCK = "FOR NO KEY UPDATE SKIP LOCKED"
_PG_DUE = "status = 'queued' AND due_at <= statement_timestamp()"
# Each list becomes a hash table once. A bare `= ANY(array)` is searched from end to end for each row.
_PG_CLOSED = "{column} IN (SELECT unnest(CAST(:closed AS text[])))"
_PG_SAME_GATE = """(domain IN (SELECT unnest(CAST(:closed_domains AS text[])))) IS NOT TRUE
      AND (lane IN (SELECT unnest(CAST(:closed_lanes AS text[])))) IS NOT TRUE
      AND (relay IN (SELECT unnest(CAST(:closed_relays AS text[])))) IS NOT TRUE
      AND (id IN (SELECT unnest(CAST(:closed_ids AS bigint[])))) IS NOT TRUE"""
_PG_BEHIND = f"""FROM generate_series(CAST(:from_priority AS integer), 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT id, priority, due_at, domain, lane, relay FROM outbox
        WHERE {_PG_DUE} AND priority = p.priority
          AND (due_at, id) > (CASE WHEN p.priority = :from_priority THEN :after_due
                              ELSE CAST('1000-01-01 00:00:00Z' AS timestamptz) END,
                              CASE WHEN p.priority = :from_priority THEN CAST(:after_id AS bigint) ELSE 0 END)
        ORDER BY due_at, id
        {{page}}
    ) AS seen
    WHERE {NOT_PAUSED}"""
# A lateral subquery that locks is never turned into another kind of join: the rows come in order, and no more than
# are asked for are locked.
_PG_TAKE = f"""CROSS JOIN LATERAL (
    SELECT {_LIST} FROM outbox AS o WHERE o.id = free.id AND o.status = 'queued' {{lock}}
) AS taken"""
_PG_WINDOW = f"""
SELECT taken.*
FROM (
    SELECT id FROM (SELECT seen.* {_PG_BEHIND.format(page="LIMIT :look")}) AS seen
    WHERE {_PG_SAME_GATE}
) AS free
{_PG_TAKE}
LIMIT :limit"""
_PG_EDGE = f"SELECT seen.priority, seen.due_at, seen.id {_PG_BEHIND.format(page='OFFSET :skip LIMIT 1')} LIMIT 1"
# Written as ranges: for `domain = x` the planner may take outbox_due instead, and read all that stands in front.
_PG_OF_PAIR = """status = 'queued'
    AND ({column}, priority, due_at) >= ({name}, {priority}, CAST('1000-01-01 00:00:00Z' AS timestamptz))
    AND ({column}, priority, due_at) <= ({name}, {priority}, statement_timestamp())"""
_PG_NAMELESS = f"{_PG_DUE} AND domain IS NULL AND priority = wanted.priority"
_PG_PAIRS_OF = f"""
SELECT d.domain, p.priority
FROM unnest(CAST(:domains AS text[])) WITH ORDINALITY AS d (domain, place)
CROSS JOIN LATERAL (
    SELECT priority FROM outbox WHERE status = 'queued' AND domain >= d.domain AND domain <= d.domain
    ORDER BY domain, priority, due_at, id LIMIT 1
) AS first
CROSS JOIN LATERAL generate_series(first.priority, 9) AS p (priority)
CROSS JOIN LATERAL (
    SELECT 1 FROM outbox WHERE {_PG_OF_PAIR.format(column="domain", name="d.domain", priority="p.priority")}
    ORDER BY domain, priority, due_at, id LIMIT 1
) AS due
WHERE {NOT_PAUSED}
ORDER BY d.place, p.priority"""
_PG_NEXT = """SELECT {{column}}, priority, due_at FROM outbox WHERE status = 'queued' AND {}
        ORDER BY {{column}}, priority, due_at, id LIMIT 1"""
_PG_PAIRS_FROM = f"""
WITH RECURSIVE step (name, priority, due_at, closed, number) AS (
    SELECT first.*, {_PG_CLOSED}, 1
    FROM ({_PG_NEXT.format("{column} >= :start")}) AS first
    WHERE {NOT_PAUSED}
    UNION ALL
    SELECT next.*, next.{_PG_CLOSED}, step.number + 1
    FROM step
    CROSS JOIN LATERAL ({
    _PG_NEXT.format(
        "({column}, priority) > (step.name, CAST(CASE WHEN step.closed THEN 9 ELSE step.priority END AS smallint))"
    )
}) AS next
    WHERE step.number < :steps
)
SELECT name, priority, number, due_at <= statement_timestamp() AND NOT closed AS free
FROM step
WHERE (due_at <= statement_timestamp() AND NOT closed) OR number = :steps"""
_PG_HEADS = f"""
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
        WHERE {_PG_SAME_GATE}
    ) AS free
    {_PG_TAKE}
    LIMIT wanted.most
) AS taken"""


_PG_WINDOW_SQL = {lock: _typed(_rows(_PG_WINDOW.format(lock=_PG_LOCK if lock else ""))) for lock in (True, False)}
_PG_EDGE_SQL = _placed(sa.text(_PG_EDGE))
_PG_PAIRS_FROM_SQL = {by: sa.text(_PG_PAIRS_FROM.format(column=by)) for by in _BY}
_PG_HEADS_SQL = {
    (by, lock, named): _rows(
        _PG_HEADS.format(
            column=by,
            lock=_PG_LOCK if lock else "",
            of_pair=_PG_OF_PAIR.format(column=by, name="wanted.name", priority="wanted.priority")
            if named
            else _PG_NAMELESS,
        )
    )
    for by in _BY
    for lock in (True, False)
    for named in (True, False)
}


def _pg_window(connection: Connection, gate: Gate, after: Key, limit: int, *, lock: bool = True) -> list[Any]:
    values = {**filters(gate), **_behind(after), "look": LOOK, "limit": limit}
    return list(connection.execute(_PG_WINDOW_SQL[lock], values))


def _pg_edge(connection: Connection, after: Key) -> Key | None:
    row = connection.execute(_PG_EDGE_SQL, {**_behind(after), "skip": LOOK - 1}).first()
    return Key.of(row) if row else None


def _pg_pairs_of(connection: Connection, domains: Sequence[str]) -> list[Pair]:
    found = connection.execute(sa.text(_PG_PAIRS_OF), {"domains": list(domains)})
    return [(row.domain, row.priority) for row in found]


def _pg_pairs_from(
    connection: Connection, by: By, start: str, closed: Collection[str], steps: int
) -> tuple[list[Pair], str | None]:
    values = {"start": start, "closed": list(closed), "steps": steps}
    return _pairs_and_end(connection.execute(_PG_PAIRS_FROM_SQL[by], values).all(), steps)


def _pg_heads(
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
        found += connection.execute(_PG_HEADS_SQL[by, lock, named], values).all() if some else []
    return found


def _names_by(pairs_from: Callable[..., tuple[list[Pair], str | None]]) -> Callable[..., tuple[list[str], str | None]]:
    """Where a walk from pair to pair costs little, it tells the names too."""

    def names_from(  # noqa: PLR0917 - as everywhere here
        connection: Connection, by: By, priority: int, start: str, closed: Collection[str], steps: int
    ) -> tuple[list[str], str | None]:
        pairs, end = pairs_from(connection, by, start, closed, steps)
        return [str(name) for name, at in pairs if at == priority], end

    return names_from


def _pairs_and_end(found: Sequence[Any], steps: int) -> tuple[list[Pair], str | None]:
    end = next((row.name for row in found if row.number == steps), None)
    return [(row.name, row.priority) for row in found if row.free], end


# --- SQLite --------------------------------------------------------------------------------------------------------

_LITE_CLOSED = "{column} IN (SELECT value FROM json_each(:closed))"
_LITE_SAME_GATE = """(domain IN (SELECT value FROM json_each(:closed_domains))) IS NOT TRUE
    AND (lane IN (SELECT value FROM json_each(:closed_lanes))) IS NOT TRUE
    AND (relay IN (SELECT value FROM json_each(:closed_relays))) IS NOT TRUE
    AND id NOT IN (SELECT value FROM json_each(:closed_ids))"""


def _lite_behind(columns: str, page: str) -> str:
    return " UNION ALL ".join(
        f"SELECT * FROM (SELECT {columns} FROM outbox WHERE status = 'queued' AND priority = {p}"
        f" AND :from_priority <= {p}"
        f" AND (due_at, id) > (CASE :from_priority WHEN {p} THEN :after_due ELSE '' END,"
        f" CASE :from_priority WHEN {p} THEN :after_id ELSE 0 END)"
        f" AND due_at <= {LITE_NOW} ORDER BY due_at, id {page})"
        for p in PRIORITIES
    )


_LITE_WINDOW = f"""
SELECT {_LIST} FROM ({_lite_behind(_LIST, "LIMIT :look")}) AS seen
WHERE {NOT_PAUSED} AND {_LITE_SAME_GATE}
LIMIT :limit"""
_LITE_EDGE = f"""
SELECT priority, due_at, id FROM ({_lite_behind("priority, due_at, id", "LIMIT 1 OFFSET :skip")}) WHERE {NOT_PAUSED}
LIMIT 1"""
_LITE_PAIRS_OF = f"""
SELECT d.key AS place, d.value AS domain, p.value AS priority
FROM json_each(:domains) AS d CROSS JOIN json_each('[0,1,2,3,4,5,6,7,8,9]') AS p
WHERE {NOT_PAUSED}
  AND EXISTS (SELECT 1 FROM outbox WHERE status = 'queued' AND domain = d.value)
  AND EXISTS (SELECT 1 FROM outbox
              WHERE status = 'queued' AND domain = d.value AND priority = p.value AND due_at <= {LITE_NOW})"""
# The one after it of the same name, else the first of the next name: for both at once it reads all that is between.
_LITE_FIRST = "(SELECT id FROM outbox WHERE status = 'queued' AND {} ORDER BY {{column}}, priority, due_at, id LIMIT 1)"
_LITE_SAME = _LITE_FIRST.format("{column} = step.name AND priority > step.priority")
_LITE_PAIRS_FROM = f"""
WITH RECURSIVE step (name, priority, due_at, closed, number) AS (
    SELECT {{column}}, priority, due_at, {_LITE_CLOSED}, 1
    FROM outbox WHERE id = {_LITE_FIRST.format("{column} >= :start")} AND {NOT_PAUSED}
    UNION ALL
    SELECT next.{{column}}, next.priority, next.due_at, next.{_LITE_CLOSED}, step.number + 1
    FROM step CROSS JOIN outbox AS next
    WHERE step.number < :steps AND next.id = coalesce(
        CASE WHEN NOT step.closed THEN {_LITE_SAME} END, {_LITE_FIRST.format("{column} > step.name")}
    )
)
SELECT name, priority, number, due_at <= {LITE_NOW} AND NOT closed AS free
FROM step
WHERE free OR number = :steps"""
_LITE_HEADS = f"""
SELECT {_LIST} FROM (
    SELECT {_LIST} FROM outbox
    WHERE status = 'queued' AND {{column}} {{is_wanted}} AND priority = :priority AND due_at <= {LITE_NOW}
    ORDER BY due_at, id LIMIT :look
)
WHERE {_LITE_SAME_GATE}
LIMIT :limit"""


_LITE_WINDOW_SQL = _typed(_rows(_LITE_WINDOW))
_LITE_EDGE_SQL = _placed(sa.text(_LITE_EDGE))
_LITE_PAIRS_FROM_SQL = {by: sa.text(_LITE_PAIRS_FROM.format(column=by)) for by in _BY}
_LITE_HEADS_SQL = {
    (by, named): _rows(_LITE_HEADS.format(column=by, is_wanted="= :name" if named else "IS NULL"))
    for by in _BY
    for named in (True, False)
}


def _lite_window(
    connection: Connection,
    gate: Gate,
    after: Key,
    limit: int,
    *,
    lock: bool = True,  # noqa: ARG001 - whoever writes is alone
) -> list[Any]:
    values = {**_as_json(filters(gate)), **_behind(after), "look": LOOK, "limit": limit}
    return list(connection.execute(_LITE_WINDOW_SQL, values))


def _lite_edge(connection: Connection, after: Key) -> Key | None:
    row = connection.execute(_LITE_EDGE_SQL, {**_behind(after), "skip": LOOK - 1}).first()
    return Key.of(row) if row else None


def _lite_pairs_of(connection: Connection, domains: Sequence[str]) -> list[Pair]:
    found = connection.execute(sa.text(_LITE_PAIRS_OF), _as_json({"domains": list(domains)}))
    return [(row.domain, row.priority) for row in sorted(found, key=lambda row: (row.place, row.priority))]


def _lite_pairs_from(
    connection: Connection, by: By, start: str, closed: Collection[str], steps: int
) -> tuple[list[Pair], str | None]:
    values = {"start": start, "steps": steps, **_as_json({"closed": list(closed)})}
    return _pairs_and_end(connection.execute(_LITE_PAIRS_FROM_SQL[by], values).all(), steps)


def _lite_heads(
    connection: Connection,
    by: By,
    gate: Gate,
    wanted: Sequence[tuple[Pair, int]],
    *,
    lock: bool = True,  # noqa: ARG001 - whoever writes is alone
) -> list[Any]:
    same = {**_as_json(filters(gate)), "look": LOOKS[by]}
    found: list[Any] = []
    for (name, priority), most in wanted:
        values = {**same, "name": name, "priority": priority, "limit": most}
        found += connection.execute(_LITE_HEADS_SQL[by, name is not None], values)
    return found


def _as_json(lists: dict[str, list[Any]]) -> dict[str, str]:
    return {name: json.dumps(values) for name, values in lists.items()}


# --- MariaDB and MySQL ---------------------------------------------------------------------------------------------

_MY_OPEN = (
    "(domain IS NULL OR domain NOT IN :closed_domains) AND lane NOT IN :closed_lanes"
    " AND (relay IS NULL OR relay NOT IN :closed_relays) AND id NOT IN :closed_ids"
)
_MY_BEHIND = f"""FROM outbox FORCE INDEX (outbox_due)
    WHERE status = 'queued' AND priority = :priority AND due_at <= {MY_NOW}
      AND due_at >= :after_due AND (due_at > :after_due OR id > :after_id)
    ORDER BY due_at, id"""
_MY_WINDOW = f"""
SELECT id, priority, due_at
FROM (SELECT id, priority, due_at, domain, lane, relay {_MY_BEHIND} LIMIT :look) AS seen
WHERE {_MY_OPEN}
ORDER BY due_at, id
LIMIT :limit"""
_MY_EDGE = f"SELECT priority, due_at, id {_MY_BEHIND} LIMIT 1 OFFSET :skip"
_MY_TAKE = f"SELECT {_LIST} FROM outbox FORCE INDEX (PRIMARY) WHERE id IN :ids AND status = 'queued' {{lock}}"
_MY_BY = "FROM outbox FORCE INDEX (outbox_due_by_{by}) WHERE status = 'queued' AND {by}"
_MY_NEXT = "ORDER BY {by}, priority, due_at, id LIMIT"
# A column that is constant in the ORDER BY costs the index: all is read and sorted.
_MY_PAIR = f"""
(SELECT {{by}} AS name, priority, due_at <= {MY_NOW} AS due {_MY_BY} = %s AND priority > %s
 ORDER BY priority, due_at, id LIMIT 1)"""
# A MIN between two constants is one leap in the index; the server leaps by itself in no other way.
_MY_FIRST_OF_GAP = f"(SELECT {{n}} AS n, MIN({{by}}) AS name {_MY_BY} {{above}} %s AND {{by}} < %s)"
_MY_STRETCH = f"""
SELECT name, priority, MIN(due_at) <= {MY_NOW} AS due, COUNT(*) AS number
FROM (SELECT {{by}} AS name, priority, due_at {_MY_BY} {{above}} %s AND {{by}} < %s {_MY_NEXT} %s) AS seen
GROUP BY name, priority
ORDER BY name, priority"""
_MY_ON = sa.text(f"SELECT 1 WHERE {NOT_PAUSED}")
_MY_HEAD = f"""
(SELECT id FROM (
    SELECT id, domain, lane, relay FROM outbox FORCE INDEX (outbox_due_by_{{by}})
    WHERE status = 'queued' AND {{by}} {{is_wanted}} AND priority = :priority_{{n}} AND due_at <= {MY_NOW}
    ORDER BY due_at, id LIMIT :look_{{n}}
) AS seen_{{n}} WHERE {_MY_OPEN} LIMIT :limit_{{n}})"""


def _my_text(statement: str, *expanding: str) -> Any:
    return sa.text(statement).bindparams(*(sa.bindparam(name, expanding=True) for name in expanding))


def _my_filters(gate: Gate) -> dict[str, Any]:
    """An empty list is no list there: one thing in it that no row has."""
    nothing: dict[str, list[Any]] = {
        "closed_domains": ["@"],
        "closed_lanes": [""],
        "closed_relays": [""],
        "closed_ids": [0],
    }
    return {name: values or nothing[name] for name, values in filters(gate).items()}


_MY_CLOSED = ("closed_domains", "closed_lanes", "closed_relays", "closed_ids")
_MY_WINDOW_SQL = _placed(_my_text(_MY_WINDOW, *_MY_CLOSED))
_MY_EDGE_SQL = _placed(sa.text(_MY_EDGE))
_MY_TAKE_SQL = {
    lock: _my_text(_MY_TAKE.format(lock="FOR UPDATE SKIP LOCKED" if lock else ""), "ids").columns(*COLUMNS)
    for lock in (True, False)
}


def _my_window(connection: Connection, gate: Gate, after: Key, limit: int, *, lock: bool = True) -> list[Any]:
    taken: list[Any] = []
    for at in _my_starts(connection, after):
        taken += _my_within(connection, gate, at, limit - len(taken), lock=lock)
        if len(taken) >= limit:
            break
    return taken


def _my_starts(connection: Connection, after: Key) -> Iterator[Key]:
    """Where each priority that has rows due begins behind `after`."""
    for priority in connection.execute(MY_DUE).scalars().all():
        if priority >= after.priority:
            yield after if priority == after.priority else FIRST._replace(priority=priority)


def _my_within(connection: Connection, gate: Gate, at: Key, limit: int, *, lock: bool) -> list[Any]:
    """Of one priority. A short look is enough nearly always; else a long one; else others have locked many."""
    taken: list[Any] = []
    look = min(2 * limit, LOOK)
    for _ in range(MOST_LOOKS):
        wanted = limit - len(taken)
        values = {**_my_filters(gate), **_my_behind(at), "look": look, "limit": wanted}
        found = connection.execute(_MY_WINDOW_SQL, values).all()
        taken += _my_taken(connection, [row.id for row in found], lock=lock)
        if len(taken) >= limit or (len(found) < wanted and look == LOOK):
            break
        look = look if len(found) == wanted else LOOK
        at = Key.of(found[-1]) if found else at
    return taken


def _my_taken(connection: Connection, ids: Sequence[int], *, lock: bool) -> list[Any]:
    if not ids:
        return []
    rows = connection.execute(_MY_TAKE_SQL[lock], {"ids": list(ids)}).all()
    return sorted(rows, key=Key.of)


def _my_edge(connection: Connection, after: Key) -> Key | None:
    for at in _my_starts(connection, after):
        row = connection.execute(_MY_EDGE_SQL, {**_my_behind(at), "skip": LOOK - 1}).first()
        if row:
            return Key.of(row)
    return None


def _my_pairs_of(connection: Connection, domains: Sequence[str]) -> list[Pair]:
    return _my_pairs(connection, "domain", domains) if connection.execute(_MY_ON).first() else []


def _my_pairs(connection: Connection, by: By, names: Sequence[str]) -> list[Pair]:
    due: list[Pair] = []
    for begin in range(0, len(names), AT_ONCE):
        asked = [(name, -1) for name in names[begin : begin + AT_ONCE]]
        while asked:  # each priority once
            rows = connection.exec_driver_sql(
                " UNION ALL ".join([_MY_PAIR.format(by=by)] * len(asked)),
                tuple(value for pair in asked for value in pair),
            ).all()
            due += [(row.name, row.priority) for row in rows if row.due]
            asked = [(row.name, row.priority) for row in rows]
    place = {name: number for number, name in enumerate(names)}
    return sorted(due, key=lambda pair: (place[pair[0] or ""], pair[1]))


def _my_pairs_from(
    connection: Connection, by: By, start: str, closed: Collection[str], steps: int
) -> tuple[list[Pair], str | None]:
    """The closed ones are known: what is free lies in the gaps between them, and most of these are empty."""
    pairs: list[Pair] = []
    gaps = _gaps(start, closed) if connection.execute(_MY_ON).first() else []
    for begin in range(0, len(gaps), GAPS_AT_ONCE):
        if len(pairs) >= ENOUGH or begin >= steps:
            return pairs, gaps[begin].low
        for gap in _my_filled(connection, by, gaps[begin : begin + GAPS_AT_ONCE]):
            rest: _Gap | None = gap
            while rest is not None:
                found, rest = _my_stretch(connection, by, rest)
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


def _my_filled(connection: Connection, by: By, gaps: Sequence[_Gap]) -> list[_Gap]:
    statement = " UNION ALL ".join(_MY_FIRST_OF_GAP.format(n=n, by=by, above=gap.above) for n, gap in enumerate(gaps))
    values = tuple(value for gap in gaps for value in (gap.low, gap.high))
    found = {row.n: row.name for row in connection.exec_driver_sql(statement, values)}
    return [gap for n, gap in enumerate(gaps) if found[n] is not None]


def _my_names_from(
    connection: Connection,
    by: By,
    _priority: int,
    start: str,
    closed: Collection[str],
    steps: int,
) -> tuple[list[str], str | None]:
    """A leap to each, whatever priority it has: a stretch would read all the rows of a large one."""
    names: list[str] = []
    for gap in _my_filled(connection, by, _gaps(start, closed)):
        rest: list[_Gap] = [gap]
        while rest:
            if len(names) + len(closed) >= steps:
                return names, rest[0].low
            name = _my_first(connection, by, rest.pop())
            if name is not None:
                names.append(name)
                rest = [_Gap(name, ">", gap.high)]
    return names, None


def _my_first(connection: Connection, by: By, gap: _Gap) -> str | None:
    statement = _MY_FIRST_OF_GAP.format(n=0, by=by, above=gap.above)
    return connection.exec_driver_sql(statement, (gap.low, gap.high)).one().name  # type: ignore[no-any-return]


def _my_stretch(connection: Connection, by: By, gap: _Gap) -> tuple[list[Pair], _Gap | None]:
    """The pairs of a gap, and what is left of it."""
    rows = connection.exec_driver_sql(_MY_STRETCH.format(by=by, above=gap.above), (gap.low, gap.high, LOOK)).all()
    due = [(row.name, row.priority) for row in rows if row.due]
    if sum(row.number for row in rows) < LOOK:
        return due, None
    last = rows[-1].name  # perhaps not all of its priorities were seen
    whole = [*(pair for pair in due if pair[0] != last), *_my_pairs(connection, by, [last])]
    return whole, _Gap(last, ">", gap.high)


def _my_heads(
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
            _MY_HEAD.format(n=n, by=by, is_wanted="IS NULL" if name is None else f"= :name_{n}")
            for n, ((name, _), _) in enumerate(some)
        )
        ids = connection.execute(_my_text(statement, *_MY_CLOSED), {**values, **_my_filters(gate)}).scalars().all()
        found += _my_taken(connection, ids, lock=lock)
    return found


def _my_behind(key: Key) -> dict[str, Any]:
    return {"priority": key.priority, "after_due": key.due_at, "after_id": key.id}


_POSTGRESQL = Paths(
    window=_pg_window,
    edge=_pg_edge,
    pairs_of=_pg_pairs_of,
    pairs_from=_pg_pairs_from,
    names_from=_names_by(_pg_pairs_from),
    heads=_pg_heads,
)
_SQLITE = Paths(
    window=_lite_window,
    edge=_lite_edge,
    pairs_of=_lite_pairs_of,
    pairs_from=_lite_pairs_from,
    names_from=_names_by(_lite_pairs_from),
    heads=_lite_heads,
)
_MYSQL = Paths(
    window=_my_window,
    edge=_my_edge,
    pairs_of=_my_pairs_of,
    pairs_from=_my_pairs_from,
    names_from=_my_names_from,
    heads=_my_heads,
)

PATHS = {"postgresql": _POSTGRESQL, "sqlite": _SQLITE, "mysql": _MYSQL, "mariadb": _MYSQL}
