"""What came back about rows: written into their history, beside the status, which stays: the relay did accept.

Rule 1. The same news about a recipient is written once, however often it comes.
Rule 2. What names a row must fit it: the fingerprint of its Message-ID, or the Message-ID and a recipient.
Rule 3. Anyone who is to be suppressed is entered in the same transaction.

Raises DatabaseUnavailable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from poller.domains import compared
from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.find import by_message_id
from poller.outbox.suppression import put
from poller.outbox.tables import attempt, outbox, recipient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.engine import Connection, Engine

OUTCOMES: Final = ("bounced", "complained", "delayed", "delivered")
WORKER: Final = "bounces"
"""Who writes it, in the history."""
REASON_MOST: Final = 300
"""Characters of what is said, on the suppression list."""
_LISTS = ("recipients", "cc", "bcc")


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What became of one recipient; `outcome` is one of OUTCOMES."""

    address: str
    outcome: str
    status: str = ""
    text: str = ""
    suppress: Literal["bounce", "complaint"] | None = None
    """The source of a line on the suppression list, if that is wished for (Rule 3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """`row_id` is None where no row fits; `new` are the news that were not known yet."""

    row_id: int | None = None
    new: tuple[News, ...] = ()


def write(
    engine: Engine,
    news: Sequence[News],
    *,
    row_id: int | None = None,
    fits: Callable[[str], bool] = lambda _message_id: True,
    message_ids: Sequence[str] = (),
    suppress_for: float | None = None,
) -> Written:
    """Enter what became of recipients of a row, which is named by its id or by a Message-ID (Rule 2).

    `suppress_for` is in seconds; None: for good. A complaint about a list holds for that list alone.
    """

    def work(connection: Connection) -> Written:
        named = row_id if row_id is not None else by_message_id(connection, message_ids) if message_ids else None
        row = _row(connection, named, fits)
        if row is None:
            return Written()
        theirs = _recipients(connection, row)
        placed = (_placed(one, theirs, strict=row_id is None) for one in news)
        found = dict.fromkeys(one for one in placed if one is not None)
        new = tuple(one for one in found if not _is_known(connection, row.id, one))
        _enter(connection, row, new, suppress_for)
        return Written(row_id=row.id if found else None, new=new)

    return transaction(engine, work)


def _row(connection: Connection, row_id: int | None, fits: Callable[[str], bool]) -> Any | None:
    columns = (outbox.c.id, outbox.c.claim_seq, outbox.c.message_id, outbox.c.list, *(outbox.c[n] for n in _LISTS))
    row = connection.execute(sa.select(*columns).where(outbox.c.id == row_id).with_for_update()).first()
    return row if row is not None and row.message_id and fits(row.message_id) else None


def _recipients(connection: Connection, row: Any) -> dict[str, str]:
    """Who the row was for, by what is compared: of several from outbox_recipient, of one from the row itself."""
    query = sa.select(recipient.c.address).where(recipient.c.outbox_id == row.id)
    several = list(connection.execute(query).scalars())
    if several:
        return {_alike(address): address for address in several}
    text = next((value for value in (row.recipients, row.cc, row.bcc) if value), "")
    address = text.rpartition("<")[2].strip().rstrip(">").strip()
    return {_alike(address): address}


def _alike(address: str) -> str:
    local, _, domain = address.rpartition("@")
    return f"{local.lower()}@{compared(domain)}"


def _placed(news: News, theirs: dict[str, str], *, strict: bool) -> News | None:
    """The recipient as the row has it. A forwarded one may come back by another name: of one there is no doubt."""
    address = theirs.get(_alike(news.address))
    if address is None and not strict and len(theirs) == 1:
        address = next(iter(theirs.values()))
    if address is None:
        return None
    return replace(news, address=address)


def _is_known(connection: Connection, row_id: int, news: News) -> bool:
    same = (attempt.c.outbox_id == row_id, attempt.c.recipient == news.address, attempt.c.outcome == news.outcome)
    return connection.execute(sa.select(attempt.c.id).where(*same).limit(1)).first() is not None


def _enter(connection: Connection, row: Any, news: Iterable[News], suppress_for: float | None) -> None:
    now = now_of(connection)
    until = now + timedelta(seconds=suppress_for) if suppress_for is not None else None
    for one in news:
        line = {
            "outbox_id": row.id,
            "claim_seq": row.claim_seq,
            "at": now,
            "worker": WORKER,
            "recipient": one.address,
            "outcome": one.outcome,
            "reply_status": one.status or None,
            "error": one.text or None,
        }
        connection.execute(sa.insert(attempt).values(line))
        if one.suppress is not None:
            of_list = row.list or "" if one.suppress == "complaint" else ""
            said = one.text[:REASON_MOST]
            put(
                connection,
                one.address,
                list_name=of_list,
                source=one.suppress,
                reason=said,
                at=now,
                expires_at=until,
            )
