"""How the service behaves: the `[poll]`, `[worker]`, `[log]` and `[http]` sections. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from poller.units import SETTINGS, Bytes, Count, Seconds, SecondsOrZero


@dataclass(frozen=True, kw_only=True)
class PollSettings:
    """When to look, and how much to take."""

    __pydantic_config__: ClassVar = SETTINGS

    interval: Seconds = 5.0
    batch_size: Count = 100
    batch_pause: SecondsOrZero = 0.0
    listen: bool = False
    """PostgreSQL only: hear of new rows at once."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Who this worker is, and when others may judge its rows."""

    __pydantic_config__: ClassVar = SETTINGS

    name: str | None = None
    """Default the host's name. Each worker of an outbox needs its own."""
    state_dir: str | None = None
    """Default $STATE_DIRECTORY, else ~/.local/state/poller/NAME. One process at a time."""
    heartbeat: Seconds = 10.0
    takeover: Seconds = 900.0
    """How long a worker is silent before another judges its rows. Longer than the longest transaction."""
    journal_sync: Literal["none", "batch", "message"] = "none"
    """What a power cut may take of the journal; the end of a process takes nothing."""
    journal_keep: Seconds = 3 * 86400.0
    journal_keep_size: Bytes = 256_000_000
    stop_timeout: Seconds = 25.0
    """How long a stop waits for the message in hand."""


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is logged, and for whom: the `[log]` section."""

    __pydantic_config__: ClassVar = SETTINGS

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """`console` for people, `json` for machines; `auto` is `console` on a terminal, else `json`."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """Where a worker says how it is."""

    __pydantic_config__: ClassVar = SETTINGS

    listen: str | None = None
    """HOST:PORT of /healthz, /readyz and /metrics; None: it does not listen."""
