"""What an operator does to rows: pause, resume, cancel, retry, resolve; and the switch for the whole outbox.

Every change is plain SQL that a DBA could write; the CHECKs hold both alike. Rows are chosen by a `Selection`, counted
first (`count`), then changed in chunks of CHUNK rows, so that no lock is held for long.

Rule 1. A row that is being sent may be paused or cancelled: the message in hand finishes, and if it is accepted the row
        becomes `sent` all the same.
Rule 2. `retry` and `resolve --resend` raise `claim_seq`: a late reply to what was sent before can't settle them.
Rule 3. A recipient that was accepted stays accepted.
Rule 4. A row in doubt may have been delivered: it can't be cancelled, only resolved.
Rule 5. Of several recipients each may be resolved by itself: the others stay in doubt, and the row is what all of them
        make of it (`fold`).
Rule 6. A row that was cancelled while it was being sent is still in a worker's hands: it can be retried when it has
        left them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa

from poller.domains import spellings
from poller.outbox.database import transaction
from poller.outbox.dialects import DIALECTS
from poller.outbox.tables import TERMINAL_STATUSES, attempt, meta, outbox, recipient
from poller.outbox.upsert import upsert
from poller.retry import fold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection, Engine

CHUNK = 1000  # rows to a transaction
NOBODY = "operator"  # outbox_attempt.worker of what a person did

Action = Literal["pause", "resume", "cancel", "retry", "resolve-sent", "resolve-resend", "resolve-failed"]

STATUSES = ("queued", "sending", "in_doubt", "paused", *TERMINAL_STATUSES)

FROM: dict[Action, tuple[str, ...]] = {
    "pause": ("queued", "sending"),
    "resume": ("paused",),
    "cancel": ("queued", "sending", "paused"),
    "retry": ("failed", "partial", "expired", "suppressed", "cancelled"),
    "resolve-sent": ("in_doubt",),
    "resolve-resend": ("in_doubt",),
    "resolve-failed": ("in_doubt",),
}
"""The statuses that each action changes; other rows are left alone."""


IN_HAND = sa.and_(outbox.c.claimed_by.is_not(None), outbox.c.finished_at.is_(None))
"""As SQL: whether a worker holds a row that is `sending`, `paused` or `cancelled`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Rows by id, batch, status and domain: all that are given must hold. At least one must be given."""

    ids: tuple[int, ...] = ()
    batch: str | None = None
    status: str | None = None
    domain: str | None = None

    def __post_init__(self) -> None:
        if not (self.ids or self.batch or self.status or self.domain):
            raise ValueError("say which rows: ids, --batch, --status or --domain")

    def condition(self, action: Action) -> sa.ColumnElement[bool]:
        """As SQL, limited to rows that `action` can change."""
        parts: list[sa.ColumnElement[bool]] = [outbox.c.status.in_(FROM[action])]
        if self.ids:
            parts.append(outbox.c.id.in_(self.ids))
        if self.batch is not None:
            parts.append(outbox.c.batch == self.batch)
        if self.status is not None:
            parts.append(outbox.c.status == self.status)
        if self.domain is not None:
            parts.append(outbox.c.domain.in_(spellings(self.domain)))
        if action == "retry":  # Rule 6
            parts.append(sa.or_(outbox.c.status != "cancelled", ~IN_HAND))
        return sa.and_(*parts)


def count(engine: Engine, selection: Selection, action: Action) -> dict[str, int]:
    """How many rows `action` would change, by status."""
    query = sa.select(outbox.c.status, sa.func.count()).where(selection.condition(action)).group_by(outbox.c.status)
    return transaction(engine, lambda c: dict(c.execute(query).all()), reading=True)


def change(engine: Engine, selection: Selection, action: Action) -> int:
    """Do it; returns the number of rows changed."""
    changed = 0
    last = 0
    while ids := _chunk(engine, selection, action, after=last):
        changed += transaction(engine, partial(_change_chunk, selection=selection, action=action, ids=ids))
        last = max(ids)
    return changed


class NotInDoubt(Exception):  # noqa: N818 - named as the fact it is
    """Nothing is to be resolved there. The text says what is in doubt."""


def resolve(engine: Engine, row_id: int, addresses: Sequence[str], action: Action) -> str:
    """Settle the doubt about these recipients of a row alone (Rule 5). Returns what has become of the row.

    Case matters only between addresses that differ in nothing else. Raises NotInDoubt, and changes nothing, if one of
    them is not in doubt.
    """
    return transaction(engine, partial(_resolve, row_id=row_id, addresses=addresses, action=action))


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
    return sa.text(DIALECTS[connection.dialect.name].now)


def _chunk(engine: Engine, selection: Selection, action: Action, *, after: int) -> list[int]:
    """The next ids, unlocked: MariaDB would wait for every row it passes on the way."""
    query = sa.select(outbox.c.id).where(selection.condition(action), outbox.c.id > after)
    ordered = query.order_by(outbox.c.id).limit(CHUNK)
    return transaction(engine, lambda c: list(c.execute(ordered).scalars()), reading=True)


def _change_chunk(connection: Connection, *, selection: Selection, action: Action, ids: Sequence[int]) -> int:
    query = sa.select(outbox.c.id).where(outbox.c.id.in_(ids), selection.condition(action))
    query = query.with_hint(outbox, "FORCE INDEX (PRIMARY)", "mysql").with_for_update()
    ids = list(connection.execute(query).scalars())
    if not ids:
        return 0
    _note(connection, ids, action)
    chosen = outbox.c.id.in_(ids)
    for values, extra in _changes(connection, action):
        connection.execute(sa.update(outbox).where(chosen, *extra).values(values | {"updated_at": _now(connection)}))
    _change_recipients(connection, ids, action)
    return len(ids)


_FOUND: dict[Action, str] = {
    "resolve-sent": "; an operator found that it was delivered",
    "resolve-failed": "; an operator found that it was not delivered",
}


def _changes(connection: Connection, action: Action) -> Sequence[tuple[dict[str, Any], tuple[Any, ...]]]:
    """The column values of each action, and to which of the chosen rows they apply."""
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
    table: dict[Action, Sequence[tuple[dict[str, Any], tuple[Any, ...]]]] = {
        "pause": [({"status": "paused"}, ())],
        "resume": [({"status": "sending"}, (in_hand,)), ({"status": "queued"}, (~in_hand,))],
        "cancel": [({"status": "cancelled"}, (in_hand,)), ({"status": "cancelled", "finished_at": now}, (~in_hand,))],
        "retry": [(afresh, ())],
        "resolve-resend": [(afresh | again, ())],
        "resolve-sent": [({"status": "sent", "sent_at": now, "finished_at": now, "error": delivered}, ())],
        "resolve-failed": [({"status": "failed", "finished_at": now, "error": lost}, ())],
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


def _resolve(connection: Connection, *, row_id: int, addresses: Sequence[str], action: Action) -> str:
    row = connection.execute(sa.select(outbox).where(outbox.c.id == row_id).with_for_update()).first()
    if row is None or row.status not in FROM[action]:
        raise NotInDoubt(f"row {row_id} is {row.status}, not in doubt" if row else f"there is no row {row_id}")
    lines = connection.execute(sa.select(recipient).where(recipient.c.outbox_id == row_id)).all()
    alone = row.recipients or row.cc or row.bcc or ""
    held = [line.address for line in lines if line.status == "in_doubt"] or [alone]
    chosen = _named(row_id, addresses, held)
    if not lines:
        _change_chunk(connection, selection=Selection(ids=(row_id,)), action=action, ids=[row_id])
        return {"resolve-sent": "sent", "resolve-failed": "failed"}.get(action, "queued")
    for address in chosen:
        _note(connection, [row_id], action, address=address)
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
        ((values, _),) = _changes(connection, "resolve-resend")
    else:
        telling = next((line for line in lines if line.status == status), None) or next(
            (line for line in lines if line.status not in {"sent", "suppressed"}), lines[0]
        )
        values["error"] = f"{telling.address}: {telling.error}" if telling.error else None
        values["sent_at"] = max((line.sent_at for line in lines if line.sent_at), default=None)
        values["finished_at"] = now if status in TERMINAL_STATUSES else None
    connection.execute(sa.update(outbox).where(outbox.c.id == row_id).values(values | {"updated_at": now}))
    return status


def _note(connection: Connection, ids: Sequence[int], action: Action, *, address: str | None = None) -> None:
    source = sa.select(
        outbox.c.id,
        outbox.c.claim_seq,
        sa.literal_column(DIALECTS[connection.dialect.name].now),
        sa.literal(NOBODY),
        sa.literal(address, type_=sa.Text()),
        sa.literal(action),
        sa.literal("was ").concat(outbox.c.status),
    ).where(outbox.c.id.in_(ids))
    columns = ["outbox_id", "claim_seq", "at", "worker", "recipient", "outcome", "error"]
    connection.execute(sa.insert(attempt).from_select(columns, source))
