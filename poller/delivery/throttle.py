"""SharedLimits: what this worker knows of everybody's limits, and what it makes of the replies that ask for less.

`poller.pacing` has the rules, outbox_throttle the state that all workers share; here they meet.

Rule 1. The table is looked at every LOOK_EVERY_S while there is work: what another worker heard, or a DBA wrote,
        holds here within about a second.
Rule 2. What was heard is written down at once, and obeyed at once here even where the database is away; then it is
        written when it is back.
Rule 3. Outside the windows, and in quiet hours, nothing is claimed.

Raises DatabaseUnavailable from `look` and `begin` alone. Belongs to the delivering thread; what a claim is given of it
may be asked in another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from poller.delivery.clock import DatabaseTime
from poller.judgement.accepted import AcceptedLately
from poller.judgement.outcome import Heard, Sent
from poller.log import OnChange
from poller.outbox.database import DatabaseUnavailable
from poller.pacing.complaints import accepted, paused, slow_down
from poller.pacing.gate import Gate, Record, ScopeKey
from poller.pacing.hours import closes_at, is_open, opens_at
from poller.pacing.limits import Scope, is_unlimited, next_at, spent
from poller.pacing.state_row import repaired
from poller.pacing.words import words_of_limit
from poller.units import format_rate

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from poller.delivery.claim_plan import Pacing
    from poller.judgement.outcome import Verdict
    from poller.log import Logger
    from poller.outbox.rows import ClaimedRow
    from poller.outbox.store import Store
    from poller.outbox.throttling import Learnt, Throttles
    from poller.pacing.complaints import Hearing
    from poller.pacing.gate import Choose
    from poller.pacing.hours import Hours
    from poller.smtp.gears import Gear

LOOK_EVERY_S: Final = 1.0

Change = Callable[[Record, "datetime"], Scope]
"""What becomes of a scope as it stands, at a time."""
Waiting = Mapping[str, ScopeKey]
"""Recipients that may not go now, each with what they wait for."""
NOBODY: Final[Waiting] = MappingProxyType({})


@dataclass(kw_only=True)
class SharedLimits:
    """One worker's. `clock` counts seconds."""

    pacing: Pacing
    throttles: Throttles
    store: Store
    hours: Hours
    hearing: Hearing
    clock: Callable[[], float]
    log: Logger
    accepted_lately: AcceptedLately = field(init=False)
    learnt: dict[str, Record] = field(default_factory=dict)
    """What the table says of each relay."""
    _say: OnChange = field(init=False)
    _time: DatabaseTime = field(init=False)
    _looked_at: float = float("-inf")
    _closes_at: datetime | None = None
    _has_begun: bool = False
    _accepted: Counter[ScopeKey] = field(default_factory=Counter)
    _unwritten: list[tuple[ScopeKey, Change]] = field(default_factory=list)
    _lowered: dict[str, tuple[Gear, str]] = field(default_factory=dict)
    """Relays whose gear is to be written, with the reason."""

    def __post_init__(self) -> None:
        self._say = OnChange(self.log)
        self._time = DatabaseTime(self.clock)
        self.accepted_lately = AcceptedLately(window=self.hearing.window)

    # --- the table ---

    def begin(self) -> None:
        """Say once what is limited, for all to read."""
        if not self._has_begun:
            self.throttles.announce({key: words_of_limit(limit) for key, limit in self.pacing.limits.items()})
            self._has_begun = True

    def look(self, *, at_once: bool = False) -> None:
        """Take in what the table says now, and write what could not be written (Rule 1)."""
        if not at_once and self.clock() - self._looked_at < LOOK_EVERY_S:
            return
        self._write_what_is_left()
        now = self.store.now()
        self._time.set(now)
        self._looked_at = self.clock()
        records = self.throttles.read()
        self.learnt = {key.name: record for key, record in records.items() if key.kind == "relay"}
        for key, fault in self.pacing.see(records, now).items():
            self._say.say("warning", "throttle.repaired", about=key, fingerprint=fault, scope=str(key), reason=fault)
            self._change(key, self._repairing(key))
        if (self.hours.windows or self.hours.quiet) and not (self._closes_at and now < self._closes_at):
            self._closes_at = closes_at(self.hours, now)

    def now(self) -> datetime:
        """The database's clock, as of the last look, going on by our own."""
        if not self._time.is_set:
            self._time.set(self.store.now())
        return self._time.now()

    def connect(self, relay: str, most: int) -> bool:
        """Enter that we hold a connection to a relay. False: there are as many as there may be."""
        return self.throttles.connect(relay, most)

    def disconnect(self, relay: str) -> None:
        """Enter that we hold none to it. Where the database is away, the end of our lease says it."""
        with suppress(DatabaseUnavailable):
            self.throttles.disconnect(relay)

    def learn(self, relay: str, what: Learnt, limit: int) -> None:
        """Keep how many messages or recipients a relay takes; if it can't be written now, it will be learnt again."""
        self._know(relay, **{what: limit})
        with suppress(DatabaseUnavailable):
            self.throttles.learn(ScopeKey("relay", relay), what, limit)

    def lower(self, relay: str, gear: Gear, reason: str) -> None:
        """Keep for all workers that a relay bears no more than `gear`; as soon as that can be written."""
        self._know(relay, pipelining=gear.word)
        try:
            self.throttles.lower(ScopeKey("relay", relay), gear.word, reason)
        except DatabaseUnavailable:
            self._lowered[relay] = gear, reason

    def _know(self, relay: str, **learnt: Any) -> None:
        """At once, and not only when the table is looked at next."""
        self.learnt[relay] = replace(self.learnt.get(relay, Record(values={})), **learnt)

    # --- what may go ---

    @property
    def is_open(self) -> bool:
        """Rule 3."""
        return self._closes_at is None or self.now() < self._closes_at

    def opens_at(self) -> datetime:
        """When mail may go next."""
        return opens_at(self.hours, self.now())

    def gate(self, limit: int, *, usable: Collection[str], afresh: bool = False) -> Gate:
        """What a claim may take now."""
        if not is_open(self.hours, self.now()):
            return Gate(limit=0)
        return self.pacing.gate(limit, self.now(), usable=usable, afresh=afresh)

    def choose(self, usable: Collection[str]) -> Choose:
        """Who decides within the claim."""
        return self.pacing.choose(usable)

    def next_at(self) -> datetime | None:
        """When something that has to wait now may go; None: nothing waits for its time."""
        now = self.now()
        if not is_open(self.hours, now):
            return opens_at(self.hours, now)
        return self.pacing.next_at(now)

    def take_also(self, row: ClaimedRow, recipients: Collection[str]) -> Waiting:
        """Take slots for what `recipients` fall under beside the scopes that the row was claimed with.

        Those of a destination where there is none now wait, and the others need not. If all do, the row is passed over
        until one may go.
        """
        if self.pacing.is_at_ease:
            return NOBODY
        taken = {share.key for share in row.grant.scopes}
        waits: dict[str, ScopeKey] = {}
        for domain in sorted({address.rpartition("@")[2] for address in recipients}):
            at_domain = [address for address in recipients if address.rpartition("@")[2] == domain]
            for key in self.pacing.paced(key for key in self.pacing.scopes_of(domain) if key not in taken):
                if not self._took(key, len(at_domain)):
                    waits |= dict.fromkeys(at_domain, key)
                    break
                taken.add(key)
        if len(waits) == len(recipients):
            first = min(waits.values(), key=lambda key: self.pacing.ready_at(key) or self.now())
            ready = self.pacing.ready_at(first)
            soon = self.now() + timedelta(seconds=LOOK_EVERY_S)
            self.pacing.skip(row.id, ready or soon, first if ready else None)
        return waits

    def _took(self, key: ScopeKey, recipients: int) -> bool:
        limit = self.pacing.limit_of(key)
        weight = limit.weight_of(recipients)
        took = [False]

        def take_one(record: Record, now: datetime) -> Scope:
            state, _ = repaired(limit, record.values, now)
            took[:] = [next_at(limit, state, now, weight).at <= now]
            return spent(limit, state, now, weight) if took[0] and not is_unlimited(limit, state, now) else state

        self._change(key, take_one)
        return took[0]

    # --- what was heard ---

    def weigh(self, verdict: Verdict, relay: str) -> tuple[ScopeKey, ...]:
        """Obey what the replies ask for. Returns the scopes that pause now."""
        self._count(verdict)
        if not verdict.heard:
            return ()
        return tuple(self.obey(self._scope_of(heard, relay), heard) for heard in verdict.heard)

    def falls_under(self, row: ClaimedRow, scopes: Collection[ScopeKey], relay: str) -> bool:
        """Whether a row is to wait when these pause."""
        return ScopeKey("relay", relay) in scopes or any(key in scopes for key in self.pacing.scopes_of(row.domain))

    def complains(self, destination: str) -> bool:
        """It has asked for less, and accepted nothing since."""
        return self.pacing.state_of(_key_of(destination)).complaints > 0

    def is_paused(self, row: ClaimedRow, relay: str) -> bool:
        """Whether something that a row falls under pauses, as far as we know, also if it was heard after the claim."""
        if self.pacing.is_at_ease:
            return False
        return self.pacing.is_paused(row.domain, row.content.get("sender"), relay, self.now())

    def suspend(self, destination: str, reason: str) -> ScopeKey:
        """Nobody there takes anything, whatever it says: leave it alone for a while."""
        heard = Heard(about="destination", action="slow_down", reason=reason, category="other")
        return self.obey(_key_of(destination), heard)

    def _scope_of(self, heard: Heard, relay: str) -> ScopeKey:
        return ScopeKey("relay", relay) if heard.about == "relay" else self.pacing.destination(heard.domain)

    def obey(self, key: ScopeKey, heard: Heard) -> ScopeKey:
        """Slow down or pause a scope."""
        seen = self.accepted_lately.seen(str(key), self.clock())

        def change(record: Record, now: datetime) -> Scope:
            limit = self.pacing.limit_of(key)
            state, _ = repaired(limit, record.values, now)
            if heard.action == "pause" and heard.wait is not None:
                return paused(state, now + timedelta(seconds=heard.wait), heard.reason)
            return slow_down(limit, state, now, reason=heard.reason, pause=heard.wait, seen=seen, hearing=self.hearing)

        state = self._change(key, change)
        until = state.paused_until.isoformat(timespec="seconds") if state.paused_until else None
        about = {"scope": str(key), "until": until, "pace": round(state.pace, 3), "reason": heard.reason}
        self._say.say("warning", "throttle.paused", about=key, fingerprint=f"{until} {state.pace}", **about)
        return key

    def _count(self, verdict: Verdict) -> None:
        for wire, outcome in zip(verdict.message.recipients, verdict.outcomes, strict=True):
            if isinstance(outcome, Sent):
                key = self.pacing.destination(wire.rpartition("@")[2])
                self.accepted_lately.accepted(str(key), self.clock())
                state = self.pacing.state_of(key)
                if state.pace < 1 or state.complaints:
                    self._accepted[key] += 1

    def _write_what_is_left(self) -> None:
        lowered, self._lowered = self._lowered, {}
        for relay, (gear, reason) in lowered.items():
            self.lower(relay, gear, reason)
        unwritten, self._unwritten = self._unwritten, []
        for key, how in unwritten:
            self._change(key, how)
        taken, self._accepted = self._accepted, Counter()
        for key, count in taken.items():
            before = self.pacing.state_of(key)
            after = self._change(key, self._raising(key, count))
            if after.pace > before.pace:
                rate = format_rate(after.pace_of) if after.pace_of and after.pace < 1 else None
                self._say.say("info", "throttle.raised", about=key, scope=str(key), pace=round(after.pace, 3), of=rate)

    def _raising(self, key: ScopeKey, count: int) -> Change:
        limit = self.pacing.limit_of(key)
        return lambda record, now: accepted(
            repaired(limit, record.values, now)[0], now, count, limit=limit, hearing=self.hearing
        )

    def _repairing(self, key: ScopeKey) -> Change:
        limit = self.pacing.limit_of(key)
        return lambda record, now: repaired(limit, record.values, now)[0]

    def _change(self, key: ScopeKey, how: Change) -> Scope:
        """Change a scope for all; where that can't be, for us, until it can (Rule 2)."""
        try:
            state = self.throttles.change(key, how)
        except DatabaseUnavailable:
            self._unwritten.append((key, how))
            state = how(self.pacing.record_of(key), self.now())
        self.pacing.note(key, state, self.now())
        return state


def _key_of(destination: str) -> ScopeKey:
    """Of a destination as the judgement names it: "provider google", "domain example.com"."""
    kind, _, name = destination.partition(" ")
    return ScopeKey("provider" if kind == "provider" else "domain", name)
