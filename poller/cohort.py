"""Pure: telling an incident of the relay from a run of bad addresses.

Rule 1. Permanent refusals that are identical, over different rows, one after another and with no success between, are
        withheld instead of believed. When there are `limit` of them they are an incident: none of the rows is at fault.
Rule 2. An acceptance or another reply in between shows that the relay makes a difference between messages: then what
        was withheld is believed. A lost line, or a reply that blames us, shows nothing: relays that refuse everyone
        often close the session now and then.
Rule 3. What is withheld while an incident of the same kind has not been followed by a success is its remainder, and is
        given back as well: its end must not fail the last few.
Rule 4. A row that has been refused like that for `patience` seconds is believed at once, so that a list of really bad
        addresses ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from poller.outcome import Blame, Deferred, Failed, InDoubt, signature

if TYPE_CHECKING:
    from poller.outcome import Verdict

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Belief(Generic[T]):
    """What is to be done now: `settle` these as they were judged, `give_back` those as not to blame.

    `excuse` is the remainder of an earlier incident: given back too, and no news.
    """

    settle: tuple[T, ...] = ()
    give_back: tuple[T, ...] = ()
    excuse: tuple[T, ...] = ()


@dataclass(kw_only=True, slots=True)
class Cohort(Generic[T]):
    """The refusals withheld at present; `T` is whatever the caller knows a row's judgement by."""

    limit: int
    patience: float
    signature: str = ""
    incident: str = ""
    """The signature of the last incident, until something was accepted."""
    withheld: list[T] = field(default_factory=list)

    def weigh(self, item: T, verdict: Verdict, *, age: float) -> Belief[T]:
        """What follows from one more verdict. `age` is in seconds since the row's first attempt."""
        sign = _signature(verdict)
        if sign and age >= self.patience:
            return Belief(settle=(item,))
        if not sign and _shows_nothing(verdict):
            return Belief(settle=(item,))
        before: Belief[T] = Belief() if sign == self.signature else self.release()
        if not sign:
            self.incident = "" if verdict.delivered else self.incident
            return Belief(settle=(*before.settle, item), excuse=before.excuse)
        self.signature = sign
        self.withheld.append(item)
        if len(self.withheld) < self.limit:
            return before
        self.incident = sign
        return Belief(settle=before.settle, excuse=before.excuse, give_back=self._let_go())

    def release(self) -> Belief[T]:
        """Nothing more is coming, or something else: what follows for all that was withheld."""
        remainder = bool(self.signature) and self.signature == self.incident
        released = self._let_go()
        return Belief(excuse=released) if remainder else Belief(settle=released)

    def _let_go(self) -> tuple[T, ...]:
        released = tuple(self.withheld)
        self.withheld.clear()
        self.signature = ""
        return released


def _shows_nothing(verdict: Verdict) -> bool:
    """Nobody was accepted, and the relay said nothing about the message."""
    return all(
        isinstance(outcome, InDoubt) or (isinstance(outcome, Deferred) and outcome.blame is Blame.SESSION)
        for outcome in verdict.outcomes
    )


def _signature(verdict: Verdict) -> str:
    """Of a message that was refused for all its recipients alike; "" for any other."""
    pairs = zip(verdict.outcomes, verdict.message.recipients, strict=True)
    signs = {signature(outcome, recipient) for outcome, recipient in pairs if isinstance(outcome, Failed)}
    refused_all = all(isinstance(outcome, Failed) for outcome in verdict.outcomes)
    return signs.pop() if refused_all and len(signs) == 1 else ""
