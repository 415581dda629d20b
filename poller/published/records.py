"""TXT records, asked for while a person waits: each name once, and all of them within a bound.

Raises `LookupFailed`. Needs dnspython, the extra `dns`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from poller.pacing.mx import LOOKUP_S, ONE_SERVER_S, LookupFailed

if TYPE_CHECKING:
    from collections.abc import Callable

ALL_LOOKUPS_S: Final = 30.0
"""For everything that one check asks."""


def can_ask() -> bool:
    """Whether dnspython is there."""
    return find_spec("dns") is not None


@dataclass(kw_only=True)
class Records:
    """Asks `servers`, or those of this machine. `clock` counts seconds."""

    servers: tuple[str, ...] = ()
    port: int = 53
    clock: Callable[[], float] = time.monotonic
    _left: float = ALL_LOOKUPS_S
    _known: dict[str, tuple[str, ...] | LookupFailed] = field(default_factory=dict)

    def texts(self, name: str) -> tuple[str, ...]:
        """The TXT records of a name, the strings of each joined; none if there are none, or no such name."""
        if name not in self._known:
            began = self.clock()
            try:
                self._known[name] = self._ask(name)
            except LookupFailed as error:
                self._known[name] = error
            self._left -= self.clock() - began
        found = self._known[name]
        if isinstance(found, LookupFailed):
            raise found
        return found

    def _ask(self, name: str) -> tuple[str, ...]:
        import dns.exception  # noqa: PLC0415 - an extra
        import dns.resolver  # noqa: PLC0415

        if self._left <= 0:
            raise LookupFailed(f"{name}: the DNS was too slow to be asked for everything")
        try:
            resolver = dns.resolver.Resolver(configure=not self.servers)
            if self.servers:
                resolver.nameservers, resolver.port = list(self.servers), self.port
            resolver.timeout = ONE_SERVER_S
            patience = min(LOOKUP_S, self._left)
            answer = resolver.resolve(name, "TXT", lifetime=patience, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN:
            return ()
        except (dns.exception.DNSException, OSError, ValueError) as error:  # ValueError: a name that can't be one
            raise LookupFailed(f"{name}: {error}") from error
        return tuple(sorted(b"".join(record.strings).decode("utf-8", "replace") for record in answer.rrset or ()))
