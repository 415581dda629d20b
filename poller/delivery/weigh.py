"""From an exchange to a decision: what is to be recorded, by whose blame, and what is to be paused.

Rule 1. The table judges the facts first (`poller.judgement.outcome`). Then the evidence is heard: whose doing was it
        that a session ended early, or that one after another is put off or refused alike?
Rule 2. What the evidence lays upon a relay or a destination costs no row an attempt.
Rule 3. Nothing is recorded and no row is given back here: the arrow carries the decision out, and asks for the pauses
        that follow once it is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from poller.delivery.session import refused_us
from poller.exchange import Phase
from poller.judgement.deferrals import is_voice
from poller.judgement.outcome import Blame, Deferred, Failed, Heard, Sent, domain_of, heard_at_the_door, judge
from poller.pacing.gate import ScopeKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from poller.delivery.prepare import Prepared
    from poller.delivery.session import Line
    from poller.delivery.throttle import SharedLimits
    from poller.exchange import Exchange, RelayTrouble
    from poller.judgement.outcome import Rulebook, Verdict
    from poller.judgement.refusals import Belief, Refusals

Judged = tuple["Prepared", "Verdict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """So many messages were refused alike: by a destination, or by the relay if none is named."""

    destination: str
    messages: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What is to be recorded. `verdict` is that of the exchange itself; None where none was weighed."""

    verdict: Verdict | None = None
    record: tuple[Judged, ...] = ()
    incident: Incident | None = None


@dataclass(kw_only=True, slots=True)
class Weigh:
    """Keeps the evidence of all relays. Belongs to the delivering thread; `clock` counts seconds."""

    lines: Mapping[str, Line]
    shared_limits: SharedLimits
    rulebook: Rulebook
    refusals: Refusals[Judged]
    """For what the journal tells of an earlier life."""
    clock: Callable[[], float]

    def exchange(self, begun: Prepared, exchange: Exchange, line: Line | None, at: datetime) -> Decision:
        """One more answer, at this time; `line` is None for one that the journal tells."""
        verdict = judge(exchange, self.rulebook)
        destination = self.rulebook.destination(exchange.message.recipients)
        if line is not None:
            verdict = self._suspected(verdict, destination, line)
        age = (at - begun.standing.first_attempt_at).total_seconds()
        refusals = line.refusals if line is not None else self.refusals
        belief = refusals.weigh((begun, verdict), verdict, age=age, destination=destination, now=self.clock())
        return _decided(belief, verdict)

    def pauses(self, decision: Decision, line: Line) -> tuple[ScopeKey, ...]:
        """Obey what was heard, once it is recorded. Returns the scopes that pause now, for the rows in hand too."""
        verdict = decision.verdict
        paused = self._incident(decision.incident, line) if decision.incident else ()
        if verdict is None:
            return paused
        if verdict.most_recipients is not None:
            line.takes_fewer(verdict.most_recipients)
        known = replace(verdict, heard=()) if line.tells_its_limit(verdict) else verdict
        return (*paused, *self.shared_limits.weigh(known, line.name))

    def at_the_door(self, line: Line, trouble: RelayTrouble) -> tuple[ScopeKey, ...]:
        """A relay could not be used. What it asked for holds for all workers."""
        heard = heard_at_the_door(trouble, self.rulebook)
        return () if heard is None else (self.shared_limits.obey(ScopeKey("relay", line.name), heard),)

    def released(self, *, as_judged: bool) -> Iterator[tuple[Decision, Line | None]]:
        """Nothing more is coming: record the withheld refusals as judged, or excuse them, for nobody knows yet."""
        for refusals, line in self._cohorts():
            belief = refusals.release()
            if not as_judged:
                belief = replace(belief, settle=(), excuse=(*belief.settle, *belief.excuse))
            yield _decided(belief), line

    @property
    def withheld(self) -> set[int]:
        """Ids of the rows whose refusals are withheld."""
        return {begun.row.id for refusals, _ in self._cohorts() for begun, _ in refusals.withheld}

    def _cohorts(self) -> list[tuple[Refusals[Judged], Line | None]]:
        return [(self.refusals, None), *((line.refusals, line) for line in self.lines.values())]

    def _incident(self, incident: Incident, line: Line) -> tuple[ScopeKey, ...]:
        if not incident.destination:
            line.incident(incident.messages, incident.reason)
            return ()
        words = f"it refused {incident.messages} messages in a row alike: {incident.reason}"
        return (self.shared_limits.suspend(incident.destination, words),)

    def _suspected(self, verdict: Verdict, destination: str, line: Line) -> Verdict:
        """Whose doing it was that a session ended early, or that one after another is put off."""
        row = str(verdict.message.row_id)
        if verdict.delivered:
            line.delivered()
            line.refused_rows.accepted(row)
            for wire, outcome in zip(verdict.message.recipients, verdict.outcomes, strict=True):
                if isinstance(outcome, Sent):
                    accepting = destination or self.rulebook.destination_of(wire)
                    line.dropped_sessions.accepted(accepting)
                    line.deferrals.accepted(accepting)
        if refused_us(verdict) and line.refused_rows.befell(row):
            return _laid_upon_row(verdict)
        if not destination or verdict.delivered_to_all or line.was_lowered:
            return verdict
        complains = self.shared_limits.complains(destination)
        if verdict.ended and (line.dropped_sessions.befell(destination) or complains):
            line.excused()
            return _laid_upon(destination, verdict, "sessions end at it, and at no other")
        if any(map(is_voice, verdict.outcomes)) and line.deferrals.joined(destination, complains=complains):
            return _laid_upon(destination, verdict, "it puts off one recipient after another")
        return verdict


def _decided(belief: Belief[Judged], verdict: Verdict | None = None) -> Decision:
    if not (belief.excuse or belief.give_back):
        return Decision(verdict=verdict, record=belief.settle)
    whose = Blame.DESTINATION if belief.destination else Blame.SESSION
    excused = (*_excused(belief.excuse, Blame.SESSION), *_excused(belief.give_back, whose))
    return Decision(verdict=verdict, record=(*belief.settle, *excused), incident=_incident_in(belief))


def _incident_in(belief: Belief[Judged]) -> Incident | None:
    if not belief.give_back:
        return None
    said = _first_failure(belief.give_back[0][1])
    return Incident(destination=belief.destination, messages=len(belief.give_back), reason=said.reason if said else "")


def _first_failure(verdict: Verdict) -> Failed | None:
    return next((outcome for outcome in verdict.outcomes if isinstance(outcome, Failed)), None)


def _excused(some: Iterable[Judged], blame: Blame) -> tuple[Judged, ...]:
    """The same refusals, as the relay's own trouble, or as the destination's, which pauses for it."""
    return tuple((begun, _excused_verdict(verdict, blame)) for begun, verdict in some)


def _excused_verdict(verdict: Verdict, blame: Blame) -> Verdict:
    failure = _first_failure(verdict)
    who = "relay" if blame is Blame.SESSION else "destination"
    reason = f"given back, for the {who} refused one message after another alike: {failure.reason if failure else ''}"
    reply = failure.reply if failure else None
    excused = Deferred(blame=blame, reason=reason, reply=reply, paced=blame is Blame.DESTINATION)
    return replace(verdict, outcomes=(excused,) * len(verdict.outcomes))


def _laid_upon_row(verdict: Verdict) -> Verdict:
    """The relay refuses this one as if it were for our sake, and takes others: it costs attempts, and age ends it."""
    whose = Blame.RECIPIENT if verdict.phase is Phase.RCPT else Blame.MESSAGE
    outcomes = tuple(
        replace(outcome, blame=whose, heard=None, paced=False)
        if isinstance(outcome, Deferred) and outcome.blame is Blame.SESSION and outcome.reply
        else outcome
        for outcome in verdict.outcomes
    )
    return replace(verdict, outcomes=outcomes, heard=())


def _laid_upon(destination: str, verdict: Verdict, why: str) -> Verdict:
    """What is the destination's doing: it is asked less, and neither the relay nor the row is to blame."""
    said = next((o.reason for o in verdict.outcomes if isinstance(o, Deferred)), "the session ended")
    heard = Heard(
        about="destination",
        domain=domain_of(verdict.message.recipients[0]),
        action="slow_down",
        reason=f"{destination}: {why}: {said}",
        category="rate",
    )
    outcomes = tuple(
        replace(o, blame=Blame.DESTINATION, heard=heard, paced=True) if isinstance(o, Deferred) else o
        for o in verdict.outcomes
    )
    return replace(verdict, outcomes=outcomes, heard=(heard,), slow_down=False)
