"""One relay as this worker knows it: its courier, its rest, and how its last sessions went.

Rule 1. A session that delivered something is replaced at once when it breaks; one that did not gives the relay a rest,
        and so do a 421 and refusals of us in a row. A single refusal of us does not: it may depend on the row's sender
        or recipient, and must not stand in everyone's way.
Rule 2. What keeps the relay from being used is said once, and again when the reason changes.
Rule 3. Refusals that are alike over different rows are weighed together (`poller.judgement.refusals`), for each relay
        apart.
Rule 4. A relay that ends a session with 421 because of the number of messages in it, or refuses every further one, has
        told its limit. All workers keep to it from then on, and the relay is not in trouble.
Rule 5. A relay that does not bear its gear (`poller.smtp.gears`) is given a lower one at once, by all workers. It
        neither rests nor is blamed, and no destination is.
Rule 6. Where a relay limits connections, one is only opened when the others leave room for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from poller.judgement.deferrals import Deferrals
from poller.judgement.dropped_sessions import DroppedSessions
from poller.judgement.outcome import Blame, Deferred, InDoubt
from poller.log import OnChange
from poller.smtp.gears import gear_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.delivery.prepare import Prepared
    from poller.exchange import RelayTrouble
    from poller.judgement.outcome import Verdict
    from poller.judgement.refusals import Refusals
    from poller.judgement.rest import Rest
    from poller.judgement.retry import RetrySettings
    from poller.log import Logger
    from poller.outbox.throttling import Learnt
    from poller.pacing.gate import Record
    from poller.smtp.courier import Courier
    from poller.smtp.gears import Gear

FRUITLESS_SESSIONS = 2  # So many in a row without a delivery, though none blames the relay, and it rests all the same.
REFUSALS_OF_US = 3  # So many rows in a row that the relay refuses because of us, and it rests.
FULL_REST_S = 1.0  # between two looks whether others have left room for a connection

# Exim: "too many messages in one connection"; Yahoo: "Max message per connection reached".
_SESSION_IS_FULL = re.compile(
    r"\A(?=.*\b(?:messages?|mails?|transactions?)\b)(?=.*\b(?:max\w*|too many|limit\w*)\b)"
    r".*\b(?:in|per|for|on|this|one|a)\b.{0,12}\b(?:connection|session)\b",
    re.IGNORECASE,
)
_OPENSMTPD_IS_FULL = "452 4.5.3 Too many recipients: Too many messages sent"
"""Its reply to each MAIL in a session that has had as many messages as `limit session max-mails` allows: 100."""


class Connections(Protocol):
    """Who counts the connections to a relay over all workers, and keeps what was learnt of it."""

    def connect(self, relay: str, most: int) -> bool:
        """Enter that we hold one. False: there are as many as there may be."""

    def disconnect(self, relay: str) -> None:
        """Enter that we hold none to it."""

    def learn(self, relay: str, what: Learnt, limit: int) -> None:
        """Keep how many messages a relay takes in a session, or recipients in a transaction."""

    def lower(self, relay: str, gear: Gear, reason: str) -> None:
        """Keep how far one may speak ahead of a relay's answers."""


@dataclass(kw_only=True, slots=True)
class Line:
    """Everything about one relay, `name`. Belongs to the delivering thread."""

    name: str
    courier_of: Callable[[Line], Courier]
    idle_close: float
    """Seconds."""
    rest: Rest
    retry: RetrySettings
    most_recipients: int
    """In one transaction, as configured."""
    refusals: Refusals[tuple[Prepared, Verdict]]
    connections: Connections
    max_connections: int | None
    clock: Callable[[], float]
    log: Logger
    dropped_sessions: DroppedSessions = field(default_factory=DroppedSessions)
    refused_rows: DroppedSessions = field(default_factory=DroppedSessions)
    deferrals: Deferrals = field(default_factory=Deferrals)
    trouble: str | None = None
    """What keeps mail from going out by it, in words."""
    courier: Courier = field(init=False)
    was_lowered: bool = False
    """The session that ended last, or is ending, showed that the relay does not bear its gear."""
    recipient_limit: int | None = None
    """In one transaction, as learnt."""
    _say: OnChange = field(init=False)
    _delivered: bool = False
    _fruitless: int = 0
    _refusals: int = 0
    _is_entered: bool = False
    _is_excused: bool = False
    _roused_at: str | None = None

    def __post_init__(self) -> None:
        self._say = OnChange(self.log)
        self.renew()

    def renew(self) -> None:
        """Another courier: one that was interrupted is done for."""
        self.courier = self.courier_of(self)

    def take_in(self, learnt: Record | None) -> None:
        """What the table says of the relay by now."""
        self.courier.session_limit = learnt.session_limit if learnt else None
        self.courier.bears = gear_of(learnt.pipelining if learnt else None)
        self.recipient_limit = learnt.recipient_limit if learnt else None
        roused_at = learnt.roused_at if learnt else None
        if roused_at is not None and roused_at != self._roused_at and self.resting:
            self.rest.well()
            self.log.info("relay.roused", relay=self.courier.relay)
        self._roused_at = roused_at

    @property
    def recipients_at_once(self) -> int:
        """As configured, or fewer where the relay takes fewer."""
        return min(self.most_recipients, self.recipient_limit or self.most_recipients)

    def takes_fewer(self, recipients: int) -> None:
        """It has refused a message because of the number of its recipients."""
        self.recipient_limit = recipients
        self.connections.learn(self.name, "recipient_limit", recipients)
        self.log.info("relay.learnt", relay=self.courier.relay, recipients=recipients)

    @property
    def resting(self) -> float:
        """Seconds that it is still to be left alone."""
        return self.rest.remaining(self.clock())

    def open(self) -> bool:
        """Make sure of a session. False: there are as many connections as there may be. Raises RelayTrouble."""
        if self.max_connections is not None and not self._is_entered:
            self._is_entered = self.connections.connect(self.name, self.max_connections)
            if not self._is_entered:
                self.rest.until = max(self.rest.until, self.clock() + FULL_REST_S)
                return False
        self.courier.open()
        return True

    def close(self) -> None:
        """Take leave."""
        self.courier.close()
        self.let_go()

    def close_if_idle(self) -> None:
        """Take leave if nothing was sent for a while."""
        self.courier.close_if_idle()
        self.let_go()

    def let_go(self) -> None:
        """Leave room for others, if the session has ended."""
        if self._is_entered and not self.courier.is_open:
            self.connections.disconnect(self.name)
            self._is_entered = False

    def session_event(self, event: str, facts: dict[str, Any]) -> None:
        """What the courier tells of its sessions."""
        if event == "relay.lowered":
            self.was_lowered = True
            self.connections.lower(self.name, self.courier.bears, facts["reason"])
            self.log.warning(event, **facts)
            return
        self.log.info(event, **facts)

    def troubled(self, trouble: RelayTrouble) -> None:
        """It could not be used at all."""
        self.away(f"at {trouble.phase.value}: {trouble.reason}")

    def away(self, reason: str) -> None:
        """Let it rest (Rule 2)."""
        pause = self.rest.trouble(self.clock())
        place = self.courier.relay
        self.trouble = f"the relay {place} is not available: {reason}"
        facts = {"relay": place, "reason": reason, "rests": round(pause, 1)}
        again = self.rest.troubles if pause >= self.rest.longest else 0  # from then on each time: someone should look
        self._say.say("warning", "relay.unavailable", about="relay", fingerprint=(reason, again), **facts)

    def incident(self, messages: int, reason: str | None) -> None:
        """It refuses everyone alike: nobody's row is at fault."""
        pause = self.rest.trouble(self.clock())
        self.courier.close()
        self.trouble = f"the relay refuses one message after another: {reason or ''}"
        self.log.error(
            "relay.incident", relay=self.courier.relay, messages=messages, reason=reason, rests=round(pause, 1)
        )

    def delivered(self) -> None:
        """It accepted a message."""
        self._delivered = True
        if self.trouble:
            self._say.say("info", "relay.available", about="relay", relay=self.courier.relay)
            self.trouble = None
        self.rest.well()

    def excused(self) -> None:
        """Its session ended by somebody else's doing: it need not rest."""
        self._is_excused = True

    def answered(self, verdict: Verdict) -> None:
        """One more message was answered; leave when it refuses us again and again."""
        self._refusals = self._refusals + 1 if refused_us(verdict) else 0
        if self._refusals >= REFUSALS_OF_US or self.tells_its_limit(verdict):
            self.courier.close()

    def turn_ended(self, last: Verdict | None) -> None:
        """Nothing more goes now; `last` was the last answer, None if not even one message was taken."""
        if self.courier.is_open:
            return  # and what it has delivered counts for it in the next turn
        if not (self.resting or self._is_excused or self.was_lowered or self._was_full(last)):
            self._session_ended(last)
        self._delivered = self._is_excused = self.was_lowered = False

    def tells_its_limit(self, verdict: Verdict | None) -> bool:
        """Whether it takes no more in this session because of the messages that it has taken in it (Rule 4)."""
        if verdict is None or not self._delivered or verdict.delivered_to_all or self.courier.messages <= 1:
            return False
        return bool(_told_of_its_limit(verdict))

    def _was_full(self, last: Verdict | None) -> bool:
        if last is None or not self.tells_its_limit(last):
            return False
        taken = self.courier.messages - 1
        self.courier.session_limit = min(taken, self.courier.session_limit or taken)
        self.connections.learn(self.name, "session_limit", taken)
        self.log.info("relay.learnt", relay=self.courier.relay, messages=taken, reason=_told_of_its_limit(last))
        return True

    def _session_ended(self, last: Verdict | None) -> None:
        """Rule 1."""
        self._fruitless = 0 if self._delivered else self._fruitless + 1
        slow_down = last is not None and last.slow_down
        broke = last is not None and last.blames_session and not self._delivered
        if slow_down or broke or self._refusals >= REFUSALS_OF_US or self._fruitless >= FRUITLESS_SESSIONS:
            outcomes = last.outcomes if last else ()
            self.away(next((o.reason for o in outcomes if isinstance(o, Deferred | InDoubt)), "the session ended"))
            self._refusals = 0


def refused_us(verdict: Verdict) -> bool:
    """Whether the relay answered, did not merely go away, and the number of recipients was not its reason."""
    if verdict.most_recipients is not None:
        return False
    return any(isinstance(o, Deferred) and o.blame is Blame.SESSION and o.reply for o in verdict.outcomes)


def _told_of_its_limit(verdict: Verdict) -> str:
    """The reply that says so, else ""."""
    replies = dict.fromkeys(str(outcome.reply) for outcome in verdict.outcomes if outcome.reply is not None)
    return next((reply for reply in replies if _is_full(reply, slow_down=verdict.slow_down)), "")


def _is_full(reply: str, *, slow_down: bool) -> bool:
    return bool(slow_down and _SESSION_IS_FULL.search(reply)) or _OPENSMTPD_IS_FULL in reply
