"""Pure: which limits a message falls under, and how each stands.

Rule 1. A message falls under the outbox, its relay, its sender (the address, and "@" with its domain), and for each
        destination the domain and its provider.
Rule 2. Where a relay names a message's sender or domain, only such relays take it; else those that name nothing. Those
        of the lowest `order` share it by `weight`; one that rests is passed over as long as there is another. A row
        may name its relay itself.
Rule 3. A domain is its provider's by its name, else by its mail exchangers, where somebody knows them.

Time is passed in, aware UTC. Raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from poller.domains import compared
from poller.forecast.curves import arriving, end_of
from poller.forecast.passage import Doors, later, passage_of, through
from poller.pacing.gate import ScopeKey
from poller.pacing.limits import Limit, Scope, Slot, is_resting, is_unlimited, next_at, part_of
from poller.pacing.state_row import repaired
from poller.pacing.words import NONE, override_of, words_of_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from poller.judgement.providers import Providers
    from poller.pacing.gate import Record
    from poller.pacing.settings import ThrottleSettings
    from poller.smtp.relays import RelaySettings

OUTBOX = ScopeKey("outbox")
MailExchangers = Callable[[str], Sequence[str]]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PARTS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Paced:
    """A limit and how it stands. `fault` says what the row in the database had that was repaired."""

    limit: Limit
    state: Scope = field(default_factory=Scope)
    session_limit: int | None = None
    """Messages on one connection, as learnt."""
    recipient_limit: int | None = None
    """Recipients in one transaction, as learnt."""
    pipelining: str | None = None
    """The gear that a relay bears at most, as learnt."""
    pipelining_reason: str | None = None
    fault: str = ""
    overridden_by: str | None = None
    """Who has put `limit` in the place of the `configured` one; None: nobody."""
    configured: Limit = field(default_factory=Limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """What a message waits for: the scope, until when, and why."""

    key: ScopeKey
    at: datetime
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Every limit at one moment. Made by `in_force`."""

    now: datetime
    throttle: ThrottleSettings
    relays: Mapping[str, RelaySettings]
    """By the names that rows use, the `[smtp]` relay among them."""
    providers: Providers
    mail_exchangers: MailExchangers
    scopes: Mapping[ScopeKey, Paced]
    """What has a limit, or was asked to slow down, or has something written down about it."""

    def holds(self, key: ScopeKey) -> bool:
        """Whether anything ever waits for it."""
        paced = self.scopes.get(key)
        return paced is not None and not is_unlimited(paced.limit, paced.state, self.now)

    def destinations_of(self, domain: str | None) -> tuple[ScopeKey, ...]:
        """The domain and its provider."""
        if not domain:
            return ()
        name = compared(domain)
        provider = self.providers.provider_of(name) or self.providers.provider_of(name, self.mail_exchangers(name))
        return (ScopeKey("domain", name), *([ScopeKey("provider", provider)] if provider else []))

    def ways_of(self, domain: str | None, sender: str | None, relay: str | None) -> tuple[tuple[str, float], ...]:
        """The relays that a message may take, each with its share (Rule 2); none if there is no such relay."""
        if relay is not None:
            return ((relay, 1.0),) if relay in self.relays else ()
        naming = [name for name, settings in self.relays.items() if _names(settings, domain, sender)]
        fit = naming or [name for name, settings in self.relays.items() if not (settings.senders or settings.domains)]
        awake = [name for name in fit if not self._rests(name)] or fit
        first = min((self.relays[name].order for name in awake), default=1)
        chosen = [name for name in awake if self.relays[name].order == first]
        weights = sum(self.relays[name].weight for name in chosen)
        return tuple((name, self.relays[name].weight / weights) for name in chosen)

    def _rests(self, relay: str) -> bool:
        paced = self.scopes.get(ScopeKey("relay", relay))
        return paced is not None and is_resting(paced.state, self.now)

    def waits(self, keys: Iterable[ScopeKey], recipients: int = 1) -> list[Wait]:
        """What a message that falls under all of these waits for, the longest wait first."""
        found = []
        for key in keys:
            paced = self.scopes.get(key)
            if paced is None:
                continue
            slot: Slot = next_at(paced.limit, paced.state, self.now, paced.limit.weight_of(recipients))
            if slot.at > self.now:
                found.append(Wait(key=key, at=slot.at, why=slot.why))
        return sorted(found, key=lambda wait: (wait.at, wait.key), reverse=True)

    def turn_of(self, key: ScopeKey, before: int) -> datetime:
        """When a message goes that has so many before it at this scope, if only the hours hold them beside it."""
        paced = self.scopes.get(key)
        if paced is None:
            return self.now
        start = self.pause_of(key)
        passage = passage_of(paced.limit, paced.state, self.now, 1.0)
        passage.doors = self.doors()
        return later(self.now, end_of(through(arriving(start, start, before + 1), passage)))

    def doors(self) -> Doors | None:
        """The sending hours; None if there are none."""
        throttle = self.throttle
        return Doors(throttle.hours, self.now) if throttle.windows or throttle.quiet else None

    def pause_of(self, key: ScopeKey) -> float:
        """Seconds until its pause ends."""
        paced = self.scopes.get(key)
        until = paced.state.paused_until if paced else None
        return max(0.0, (until - self.now).total_seconds()) if until else 0.0


def senders_of(sender: str | None) -> tuple[ScopeKey, ...]:
    """The scopes of a sender's address."""
    if not sender or "@" not in sender:
        return ()
    local_part, _, domain = sender.rpartition("@")
    whole = f"@{domain.lower()}"
    return (ScopeKey("sender", local_part + whole), ScopeKey("sender", whole)) if local_part else ()


def in_force(
    throttle: ThrottleSettings,
    relays: Mapping[str, RelaySettings],
    records: Mapping[ScopeKey, Record],
    now: datetime,
    mail_exchangers: MailExchangers = lambda _domain: (),
) -> Standing:
    """Every limit that is configured or written down, as it stands. `mail_exchangers` gives a domain's, best first."""
    limits: dict[ScopeKey, Limit] = {
        OUTBOX: throttle,
        **{ScopeKey("relay", name): relay for name, relay in relays.items()},
        **{ScopeKey("provider", name): limit for name, limit in throttle.providers.items()},
        **{ScopeKey("domain", name): limit for name, limit in throttle.domains.items()},
        **{ScopeKey("sender", name): limit for name, limit in throttle.senders.items()},
    }
    scopes = {key: Paced(limit=limit) for key, limit in limits.items() if key not in records}
    for key, record in records.items():
        configured = limits.get(key, Limit())
        override = override_of(record.limit_override)
        limit = override or configured
        state, fault = repaired(limit, record.values, now)
        scopes[key] = Paced(
            limit=limit,
            state=state,
            session_limit=record.session_limit,
            recipient_limit=record.recipient_limit,
            pipelining=record.pipelining,
            pipelining_reason=record.pipelining_reason,
            fault=fault or _unreadable(record, override),
            overridden_by=(record.overridden_by or "somebody") if override else None,
            configured=configured,
        )
    return Standing(
        now=now,
        throttle=throttle,
        relays=relays,
        providers=throttle.known_providers,
        mail_exchangers=mail_exchangers,
        scopes=scopes,
    )


def _unreadable(record: Record, override: Limit | None) -> str:
    given = record.limit_override
    return f"limit_override {given!r} can't be read: the configured limit holds" if given and not override else ""


def used_of(paced: Paced, now: datetime) -> Sequence[tuple[str, int, int]]:
    """Of each quota: how it is written, how much of it is used now, and how much there is."""
    return [(str(quota), _counted(paced.state, quota.span, part_of(quota), now), quota.count)
            for quota in paced.limit.quotas]  # fmt: skip


def _counted(state: Scope, span: str, part: timedelta, now: datetime) -> int:
    used = state.used.get(span)
    if used is None:
        return 0
    first, oldest = (used.since - _EPOCH) // part, (now - _EPOCH) // part - _PARTS
    return sum(count for number, count in enumerate(used.counts, first) if number >= oldest)


def paced_in_words(paced: Paced, now: datetime) -> str:
    """What a scope lets through as it stands: "30/m, slowed to 50%"; "" if everything."""
    state = paced.state
    slow = f"slowed to {state.pace:.0%}" + (f" of {state.pace_of}" if state.pace_of else "")
    words = (_allowed(paced), slow if state.pace < 1 else "", "paused" if is_resting(state, now) else "")
    return ", ".join(word for word in words if word)


def _allowed(paced: Paced) -> str:
    words = words_of_limit(paced.limit)
    if paced.overridden_by is None:
        return words
    return (
        f"{words or 'no limit'} (set by {paced.overridden_by}; configured: {words_of_limit(paced.configured) or NONE})"
    )


def _names(settings: RelaySettings, domain: str | None, sender: str | None) -> bool:
    by_sender = any(key.name in settings.senders for key in senders_of(sender))
    return by_sender or (domain is not None and compared(domain) in settings.domains)
