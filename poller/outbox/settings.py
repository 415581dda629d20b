"""Where the outbox lies, and how long it keeps what is done: `[database]` and `[retention]`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from poller.units import SETTINGS, Seconds


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """One database; the dialect is in the URL."""

    __pydantic_config__: ClassVar = SETTINGS

    url: str = field(default="sqlite:///outbox.db", repr=False)
    """As SQLAlchemy writes it: `postgresql://user@host/name`, `mysql://…`, `sqlite:///file`."""
    schema: str | None = None
    """PostgreSQL only: the schema that holds the tables; default the first of the search path."""
    belongs_to: str | None = None
    """What the outbox calls its home; default the URL without user and password."""
    lock_timeout: Seconds = 5.0
    """How long a write waits for a row that someone else has locked, before it goes on with the others."""
    pooled: bool | None = None
    """PostgreSQL only: whether a pooler gives each transaction another session. Default: it is found out."""
    listen_url: str | None = field(default=None, repr=False)
    """PostgreSQL only: a way around the pooler, for `[poll] listen`."""


@dataclass(frozen=True, kw_only=True)
class RetentionSettings:
    """How long after their end rows are kept. What has no time is kept for ever."""

    __pydantic_config__: ClassVar = SETTINGS

    sent: Seconds | None = None
    failed: Seconds | None = None
    """Rows that ended in any other way: failed, partial, expired, suppressed, cancelled."""
    kept: Seconds | None = None
    """What was sent, where `[message] keep_sent` has kept it; the rows themselves stay."""
    attempts: Seconds | None = None
    """History lines, of rows that are kept or that somebody else deleted; those of a row that goes, go with it."""
    suppressions: Seconds | None = None
    """Lines of the suppression list whose time is over."""

    @property
    def is_set(self) -> bool:
        """Whether anything is ever deleted."""
        return self != RetentionSettings()
