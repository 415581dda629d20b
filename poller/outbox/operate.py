"""What an operator does to rows: pause, resume, cancel, retry, resolve; and the switch for the whole outbox.

Every change is plain SQL that a DBA could write; the CHECKs hold both alike. Rows are chosen by a `Selection`, counted
first (`count`), then changed in chunks of CHUNK rows, so that no lock is held for long. What is counted as changed is
what the table says at that moment.

Rule 1. A row that is being sent may be paused or cancelled: the message in hand finishes, and if it is accepted the row
        becomes `sent` all the same.
Rule 2. `retry` and `resolve --resend` raise `claim_seq`: a late reply to what was sent before can't settle them.
Rule 3. A recipient that was accepted stays accepted.
Rule 4. A row in doubt may have been delivered: it can't be cancelled, only resolved.
Rule 5. Of several recipients each may be resolved by itself: the others stay in doubt, and the row is what all of them
        make of it (`fold`).
Rule 6. A row that was cancelled while it was being sent is still in a worker's hands: it can be retried when it has
        left them.
Rule 7. The history of each row says who did it: `by`, as "operator anna".
Rule 8. `retry-now` makes rows due that wait for another try, at no cost to them; never one that an application has
        written for later and nobody has tried.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import sqlalchemy as sa

from poller.judgement.retry import fold
from poller.outbox.content import forget_renderings
from poller.outbox.database import transaction
from poller.outbox.dialects import dialect_of
from poller.outbox.selection import Selection as Selection  # noqa: PLC0414, TC001 - those who act name rows by it
from poller.outbox.tables import attempt, meta, outbox, recipient
from poller.outbox.upsert import upsert
from poller.statuses import TERMINAL, Action, open_to
from poller.visible import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection, Engine

CHUNK = 2000  # rows to a transaction: a worker that writes one of them down waits for a fraction of a second
READ_AT_ONCE = 100_000  # ids
TRIES = 3  # at rows that change under our hands
OPERATOR = "operator"
"""How outbox_attempt.worker begins for what a person did; the name follows."""
NAME_MOST = 100
"""Characters of a name in the history."""

FROM: dict[Action, tuple[str, ...]] = {action: open_to(action) for action in get_args(Action)}
"""The statuses that each action changes; other rows are left alone."""
OPEN_ACTIONS: tuple[Action, ...] = ("pause", "resume", "cancel")
"""Those that a row in a worker's hands may meet; another row keeps the name of who ended it."""


IN_HAND = sa.and_(outbox.c.claimed_by.is_not(None), outbox.c.finished_at.is_(None))
"""As SQL: whether a worker holds a row that is `sending`, `paused` or `cancelled`."""


def count(engine: Engine, selection: Selection, action: Action) -> dict[str, int]:
    """How many rows `action` would change, by status."""

    def work(connection: Connection) -> dict[str, int]:
        some = sa.select(outbox.c.status).where(*_which(connection, selection, action))
        part = some.order_by(outbox.c.id).limit(selection.limit).subquery() if selection.limit else some.subquery()
        query = sa.select(part.c.status, sa.func.count()).group_by(part.c.status)
        return dict(connection.execute(query).all())

    return transaction(engine, work, reading=True)


def preview(engine: Engine, selection: Selection, action: Action, *, most: int) -> list[Mapping[str, Any]]:
    """The first rows that `action` would change."""
    columns = [outbox.c[name] for name in ("id", "status", "recipients", "cc", "bcc", "subject", "template", "error")]

    def work(connection: Connection) -> list[Mapping[str, Any]]:
        query = sa.select(*columns).where(*_which(connection, selection, action)).order_by(outbox.c.id)
        some = query.limit(min(most, selection.limit or most))
        return [dict(row) for row in connection.execute(some).mappings()]

    return transaction(engine, work, reading=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changed:
    """How many rows were changed, and how many of them are in a worker's hands and may yet be accepted (Rule 1)."""

    rows: int = 0
    in_hand: int = 0

    def __add__(self, other: Changed) -> Changed:
        return Changed(rows=self.rows + other.rows, in_hand=self.in_hand + other.in_hand)


def change(engine: Engine, selection: Selection, action: Action, *, by: str = OPERATOR) -> Changed:
    """Do it to the rows that are chosen now."""
    ids = transaction(engine, partial(_chosen, selection=selection, action=action), reading=True)
    total = Changed()
    for begin in range(0, len(ids), CHUNK):
        chunk = ids[begin : begin + CHUNK].tolist()
        total += transaction(engine, partial(_change_chunk, ids=chunk, action=action, by=by))
    return total


def named(name: str) -> str:
    """Who acts, for the history (Rule 7)."""
    return f"{OPERATOR} {visible(name.strip())[:NAME_MOST]}".rstrip()


class NotInDoubt(Exception):  # noqa: N818 - named as the fact it is
    """Nothing is to be resolved there. The text says what is in doubt."""


def resolve(engine: Engine, row_id: int, addresses: Sequence[str], action: Action, *, by: str = OPERATOR) -> str:
    """Settle the doubt about these recipients of a row alone (Rule 5). Returns what has become of the row.

    Case matters only between addresses that differ in nothing else. Raises NotInDoubt, and changes nothing, if one of
    them is not in doubt.
    """
    return transaction(engine, partial(_resolve, row_id=row_id, addresses=addresses, action=action, by=by))


def pause_all(engine: Engine, why: str) -> None:
    """Switch the whole outbox off, for every worker."""
    transaction(engine, lambda c: _switch_off(c, why))


def resume_all(engine: Engine) -> bool:
    """Switch it on again. False: it was on."""
    gone = transaction(engine, lambda c: c.execute(sa.delete(meta).where(meta.c.name == "paused")).rowcount)
    return bool(gone)


def _switch_off(connection: Connection, why: str) -> None:
    upsert(connection, meta, [{"name": "paused", "value": why, "updated_at": _now(connection)}])


def _now(connection: Connection) -> Any:
    return sa.text(dialect_of(connection).now)


def _chosen(connection: Connection, *, selection: Selection, action: Action) -> array[int]:
    """All ids, unlocked, before any is changed: a walk between the changes would read past what they left behind."""
    ids: array[int] = array("q")
    most = selection.limit or sys.maxsize
    query = sa.select(outbox.c.id).where(*_which(connection, selection, action), outbox.c.id > sa.bindparam("after"))
    query = query.order_by(outbox.c.id).limit(sa.bindparam("page", type_=sa.Integer))
    while page := min(READ_AT_ONCE, most - len(ids)):
        found = connection.execute(query, {"after": ids[-1] if ids else 0, "page": page}).scalars().all()
        if not found:
            break
        ids.extend(found)
    return ids


def _which(connection: Connection, selection: Selection, action: Action) -> list[sa.ColumnElement[bool]]:
    """As SQL: the rows that are chosen, and that `action` can change."""
    return [_may(connection, action), *selection.conditions()]


def _may(connection: Connection, action: Action) -> sa.ColumnElement[bool]:
    """Whether a row can be changed so; as SQL."""
    may = outbox.c.status.in_(FROM[action])
    if action == "retry":
        return sa.and_(may, sa.or_(outbox.c.status != "cancelled", ~IN_HAND))  # Rule 6
    if action == "retry-now":
        return sa.and_(may, outbox.c.claim_seq > 0, outbox.c.due_at > _now(connection))  # Rule 8
    return may


def _change_chunk(connection: Connection, *, ids: Sequence[int], action: Action, by: str) -> Changed:
    at_once = connection.dialect.name == "postgresql"
    changed = (_change_at_once if at_once else _change_in_steps)(connection, ids, action, by)
    if changed:
        _change_recipients(connection, list(changed), action)
    if action == "retry":
        forget_renderings(connection, list(changed))  # afresh: with the template as it is now
    in_hand = sum(changed.values()) if action in OPEN_ACTIONS else 0
    return Changed(rows=len(changed), in_hand=in_hand)


def _change_at_once(connection: Connection, ids: Sequence[int], action: Action, by: str) -> dict[int, bool]:
    """The changed rows, and whether a worker's name stands in each. One that changes meanwhile is looked at again."""
    changed: dict[int, bool] = {}
    for _ in range(TRIES):
        rest = [row_id for row_id in ids if row_id not in changed]
        found: dict[int, bool] = dict(connection.execute(_at_once(connection, rest, action, by)).all()) if rest else {}
        changed |= found
        if len(found) == len(rest):
            break
    return changed


def _at_once(connection: Connection, ids: Sequence[int], action: Action, by: str) -> sa.Select[Any]:
    listed = outbox.c.id == sa.any_(sa.cast(list(ids), sa.ARRAY(sa.BigInteger)))
    was = sa.select(outbox.c.id, outbox.c.claim_seq, outbox.c.status, outbox.c.claimed_by)
    found = was.where(listed, _may(connection, action)).cte("found").prefix_with("MATERIALIZED")
    update = sa.update(outbox).where(outbox.c.id == found.c.id, outbox.c.status == found.c.status)
    values = _values(connection, action) | {"updated_at": _now(connection)}
    changed = update.values(values).returning(*found.c).cte("changed")
    note = sa.insert(attempt).from_select(_NOTED, sa.select(*_notes(connection, changed.c, action, by))).cte("noted")
    return sa.select(changed.c.id, changed.c.claimed_by.is_not(None)).add_cte(note)


def _change_in_steps(connection: Connection, ids: Sequence[int], action: Action, by: str) -> dict[int, bool]:
    """Locks first. MariaDB locks by the primary key: else it would wait for rows that it only passes."""
    query = sa.select(outbox.c.id, outbox.c.claimed_by).where(outbox.c.id.in_(ids), _may(connection, action))
    locked = query.with_hint(outbox, "FORCE INDEX (PRIMARY)", "mysql").with_for_update()
    changed = {row.id: row.claimed_by is not None for row in connection.execute(locked)}
    if changed:
        chosen = outbox.c.id.in_(list(changed))
        _note(connection, chosen, action, by)
        values = _values(connection, action) | {"updated_at": _now(connection)}
        connection.execute(sa.update(outbox).where(chosen).values(values))
    return changed


_FOUND: dict[Action, str] = {
    "resolve-sent": "; an operator found that it was delivered",
    "resolve-failed": "; an operator found that it was not delivered",
}


def _values(connection: Connection, action: Action) -> dict[str, Any]:
    """The column values of each action."""
    now = _now(connection)
    afresh: dict[str, Any] = {
        "status": "queued",
        "attempts": 0,
        "doubts": 0,
        "due_at": now,
        "setbacks": 0,
        "first_attempt_at": None,
        "sent_at": None,
        "finished_at": None,
        "error": None,
        "expires_at": sa.case((outbox.c.expires_at <= now, None), else_=outbox.c.expires_at),
        "claim_seq": outbox.c.claim_seq + 1,
        "claimed_by": None,
        "claimed_at": None,
    }
    # One more try, with the history it has: the next doubt is held at once.
    again = {name: outbox.c[name] for name in ("first_attempt_at", "attempts", "doubts")}
    # A message that is still in a worker's hands goes back to it, not into the queue, and has not ended yet.
    in_hand = outbox.c.claimed_by.is_not(None)
    reason = sa.func.coalesce(outbox.c.error, "in doubt")
    delivered, lost = (reason.concat(_FOUND[found]) for found in ("resolve-sent", "resolve-failed"))
    table: dict[Action, dict[str, Any]] = {
        "pause": {"status": "paused"},
        "resume": {"status": sa.case((in_hand, "sending"), else_="queued")},
        "cancel": {"status": "cancelled", "finished_at": sa.case((in_hand, None), else_=now)},
        "retry": afresh,
        "retry-now": {"due_at": now},
        "resolve-resend": afresh | again,
        "resolve-sent": {"status": "sent", "sent_at": now, "finished_at": now, "error": delivered},
        "resolve-failed": {"status": "failed", "finished_at": now, "error": lost},
    }
    return table[action]


_RECIPIENTS: dict[Action, tuple[tuple[str, ...], str]] = {
    "retry": (("failed", "expired", "suppressed"), "queued"),
    "resolve-sent": (("in_doubt",), "sent"),
    "resolve-resend": (("in_doubt",), "queued"),
    "resolve-failed": (("in_doubt",), "failed"),
}


def _change_recipients(connection: Connection, ids: Sequence[int], action: Action) -> None:
    """The recipients follow; then the row is folded anew, for those with some accepted and some not."""
    if action not in _RECIPIENTS:
        return
    _update_recipients(connection, recipient.c.outbox_id.in_(ids), action)
    if action in {"resolve-sent", "resolve-failed"}:
        _fold_again(connection, ids)


def _update_recipients(connection: Connection, chosen: sa.ColumnElement[bool], action: Action) -> None:
    before, after = _RECIPIENTS[action]
    now = _now(connection)
    values: dict[str, Any] = {"status": after, "updated_at": now}
    if after == "sent":
        values["sent_at"] = now
    if action == "retry":
        values |= {"attempts": 0, "doubts": 0, "error": None}
    if action in _FOUND:
        values["error"] = sa.func.coalesce(recipient.c.error, "in doubt").concat(_FOUND[action])
    connection.execute(sa.update(recipient).where(chosen, recipient.c.status.in_(before)).values(values))


def _fold_again(connection: Connection, ids: Sequence[int]) -> None:
    """A row with recipients of both kinds is `partial`, whatever the doubt turned out to be."""
    mine = sa.and_(recipient.c.outbox_id == outbox.c.id)
    some = sa.exists().where(mine, recipient.c.status == "sent")
    others = sa.exists().where(mine, recipient.c.status != "sent")
    now = _now(connection)
    sent_at = sa.func.coalesce(outbox.c.sent_at, now)
    both = sa.update(outbox).where(outbox.c.id.in_(ids), some, others).values(status="partial", sent_at=sent_at)
    connection.execute(both)


def _resolve(connection: Connection, *, row_id: int, addresses: Sequence[str], action: Action, by: str) -> str:
    row = connection.execute(sa.select(outbox).where(outbox.c.id == row_id).with_for_update()).first()
    if row is None or row.status not in FROM[action]:
        raise NotInDoubt(f"row {row_id} is {row.status}, not in doubt" if row else f"there is no row {row_id}")
    lines = connection.execute(sa.select(recipient).where(recipient.c.outbox_id == row_id)).all()
    alone = row.recipients or row.cc or row.bcc or ""
    held = [line.address for line in lines if line.status == "in_doubt"] or [alone]
    chosen = _named(row_id, addresses, held)
    if not lines:
        _change_chunk(connection, ids=[row_id], action=action, by=by)
        return {"resolve-sent": "sent", "resolve-failed": "failed"}.get(action, "queued")
    for address in chosen:
        _note(connection, outbox.c.id == row_id, action, by, address=address)
    mine = recipient.c.outbox_id == row_id
    _update_recipients(connection, sa.and_(mine, recipient.c.address.in_(chosen)), action)
    return _fold_row(connection, row_id)


def _named(row_id: int, addresses: Sequence[str], held: Sequence[str]) -> list[str]:
    """Those of `held` that `addresses` name, as they are written down; a single one may stand behind a name."""
    bare = {address.rpartition("<")[2].rstrip("> "): address for address in held}
    found: dict[str, str] = {}
    for given in addresses:
        alike = [name for name in bare if name.lower() == given.lower()]
        if given in bare or len(alike) == 1:
            found[given] = bare[given if given in bare else alike[0]]
    wrong = [given for given in addresses if given not in found]
    if wrong:
        raise NotInDoubt(f"of row {row_id}, {', '.join(wrong)} is not in doubt; in doubt are: {', '.join(bare)}")
    return [*dict.fromkeys(found.values())]


def _fold_row(connection: Connection, row_id: int) -> str:
    """What the recipients make of the row, as it is written down when a worker finds it."""
    query = sa.select(recipient).where(recipient.c.outbox_id == row_id).order_by(recipient.c.address)
    lines = connection.execute(query).all()
    status = fold(line.status for line in lines)
    now = _now(connection)
    values: dict[str, Any] = {"status": status}
    if status == "queued":
        values = _values(connection, "resolve-resend")
    else:
        telling = next((line for line in lines if line.status == status), None) or next(
            (line for line in lines if line.status not in {"sent", "suppressed"}), lines[0]
        )
        values["error"] = f"{telling.address}: {telling.error}" if telling.error else None
        values["sent_at"] = max((line.sent_at for line in lines if line.sent_at), default=None)
        values["finished_at"] = now if status in TERMINAL else None
    connection.execute(sa.update(outbox).where(outbox.c.id == row_id).values(values | {"updated_at": now}))
    return status


_NOTED = ("outbox_id", "claim_seq", "at", "worker", "recipient", "outcome", "error")


def _notes(connection: Connection, row: Any, action: Action, by: str, address: str | None = None) -> list[Any]:
    """A line of history, as columns of a SELECT from rows as they were."""
    words = (sa.literal(by), sa.literal(address, type_=sa.Text()), sa.literal(action))
    now: Any = sa.literal_column(dialect_of(connection).now)
    return [row.id, row.claim_seq, now, *words, sa.literal("was ").concat(row.status)]


def _note(
    connection: Connection, chosen: sa.ColumnElement[bool], action: Action, by: str, *, address: str | None = None
) -> None:
    source = sa.select(*_notes(connection, outbox.c, action, by, address)).where(chosen)
    connection.execute(sa.insert(attempt).from_select(_NOTED, source))
