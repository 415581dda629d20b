"""Pure: the words in which pacing and the claim speak with each other.

A worker says what a claim may take (`Gate`); the claim shows what it found (`Candidate`) together with the locked state
of the scopes; `Choose` answers with a `Choice`: which rows go, each by which relay and when, and what is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Literal

from poller.frozen import dataclass

if TYPE_CHECKING:
    from datetime import datetime

    from poller.pacing.limits import Scope

Kind = Literal["outbox", "relay", "sender", "provider", "domain"]


@dataclass(frozen=True, slots=True, order=True)
class ScopeKey:
    """What is limited, as outbox_throttle names it. The outbox as a whole has the name ""."""

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What one claim may take. Domains are as they stand in `outbox.domain`.

    The general walk takes any due row but those of `closed_domains`, `closed_lanes` and `closed_ids`, and those that
    name one of `closed_relays`; of each domain in `open_domains`, which are among the closed ones, so many at most.
    Only a gate that is not `paced` lets through whatever the walk finds; else `Choose` is asked, for each row.
    """

    limit: int
    paced: bool = False
    """Something is limited, paused or away, so that a row may have to wait."""
    closed_domains: tuple[str, ...] = ()
    open_domains: tuple[tuple[str, int], ...] = ()
    closed_lanes: tuple[str, ...] = ()
    """As in outbox.lane: the relay that a row names and its sender, "relay sender", each may be empty."""
    closed_relays: tuple[str, ...] = ()
    closed_ids: tuple[int, ...] = ()
    scopes: tuple[ScopeKey, ...] = ()
    """To be locked, in this order, and shown to `Choose`; those of kind outbox and relay are waited for, others that
    somebody has locked are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A due row that the claim could take: what its pacing depends on."""

    id: int
    domain: str | None
    relay: str | None
    sender: str | None
    lane: str
    recipients: str | None
    cc: str | None
    bcc: str | None
    priority: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Share:
    """What a message took of a scope: its weight, and the scope's `free_at` before and after, to give it back by."""

    key: ScopeKey
    weight: int = 1
    before: datetime | None = None
    after: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """A row that may go: by this relay, not before `at` (None: at once), not after `until` (None: whenever).

    `scopes` are those of which a slot was taken.
    """

    relay: str = ""
    at: datetime | None = None
    until: datetime | None = None
    scopes: tuple[Share, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Who goes, by row id; the others stay as they are. `states` are to be written.

    `closed_lanes` are those of which nothing more may go now: the claim looks behind them.
    """

    grants: Mapping[int, Grant] = field(default_factory=dict)
    states: Mapping[ScopeKey, Scope] = field(default_factory=dict)
    closed_lanes: frozenset[str] = frozenset()


Choose = Callable[[Sequence[Candidate], Mapping[ScopeKey, "Record"], "datetime"], Choice]
"""The candidates in the order of the claim (priority, due_at, id), the locked scopes, and the database's time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A row of outbox_throttle as it stands, unjudged: `poller.pacing.state_row.repaired` makes a state of `values`.

    `values` has the columns of `poller.pacing.state_row.COLUMNS`.
    """

    values: Mapping[str, object]
    limits: str | None = None
    limit_override: str | None = None
    """What a person allows instead, in the words of `poller.pacing.words`."""
    overridden_by: str | None = None
    roused_at: str | None = None
    """When a person last ended a relay's rest."""
    session_limit: int | None = None
    recipient_limit: int | None = None
    pipelining: str | None = None
    """The gear that a relay bears at most, as learnt: `poller.smtp.gears`."""
    pipelining_reason: str | None = None
