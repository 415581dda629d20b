"""What was written under a dedupe_key: found, told, cancelled, replaced.

Rule 1. What waits can be cancelled or replaced. What a worker has in its hands, or what has ended, stays as it is.
Rule 2. A row that may have been delivered to somebody is not replaced: the others would get another mail than he did.
Rule 3. A replaced row stays, as `cancelled` and without its key: its story can still be told.
Rule 4. Who may UPDATE the table does it by a plain statement; `outbox_app` by the routines of sql/*/roles.sql, which do
        the same to its own rows alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from poller.application.mail import State
from poller.application.refusals import TooLate
from poller.frozen import dataclass

if TYPE_CHECKING:
    from poller.application.links import Database, Link

TAKEN = 1062  # of MariaDB and MySQL: a duplicate entry
_DENIED = frozenset({1142, 1143})  # a statement, or a column
_MISSING = 1305  # no such routine

_STATE = (
    "id",
    "status",
    "attempts",
    "doubts",
    "reply_code",
    "reply_status",
    "error",
    "due_at",
    "sent_at",
    "finished_at",
)
_CANCEL = """UPDATE {outbox} SET status = 'cancelled', {ended}error = 'cancelled by the application'
WHERE dedupe_key = %s AND status IN ('queued', 'paused') AND claimed_by IS NULL"""
_REPLACE = """UPDATE {outbox} SET status = 'cancelled', {ended}dedupe_key = NULL, error = 'replaced by the application'
WHERE dedupe_key = %s AND status = 'queued' AND claimed_by IS NULL AND doubts = 0
AND NOT EXISTS (SELECT 1 FROM {recipient} AS r WHERE r.outbox_id = outbox.id AND r.status IN ('sent', 'in_doubt'))"""
_ENDED = "finished_at = UTC_TIMESTAMP(6), updated_at = UTC_TIMESTAMP(6), "
"""Elsewhere a trigger enters it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The names, after the schema where one is given."""

    prefix: str = ""
    outbox: str = "outbox"
    attachment: str = "outbox_attachment"
    recipient: str = "outbox_recipient"
    state: str = "outbox_state"


@cache
def tables(database: Database, schema: str | None) -> Tables:
    """The names as the database quotes them."""
    if schema is None:
        return Tables()
    quote = "`" if database == "mysql" else '"'
    prefix = f"{quote}{schema.replace(quote, quote * 2)}{quote}."
    names = ("outbox", "attachment", "recipient", "state")
    return Tables(prefix=prefix, **{name: prefix + getattr(Tables(), name) for name in names})


def code_of(error: Exception) -> object:
    """The number that MariaDB and MySQL give an error, no matter who wraps it."""
    cause = getattr(error, "orig", None) or error
    return cause.args[0] if cause.args else None


def find(link: Link, names: Tables, key: str) -> int | None:
    """The id of the row that has the key; None if there is none, or another application's."""
    if link.database == "mysql":  # a locking read sees what was committed since our snapshot
        found = _allowed(
            link, names, f"SELECT id FROM {names.outbox} WHERE dedupe_key = %s LOCK IN SHARE MODE", "find", key
        )
    else:
        found = link.execute(f"SELECT id FROM {names.state} WHERE dedupe_key = %s", (key,))
    return int(found[0][0]) if found else None


def state(link: Link, names: Tables, column: Literal["id", "dedupe_key"], value: int | str) -> State | None:
    """What the view tells of a row; None if there is none, or another application's."""
    found = link.execute(f"SELECT {', '.join(_STATE)} FROM {names.state} WHERE {column} = %s", (value,))
    if not found:
        return None
    told = dict(zip(_STATE, found[0], strict=True))
    return State(**(told | {name: _utc(told[name]) for name in _STATE if name.endswith("_at")}))


def cancel(link: Link, names: Tables, key: str) -> bool:
    """Whether nothing will go out of the row that has the key."""
    _change(link, names, _CANCEL, "cancel", key)
    told = state(link, names, "dedupe_key", key)
    return told is not None and told.status == "cancelled"


def give_way(link: Link, names: Tables, key: str) -> None:
    """What waits under the key gives it up, and will not go out."""
    _change(link, names, _REPLACE, "replace", key)


def too_late(link: Link, names: Tables, key: str) -> TooLate:
    """Why the key was not given up."""
    told = state(link, names, "dedupe_key", key)
    if told is None:
        return TooLate(key, None, "")
    waits = "in a worker's hands, or may have been delivered to somebody"
    return TooLate(key, told.id, waits if told.status == "queued" else told.status)


def _change(link: Link, names: Tables, statement: str, routine: str, key: str) -> None:
    ended = _ENDED if link.database == "mysql" else ""
    whole = statement.format(outbox=names.outbox, recipient=names.recipient, ended=ended)
    if link.database == "mysql":
        _allowed(link, names, whole, routine, key)
    elif link.database == "sqlite" or _may_update(link, names):
        link.execute(whole, (key,))
    else:
        link.execute(f"SELECT {names.prefix}outbox_{routine}(%s)", (key,))


def _may_update(link: Link, names: Tables) -> bool:
    """PostgreSQL is asked beforehand: an error would cost the transaction."""
    asked = "SELECT has_column_privilege(CAST(%s AS text), 'status', 'UPDATE')"
    return bool(link.execute(asked, (names.outbox,))[0][0])


def _allowed(link: Link, names: Tables, statement: str, routine: str, key: str) -> list[Any]:
    """MariaDB and MySQL: the plain statement, or the routine of roles.sql for who may not run it."""
    try:
        return link.execute(statement, (key,))
    except Exception as error:
        if code_of(error) not in _DENIED:
            raise
    try:
        return link.execute(f"CALL {names.prefix}outbox_{routine}(%s)", (key,))
    except Exception as error:
        if code_of(error) == _MISSING:
            error.add_note("run sql/mysql/roles.sql again: it makes this procedure")
        raise


def _utc(moment: datetime | str | None) -> datetime | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
