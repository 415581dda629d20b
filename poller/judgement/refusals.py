"""Pure: telling an incident of the relay, or of one destination, from a run of bad addresses.

Rule 1. Permanent refusals that are identical, over different rows to one destination, one after another and with no
        success there between, are withheld instead of believed. When there are `limit` of them they are an incident
        of the destination: none of the rows is at fault. What others accept or refuse meanwhile does not matter.
Rule 2. An acceptance or another reply of the destination in between shows that it makes a difference between messages:
        then what was withheld is believed. A lost line, or a reply that blames us or asks for less, shows nothing:
        those who refuse everyone often close the session now and then.
Rule 3. `limit` identical refusals in a row over several destinations, and nothing between that shows a difference, are
        an incident of the relay; so is a second destination's that has one like the first's.
Rule 4. What is withheld while an incident of the same kind lasts is its remainder, and is given back as well: its end
        must not fail the last few. The relay's lasts until something is accepted; a destination's for `patience`
        seconds, whatever it accepts meanwhile, since who has too much may say "user unknown" to every other one.
Rule 5. A row that has been refused like that for `patience` seconds is believed at once, so that a list of really bad
        addresses ends.
Rule 6. Few are withheld: less than `limit` for each destination, and MOST_RUNS times as many in all. Beyond that what
        was withheld first is released: that its destination was so long without another mail is no sign of an incident,
        and rows that are held for ever are none of the promises.

Time is passed in, in seconds of any clock that goes forward.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Generic, TypeVar

from poller.frozen import dataclass
from poller.judgement.outcome import Blame, Deferred, Failed, InDoubt, signature

if TYPE_CHECKING:
    from poller.judgement.outcome import Verdict

T = TypeVar("T")

MOST_RUNS = 10
"""Times `limit`: so many rows are withheld in all, at most."""
MOST_INCIDENTS = 1000
"""Remembered at a time; of more, the oldest is forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief(Generic[T]):
    """What is to be done now: `settle` these as they were judged, `give_back` those as not to blame.

    `destination` names whose incident it is that gives back; "" the relay's. `excuse` is the remainder of an earlier
    incident: given back too, and no news; nobody is suspended for it, so each of these rows must wait by itself.
    """

    settle: tuple[T, ...] = ()
    give_back: tuple[T, ...] = ()
    excuse: tuple[T, ...] = ()
    destination: str = ""


@dataclass(kw_only=True, slots=True)
class _Run(Generic[T]):
    """What one destination refused in a row, all alike."""

    signature: str
    remainder: bool
    withheld: list[T] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Refusals(Generic[T]):
    """The refusals withheld at present; `T` is whatever the caller knows a row's judgement by.

    A destination is any text, such as "provider google"; "" stands for several at once, or for the relay.
    """

    limit: int
    patience: float
    incident: str = ""
    """The signature of the relay's last incident, until something was accepted."""
    _runs: dict[str, _Run[T]] = field(default_factory=dict)
    """By destination, in the order in which they began."""
    _held: int = 0
    _streak: str = ""
    """The signature that all refusals since the last difference have, no matter who said it."""
    _streak_of: str = ""
    """Who said it first."""
    _streak_is_wide: bool = False
    """Others said it too."""
    _streak_length: int = 0
    """Since the last incident."""
    _streak_incident: str = ""
    """Whose incident was in it."""
    _incidents: dict[tuple[str, str], float] = field(default_factory=dict)
    """Until when a destination's refusals of one signature are not believed."""

    @property
    def withheld(self) -> list[T]:
        """All of it, by destination."""
        return [item for run in self._runs.values() for item in run.withheld]

    def weigh(self, item: T, verdict: Verdict, *, age: float, destination: str = "", now: float = 0.0) -> Belief[T]:
        """What follows from one more verdict. `age` is in seconds since the row's first attempt."""
        sign = _signature(verdict)
        believed = age >= self.patience if sign else _shows_nothing(verdict)
        if believed:
            return Belief(settle=(item,))
        run = self._runs.get(destination)
        before: Belief[T] = Belief() if run is None or run.signature == sign else self._let_go(destination)
        if not sign:
            self._streak = ""
            self.incident = "" if verdict.delivered else self.incident
            return Belief(settle=(*before.settle, item), excuse=before.excuse)
        self._withhold(item, sign, destination, now)
        self._lengthen(sign, destination)
        if self._is_the_relays(destination):
            return self._incident_of_the_relay(sign, before)
        if self._is_at_the_limit(destination):
            return self._incident_of(destination, sign, before, now)
        return _joined(before, self._overflow())

    def release(self) -> Belief[T]:
        """Nothing more is coming: what follows for all that was withheld."""
        released: Belief[T] = Belief()
        for destination in [*self._runs]:
            released = _joined(released, self._let_go(destination))
        self._streak = ""
        return released

    def _withhold(self, item: T, sign: str, destination: str, now: float) -> None:
        if destination not in self._runs:
            remainder = sign == self.incident or now < self._incidents.get((destination, sign), now)
            self._runs[destination] = _Run(signature=sign, remainder=remainder)
        self._runs[destination].withheld.append(item)
        self._held += 1

    def _lengthen(self, sign: str, destination: str) -> None:
        if sign != self._streak:
            self._streak, self._streak_of, self._streak_is_wide, self._streak_length = sign, destination, False, 0
            self._streak_incident = ""
        self._streak_is_wide = self._streak_is_wide or destination != self._streak_of
        self._streak_length += 1

    def _is_at_the_limit(self, destination: str) -> bool:
        return len(self._runs[destination].withheld) >= self.limit

    def _is_the_relays(self, destination: str) -> bool:
        """Rule 3."""
        if self._streak_is_wide and self._streak_length >= self.limit:
            return True
        alike = not destination or self._streak_incident not in {"", destination}
        return alike and self._is_at_the_limit(destination)

    def _incident_of_the_relay(self, sign: str, before: Belief[T]) -> Belief[T]:
        self.incident = sign
        self._streak_length = 0
        given_back: tuple[T, ...] = ()
        for destination in [name for name, run in self._runs.items() if run.signature == sign]:
            given_back += self._taken(destination)
        return Belief(settle=before.settle, excuse=before.excuse, give_back=given_back)

    def _incident_of(self, destination: str, sign: str, before: Belief[T], now: float) -> Belief[T]:
        self._streak_length, self._streak_incident = 0, destination
        self._incidents.pop((destination, sign), None)
        self._incidents[destination, sign] = now + self.patience
        if len(self._incidents) > MOST_INCIDENTS:
            del self._incidents[next(iter(self._incidents))]
        given_back = self._taken(destination)
        return Belief(settle=before.settle, excuse=before.excuse, give_back=given_back, destination=destination)

    def _overflow(self) -> Belief[T]:
        """Rule 6."""
        released: Belief[T] = Belief()
        while self._held > self.limit * MOST_RUNS:
            released = _joined(released, self._let_go(next(iter(self._runs))))
        return released

    def _let_go(self, destination: str) -> Belief[T]:
        """What a destination's run comes to when it has ended without an incident."""
        remainder = self._runs[destination].remainder
        released = self._taken(destination)
        return Belief(excuse=released) if remainder else Belief(settle=released)

    def _taken(self, destination: str) -> tuple[T, ...]:
        released = tuple(self._runs.pop(destination).withheld)
        self._held -= len(released)
        return released


def _joined(first: Belief[T], second: Belief[T]) -> Belief[T]:
    return Belief(settle=(*first.settle, *second.settle), excuse=(*first.excuse, *second.excuse))


def _shows_nothing(verdict: Verdict) -> bool:
    """Nobody was accepted, and nothing was said about the message."""
    return all(
        isinstance(outcome, InDoubt)
        or (isinstance(outcome, Deferred) and outcome.blame in {Blame.SESSION, Blame.DESTINATION})
        for outcome in verdict.outcomes
    )


def _signature(verdict: Verdict) -> str:
    """Of a message that was refused for all its recipients alike; "" for any other."""
    if not all(isinstance(outcome, Failed) for outcome in verdict.outcomes):
        return ""
    pairs = zip(verdict.outcomes, verdict.message.recipients, strict=True)
    signs = {signature(outcome, recipient) for outcome, recipient in pairs}
    return signs.pop() if len(signs) == 1 else ""
