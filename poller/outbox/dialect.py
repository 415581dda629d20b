"""What the three dialects have in common: the shape of their answers, and the SQL that is the same.

Each dialect answers the same questions in its own SQL, in a file of its own: what time is it, which rows are due, claim
them, write these outcomes, find rows past those that may not go. The values always travel as bound parameters; a set of
rows travels as one JSON array.

Rule 1. A claim picks per priority: `priority = p AND due_at <= now ORDER BY due_at, id` is served by the index, so
        that a million rows scheduled for tomorrow cost nothing.
Rule 2. Rows locked by another worker are skipped. SQLite has one writer at a time and needs no skipping.
Rule 3. Every write after the claim names the fence: id, claim_seq, message_id, and the holder.
Rule 4. A path (`Paths`) looks at so many rows as it is told, and at no row that is not due, but at one of a pair. Rows
        are locked as they are found; the path itself locks nothing. Nothing is found while the outbox is paused.

Three paths lead through the queue, each served by an index, each bounded:

  the window  the next due rows of each priority, in the order of the claim, but for those that are closed
  the pairs   which pairs of a domain (or a lane, or a flow) and a priority have a row due: of given ones, or of all
              from one on
  the heads   the first due rows of given pairs

A gate closes domains, lanes, relays and ids; NULL is never closed. By domain, by lane or by flow is the same path over
another column and its index: `By`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import sqlalchemy as sa

from poller import statuses
from poller.outbox.tables import Utc, outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy.engine import Connection

    from poller.pacing.gate import Gate

CONNECT_TIMEOUT_S = 10  # A database that does not answer by then is treated as away, and asked again.
IDLE_WITHIN_S = 30
"""Ours are idle within a transaction for milliseconds. A process that was stopped there, or a line that died, must not
keep its rows locked until somebody looks."""

PRIORITIES = range(10)

_CLAIM_NAMES = """
    id claim_seq message_id attempts doubts setbacks first_attempt_at claimed_by claimed_at expires_at max_attempts
    on_doubt relay status recipients cc bcc sender reply_to envelope_from subject body_text body_html template context
    locale headers list batch domain priority due_at
"""
CLAIM_COLUMNS = tuple(outbox.c[name] for name in _CLAIM_NAMES.split())
HAS_ATTACHMENTS = "EXISTS (SELECT 1 FROM outbox_attachment AS a WHERE a.outbox_id = {o}.id) AS has_attachments"
IS_RAW = "{o}.raw IS NOT NULL AS is_raw"
CLAIMED = (*CLAIM_COLUMNS, sa.column("has_attachments", sa.Boolean), sa.column("is_raw", sa.Boolean))
"""What a claim gives of each row. Files and a raw message are large: they are fetched when it is the row's turn."""


def claimed_list(table: str, is_raw: str = IS_RAW) -> str:
    """CLAIMED, of `outbox` by the name of `table`."""
    columns = (f"{table}.{column.name}" for column in CLAIM_COLUMNS)
    return ", ".join((*columns, HAS_ATTACHMENTS.format(o=table), is_raw.format(o=table)))


_HELD = ", ".join(f"'{status}'" for status in statuses.IN_HAND)
NOT_PAUSED = "NOT EXISTS (SELECT 1 FROM outbox_meta WHERE name = 'paused')"

# What the claim writes. Message-IDs are a keyed hash: they tell nobody how many messages there are. The time of the
# INSERT makes them a row's own for ever, even where a restored backup gives the same id to another row.
CLAIM_SET = """
    status = 'sending', claim_seq = {o}claim_seq + 1, claimed_by = :worker, claimed_at = {now}, updated_at = {now},
    first_attempt_at = COALESCE({o}first_attempt_at, {now}),
    message_id = COALESCE({o}message_id, {message_id})"""

# The columns of one outcome, and how JSON names and types them on each dialect.
STEP_TYPES = {
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
RECORD_SET = """
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
_STATUS_FIRST, _REST = RECORD_SET.split(",\n", maxsplit=1)
RECORD_SET_STATUS_LAST = f"{_REST},\n{_STATUS_FIRST}"

FENCE = f"""o.id = v.id AND o.claim_seq = v.claim_seq AND o.message_id = v.message_id
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


# --- finding rows ---

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
BY: tuple[By, ...] = ("domain", "lane", "flow")
COLUMNS = tuple(outbox.c[name] for name in _NAMES)
"""What a path gives of each row."""
LIST = ", ".join(_NAMES)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """One dialect's answers. `claim` gives rows of CLAIMED, `record` the ids that the fence let through."""

    now: str
    """An SQL expression: the database's clock, UTC, to at least a millisecond."""
    shifted: str
    """The same, shifted by `{seconds}`."""
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
    paths: Paths

    def moment(self, seconds: str) -> str:
        """An SQL expression for the database's time, shifted by a bound number of seconds such as `:lease`."""
        return self.shifted.format(seconds=seconds)


# --- what is the same ---


def returning_claim(statement: Any) -> Callable[[Connection, ClaimRequest], Sequence[sa.Row[Any]]]:
    """A claim that is one statement."""

    def claim(connection: Connection, request: ClaimRequest) -> Sequence[sa.Row[Any]]:
        return connection.execute(statement, request.values()).all()

    return claim


def returning_these(
    statement: Any, listed: Callable[[Sequence[int]], Any]
) -> Callable[[Connection, ClaimRequest, Sequence[int]], Sequence[sa.Row[Any]]]:
    """The claim of given rows in one statement; `listed` makes of the ids what the statement takes."""

    def claim(connection: Connection, request: ClaimRequest, ids: Sequence[int]) -> Sequence[sa.Row[Any]]:
        return connection.execute(statement, {**request.values(), "ids": listed(ids)}).all() if ids else []

    return claim


def returning_record(
    statement: Any, time: Callable[[datetime], str]
) -> Callable[[Connection, str, list[dict[str, Any]]], set[int]]:
    """Outcomes in one statement; `time` writes a moment as the dialect reads it."""

    def record(connection: Connection, worker: str, steps: list[dict[str, Any]]) -> set[int]:
        values = {"worker": worker, "steps": steps_as_json(steps, time)}
        return {row.id for row in connection.execute(statement, values)}

    return record


def steps_as_json(steps: list[dict[str, Any]], time: Callable[[datetime], str]) -> str:
    """Outcomes as one JSON array."""
    return json.dumps(steps, default=time, separators=(",", ":"))


def naive(moment: datetime) -> str:
    """A moment as MariaDB and SQLite read it, UTC."""
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")


def per_priority(select: str) -> str:
    """One question for each priority, in one statement."""
    each = " UNION ALL ".join(f"SELECT * FROM ({select.format(priority=p)}) AS p{p}" for p in PRIORITIES)
    return f"SELECT priority FROM ({each}) AS due WHERE {NOT_PAUSED} ORDER BY priority"


DUE_ONE = (
    "SELECT priority FROM outbox WHERE status = 'queued' AND priority = {{priority}} AND due_at <= {now}"
    " ORDER BY due_at, id LIMIT 1"
)


def filters(gate: Gate) -> dict[str, Any]:
    """What a gate closes, as bound parameters that are lists."""
    return {
        "closed_domains": list(gate.closed_domains),
        "closed_lanes": list(gate.closed_lanes),
        "closed_relays": list(gate.closed_relays),
        "closed_ids": list(gate.closed_ids),
    }


def behind(key: Key) -> dict[str, Any]:
    """The key of a row, as bound parameters."""
    return {"from_priority": key.priority, "after_due": key.due_at, "after_id": key.id}


def rows(statement: str) -> Any:
    """A statement that gives COLUMNS."""
    return sa.text(statement).columns(*COLUMNS)


def typed(statement: Any) -> Any:
    """A statement that is bound to a key."""
    return statement.bindparams(sa.bindparam("after_due", type_=Utc()))


def placed(statement: Any) -> Any:
    """One that gives keys."""
    return typed(statement).columns(priority=sa.Integer, due_at=Utc, id=sa.BigInteger)


def names_by(pairs_from: Callable[..., tuple[list[Pair], str | None]]) -> Callable[..., tuple[list[str], str | None]]:
    """Where a walk from pair to pair costs little, it tells the names too."""

    def names_from(  # noqa: PLR0917 - as everywhere here
        connection: Connection, by: By, priority: int, start: str, closed: Collection[str], steps: int
    ) -> tuple[list[str], str | None]:
        pairs, end = pairs_from(connection, by, start, closed, steps)
        return [str(name) for name, at in pairs if at == priority], end

    return names_from


def pairs_and_end(found: Sequence[Any], steps: int) -> tuple[list[Pair], str | None]:
    """The pairs that are free, and where the walk goes on."""
    end = next((row.name for row in found if row.number == steps), None)
    return [(row.name, row.priority) for row in found if row.free], end
