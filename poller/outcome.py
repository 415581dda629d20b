"""Pure: what an exchange means, and who is to blame.

`judge` turns the facts of one `Exchange` into one outcome per recipient. It decides nothing about the row: that is
`poller.retry`.

Rule 1. A 2xx to the end of data is delivery, for every recipient that was accepted at RCPT, and for nobody else.
Rule 2. A line lost after the end of data may have left is `InDoubt`; lost anywhere earlier it is the session's fault.
Rule 3. 421 is the session's (RFC 5321 section 3.8), whatever it answers.
Rule 4. A reply that speaks of *us* (login, relaying, our address, our sender rights) is the session's, even as 5xx and
        even at RCPT, where Postfix's `smtpd_delay_reject` puts it.
Rule 5. Otherwise 4xx defers and 5xx fails: at RCPT the recipient, elsewhere the message.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from poller.exchange import Phase

if TYPE_CHECKING:
    from poller.exchange import Exchange, Message, Reply


SERVICE_CLOSING = 421  # RFC 5321 section 3.8: "closing transmission channel"


class Blame(enum.StrEnum):
    """Whose fault it is. Only MESSAGE and RECIPIENT cost the row an attempt."""

    SESSION = "session"
    MESSAGE = "message"
    RECIPIENT = "recipient"
    WORKER = "worker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The relay took responsibility: a 2xx to the end of data. `queue_id` is its own name for the message, or ""."""

    reply: Reply
    queue_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deferred:
    """Not now. `at_once`: only this transaction was full (RFC 5321 section 4.5.3.1.10), go on in the next."""

    blame: Blame
    reason: str
    reply: Reply | None = None
    at_once: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """No, and asking again will not help."""

    blame: Blame
    reason: str
    reply: Reply | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InDoubt:
    """The data was complete and the answer is lost: delivered or not, nobody here knows (RFC 1047)."""

    blame: Blame
    reason: str
    reply: None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Suppressed:
    """We may not send to this recipient."""

    reason: str
    reply: None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Expired:
    """Too late: `expires_at` has passed."""

    reason: str
    reply: None = None


Outcome = Sent | Deferred | Failed | InDoubt | Suppressed | Expired


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One outcome per `message.recipients`, in order, and what the session is good for afterwards."""

    message: Message
    phase: Phase
    outcomes: tuple[Outcome, ...]
    slow_down: bool = False
    """The relay said 421: it wants fewer of us."""

    @property
    def blames_session(self) -> bool:
        """Someone other than the row is at fault, so the session is not to be used for the next one."""
        return any(isinstance(o, Deferred) and o.blame is Blame.SESSION for o in self.outcomes)

    @property
    def delivered(self) -> bool:
        """At least one recipient was accepted."""
        return any(isinstance(o, Sent) for o in self.outcomes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pattern:
    """A reply that means us: any given criterion must match; `why` continues "the relay …"."""

    why: str
    codes: frozenset[int] = frozenset()
    statuses: frozenset[str] = frozenset()
    text: re.Pattern[str] | None = None

    def matches(self, reply: Reply) -> bool:
        return (
            (not self.codes or reply.code in self.codes)
            and (not self.statuses or reply.status in self.statuses)
            and (self.text is None or bool(self.text.search(reply.text)))
        )


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# Each line: what it is, and where it comes from.
SESSION_REPLIES = (
    # RFC 4954 section 6: authentication required, failed, mechanism too weak, encryption required.
    _Pattern(codes=frozenset({530, 534, 535, 538}), why="wants another login"),
    _Pattern(codes=frozenset({454}), statuses=frozenset({"4.7.0"}), why="could not check our login for now"),
    _Pattern(codes=frozenset({432}), why="limits our connections"),  # Exchange Online, 4.3.2
    # RFC 3463 / the IANA registry: system full, not accepting, not capable now.
    _Pattern(statuses=frozenset({"4.3.1", "4.3.2", "4.3.5", "5.3.2", "5.3.5"}), why="has a problem of its own"),
    # Microsoft: SMTP AUTH disabled for the tenant or mailbox; not allowed to send as this sender.
    _Pattern(statuses=frozenset({"5.7.30", "5.7.57", "5.7.60", "5.7.139"}), why="does not let us send"),
    # Postfix, Exim, Sendmail, Exchange: rejections of the client, as they are worded at RCPT.
    _Pattern(
        text=_words(
            r"relay(ing)?( access)? (is )?(denied|not (permitted|allowed))|not permitted to relay|unable to relay"
        ),
        why="does not relay for us",
    ),
    _Pattern(
        text=_words(r"client host rejected|client host \S+ blocked|helo command rejected"),
        why="rejects our host",
    ),
    _Pattern(
        text=_words(r"sender address rejected: (not owned|not logged in)|sender not allowed|not allowed to send as"),
        why="does not let us use this sender",
    ),
    # Postfix access(5) maps answer REJECT with just these words.
    _Pattern(
        codes=frozenset({554}), statuses=frozenset({"5.7.1"}), text=_words(r"\baccess denied\b"), why="rejects our host"
    ),
)

_TOO_MANY = _words(r"too many recipients|maximum (number of )?recipients")
_GOOD = {Phase.MAIL: 2, Phase.RCPT: 2, Phase.DATA: 3, Phase.END: 2}
_DONE_BY = {Phase.MAIL: "MAIL", Phase.RCPT: "RCPT", Phase.DATA: "DATA", Phase.END: "the end of data"}


def judge(exchange: Exchange) -> Verdict:
    """What became of each recipient of `exchange.message`. Never raises."""
    message = exchange.message
    outcomes: tuple[Outcome, ...]
    if exchange.lacking:
        refusal = Failed(blame=Blame.MESSAGE, reason=f"not sent: {exchange.lacking}")
        outcomes = (refusal,) * len(message.recipients)
    else:
        whole = _whole(exchange)
        # A pipelined RCPT behind a refused MAIL is answered too (503), and means nothing.
        begun = exchange.mail is not None and exchange.mail.kind == _GOOD[Phase.MAIL]
        replies = exchange.rcpt if begun and exchange.rcpt else (None,) * len(message.recipients)
        outcomes = tuple(_one(reply, whole) for reply in replies)
    replies_seen = (exchange.mail, *exchange.rcpt, exchange.data, exchange.end)
    return Verdict(
        message=message,
        phase=exchange.phase,
        outcomes=outcomes,
        slow_down=any(reply is not None and reply.code == SERVICE_CLOSING for reply in replies_seen),
    )


def in_doubt_after_crash(reason: str) -> InDoubt:
    """The outcome of an orphan of which nothing else is known."""
    return InDoubt(blame=Blame.WORKER, reason=reason)


def _whole(exchange: Exchange) -> Outcome:
    """The outcome of everything but RCPT: it holds for each recipient that was not refused there."""
    steps = ((Phase.MAIL, exchange.mail), (Phase.DATA, exchange.data), (Phase.END, exchange.end))
    for phase, reply in steps:
        if reply is not None and reply.kind != _GOOD[phase]:
            return _refusal(phase, reply, Blame.MESSAGE)
    if exchange.end is not None:
        return Sent(reply=exchange.end, queue_id=queue_id(exchange.end))
    if exchange.end_of_data_sent:
        reason = exchange.loss.reason if exchange.loss else "the session ended"
        return InDoubt(blame=Blame.MESSAGE, reason=f"may have been delivered: after the end of data {reason}")
    if exchange.loss is not None:
        where = exchange.loss.phase.value
        return Deferred(blame=Blame.SESSION, reason=f"the session broke at {where}: {exchange.loss.reason}")
    return Deferred(blame=Blame.SESSION, reason="the relay ended the session before the message was sent")


def _one(rcpt: Reply | None, whole: Outcome) -> Outcome:
    if rcpt is None or rcpt.kind == _GOOD[Phase.RCPT]:
        return whole
    return _refusal(Phase.RCPT, rcpt, Blame.RECIPIENT)


def _refusal(phase: Phase, reply: Reply, blame: Blame) -> Outcome:
    said = f"at {_DONE_BY[phase]}: {reply}"
    special = _about_us_or_the_transaction(phase, reply, said)
    if special is not None:
        return special
    match reply.kind:
        case 4:
            return Deferred(blame=blame, reply=reply, reason=f"deferred {said}")
        case 5:
            return Failed(blame=blame, reply=reply, reason=f"refused {said}")
        case _ if phase is Phase.END:
            nonsense = f"may have been delivered: an answer that makes no sense {said}"
            return InDoubt(blame=Blame.MESSAGE, reason=nonsense)
        case _:
            return Deferred(blame=Blame.SESSION, reply=reply, reason=f"an answer that makes no sense {said}")


def _about_us_or_the_transaction(phase: Phase, reply: Reply, said: str) -> Outcome | None:
    if reply.code == SERVICE_CLOSING:
        return Deferred(blame=Blame.SESSION, reply=reply, reason=f"the relay closed the session {said}")
    if phase is Phase.RCPT and _transaction_is_full(reply):
        return Deferred(blame=Blame.RECIPIENT, reply=reply, at_once=True, reason=f"the transaction was full {said}")
    for pattern in SESSION_REPLIES:
        if pattern.matches(reply):
            return Deferred(blame=Blame.SESSION, reply=reply, reason=f"the relay {pattern.why}: {said}")
    return None


# How relays name a message they took, each with whose it is.
_QUEUE_IDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i)\bqueued (?:as|with id):? ([\w.+-]*\w)",  # Postfix, SendGrid, Mailjet, Mailpit; Stalwart
        r"\bInternalId=(\w+)",  # Exchange
        r"\bids?=([\w.-]*\w)",  # Exim; KumoMTA
        r"(\S+) - gsmtp$",  # Gmail
        r"(?i)^([\w.-]+) message accepted for delivery",  # OpenSMTPD, Sendmail
        r"(?i)\bqueued \(([\w.-]+)\)",  # Haraka
        r"(?i)^ok:? \d+ qp (\d+)$",  # qmail
        r"(?i)^ok ([0-9a-f]{16}-[0-9a-f-]{20,})$",  # Amazon SES
    )
)


def queue_id(reply: Reply) -> str:
    """The relay's own queue id, read from its final 250; "" if it names none or in a way not known here."""
    return next((match[1] for pattern in _QUEUE_IDS if (match := pattern.search(reply.text))), "")


def _transaction_is_full(reply: Reply) -> bool:
    """452 4.5.3, or the historical 552 (RFC 5321 section 4.5.3.1.10); a bare 452 must say so in words."""
    return reply.code in {452, 552} and (reply.status in {"4.5.3", "5.5.3"} or bool(_TOO_MANY.search(reply.text)))


def signature(outcome: Outcome, recipient: str) -> str:
    """What makes two permanent refusals "identical": code, status and words, without the recipient and numbers."""
    if not isinstance(outcome, Failed) or outcome.reply is None:
        return ""
    reply = replace(outcome.reply, text=outcome.reply.text.lower().replace(recipient.lower(), "…"))
    return re.sub(r"\d{3,}|<[^>]*>|\S+@\S+", "…", f"{reply.status} {reply.text}") + f" {reply.code}"
