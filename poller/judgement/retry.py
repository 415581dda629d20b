"""Pure: what becomes of a row.

`next_step` takes a row's standing and the outcomes of its recipients, and says what to write down. Time and chance
are passed in.

Rule 1. The row's status is a fold over its recipients (`fold`), and nothing else.
Rule 2. An accepted recipient is never sent to again; a held doubt does not stop the others.
Rule 3. Trouble of the session costs no attempt. It delays the row only when it keeps happening to this very row, so
        that a row that breaks every session cannot stand in everyone's way.
Rule 4. Giving up is by the recipient's own attempts, or by the age since the first attempt; a retry that would lie
        beyond `expires_at` is not scheduled.
Rule 5. What may have been delivered is never called expired: it is held.
Rule 6. A destination that takes less than we have costs no attempt either; only time gives such a row up. Where its
        pause is written in outbox_throttle (`paced`) the row's `due_at` stays; but a row for several domains waits by
        itself, since the database knows it by one of them only, and who was never asked goes first, at once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Literal, assert_never

from poller.frozen import dataclass
from poller.judgement.outcome import (
    SERVICE_CLOSING,
    Blame,
    Deferred,
    Expired,
    Failed,
    InDoubt,
    Sent,
    Suppressed,
    domain_of,
)
from poller.units import SETTINGS, Count, CountOrZero, Factor, Seconds, Share, format_duration

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from poller.exchange import Reply
    from poller.judgement.keeping import Kept
    from poller.judgement.outcome import Outcome

OnDoubt = Literal["resend", "hold"]

MOST_DEATHS = 3
"""So often a row may kill the process that composes it. A machine out of memory may look like that once."""


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """When a message that was deferred is tried again, and when it is given up: the `[retry]` section."""

    __pydantic_config__: ClassVar = SETTINGS

    first: Seconds = 60.0
    factor: Factor = 2.0
    longest: Seconds = 4 * 3600.0
    jitter: Share = 0.2
    """Each delay is lengthened or shortened by up to this share."""
    max_attempts: Count = 50
    give_up_after: Seconds = 5 * 86400.0
    """Counted from the first attempt."""
    on_doubt: OnDoubt = "resend"
    max_doubts: CountOrZero = 3
    cohort: Count = 10
    """So many identical 5xx replies in a row over different rows are an incident of the relay, not bad addresses."""
    cohort_patience: Seconds = 3600.0
    """After so long since a row's first attempt such a refusal is believed all the same."""

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after the `attempt`-th try (1 is the first); `chance` is from [0, 1)."""
        steps = min(attempt - 1, 64)  # 2.0 ** 64 is beyond any `longest`, and float powers overflow
        grown = min(self.first * self.factor**steps, self.longest)
        return grown * (1 + self.jitter * (2 * chance - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class RecipientState:
    """Where one recipient stands: "queued" is open, "in_doubt" held for a person, all else is settled."""

    address: str
    status: str = "queued"
    attempts: int = 0
    doubts: int = 0
    reply: Reply | None = None
    queue_id: str | None = None
    error: str | None = None
    sent_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A claimed row, as far as its future depends on it. Times are aware UTC, on the database's clock."""

    row_id: int
    claim_seq: int
    message_id: str
    attempts: int
    doubts: int
    setbacks: int
    first_attempt_at: datetime
    expires_at: datetime | None
    max_attempts: int | None
    on_doubt: OnDoubt | None
    recipients: tuple[RecipientState, ...]
    written: Collection[str] = ()
    """Of whom something is written down: those addresses whose states came from there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A line of a row's history."""

    outcome: str
    recipient: str | None
    blame: str | None
    reply: Reply | None
    queue_id: str | None
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What to write down about one claimed row; its fence is `row_id`, `claim_seq` and `message_id`.

    `due_at` None leaves the row's own. `attempts` and `doubts` are to be added. `recipients` is empty for a row with
    a single one: then the row says it all; `as_written` are those that stand so already, `withdrawn` those that are
    written down and that the row no longer names. `sent_at` is set as soon as anyone accepted.
    """

    row_id: int
    claim_seq: int
    message_id: str
    status: str
    at: datetime
    attempts: int = 0
    doubts: int = 0
    setbacks: int = 0
    due_at: datetime | None = None
    reply: Reply | None = None
    queue_id: str | None = None
    error: str | None = None
    sent_at: datetime | None = None
    recipients: tuple[RecipientState, ...] = ()
    as_written: frozenset[str] = frozenset()
    withdrawn: frozenset[str] = frozenset()
    notes: tuple[Note, ...] = ()
    phase: str | None = None
    relay: str | None = None
    keep: Kept | None = None
    """What is to be kept of its content from now on; None: what is kept stays as it is."""

    @property
    def key(self) -> tuple[int, int]:
        """Row id and claim_seq."""
        return self.row_id, self.claim_seq


# The first that occurs among recipients of whom none was accepted gives the row its terminal status.
_TERMINAL_ORDER = ("failed", "expired", "suppressed")


def fold(statuses: Iterable[str]) -> str:
    """The row's status from its recipients' (Rule 1). Raises ValueError for none or an unknown one."""
    present = set(statuses)
    settled = {"sent", *_TERMINAL_ORDER}
    if not present or present - settled - {"queued", "in_doubt"}:
        raise ValueError(f"cannot fold {sorted(present)}")
    if "queued" in present:
        return "queued"
    if "in_doubt" in present:
        return "in_doubt"
    if "sent" in present:
        return "sent" if present == {"sent"} else "partial"
    return next(status for status in _TERMINAL_ORDER if status in present)


def next_step(
    standing: Standing,
    outcomes: Mapping[str, Outcome],
    *,
    now: datetime,
    chance: float,
    settings: RetrySettings,
    phase: str | None = None,
    relay: str | None = None,
) -> Step:
    """What becomes of the row. `outcomes` is by recipient address; open recipients it does not name stay open."""
    if (plain := _plainly_sent(standing, outcomes)) is not None:
        return _sent_at_once(standing, plain, now=now, phase=phase, relay=relay)
    return _weighed(standing, outcomes, now=now, chance=chance, settings=settings, phase=phase, relay=relay)


def _weighed(
    standing: Standing,
    outcomes: Mapping[str, Outcome],
    *,
    now: datetime,
    chance: float,
    settings: RetrySettings,
    phase: str | None,
    relay: str | None,
) -> Step:
    before = {state.address: state for state in standing.recipients}
    alone = _one_domain(standing)
    outcomes = {
        a: o if alone else _unpaced(o) for a, o in outcomes.items() if a in before and before[a].status == "queued"
    }
    due_at = _due_at(standing, outcomes, now=now, chance=chance, settings=settings)
    after = before | {
        address: _recipient_after(
            before[address], outcome, standing=standing, due_at=due_at, now=now, settings=settings
        )
        for address, outcome in outcomes.items()
    }
    status = fold(state.status for state in after.values())
    touched = [after[address] for address in outcomes]
    telling = _most_telling(touched)
    several = len(after) > 1
    return Step(
        row_id=standing.row_id,
        claim_seq=standing.claim_seq,
        message_id=standing.message_id,
        status=status,
        at=now,
        attempts=int(any(_charges(outcome) for outcome in outcomes.values())),
        doubts=int(any(isinstance(outcome, InDoubt) for outcome in outcomes.values())),
        setbacks=int(any(_sets_back(outcome) for outcome in outcomes.values())),
        due_at=_within(standing.expires_at, due_at) if status == "queued" else None,
        reply=telling.reply if telling else None,
        queue_id=next((s.queue_id for s in touched if s.queue_id), None),
        error=_row_error(status, telling, several=several),
        sent_at=max((s.sent_at for s in after.values() if s.sent_at), default=None),
        recipients=tuple(after.values()) if several else (),
        as_written=frozenset(a for a in after if several and a not in outcomes and a in standing.written),
        withdrawn=frozenset(standing.written).difference(after),
        notes=_notes(standing, outcomes, after, several=several),
        phase=phase,
        relay=relay,
    )


def _plainly_sent(standing: Standing, outcomes: Mapping[str, Outcome]) -> Sent | None:
    """The acceptance of a row with one recipient and no history: nearly all of them, and nothing to be weighed."""
    if len(standing.recipients) > 1 or len(outcomes) != 1 or standing.attempts + standing.doubts + standing.setbacks:
        return None
    (recipient,) = standing.recipients
    outcome = outcomes.get(recipient.address)
    return outcome if isinstance(outcome, Sent) and recipient.status == "queued" else None


def _sent_at_once(standing: Standing, sent: Sent, *, now: datetime, phase: str | None, relay: str | None) -> Step:
    """What `_weighed` comes to for such a row."""
    return Step(
        row_id=standing.row_id,
        claim_seq=standing.claim_seq,
        message_id=standing.message_id,
        status="sent",
        at=now,
        attempts=1,
        reply=sent.reply,
        queue_id=sent.queue_id or None,
        sent_at=now,
        phase=phase,
        relay=relay,
    )


def died(standing: Standing, deaths: int, *, now: datetime, chance: float, settings: RetrySettings) -> Step:
    """The step of a row whose composing has just killed the process, for the `deaths`-th time.

    Others go first; and after MOST_DEATHS it fails, so that it can't keep the worker from its work for ever.
    """
    reason = f"composing it killed the worker ({deaths} of {MOST_DEATHS} times)"
    note = Note(outcome="died", recipient=None, blame="worker", reply=None, queue_id=None, error=reason)
    if deaths >= MOST_DEATHS:
        step = refused(standing, f"composing it has killed the worker {deaths} times", now=now, settings=settings)
        return replace(step, notes=(note, *step.notes))
    return Step(
        row_id=standing.row_id,
        claim_seq=standing.claim_seq,
        message_id=standing.message_id,
        status="queued",
        at=now,
        due_at=_within(standing.expires_at, now + timedelta(seconds=settings.delay(deaths, chance))),
        error=reason,
        notes=(note,),
    )


def refused(standing: Standing, reason: str, *, now: datetime, settings: RetrySettings) -> Step:
    """The step of a row that can't be sent as it is: every open recipient fails with `reason`."""
    failure = Failed(blame=Blame.MESSAGE, reason=reason)
    return next_step(
        standing, {s.address: failure for s in standing.recipients}, now=now, chance=0.5, settings=settings
    )


def _blames_session(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and outcome.blame is Blame.SESSION


def _blames_destination(outcome: Outcome) -> bool:
    return isinstance(outcome, Deferred) and outcome.blame is Blame.DESTINATION


def _sets_back(outcome: Outcome) -> bool:
    return _blames_session(outcome) or _blames_destination(outcome)


def _one_domain(standing: Standing) -> bool:
    return len(standing.recipients) == 1 or len({domain_of(state.address) for state in standing.recipients}) == 1


def _unpaced(outcome: Outcome) -> Outcome:
    """The pause of a relay holds every row back, that of one of several destinations does not (Rule 6)."""
    return replace(outcome, paced=False) if isinstance(outcome, Deferred) and _blames_destination(outcome) else outcome


def _charges(outcome: Outcome) -> bool:
    match outcome:
        case Sent():
            return True
        case Deferred(at_once=True):
            return False  # it was not asked for; Rule 6 of `poller.judgement.outcome` bounds how often
        case Failed(reply=reply) | Deferred(blame=Blame.MESSAGE | Blame.RECIPIENT, reply=reply):
            return reply is not None
        case Deferred() | InDoubt() | Suppressed() | Expired():
            return False
        case _:
            assert_never(outcome)


def _due_at(
    standing: Standing, outcomes: Mapping[str, Outcome], *, now: datetime, chance: float, settings: RetrySettings
) -> datetime | None:
    """When the row is next due: the earliest that any of its open recipients asks for. None: as it was."""
    if any(isinstance(outcome, Deferred) and outcome.at_once for outcome in outcomes.values()):
        return None
    waiting = [state for state in standing.recipients if state.status == "queued" and state.address not in outcomes]
    others = [state.attempts + state.doubts for state in waiting]
    if others and _next_is_theirs(standing, outcomes, waiting):
        return None
    states = (state for state in standing.recipients if state.address in outcomes)
    waits = [_wait(standing, state, outcomes[state.address], chance, settings) for state in states]
    # No wish of the session's must not hurry recipients that were told to wait.
    asked = [wait for wait in waits if wait > 0] or [settings.delay(tries, chance) for tries in others if tries]
    return now + timedelta(seconds=min(asked)) if asked and min(asked) > 0 else None


def _next_is_theirs(standing: Standing, outcomes: Mapping[str, Outcome], waiting: Iterable[RecipientState]) -> bool:
    """Whether the row goes on at once with those who were not asked now."""
    if any(_blames_session(outcome) for outcome in outcomes.values()):
        return False
    if any(_blames_destination(outcome) for outcome in outcomes.values()):
        return any(not state.attempts + state.doubts and state.reply is None for state in waiting)
    return min(state.attempts + state.doubts for state in waiting) < _rounds(standing, outcomes)


def _rounds(standing: Standing, outcomes: Mapping[str, Outcome]) -> int:
    """How often each of those that were asked now, and stay open, has been asked; 1 if none does.

    A row with more recipients than fit into a transaction goes round: only who lags behind does not wait.
    """
    asked = (s for s in standing.recipients if isinstance(outcomes.get(s.address), Deferred | InDoubt))
    return min((state.attempts + state.doubts + 1 for state in asked), default=1)


def _within(expires_at: datetime | None, due_at: datetime | None) -> datetime | None:
    """Not beyond `expires_at`: a row that trouble of the session delays is called expired in time."""
    return min(due_at, expires_at) if due_at and expires_at else due_at


def _wait(standing: Standing, state: RecipientState, outcome: Outcome, chance: float, settings: RetrySettings) -> float:
    """Seconds that an open recipient asks for; 0 is no wish."""
    match outcome:
        case Deferred(paced=True):
            return 0.0
        case Deferred(blame=Blame.DESTINATION):
            return max(settings.delay(standing.setbacks + 1, chance), outcome.wait)
        case Deferred(blame=Blame.SESSION):
            # A line that broke may go at once; a relay that answered, or that broke here before, is given time.
            tries = standing.setbacks + _said_no(outcome)
            return max(settings.delay(tries, chance), outcome.wait) if tries else outcome.wait
        case Deferred():
            return max(settings.delay(state.attempts + 1, chance), outcome.wait)
        case InDoubt():
            return settings.delay(state.doubts + 1, chance)
        case _:
            return 0.0


def _said_no(outcome: Outcome) -> bool:
    """The relay answered this very row with a refusal that is not its fault; 421 is to everybody."""
    return outcome.reply is not None and outcome.reply.code != SERVICE_CLOSING


def _recipient_after(
    state: RecipientState,
    outcome: Outcome,
    *,
    standing: Standing,
    due_at: datetime | None,
    now: datetime,
    settings: RetrySettings,
) -> RecipientState:
    reply = outcome.reply or state.reply
    tried = replace(state, attempts=state.attempts + _charges(outcome), reply=reply)
    match outcome:
        case Sent(queue_id=queue_id):
            return replace(tried, status="sent", queue_id=queue_id or None, error=None, sent_at=now)
        case Failed(reason=reason):
            return replace(tried, status="failed", error=reason)
        case Suppressed(reason=reason):
            return replace(tried, status="suppressed", error=reason)
        case Expired(reason=reason):
            return _expired(tried, reason)
        case InDoubt(reason=reason):
            return _doubted(replace(tried, doubts=state.doubts + 1, error=reason), standing, due_at, settings)
        case Deferred(reason=reason):
            put_off = replace(tried, error=reason)
            return _given_up(put_off, outcome, standing=standing, due_at=due_at, now=now, settings=settings)
        case _:
            assert_never(outcome)


def _doubted(
    state: RecipientState, standing: Standing, due_at: datetime | None, settings: RetrySettings
) -> RecipientState:
    if (standing.on_doubt or settings.on_doubt) == "hold":
        return replace(state, status="in_doubt")
    if state.doubts > settings.max_doubts:
        return replace(state, status="in_doubt", error=f"{state.error}; held after {state.doubts} doubts")
    if standing.expires_at is not None and due_at is not None and due_at >= standing.expires_at:
        return replace(state, status="in_doubt", error=f"{state.error}; held, as it expires before it would be resent")
    return state


def _given_up(
    state: RecipientState,
    outcome: Deferred,
    *,
    standing: Standing,
    due_at: datetime | None,
    now: datetime,
    settings: RetrySettings,
) -> RecipientState:
    """The recipient after one more deferral: given up (Rules 4 and 6), expired, or as it was."""
    charged, waited = _charges(outcome), _blames_destination(outcome)
    if not charged and not waited:
        return state
    if charged and state.attempts >= (standing.max_attempts or settings.max_attempts):
        return replace(state, status="failed", error=f"given up after {state.attempts} attempts: {state.error}")
    age = (now - standing.first_attempt_at).total_seconds()
    if age >= settings.give_up_after:
        on_whom = f" of waiting for {domain_of(state.address)}" if waited else ""
        return replace(state, status="failed", error=f"given up after {format_duration(age)}{on_whom}: {state.error}")
    if standing.expires_at is not None and (due_at or now) >= standing.expires_at:
        return _expired(state, f"expires before the next attempt: {state.error}")
    return state


def _expired(state: RecipientState, reason: str) -> RecipientState:
    if state.doubts:  # Rule 5
        return replace(state, status="in_doubt", error=f"{reason}; held, as it may have been delivered before")
    return replace(state, status="expired", error=reason)


_TELLING_ORDER = ("failed", "in_doubt", "queued", "expired", "suppressed", "sent")


def _most_telling(states: Iterable[RecipientState]) -> RecipientState | None:
    return min(states, key=lambda state: _TELLING_ORDER.index(state.status), default=None)


def _row_error(status: str, telling: RecipientState | None, *, several: bool) -> str | None:
    if status == "sent" or telling is None or not telling.error:
        return None
    return f"{telling.address}: {telling.error}" if several else telling.error


_WORD = {
    Sent: "accepted",
    Deferred: "deferred",
    Failed: "failed",
    InDoubt: "in_doubt",
    Suppressed: "suppressed",
    Expired: "expired",
}


def _notes(
    standing: Standing, outcomes: Mapping[str, Outcome], after: Mapping[str, RecipientState], *, several: bool
) -> tuple[Note, ...]:
    """History: everything but a plain success at the first attempt."""
    if (
        all(isinstance(outcome, Sent) for outcome in outcomes.values())
        and not standing.setbacks + standing.attempts + standing.doubts
    ):
        return ()
    return tuple(
        Note(
            outcome=_WORD[type(outcome)],
            recipient=address if several else None,
            blame=getattr(outcome, "blame", None),
            reply=outcome.reply,
            queue_id=after[address].queue_id,
            error=after[address].error,
        )
        for address, outcome in outcomes.items()
    )
