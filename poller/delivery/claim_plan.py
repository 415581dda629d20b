"""Pure: one worker's view of everything that is paced, and what follows for its next claim.

The truth is in outbox_throttle; here is the last look at it. `gate` says what a claim may take, `choose` decides within
the claim's transaction, with the scopes locked, which rows go, when, and by which relay.

Rule 1. A message takes a slot in every scope that it falls under: the outbox, its relay, its sender, its destination's
        domain and provider. Without a slot in one of them it is not claimed, and stays as it is.
Rule 2. A destination, a sender or a named relay that may not go now is left out of the general walk, so that it stands
        in nobody's way. While anything is paced every row is asked for its slots, also where no scope has one.
Rule 3. Slots are taken at most AHEAD_S ahead. Who waits longer is not claimed yet. None is taken for the time that a
        claim needs (`lead`), nor more of one scope than were used of late (`at_most`): it would be over before its
        row could go.
Rule 4. A destination that complains is its provider's if that is known, else the domain's.
Rule 5. Where a relay names a message's sender or domain, only such relays take it; else those that name nothing. Lower
        `order` first, then chance by `weight`; a relay that rests or has no slot is passed over. A row may name its
        relay itself.

Time is passed in, on the database's clock. Two threads may ask, one changes a scope at a time.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from poller.domains import compared
from poller.pacing.gate import Choice, Gate, Grant, Record, ScopeKey, Share
from poller.pacing.limits import (
    MOST_AT_ONCE,
    Limit,
    Scope,
    allowance,
    good_for,
    is_resting,
    is_unlimited,
    next_at,
    spent,
)
from poller.pacing.state_row import as_row, repaired
from poller.pacing.words import override_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from poller.judgement.providers import Providers
    from poller.pacing.gate import Candidate
    from poller.pacing.settings import ThrottleSettings
    from poller.smtp.relays import RelaySettings

AHEAD_S: Final = 1.0
"""Seconds of slots that are taken at once: a claim for each message of a fast limit would cost too much."""
DRY_S: Final = 1.0
"""For so long a paced destination that had nothing due is not asked again, unless somebody calls."""
MOST_LEAD_S: Final = 5.0
SOON_S: Final = 0.025
"""A claim that takes no longer is no matter."""
A_FEW_MISSED: Final = 4
"""Less than one slot of so many is missed by chance, and tells nothing of the wire."""
KEPT_SO_OFTEN: Final = 5
"""Claims in a row of which no slot was missed, and then a quarter more slots are taken."""
HOSTED_S: Final = 60.0
"""So long it is believed who has a domain's mail; mail exchangers can change."""
MOST_LANES: Final = 5000
"""Senders and named relays that are remembered."""
MOST_SKIPPED: Final = 1000
"""Single rows that are passed over for a while."""

OUTBOX: Final = ScopeKey("outbox")
NO_LIMIT: Final = Limit()
_UNKNOWN: Final = Scope()
_DOMAIN = re.compile(r"@([^\s@,;:<>()\"]+)")
"""In a list of addresses, roughly: what it misses is asked for when the list is read."""
_ADDRESS = re.compile(r"([^\s<>]+@[^\s<>]+?)>?\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """A scope as it was last seen. `ready` is when one more message may go; None: whenever it likes."""

    limit: Limit
    state: Scope
    ready: datetime | None


@dataclass(kw_only=True)
class Pacing:
    """What is limited (`limits`), and what is known of it. `sender` is the address of rows that name none.

    `mail_exchangers` gives a domain's, best first, or None while they are not known yet; it must not wait. It is asked
    only about domains that no group names; without it only those have a provider.
    """

    settings: ThrottleSettings
    relays: Mapping[str, RelaySettings]
    sender: str = ""
    mail_exchangers: Callable[[str], Sequence[str] | None] = lambda _domain: ()
    chance: Callable[[], float] = random.random
    lead: float = 0.0
    """Seconds from the choice until its rows are in hand."""
    at_most: dict[ScopeKey, int] = field(default_factory=dict)
    """Slots of a scope in one claim: on a wire that is slower than the limit more would be missed."""
    limits: dict[ScopeKey, Limit] = field(init=False)
    _overrides: dict[ScopeKey, Limit] = field(default_factory=dict)
    """What a person allows instead, as last seen."""
    _kept: Counter[ScopeKey] = field(default_factory=Counter)
    _margin: float = 0.0
    """Seconds beyond what a claim needs, while rows come too late for their slots."""
    _seen: dict[ScopeKey, _Seen] = field(default_factory=dict)
    _providers: Providers = field(init=False)
    _members: dict[ScopeKey, set[str]] = field(default_factory=dict)
    """The domains of each scope, as they stand in rows."""
    _scopes: dict[str, tuple[ScopeKey, ...]] = field(default_factory=dict)
    """The scopes of each domain that was met, whether they are paced or not; not where they are unsure."""
    _hosts: dict[str, ScopeKey] = field(default_factory=dict)
    """The providers of domains that their mail exchangers tell."""
    _looked_up: set[str] = field(default_factory=set)
    """Domains to ask for again."""
    _believed_until: datetime | None = None
    _lanes: dict[str, None] = field(default_factory=dict)
    """What named relays and senders stand in rows, as in outbox.lane; the last met last."""
    _dry: dict[str, datetime] = field(default_factory=dict)
    _skipped: dict[int, tuple[datetime, ScopeKey | None]] = field(default_factory=dict)
    """Until when a row is passed over, and for what."""
    _turn: int = 0

    def __post_init__(self) -> None:
        self._providers = self.settings.known_providers
        named: Iterable[tuple[ScopeKey, Limit]] = (
            (OUTBOX, self.settings),
            *((ScopeKey("relay", name), relay) for name, relay in self.relays.items()),
            *((ScopeKey("provider", name), limit) for name, limit in self.settings.providers.items()),
            *((ScopeKey("domain", name), limit) for name, limit in self.settings.domains.items()),
            *((ScopeKey("sender", name), limit) for name, limit in self.settings.senders.items()),
        )
        self.limits = {key: limit for key, limit in named if limit.rates or limit.gap}
        for key in self.limits:
            self._meet_members(key)
        for name in (domain for relay in self.relays.values() for domain in relay.domains):
            self.scopes_of(name)
        for name in ("", *self.settings.senders):
            self._meet_lane(f" {name}")

    # --- what is known ---

    def see(self, records: Mapping[ScopeKey, Record], now: datetime) -> dict[ScopeKey, str]:
        """Take in a look at the whole table. Returns what had to be repaired in it, by scope, in words."""
        self._doubt_hosts(now)
        faults: dict[ScopeKey, str] = {}
        seen: dict[ScopeKey, _Seen] = {}
        self._overrides = {key: limit for key, r in records.items() if (limit := override_of(r.limit_override))}
        for key in records.keys() | self.limits.keys():
            limit = self.limit_of(key)
            state, fault = repaired(limit, records[key].values, now) if key in records else (Scope(), "")
            if fault:
                faults[key] = fault
            if not is_unlimited(limit, state, now):
                seen[key] = _as_seen(limit, state, now)
                self._meet_members(key)
        self._seen = seen
        return faults

    def note(self, key: ScopeKey, state: Scope, now: datetime) -> None:
        """A scope has just been changed by us."""
        limit = self.limit_of(key)
        if is_unlimited(limit, state, now):
            self._seen.pop(key, None)
            return
        self._seen[key] = _as_seen(limit, state, now)
        self._meet_members(key)

    @property
    def is_at_ease(self) -> bool:
        """Nothing is limited, slowed or paused."""
        return not self._seen

    def state_of(self, key: ScopeKey) -> Scope:
        """As last seen."""
        seen = self._seen.get(key)
        return seen.state if seen else _UNKNOWN

    def limit_of(self, key: ScopeKey) -> Limit:
        """What a person allows, or else the configuration; the empty limit if nothing is said."""
        return self._overrides.get(key) or self.limits.get(key, NO_LIMIT)

    def record_of(self, key: ScopeKey) -> Record:
        """As the table would have it, for when it can't be asked."""
        return Record(values=as_row(self.state_of(key)))

    def scopes_of(self, domain: str | None) -> tuple[ScopeKey, ...]:
        """What a destination falls under: its provider if it is known, and the domain itself."""
        if not domain:
            return ()
        if (known := self._scopes.get(domain)) is not None:
            return known
        name = compared(domain)
        provider, is_sure = self._provider_of(domain, name)
        scopes = (*((provider,) if provider else ()), ScopeKey("domain", name))
        for key in scopes:
            self._members.setdefault(key, set()).add(domain)
        if is_sure:
            self._scopes[domain] = scopes
        return scopes

    def _provider_of(self, domain: str, name: str) -> tuple[ScopeKey | None, bool]:
        """Whose a domain is, and whether that is sure; until its mail exchangers are known it is as it was before."""
        named = self._providers.provider_of(name)
        if named is not None:
            return ScopeKey("provider", named), True
        before = self._hosts.get(domain)
        hosts = self.mail_exchangers(name)
        if hosts is None:
            return before, False
        self._looked_up.add(domain)
        found = self._providers.provider_of(name, hosts)
        provider = ScopeKey("provider", found) if found else None
        if before is not None and before != provider:
            self._members[before].discard(domain)
            self._hosts.pop(domain, None)
        if provider is not None:
            self._hosts[domain] = provider
        return provider, True

    def _doubt_hosts(self, now: datetime) -> None:
        """Every HOSTED_S, have the mail exchangers asked for again, of those domains that mail goes to."""
        if self._believed_until is None or now >= self._believed_until:
            self._believed_until = now + timedelta(seconds=HOSTED_S)
            for _ in range(len(self._looked_up)):
                self._scopes.pop(self._looked_up.pop(), None)

    def provider_of(self, domain: str) -> str | None:
        """The group that a domain belongs to; None if it is none's."""
        return next((key.name for key in self.scopes_of(domain.lower()) if key.kind == "provider"), None)

    def destination(self, domain: str) -> ScopeKey:
        """Whom to blame (Rule 4)."""
        return next(iter(self.scopes_of(domain.lower())), ScopeKey("domain", domain.lower()))

    def paced(self, keys: Iterable[ScopeKey]) -> tuple[ScopeKey, ...]:
        """Of `keys`, those that are limited, slowed or paused."""
        return tuple(key for key in keys if key in self._seen)

    def is_paused(self, domain: str | None, sender: str | None, relay: str, now: datetime) -> bool:
        """Whether nothing to this domain, from this sender, or by this relay may go before a pause is over."""
        senders = self._senders(self.address_of(sender))
        return any(
            (seen := self._seen.get(key)) is not None and is_resting(seen.state, now)
            for key in (OUTBOX, ScopeKey("relay", relay), *senders, *self.scopes_of(domain))
        )

    # --- how it went ---

    def claimed_in(self, seconds: float) -> None:
        """A claim took so long, and half of that may be asked before its first row goes."""
        needed = 1.5 * seconds
        self.lead = min(self._margin + (needed if needed > SOON_S else 0.0), MOST_LEAD_S)

    def served(self, slots: Counter[ScopeKey], *, missed: Counter[ScopeKey], late: Counter[ScopeKey]) -> None:
        """So many slots were taken in one claim; so many had passed when the wire came to them, or even before."""
        if late.total() * A_FEW_MISSED > slots.total():
            self._margin = min(max(2 * self._margin, 2 * SOON_S), MOST_LEAD_S)
        else:
            self._margin *= 0.8 if self._margin > SOON_S else 0.0
        for key, count in slots.items():
            most = self.at_most.get(key, MOST_AT_ONCE)
            if missed[key] * A_FEW_MISSED > count:
                self.at_most[key], self._kept[key] = max(1, count - late[key] - missed[key]), 0
            elif count >= most:
                self._kept[key] += 1
            if self._kept[key] >= KEPT_SO_OFTEN:
                self.at_most[key], self._kept[key] = min(most + max(1, most // 4), MOST_AT_ONCE), 0

    # --- what may be claimed ---

    def gate(self, limit: int, now: datetime, *, usable: Collection[str], afresh: bool = False) -> Gate:
        """What a claim of up to `limit` rows may take; `usable` are the relays that are there.

        With `afresh` every destination is asked, however dry it was a moment ago.
        """
        if afresh:
            self._dry.clear()
        horizon = now + timedelta(seconds=AHEAD_S)
        relays = [name for name in usable if self._is_ready(ScopeKey("relay", name), horizon)]
        most = min(
            limit, self._most(OUTBOX, now, limit), sum(self._most(ScopeKey("relay", n), now, limit) for n in relays)
        )
        open_domains = dict(self._open_domains(now, horizon, most)) if most else {}
        scopes = self._scopes_to_lock(relays, open_domains, horizon)
        return Gate(
            limit=most,
            paced=bool(self._seen) or len(relays) < len(self.relays),
            closed_lanes=self._closed_lanes(relays, horizon),
            closed_domains=tuple(sorted(self._closed_domains() | self._without_relay(relays))),
            open_domains=tuple((d, n) for d, n in open_domains.items() if d not in self._without_relay(relays)),
            closed_relays=tuple(sorted(self.relays.keys() - set(relays))),
            closed_ids=self._passed_over(now),
            scopes=scopes,
        )

    def choose(self, usable: Collection[str]) -> Callable[..., Choice]:
        """What decides within the claim; `usable` as for the gate."""

        def choice(candidates: Sequence[Candidate], records: Mapping[ScopeKey, Record], now: datetime) -> Choice:
            return self._choice(candidates, records, now, usable)

        return choice

    def asked(self, gate: Gate, found: Collection[str | None], now: datetime) -> None:
        """A claim with this gate found rows of these domains: the other paced ones are dry for the moment."""
        for domain, _ in gate.open_domains:
            if domain not in found:
                self._dry[domain] = now + timedelta(seconds=DRY_S)

    def skip(self, row_id: int, until: datetime, waits_for: ScopeKey | None = None) -> None:
        """Pass over one row for a while, but no longer than the scope that it waits for is closed."""
        if len(self._skipped) < MOST_SKIPPED:
            self._skipped[row_id] = until, waits_for

    def unskip(self, row_id: int) -> None:
        """One of its recipients may go all the same."""
        self._skipped.pop(row_id, None)

    def next_at(self, now: datetime) -> datetime | None:
        """When something that may not go now may go; None: nothing is waiting for its time."""
        times = [seen.ready for seen in list(self._seen.values()) if seen.ready is not None and seen.ready > now]
        return min((*times, *(at for at, _ in self._skipped.values() if at > now)), default=None)

    def ready_at(self, key: ScopeKey) -> datetime | None:
        """When one more message may go there, as last seen; None: whenever it likes."""
        seen = self._seen.get(key)
        return seen.ready if seen else None

    # --- relays ---

    def relays_for(self, *, relay: str | None, domain: str | None, sender: str | None) -> tuple[str, ...]:
        """The relays that may take such a message, in the order of Rule 5; none if it names one that is not there."""
        if relay is not None:
            return (relay,) if relay in self.relays else ()
        address = self.address_of(sender)
        naming = [name for name, settings in self.relays.items() if _names(settings, domain, address)]
        eligible = naming or [n for n, s in self.relays.items() if not (s.senders or s.domains)]
        if len(eligible) <= 1:
            return tuple(eligible)
        # Efraimidis and Spirakis: a weighted order without replacement.
        keyed = [
            (self.relays[name].order, -(self.chance() ** (1 / self.relays[name].weight)), name) for name in eligible
        ]
        return tuple(name for *_, name in sorted(keyed))

    def address_of(self, sender: str | None) -> str:
        """The bare address of a row's sender, in lower case: no spelling passes a limit by."""
        match = _ADDRESS.search(sender or self.sender)
        if match is None:
            return ""
        local_part, _, domain = match[1].rpartition("@")
        return f"{local_part.lower()}@{compared(domain)}"

    # --- inside: the gate ---

    def _is_ready(self, key: ScopeKey, horizon: datetime) -> bool:
        seen = self._seen.get(key)
        return seen is None or seen.ready is None or seen.ready <= horizon

    def _most(self, key: ScopeKey, now: datetime, most: int) -> int:
        seen = self._seen.get(key)
        if seen is None:
            return most
        return allowance(seen.limit, seen.state, now, ahead=AHEAD_S, most=min(most, self.at_most.get(key, most)))

    def _closed_domains(self) -> set[str]:
        return {
            domain
            for key in list(self._seen)
            if key.kind in {"domain", "provider"}
            for domain in tuple(self._members.get(key, ()))  # the other thread may meet one meanwhile
        }

    def _closed_lanes(self, relays: Collection[str], horizon: datetime) -> tuple[str, ...]:
        """Those of which nothing may go now, whatever the destination."""
        senders = [key for key in tuple(self._seen) if key.kind == "sender"]
        if len(relays) == len(self.relays) and all(self._is_ready(key, horizon) for key in senders):
            return ()
        return tuple(sorted(lane for lane in tuple(self._lanes) if not self._lane_is_open(lane, relays, horizon)))

    def _lane_is_open(self, lane: str, relays: Collection[str], horizon: datetime) -> bool:
        relay, _, sender = lane.partition(" ")
        address = self.address_of(sender)
        if not all(self._is_ready(key, horizon) for key in self._senders(address)):
            return False
        if relay:
            return relay not in self.relays or relay in relays
        naming = {name for name, settings in self.relays.items() if _names(settings, None, address)}
        by_domain = {name for name in relays if self.relays[name].domains}
        return not naming or bool(naming & set(relays)) or bool(by_domain)

    def _meet_lane(self, lane: str) -> None:
        self._lanes.pop(lane, None)
        self._lanes[lane] = None
        if len(self._lanes) > MOST_LANES:
            del self._lanes[next(iter(self._lanes))]

    def _without_relay(self, relays: Collection[str]) -> set[str]:
        """Domains that only relays which are away may take."""
        named = {domain for settings in self.relays.values() for domain in settings.domains}
        served = {domain for name in relays for domain in self.relays[name].domains}
        return {raw for domain in named - served for raw in tuple(self._members.get(ScopeKey("domain", domain), ()))}

    def _open_domains(self, now: datetime, horizon: datetime, most: int) -> Iterator[tuple[str, int]]:
        for key in self._in_turn():
            if key.kind not in {"domain", "provider"} or not self._is_ready(key, horizon):
                continue
            count = 0
            for domain in tuple(self._members.get(key, ())):
                wet = self._dry.get(domain, now) <= now
                if wet and all(self._is_ready(scope, horizon) for scope in self.scopes_of(domain)):
                    count = count or self._most(key, now, most)
                    if count:
                        yield domain, count

    def _in_turn(self) -> list[ScopeKey]:
        """All that is paced, each time another one first: a claim may be full before it has asked them all."""
        keys = list(self._seen)
        self._turn = (self._turn + 1) % len(keys) if keys else 0
        return [*keys[self._turn :], *keys[: self._turn]]

    def _scopes_to_lock(
        self, relays: Collection[str], open_domains: Collection[str], horizon: datetime
    ) -> tuple[ScopeKey, ...]:
        keys = [OUTBOX, *(ScopeKey("relay", name) for name in relays)]
        keys += [key for domain in open_domains for key in self.scopes_of(domain)]
        keys += [key for key in list(self._seen) if key.kind == "sender" and self._is_ready(key, horizon)]
        return tuple(sorted({key for key in keys if key in self._seen}))

    def _passed_over(self, now: datetime) -> tuple[int, ...]:
        self._skipped = {
            row_id: (until, key)
            for row_id, (until, key) in self._skipped.items()
            if until > now and (key is None or self.ready_at(key) is not None)
        }
        return tuple(sorted(self._skipped))

    # --- inside: the choice ---

    def _choice(
        self,
        candidates: Sequence[Candidate],
        records: Mapping[ScopeKey, Record],
        now: datetime,
        usable: Collection[str],
    ) -> Choice:
        self._heed(records)
        states = {key: repaired(self.limit_of(key), record.values, now)[0] for key, record in records.items()}
        before = dict(states)
        grants: dict[int, Grant] = {}
        closed: set[str] = set()
        for candidate in candidates:
            self._meet_lane(candidate.lane)
            grant = None if candidate.lane in closed else self._grant(candidate, states, now, usable)
            if grant is not None:
                grants[candidate.id] = grant
            elif self._closes(candidate, states, now, usable):
                closed.add(candidate.lane)
        changed = {key: state for key, state in states.items() if state is not before[key]}
        for key, state in states.items():
            self.note(key, state, now)
        return Choice(grants=grants, states=changed, closed_lanes=frozenset(closed))

    def _heed(self, records: Mapping[ScopeKey, Record]) -> None:
        """What is overridden by now: it holds from this very claim on."""
        for key, record in records.items():
            if limit := override_of(record.limit_override):
                self._overrides[key] = limit
            else:
                self._overrides.pop(key, None)

    def _closes(self, row: Candidate, states: Mapping[ScopeKey, Scope], now: datetime, usable: Collection[str]) -> bool:
        """Whether nothing more may go from this row's sender, or by the relay that it names."""
        if row.relay is not None and row.relay in self.relays and row.relay not in usable:
            return True
        named = () if row.relay is None else (ScopeKey("relay", row.relay),)
        horizon = now + timedelta(seconds=self.lead + AHEAD_S)
        return any(
            key not in states or next_at(self.limit_of(key), states[key], now).at > horizon
            for key in self.paced((*self._senders(self.address_of(row.sender)), *named))
        )

    def _grant(
        self, row: Candidate, states: dict[ScopeKey, Scope], now: datetime, usable: Collection[str]
    ) -> Grant | None:
        relays = self.relays_for(relay=row.relay, domain=row.domain, sender=row.sender)
        if not relays:
            return Grant()  # it names one that is not there: its own fault, and said when it is its turn
        sure = (OUTBOX, *self._senders(self.address_of(row.sender)), *self.scopes_of(row.domain))
        beside = tuple(self._beside(row, states, now)) if self._seen else ()
        for name in (name for name in relays if name in usable):
            keys = self.paced((*sure, ScopeKey("relay", name)))
            keys += tuple(key for key in beside if key not in keys)
            if (grant := self._slot(name, keys, _recipients_in(row), states, now)) is not None:
                return grant
        return None

    def _beside(self, row: Candidate, states: Mapping[ScopeKey, Scope], now: datetime) -> Iterator[ScopeKey]:
        """What the recipients elsewhere fall under, where there is a slot: it takes its turn there as others do.

        Where there is none, those recipients wait, and the row need not.
        """
        horizon = now + timedelta(seconds=self.lead + AHEAD_S)
        weight = _recipients_in(row)
        texts = (text for text in (row.recipients, row.cc, row.bcc) if text and weight > 1)
        for domain in dict.fromkeys(match.lower() for text in texts for match in _DOMAIN.findall(text)):
            keys = self.paced(self.scopes_of(domain))
            limits = {key: self.limit_of(key) for key in keys}
            if all(
                key in states and next_at(limit, states[key], now, limit.weight_of(weight)).at <= horizon
                for key, limit in limits.items()
            ):
                yield from keys

    def _slot(
        self, relay: str, keys: Sequence[ScopeKey], recipients: int, states: dict[ScopeKey, Scope], now: datetime
    ) -> Grant | None:
        if any(key not in states for key in keys):
            return None  # somebody else has it locked, or it was closed when we came
        paces = [(key, self.limit_of(key)) for key in keys]
        weighed = [
            (key, limit, limit.weight_of(recipients))
            for key, limit in paces
            if not is_unlimited(limit, states[key], now)
        ]
        lead = timedelta(seconds=self.lead if weighed else 0.0)
        slots = [next_at(limit, states[key], now + lead, weight).at for key, limit, weight in weighed]
        at = max((*slots, now))
        if at > now + lead + timedelta(seconds=AHEAD_S):
            return None
        shares = []
        for key, limit, weight in weighed:
            before, states[key] = states[key], spent(limit, states[key], at, weight)
            shares.append(Share(key, weight, before.free_at, states[key].free_at))
        spans = [span for key, limit, _ in weighed if (span := good_for(limit, states[key])) is not None]
        return Grant(
            relay=relay,
            at=at if weighed else None,
            until=at + min(spans) if spans else None,
            scopes=tuple(shares),
        )

    def _senders(self, address: str) -> tuple[ScopeKey, ...]:
        if not address:
            return ()
        return ScopeKey("sender", address), ScopeKey("sender", "@" + address.rpartition("@")[2])

    def _meet_members(self, key: ScopeKey) -> None:
        """Make the domains known that a scope has by its name."""
        if key.kind == "domain":
            self.scopes_of(key.name)
        elif key.kind == "provider":
            for domain, name in self._providers.exact.items():
                if name == key.name:
                    self.scopes_of(domain)


def _as_seen(limit: Limit, state: Scope, now: datetime) -> _Seen:
    ready = next_at(limit, state, now).at
    return _Seen(limit=limit, state=state, ready=ready if ready > now else None)


def _names(relay: RelaySettings, domain: str | None, sender: str) -> bool:
    by_sender = sender in relay.senders or "@" + sender.rpartition("@")[2] in relay.senders
    return by_sender or (domain is not None and compared(domain) in relay.domains)


def _recipients_in(row: Candidate) -> int:
    """How many they are, roughly: at least one, rather too many than too few."""
    return max(1, sum(text.count("@") for text in (row.recipients, row.cc, row.bcc) if text))
