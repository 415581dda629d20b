"""Who is not sent to: addresses, or `@domain`, for all mail or for that of one list; until an end, or for good.

Rule 1. Each line counts by itself: one whose time is over, or that somebody deletes, takes no other with it. So what a
        bounce has entered for ninety days never stands in the way of an unsubscription.
Rule 2. A line holds until `expires_at` by the database's clock; `[retention] suppressions` says when it is deleted.
Rule 3. An application enters what it learns with `suppress`: single addresses, in its own name, and takes off only what
        it has entered itself (the view `outbox_unsubscribed`).

Addresses are compared without case, domains in each of their spellings.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa

from poller.domains import spellings
from poller.frozen import dataclass
from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.tables import suppression, unsubscribed
from poller.outbox.upsert import insert_if_new, upsert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

Source = Literal["operator", "bounce", "complaint", "unsubscribe", "application"]
ApplicationSource = Literal["complaint", "unsubscribe", "application"]
SOURCES: tuple[Source, ...] = ("unsubscribe", "complaint", "operator", "application", "bounce")
"""What is told first of a recipient with several lines."""
_SAID: dict[str, str] = {
    "operator": "",
    "bounce": "bounced",
    "complaint": "complained",
    "unsubscribe": "unsubscribed",
    "application": "so says the application",
}
"""For a line without a reason."""
ALL_MAIL = ""
"""The list of a line that holds for all mail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of the table. `has_ended`: its time is over."""

    address: str
    list: str
    source: str
    reason: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    has_ended: bool


# --- for the worker


def has_any(connection: Connection) -> bool:
    """Whether there is a line at all."""
    return connection.execute(sa.select(suppression.c.address).limit(1)).first() is not None


def suppressed(connection: Connection, addresses: Collection[str]) -> dict[tuple[str, str], str]:
    """Of `addresses`, by (list, address), those who get no mail now, themselves or by `@domain`, with the reason.

    The list is "" where that holds for all mail.
    """
    wanted = sorted({key for address in addresses for key in _keys(address)})
    if not wanted:
        return {}
    table = suppression.c
    query = sa.select(table.address, table.list, table.source, table.reason).where(
        table.address.in_(wanted), sa.or_(table.expires_at.is_(None), table.expires_at > now_of(connection))
    )
    lines = sorted(connection.execute(query), key=lambda line: SOURCES.index(line.source), reverse=True)
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        found.setdefault(line.address, {})[line.list] = line.reason or _SAID[line.source]
    return {
        (list_name, address): reason
        for address in addresses
        for key in reversed(_keys(address))
        for list_name, reason in found.get(key, {}).items()
    }


@lru_cache(maxsize=4096)
def _keys(address: str) -> tuple[str, ...]:
    """What a line that means it may have: itself before its domain, the domain in each spelling."""
    local_part, _, domain = address.lower().rpartition("@")
    domains = spellings(domain)
    return *(f"{local_part}@{name}" for name in domains), *(f"@{name}" for name in domains)


def delete_ended(connection: Connection, before: datetime, portion: int) -> int:
    """Delete so many of the lines whose time was over before that; returns how many there were."""
    key = list(suppression.primary_key)
    ended = sa.select(*key).where(suppression.c.expires_at < before).order_by(suppression.c.expires_at).limit(portion)
    found = connection.execute(ended.with_for_update(skip_locked=True)).all()
    for line in found:
        mine = (column == value for column, value in zip(key, line, strict=True))
        connection.execute(sa.delete(suppression).where(*mine))
    return len(found)


# --- for applications


def suppress(
    connection: Connection,
    address: str,
    *,
    list_name: str = ALL_MAIL,
    source: ApplicationSource = "unsubscribe",
    reason: str = "",
) -> None:
    """Send this address no more mail, or none of one list. Said twice it is the same; it does not commit.

    Raises ValueError for what is no single address, and SQLAlchemy's DBAPIError where the database refuses it.
    """
    if not _is_address(address) or address.startswith("@"):
        raise ValueError("not an address; write a single one, without a name")
    key = {"address": address.lower(), "list": list_name, "source": source}
    insert_if_new(connection, unsubscribed, {**key, "reason": reason})


def unsuppress(connection: Connection, address: str, *, list_name: str = ALL_MAIL) -> int:
    """Take back what this application has entered about an address and a list; how many lines. It does not commit."""
    mine = (unsubscribed.c.address == address.lower(), unsubscribed.c.list == list_name)
    found = connection.execute(sa.select(sa.func.count()).where(*mine)).scalar_one()  # SQLite counts none behind a view
    connection.execute(sa.delete(unsubscribed).where(*mine))
    return int(found)


# --- for operators


def enter(
    engine: Engine,
    address: str,
    *,
    list_name: str = ALL_MAIL,
    source: Source = "operator",
    reason: str = "",
    end: Callable[[datetime], datetime] | None = None,
) -> datetime | None:
    """Enter a line, or change the one that is there; its end, which `end` is to say from the database's time."""

    def work(connection: Connection) -> datetime | None:
        now = now_of(connection)
        expires_at = end(now) if end is not None else None
        put(connection, address, list_name=list_name, source=source, reason=reason, at=now, expires_at=expires_at)
        return expires_at

    if not _is_address(address):
        raise ValueError("not an address; write one, or @ and a domain")
    return transaction(engine, work)


def put(
    connection: Connection,
    address: str,
    *,
    list_name: str,
    source: Source,
    reason: str,
    at: datetime,
    expires_at: datetime | None,
) -> None:
    """Enter a line within a transaction that is open."""
    line = {"address": address.lower(), "list": list_name, "source": source, "reason": reason}
    upsert(connection, suppression, [{**line, "created_at": at, "expires_at": expires_at}])


def lines(
    engine: Engine, *, address: str | None = None, list_name: str | None = None, most: int | None = None
) -> list[Line]:
    """The lines that mean this address, or all, by address; of one list alone if it is named."""

    def work(connection: Connection) -> list[Line]:
        query = sa.select(suppression).order_by(suppression.c.address, suppression.c.list, suppression.c.source)
        if address is not None:
            query = query.where(suppression.c.address.in_(_meaning(address)))
        if list_name is not None:
            query = query.where(suppression.c.list == list_name)
        now = now_of(connection)
        found = connection.execute(query.limit(most)).mappings()
        return [Line(**line, has_ended=_is_over(line["expires_at"], now)) for line in found]

    return transaction(engine, work, reading=True)


def remove(engine: Engine, address: str, *, list_name: str | None = None) -> int:
    """Delete the lines of just this address or `@domain`; without `list_name` for all mail and of every list."""

    def work(connection: Connection) -> int:
        which = [suppression.c.address == address.lower()]
        which += [] if list_name is None else [suppression.c.list == list_name]
        return int(connection.execute(sa.delete(suppression).where(*which)).rowcount)

    return transaction(engine, work)


def _is_over(end: datetime | None, now: datetime) -> bool:
    return end is not None and end <= now


def _meaning(address: str) -> tuple[str, ...]:
    return (address.lower(),) if address.startswith("@") else _keys(address)


def _is_address(text: str) -> bool:
    _, at, domain = text.rpartition("@")
    return bool(at and domain) and not set(text) & set(" \t\r\n,;<>()")
