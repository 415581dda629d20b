"""A provider with a limit that it does not tell, and blocks for anyone who breaks it: how soon we live within it.

Discrete time, no configured limit, full speed at first; what we know is what is heard and seen.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from poller.judgement.accepted import AcceptedLately
from poller.pacing import Limit, Scope, accepted, next_at, slow_down, take
from poller.units import Rate, parse_rate

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@dataclass(kw_only=True)
class Provider:
    """Takes `allowed` in any window of its period; then nothing for `block` seconds."""

    allowed: Rate
    block: float = 600.0
    extends: bool = False
    """Each attempt during a block begins it anew."""
    blocks: int = 0
    refused_at: list[float] = field(default_factory=list)
    _taken: deque[float] = field(default_factory=deque)
    _blocked_until: float = 0.0

    def takes(self, at: float) -> bool:
        while self._taken and self._taken[0] <= at - self.allowed.period:
            self._taken.popleft()
        blocked = at < self._blocked_until
        if not blocked and len(self._taken) < self.allowed.count:
            self._taken.append(at)
            return True
        self.blocks += not blocked
        self.refused_at.append(at)
        if self.extends or not blocked:
            self._blocked_until = at + self.block
        return False


def drained(provider: Provider, messages: int, *, limit: Limit | None = None, at_most: float = 50.0) -> float:
    """Seconds until `provider` has taken them all; `at_most` a second can be sent."""
    limit = limit or Limit()
    state, accepted_lately, at = Scope(), AcceptedLately(), 0.0
    while messages:
        slot = next_at(limit, state, NOON + timedelta(seconds=at)).at
        at = (slot - NOON).total_seconds()
        state = take(limit, state, [1], slot).state
        if provider.takes(at):
            messages -= 1
            accepted_lately.accepted("it", at)
            state = accepted(state, slot)
        else:
            state = slow_down(limit, state, slot, reason="421 slow down", seen=accepted_lately.seen("it", at))
        at += 1 / at_most
    return at


@pytest.mark.parametrize("at_most", [2.0, 50.0])
@pytest.mark.parametrize("limit", [Limit(), Limit(rates=(parse_rate("120/m"),), burst=20)], ids=["none", "too much"])
@pytest.mark.parametrize("extends", [False, True])
def test_500_messages_take_little_more_than_twice_the_ideal_and_one_block(
    *, extends: bool, limit: Limit, at_most: float
) -> None:
    provider = Provider(allowed=parse_rate("30/m"), extends=extends)
    seconds = drained(provider, 500, limit=limit, at_most=at_most)
    assert seconds <= 2.25 * 500 / 30 * 60
    assert (provider.blocks, len(provider.refused_at)) == (1, 2)


@pytest.mark.parametrize("extends", [False, True])
def test_6000_messages_take_less_than_half_more_than_the_ideal_for_more_is_tried_ever_more_seldom(
    *, extends: bool
) -> None:
    provider = Provider(allowed=parse_rate("30/m"), extends=extends)
    assert drained(provider, 6000) <= 1.4 * 6000 / 30 * 60
    assert (provider.blocks, len(provider.refused_at)) == (3, 6)


@pytest.mark.parametrize("extends", [False, True])
@pytest.mark.parametrize(
    ("allowed", "block", "messages"),
    [("5/m", 600, 200), ("600/m", 600, 2000), ("100/h", 600, 500), ("100/h", 0, 500), ("500/d", 3600, 900)],
)
def test_no_provider_is_hammered_whatever_it_allows(
    allowed: str, block: float, messages: int, *, extends: bool
) -> None:
    provider = Provider(allowed=parse_rate(allowed), block=block, extends=extends)
    hours = drained(provider, messages) / 3600
    assert min(later - before for before, later in pairwise([*provider.refused_at, 1e9])) >= 60
    assert len(provider.refused_at) <= 4 + 3 * hours
