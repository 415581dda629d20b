"""Which rows are meant: by id and label, by what became of them, by when.

Rule 1. All that is given must hold. At least one of them must be given, or `every` said in so many words.
Rule 2. `since` and `until` look at when a row ended; at when it was written, while it has not ended.
Rule 3. A code or a reason is the row's own, or that of one of its recipients.
Rule 4. A relay is the one that a row names, or one that its history has an attempt with.
Rule 5. `limit` takes the first rows by id.

Pure. Raises ValueError, with the remedy, for a selection that means nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import sqlalchemy as sa

from poller.domains import spellings
from poller.outbox.tables import attempt, outbox, recipient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

_CODE = re.compile(r"[245]\d{0,2}|[245](?:\.\d{1,3}){1,2}", re.ASCII)
_CODE_DIGITS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Rows of an outbox."""

    ids: tuple[int, ...] = ()
    batch: str | None = None
    status: str | None = None
    domain: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    code: str | None = None
    """Of the last reply: "550", "5" for every such code, or its enhanced code, "4.2.2"."""
    reason: str | None = None
    """A part of the error, or of the reply's text; case does not matter."""
    relay: str | None = None
    at: str | None = None
    """Where that relay is, as outbox_attempt.relay has it: host:port."""
    template: str | None = None
    limit: int | None = None
    every: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError."""
        if not (self.every or self.names_any):
            raise ValueError(
                f"say which rows: ids, {', '.join(f'--{name}' for name in FILTERS[:-1])} or --{FILTERS[-1]}"
            )
        if self.code is not None and not _CODE.fullmatch(self.code):
            raise ValueError(f'{self.code!r} is no code; write it like "550", "5" for all of them, or "4.2.2"')
        if self.since and self.until and self.since > self.until:
            raise ValueError("--since is later than --until; nothing lies between them")

    @property
    def names_any(self) -> bool:
        """Whether rows are chosen by anything but their number."""
        return bool(self.ids) or any(getattr(self, name) is not None for name in FILTERS)

    def conditions(self) -> Iterator[sa.ColumnElement[bool]]:
        """As SQL, but for `limit`: all of them must hold."""
        if self.ids:
            yield outbox.c.id.in_(self.ids)
        for name in ("batch", "status", "template"):
            if (value := getattr(self, name)) is not None:
                yield outbox.c[name] == value
        if self.domain is not None:
            yield outbox.c.domain.in_(spellings(self.domain))
        yield from self._when()
        yield from self._told()
        if self.relay is not None:
            yield _by_relay(self.relay, self.at)

    def _when(self) -> Iterator[sa.ColumnElement[bool]]:
        """In two parts, so that an index has the first."""
        ended, begun = outbox.c.finished_at, outbox.c.created_at
        if self.since is not None:
            yield sa.or_(ended >= self.since, sa.and_(ended.is_(None), begun >= self.since))
        if self.until is not None:
            yield sa.or_(ended <= self.until, sa.and_(ended.is_(None), begun <= self.until))

    def _told(self) -> Iterator[sa.ColumnElement[bool]]:
        for value, says in ((self.code, _has_code), (self.reason, _has_reason)):
            if value is not None:
                theirs = sa.exists().where(recipient.c.outbox_id == outbox.c.id, says(recipient, value))
                yield sa.or_(says(outbox, value), theirs)


FILTERS = tuple(item.name for item in fields(Selection) if item.name not in {"ids", "at", "limit", "every"})
"""By their names on the command line."""


def _has_code(table: sa.Table, code: str) -> sa.ColumnElement[bool]:
    if "." in code:
        exact: sa.ColumnElement[bool] = table.c.reply_status == code
        return sa.or_(exact, table.c.reply_status.startswith(f"{code}.", autoescape=True))
    spread = 10 ** (_CODE_DIGITS - len(code))
    return table.c.reply_code.between(int(code) * spread, (int(code) + 1) * spread - 1)


def _has_reason(table: sa.Table, reason: str) -> sa.ColumnElement[bool]:
    columns = (table.c.error, table.c.reply_text)
    return sa.or_(*(column.icontains(reason, autoescape=True) for column in columns))


def _by_relay(name: str, at: str | None) -> sa.ColumnElement[bool]:
    named: sa.ColumnElement[bool] = outbox.c.relay == name
    if at is None:
        return named
    tried = sa.exists().where(attempt.c.outbox_id == outbox.c.id, attempt.c.relay == at)
    return sa.or_(named, tried)
