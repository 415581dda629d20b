"""Whose machines take a domain's mail: its MX records, looked up beside the delivery, never in its way.

Where many domains keep their mail with one provider, the provider counts for all of them together; who it is only the
DNS tells. Needs dnspython, the extra `dns`; without it nothing is known of any domain.

Rule 1. `MailExchangers.of` answers at once, from memory. What is not known yet a thread of its own looks up, one
        domain at a time; at most MOST_WANTED wait for it, the others are asked for again by the next one who comes.
Rule 2. An answer holds as long as the DNS says, but at least SHORTEST_S and at most LONGEST_S. What is over is given
        all the same, while it is looked up anew.
Rule 3. A look-up that fails leaves what was known, else nothing, for FAILED_S.
Rule 4. A domain without MX records takes its mail itself (RFC 5321 section 5.1); one that does not exist, or whose MX
        says "." (RFC 7505), takes none.

Raises LookupFailed from a `Resolve` alone. The thread is a daemon: nobody ever waits for it, not even `close`.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKUP_S: Final = 4.0
"""For one domain, over all name servers."""
ONE_SERVER_S: Final = 2.0
"""For one of them, before the next is asked."""
SHORTEST_S: Final = 300.0
LONGEST_S: Final = 86400.0
FAILED_S: Final = 300.0
MOST_DOMAINS: Final = 10_000
"""So many are kept; those that were looked up longest ago go first."""
MOST_WANTED: Final = 1000


class LookupFailed(Exception):  # noqa: N818 - a failed look-up, not an error of the program
    """The DNS did not answer, or not with anything that can be read; in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What the DNS says of a domain: its mail exchangers, best first, and for how many seconds that holds."""

    hosts: tuple[str, ...]
    ttl: float


class Resolve(Protocol):
    """Asks the DNS. Raises LookupFailed."""

    def __call__(self, domain: str, seconds: float) -> Found:
        """Wait for the answer so long at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolver:
    """Asks `servers`, or those of /etc/resolv.conf as it is at that moment. Needs dnspython."""

    servers: tuple[str, ...] = ()
    port: int = 53

    def __call__(self, domain: str, seconds: float) -> Found:
        """Rule 4."""
        # Imported by the first one who asks, which is not the thread that delivers: it takes a tenth of a second.
        import dns.exception  # noqa: PLC0415 - see above
        import dns.resolver  # noqa: PLC0415

        try:
            resolver = dns.resolver.Resolver(configure=not self.servers)
            if self.servers:
                resolver.nameservers, resolver.port = list(self.servers), self.port
            resolver.timeout = ONE_SERVER_S
            answer = resolver.resolve(domain, "MX", lifetime=seconds, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return Found(hosts=(), ttl=SHORTEST_S)
        except (dns.exception.DNSException, OSError, ValueError) as error:  # ValueError: a name that can't be one
            raise LookupFailed(f"{domain}: {error}") from error
        records = sorted((record.preference, record.exchange.to_text()) for record in answer.rrset or ())
        hosts = tuple(name.rstrip(".").lower() for _, name in records if name != ".")
        return Found(hosts=hosts if records else (domain,), ttl=answer.chaining_result.minimum_ttl)


def resolver_of_this_machine() -> Resolver | None:
    """None without dnspython."""
    return Resolver() if find_spec("dns") else None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    hosts: tuple[str, ...]
    until: float


class MailExchangers:
    """What is known of each domain. Any thread may ask; `clock` counts seconds. Without `resolve` it is nothing."""

    def __init__(
        self,
        resolve: Resolve | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_domains: int = MOST_DOMAINS,
        most_wanted: int = MOST_WANTED,
    ) -> None:
        self._resolve = resolve
        self._clock = clock
        self._most = most_domains
        self._known: dict[str, _Known] = {}
        self._wanted: queue.Queue[str | None] = queue.Queue(most_wanted)
        self._asked: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def of(self, domain: str) -> tuple[str, ...] | None:
        """The mail exchangers of a domain in ASCII, best first; () if there are none; None if it is not known yet."""
        if self._resolve is None or not _is_looked_up(domain):
            return ()
        known = self._known.get(domain)
        if known is None or known.until <= self._clock():
            self._want(domain)
        return known.hosts if known else None

    def close(self) -> None:
        """Look up nothing more. Does not wait for the look-up in hand."""
        with self._lock:
            self._closed = True
            if self._thread is not None and not self._wanted.full():
                self._wanted.put_nowait(None)

    def _want(self, domain: str) -> None:
        with self._lock:
            if self._closed or domain in self._asked or self._wanted.full():
                return
            self._asked.add(domain)
            self._wanted.put_nowait(domain)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_up, name="exchangers", daemon=True)
                self._thread.start()

    def _look_up(self) -> None:
        while (domain := self._wanted.get()) is not None and not self._closed:
            self._learn(domain)
            with self._lock:
                self._asked.discard(domain)

    def _learn(self, domain: str) -> None:
        assert self._resolve is not None  # noqa: S101 - else nothing was wanted
        before = self._known.get(domain)
        try:
            found = self._resolve(domain, LOOKUP_S)
            hosts, lasts = found.hosts, min(max(found.ttl, SHORTEST_S), LONGEST_S)
        except LookupFailed:
            hosts, lasts = before.hosts if before else (), FAILED_S
        self._known.pop(domain, None)
        if len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[domain] = _Known(hosts=hosts, until=self._clock() + lasts)


class Within:
    """Looks up while one waits, for somebody who asks a question at the command line: `seconds` in all, then ()."""

    def __init__(self, resolve: Resolve | None, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolve = resolve
        self._left = seconds
        self._clock = clock
        self._known: dict[str, tuple[str, ...]] = {}

    def of(self, domain: str) -> tuple[str, ...]:
        """As `MailExchangers.of`; what could not be learnt in time is none."""
        if domain not in self._known:
            self._known[domain] = self._look_up(domain)
        return self._known[domain]

    def _look_up(self, domain: str) -> tuple[str, ...]:
        if self._resolve is None or self._left <= 0 or not _is_looked_up(domain):
            return ()
        began = self._clock()
        try:
            return self._resolve(domain, self._left).hosts
        except LookupFailed:
            return ()
        finally:
            self._left -= self._clock() - began


def _is_looked_up(domain: str) -> bool:
    """Not an address literal, not the name of a machine nearby, nor what could not be made ASCII."""
    return "." in domain and not domain.startswith("[") and domain.isascii()
