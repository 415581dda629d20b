"""Staging: where mail may go on a machine that is not production.

Rule 1. With `redirect_to`, everything goes to that one address, whatever the row says.
Rule 2. With `only_to`, what would go anywhere else is withheld, with a reason. It looks at where the mail really goes:
        with `redirect_to` too, at that address.
Rule 3. A switch that cannot be read lets nothing through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.domains import in_ascii
from poller.message import addresses
from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.message.settings import MessageSettings


class Staging:
    """The two switches of `[message]`, read once."""

    def __init__(self, settings: MessageSettings) -> None:
        self.problems: list[str] = []
        """In words, for `poller check`."""
        self.redirect_to: str | None = None
        self.only_to = frozenset(self._entries(settings.only_to))
        self._limited = bool(settings.only_to)
        if settings.redirect_to is not None:
            try:
                self.redirect_to = addresses.parse_one(settings.redirect_to).wire
            except ValueError as error:
                self.problems.append(f"[message] redirect_to: {error}")
        self._unreadable = bool(self.problems)
        if self.redirect_to and self.withheld(self.redirect_to):
            self.problems.append("[message] redirect_to is not among only_to, so nothing would be sent; add it there")

    def must_be_readable(self) -> None:
        """Rule 3: Unsendable unless it is; anyone who makes anything of a row asks first."""
        if self._unreadable:
            raise Unsendable("recipients", f"{self.problems[0]}; the configuration is at fault, not this row")

    def wire(self, address: str) -> str:
        """Where mail to this address goes."""
        return self.redirect_to or address

    def withheld(self, wire: str) -> str:
        """Why mail may not go there; "" if it may. Local parts are compared without case: operators wrote them."""
        if not self._limited:
            return ""
        lower = wire.lower()
        if lower in self.only_to or f"@{lower.rpartition('@')[2]}" in self.only_to:
            return ""
        return "not among [message] only_to, the only addresses this installation may write to"

    def _entries(self, entries: tuple[str, ...]) -> Iterator[str]:
        for entry in entries:
            try:
                if entry.startswith("@"):
                    yield f"@{in_ascii(entry[1:])}".lower()
                else:
                    yield addresses.parse_one(entry).wire.lower()
            except ValueError as error:
                self.problems.append(f"[message] only_to: {error}; write an address, or @ and a domain")
