"""Which relay a row goes by, and when its slot has come or gone.

Rule 1. A row leaves by the relay it was claimed for. One that was claimed for none goes by the first that may take it
        and need not rest.
Rule 2. Where its relay goes away, another that may take the row and counts nothing takes over: no slot is lost by that.
Rule 3. How many slots were used, missed at the wire, or late before the wire had any, is told when the next rows come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from poller.pacing.gate import ScopeKey

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from poller.delivery.session import Line
    from poller.delivery.throttle import SharedLimits
    from poller.outbox.rows import ClaimedRow


@dataclass(kw_only=True, slots=True)
class Routes:
    """Belongs to the delivering thread. `lines` are the relays, by name."""

    lines: Mapping[str, Line]
    shared_limits: SharedLimits

    def relay_of(self, row: ClaimedRow) -> str:
        """By which it goes (Rule 1); one that names a relay that is not there fails by any."""
        if row.grant.relay:
            return row.grant.relay
        if len(self.lines) == 1:
            return next(iter(self.lines))
        able = self._able(row) or tuple(self.lines)
        return next((name for name in able if not self.lines[name].resting), able[0])

    def by_another(self, row: ClaimedRow, away: Collection[str]) -> ClaimedRow | None:
        """The same row for the next relay that may take it (Rule 2); None: there is none."""
        limits = self.shared_limits
        free = (name for name in self._able(row) if name not in away)
        uncounted = (name for name in free if not limits.pacing.paced([ScopeKey("relay", name)]))
        relay = next((name for name in uncounted if not limits.is_paused(row, name)), None)
        return None if relay is None else replace(row, grant=replace(row.grant, relay=relay))

    def _able(self, row: ClaimedRow) -> tuple[str, ...]:
        sender = row.content.get("sender")
        return self.shared_limits.pacing.relays_for(relay=row.relay, domain=row.domain, sender=sender)


@dataclass(kw_only=True, slots=True)
class Slots:
    """What became of the slots that came with the last claim (Rule 3)."""

    shared_limits: SharedLimits
    _taken: Counter[ScopeKey] = field(default_factory=Counter)
    _missed: Counter[ScopeKey] = field(default_factory=Counter)
    """When the wire came to them."""
    _late: Counter[ScopeKey] = field(default_factory=Counter)
    """Missed before the wire had any."""
    _wire_had_any: bool = False

    def count(self, rows: Iterable[ClaimedRow]) -> None:
        """These came, once it is told how it went with those before."""
        if self._taken:
            self.shared_limits.pacing.served(self._taken, missed=self._missed, late=self._late)
        self._taken, self._missed, self._late = _slots_of(rows), Counter(), Counter()
        self._wire_had_any = False

    def used(self, row: ClaimedRow) -> None:
        """The wire has it."""
        self._wire_had_any = self._wire_had_any or row.grant.until is not None

    def missed(self, rows: Iterable[ClaimedRow]) -> None:
        """Their slots had gone."""
        (self._missed if self._wire_had_any else self._late).update(_slots_of(rows))


def is_early(row: ClaimedRow, now: datetime) -> bool:
    """Its slot is yet to come."""
    return row.grant.at is not None and now < row.grant.at


def is_missed(row: ClaimedRow, now: datetime) -> bool:
    """Its slot is over."""
    return row.grant.until is not None and row.grant.until < now


def is_pressing(row: ClaimedRow | None, now: datetime) -> bool:
    """Its slot is there, and will not be for ever."""
    return row is not None and row.grant.until is not None and not is_early(row, now)


def _slots_of(rows: Iterable[ClaimedRow]) -> Counter[ScopeKey]:
    """By scope; a quota alone has none."""
    return Counter(share.key for row in rows for share in row.grant.scopes if share.after is not None)
