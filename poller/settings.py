"""How the service behaves: the `[poll]`, `[worker]`, `[log]` and `[http]` sections. Standard library only."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping  # noqa: TC003 - pydantic reads it
from dataclasses import dataclass, field
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
class TokenSettings:
    """What somebody shows to be let in, and what that person, or program, may do: `[http.tokens.NAME]`."""

    __pydantic_config__: ClassVar = SETTINGS

    token: str = field(repr=False)
    right: Literal["read", "act"] = "read"
    """To look, at addresses and messages too; or also to act."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """Where a worker says how it is, and who may see the page."""

    __pydantic_config__: ClassVar = SETTINGS

    listen: str | None = None
    """HOST:PORT of the page, and of /healthz, /readyz and /metrics; None: it does not listen."""
    page: bool = True
    """Without it, health and numbers alone."""
    tokens: Mapping[str, TokenSettings] = field(default_factory=dict)
    """By the name that stands in the history."""
    user_header: str | None = None
    """In which a proxy says who it has let in."""
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks; from anywhere else the header is ignored."""
    operators: tuple[str, ...] = ()
    """Of those whom a proxy lets in, who may act; "*" is everybody. The others may read."""

    @property
    def host(self) -> str:
        """The part of `listen` before the port, without brackets."""
        return (self.listen or "").rpartition(":")[0].strip("[]")

    @property
    def is_on_loopback(self) -> bool:
        """Whether nobody beyond this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


SHORTEST_TOKEN = 20
"""Characters: nobody guesses it, however often a program may try."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")


def contradictions(http: HttpSettings, unread: str) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The key to blame, without the section, and what to do. A secret that is `unread` is not judged."""
    is_guarded = bool(http.tokens) or bool(http.user_header and http.trusted_proxies)
    if http.listen and http.page and not http.is_on_loopback and not is_guarded:
        remedy = "give [http.tokens.NAME], or user_header and trusted_proxies, or page = false for health and numbers"
        yield ("listen",), f"others can reach it, and the page shows addresses and mail; {remedy}"
    for name, one in http.tokens.items():
        if one.token != unread and len(one.token) < SHORTEST_TOKEN:
            remedy = f"at least {SHORTEST_TOKEN} characters are wanted, such as: openssl rand -hex 24"
            yield ("tokens", name, "token"), f"could be guessed; {remedy}"
    if http.user_header is not None and not _HEADER_NAME.fullmatch(http.user_header):
        yield ("user_header",), 'must be the name of a header, such as "X-Remote-User"'
    if http.user_header is not None and not http.trusted_proxies:
        yield ("user_header",), "nobody would be believed; name the proxy's address in trusted_proxies"
    for number, place in enumerate(http.trusted_proxies, start=1):
        try:
            ipaddress.ip_network(place)
        except ValueError:
            yield ("trusted_proxies",), f'item {number}: must be an address or a network, such as "10.0.0.0/8"'
