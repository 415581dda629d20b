"""Pure: what an exchange means, and who is to blame.

`judge` turns the facts of one `Exchange` into one outcome per recipient. It decides nothing about the row: that is
`poller.judgement.retry`.

Rule 1. A 2xx to the end of data is delivery, for every recipient that was accepted at RCPT, and for nobody else.
Rule 2. A line lost after the end of data may have left is `InDoubt`; lost anywhere earlier it is the session's fault.
Rule 3. 421 is the session's (RFC 5321 section 3.8), whatever it answers, unless its words are known to be another's.
Rule 4. A reply that speaks of *us* (login, relaying, our address, our sender rights, our quota, commands out of order)
        is the session's, even as 5xx and even at RCPT, where Postfix's `smtpd_delay_reject` puts it.
Rule 5. Otherwise 4xx defers and 5xx fails: at RCPT the recipient, unless the words are about the sender; elsewhere the
        message.
Rule 6. A full transaction is gone on with at once only if it delivered something: else that would never end. A message
        that the relay refuses as a whole for the number of its recipients is divided: `Verdict.most_recipients`.
Rule 7. What a known reply asks for comes before its class and before Rules 3 and 4 (`poller.judgement.advice`): a
        provider's 550 that means "slow down" is a deferral, and "try again in 300 seconds" means that.
Rule 8. What a destination asks for is the destination's, not the row's and not the relay's. Before RCPT nobody was
        named, so there it is the relay's; a reply to a whole message for several destinations names none of them.

The table of replies makes this file longer than most; it is read line by line, and each line says where it is from.
"""

from __future__ import annotations

import enum
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, assert_never

from poller.exchange import Phase
from poller.frozen import dataclass
from poller.judgement.advice import SHIPPED, advise, retry_after, without_addresses
from poller.judgement.providers import Providers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poller.exchange import Exchange, Message, RelayTrouble, Reply
    from poller.judgement.advice import Advice, ReplyPattern


SERVICE_CLOSING = 421  # RFC 5321 section 3.8: "closing transmission channel"


class Blame(enum.StrEnum):
    """Whose fault it is. Only MESSAGE and RECIPIENT cost the row an attempt."""

    SESSION = "session"
    MESSAGE = "message"
    RECIPIENT = "recipient"
    DESTINATION = "destination"
    """It takes less than we have for it: its pause or pace holds the row back."""
    WORKER = "worker"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rulebook:
    """What replies mean beyond their codes, and who is behind a domain."""

    table: tuple[ReplyPattern, ...] = SHIPPED
    """The first line that matches decides."""
    provider_of: Callable[[str], str | None] = Providers.of({}).provider_of
    """The group that a domain belongs to; anyone who knows its mail exchangers may look there too."""
    paced: bool = False
    """Whether what is heard is written into outbox_throttle: then no row is moved for it."""

    def destination_of(self, address: str) -> str:
        """Who takes the mail of a wire address or domain: "provider google", "domain example.com"."""
        domain = domain_of(address)
        provider = self.provider_of(domain)
        return f"provider {provider}" if provider else f"domain {domain}"

    def destination(self, addresses: Iterable[str]) -> str:
        """The one destination of all of them; "" if there are several."""
        found = {self.destination_of(address) for address in addresses}
        return found.pop() if len(found) == 1 else ""


DEFAULT = Rulebook()


def domain_of(address: str) -> str:
    """The domain of an address, as it is compared."""
    return address.rpartition("@")[2].lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What a reply asks for beyond its own message.

    `domain` is the recipient's, "" for the relay; `wait` seconds, None: as long as we think fit; `reason` the words
    for a person, with the reply; `category` as in `poller.judgement.advice`.
    """

    about: Literal["relay", "destination"]
    action: Literal["slow_down", "pause"]
    reason: str
    category: str
    domain: str = ""
    wait: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """The relay took responsibility: a 2xx to the end of data. `queue_id` is its own name for the message, or ""."""

    reply: Reply
    queue_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deferred:
    """Not now. `at_once`: only this transaction was full (RFC 5321 section 4.5.3.1.10), others were delivered in it.

    `wait` is how many seconds the reply asks for, or such replies are known to need; 0: as long as we think fit.
    `heard` is what it asks for beyond this message. `paced`: that is written down in outbox_throttle and holds the row
    back there, so that the row need not be moved.
    """

    blame: Blame
    reason: str
    reply: Reply | None = None
    at_once: bool = False
    wait: float = 0.0
    heard: Heard | None = None
    paced: bool = False
    unexplained: bool = False
    """Nothing is known of the reply but its class."""


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
    """The relay said 421, in words of its own: it wants fewer of us."""
    ended: bool = False
    """A 421 or a lost line at RCPT or later, before the end of data: the relay's doing or the destination's."""
    heard: tuple[Heard, ...] = ()
    """What the replies ask for beyond this message, once for the relay and for each domain."""
    relay: str = ""
    """Which relay it was, as `host:port`."""
    most_recipients: int | None = None
    """So many the relay takes in one transaction, as far as its refusal of this one tells; fewer than it had."""

    @property
    def blames_session(self) -> bool:
        """Someone other than the row is at fault, so the session is not to be used for the next one."""
        return any(isinstance(o, Deferred) and o.blame is Blame.SESSION for o in self.outcomes)

    @property
    def delivered(self) -> bool:
        """At least one recipient was accepted."""
        return any(isinstance(o, Sent) for o in self.outcomes)

    @property
    def delivered_to_all(self) -> bool:
        """Every recipient was accepted."""
        return all(isinstance(o, Sent) for o in self.outcomes)


_ENVELOPE = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA})
"""Where words are about us or the envelope. At the end of data the same words may be a filter's, about content."""
_ANYWHERE = _ENVELOPE | {Phase.END}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pattern:
    """A reply that means us: every given criterion must match; `why` continues "the relay …"."""

    why: str
    codes: frozenset[int] = frozenset()
    status: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None
    phases: frozenset[Phase] = _ANYWHERE

    def matches(self, phase: Phase, reply: Reply, words: str) -> bool:
        return (
            phase in self.phases
            and (not self.codes or reply.code in self.codes)
            and (self.status is None or bool(self.status.fullmatch(reply.status)))
            and (self.text is None or bool(self.text.search(words)))
        )


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_NO_RELAYING = _words(
    r"\brelay(ing)?\b.{0,60}\b(denied|prohibited|not (permitted|allowed))"  # Postfix, Sendmail, Exim, Gmail, Exchange
    r"|\b(not permitted|unable|not allowed) to relay\b|\bno relaying\b"  # Exim, Exchange, others
    r"|allowed rcpthosts"  # qmail: "that domain isn't in my list of allowed rcpthosts"
)
_WANTS_LOGIN = _words(
    r"\bauthentication (is )?(required|needed)|\bauth(enticate)? first\b|\bclient was not authenticated"
    r"|\bsmtp auth(entication)? is required|unauthenticated senders? not allowed"  # cPanel; SendGrid
    r"|\bturn on smtp auth"  # cPanel
)
_OUR_HOST = _words(
    # Postfix, also Exchange for its block lists; lists of URLs and domains are about the content.
    r"client host rejected|client host \S+ blocked(?!.*\b(uribl|surbl|dbl)\b)|helo command rejected"
    r"|\b(your|sending) (ip|host)\b( address)?.{0,60}\b(block(ed)?|black) ?list|\bbanned sending ip"  # Exchange Online
    r"|\bon our block list|\bhost \S+ is in an rbl|rejected because [\d.:a-f]+ is in a"  # Outlook.com; Exim
    r"|\byour ip\b.{0,60}\bhas been blocked|\bhelo/ehlo argument is invalid"
)
_OUR_DOMAIN = _words(  # Yahoo; Gmail; Outlook
    r"\bis unauthenticated\b|\brequires all senders to authenticate|\brequired authentication level"
)
_OUR_ACCOUNT = _words(  # in this order: Amazon SES; smtp2go; Mailgun, Zoho, Exchange; SES; several; Zoho, Google
    r"\bsending (has been )?(suspended|paused|disabled) for (this|your) account"
    r"|\byour (\w+ )?account (has been|is|was) (\w+ )?(suspended|disabled|blocked|locked|restricted|deactivated)"
    r"|\bfree accounts are for test purposes|\bunusual sending activity|\boutboundspamexception"
    r"|\b(address|identity|domain)( \S+)? is not verified|\bfailed the check in region"
    r"|\bnot associated with your account|\bsending from (the )?domain\b.{0,80}\bnot (allowed|permitted)"
    r"|\bmail sending denied\b|\brelaying disallowed as|\binvalid credentials for relay"
)
_SESSION_IS_OVER = _words(r"\bmax(imum)? (number of )?messages per session|\bopen a new session")  # GoDaddy
_OUR_SENDER = _words(
    r"sender address rejected: (not owned|not logged in)"  # Postfix, reject_sender_login_mismatch
    r"|sender not allowed|not allowed to send as|not have permissions? to (send as|send on behalf|submit)"  # Exchange
    r"|SendAsDenied|not authorized to perform|match a verified sender identity"  # Exchange; Amazon SES; SendGrid
)
_OUR_QUOTA = _words(
    r"\btoo (much mail|many \w+) from\b"  # Postfix, anvil(8): "too much mail from 192.0.2.1"
    r"|\bthrottling failure|\bmaximum credits exceeded"  # Amazon SES; SendGrid
    r"|\bdaily (user sending|smtp relay|message|sending) (limit|quota)|\b24-hour sending limit"  # Gmail; SES; GoDaddy
    r"|\bexceeded the max(imum)? (emails|defers)\b|submission ?quota ?exceeded"  # cPanel; Exchange
    r"|\bserver busy\b.*\bfrom \[|\btemporarily rate limited"  # Exchange Online
)
_ACCESS_DENIED = _words(
    r"(^|: )access denied\W*$"
)  # Postfix access(5), REJECT without words; `reject` as a restriction

SESSION_REPLIES = (
    # RFC 4954 section 6: authentication required, mechanism too weak, failed, encryption required.
    _Pattern(codes=frozenset({530, 534, 535, 538}), why="wants another login"),
    _Pattern(codes=frozenset({454}), status=_words(r"4\.7\.0"), why="could not check our login for now"),
    _Pattern(text=_WANTS_LOGIN, phases=_ENVELOPE, why="wants a login"),
    # Exchange Online: 432 4.3.2, but for a mailbox that is busy. RFC 4954: a password transition is needed.
    _Pattern(codes=frozenset({432}), text=_words(r"^(?!.*recipient thread limit)"), why="limits our connections"),
    # RFC 5321 section 4.2.4: a bad sequence of commands, or one not known: the session has lost its step, not the row.
    _Pattern(codes=frozenset({502, 503}), why="does not follow our commands"),
    # RFC 3463: system full, not accepting, not capable, wrongly configured; mail system congestion, a spent quota too
    # (Gmail's 550 5.4.5).
    _Pattern(status=_words(r"4\.3\.[125]|[45]\.4\.5"), why="has a problem of its own"),
    _Pattern(status=_words(r"5\.3\.[25]"), phases=_ANYWHERE - {Phase.RCPT}, why="has a problem of its own"),
    _Pattern(text=_words(r"queue file write error"), why="has a problem of its own"),  # Postfix: 451 4.3.0, disk full
    # RFC 7372: our address has no name (reverse DNS), more than one check of our domain failed; and as Gmail goes on.
    _Pattern(status=_words(r"[45]\.7\.2[5-9]"), why="rejects our host or domain"),
    _Pattern(status=_words(r"[45]\.7\.515"), why="rejects our domain"),
    _Pattern(text=_OUR_DOMAIN, why="rejects our domain"),
    _Pattern(status=_words(r"5\.7\.60|5\.2\.252"), why="does not let our account use this sender (Exchange: SendAs)"),
    # Exchange: basic authentication is off, login wanted, sender rights, connectors, outbound spam; a bad HELO name,
    # our address, our tenant; limits.
    _Pattern(status=_words(r"5\.7\.(30|51|57|64|139|50[123]|750)"), why="does not let us send"),
    _Pattern(status=_words(r"5\.1\.8"), text=_words(r"bad outbound sender"), why="does not let us send"),
    _Pattern(status=_words(r"5\.7\.(506|511|513|60[6-9]|6[1-4]\d|708)"), why="rejects our host"),
    _Pattern(status=_words(r"4\.7\.(5\d\d|6\d\d|8[5-9]\d)|5\.7\.(23[23]|508|705)|5\.1\.90"), why="limits us"),
    _Pattern(text=_OUR_QUOTA, why="limits us"),
    _Pattern(text=_NO_RELAYING, phases=_ENVELOPE, why="does not relay for us"),
    _Pattern(text=_OUR_HOST, why="rejects our host"),
    _Pattern(text=_OUR_SENDER, why="does not let us use this sender"),
    _Pattern(text=_OUR_ACCOUNT, why="does not let us send"),
    _Pattern(text=_SESSION_IS_OVER, why="takes no more in this session"),
    # Not 550 5.4.1 "Recipient address rejected: Access denied": so Exchange Online says that there is no such user.
    _Pattern(
        codes=frozenset({554, 454}),
        status=_words(r"[45]\.7\.1"),
        text=_ACCESS_DENIED,
        phases=_ENVELOPE,
        why="rejects us",
    ),
)

# At RCPT, and yet not about the recipient: sender's address (RFC 3463), SPF, DKIM, DMARC (RFC 7372), size.
_ABOUT_MESSAGE = re.compile(r"[45]\.(1\.[78]|7\.2[0-4]|7\.509|3\.4)")
# Exchange's resolver speaks of the recipient whatever its words; access(5) of a restriction on recipients too.
_ABOUT_RECIPIENT = _words(r"\bRESOLVER\.RST\.|\brecipient address rejected: access denied")
_ABOUT_SENDER = _words(r"\bsender address\b")
_TOO_MANY = _words(
    r"too many recipients|maximum (number of )?recipients"
    r"|\brecipient (count|limit|number)\b.{0,20}\bexce"  # Amazon SES: "Recipient count exceeds 50."
    r"|\brecipients? (limit|maximum)\b|exceed\w*\b.{0,30}\b(number of |limit of )?recipients"
)
_GOOD = {Phase.MAIL: 2, Phase.RCPT: 2, Phase.DATA: 3, Phase.END: 2}
_DONE_BY = {Phase.MAIL: "MAIL", Phase.RCPT: "RCPT", Phase.DATA: "DATA", Phase.END: "the end of data"}


def judge(exchange: Exchange, rulebook: Rulebook = DEFAULT) -> Verdict:
    """What became of each recipient of `exchange.message`. Never raises."""
    message = exchange.message
    outcomes: tuple[Outcome, ...]
    if exchange.end is not None and exchange.is_accepted:  # nearly always, and nothing is to be weighed
        outcomes = (_sent(exchange.end),) * len(message.recipients)
        return Verdict(message=message, phase=exchange.phase, outcomes=outcomes, relay=exchange.relay)
    if exchange.lacking:
        refusal = Failed(blame=Blame.MESSAGE, reason=f"not sent: {exchange.lacking}")
        outcomes = (refusal,) * len(message.recipients)
    elif (most := _most_recipients(exchange)) is not None:
        outcomes = _divided(exchange, rulebook)
        return Verdict(
            message=message, phase=exchange.phase, outcomes=outcomes, relay=exchange.relay, most_recipients=most
        )
    else:
        whole = _whole(exchange, rulebook)
        # A pipelined RCPT behind a refused MAIL is answered too (503), and means nothing.
        begun = exchange.mail is not None and exchange.mail.kind == _GOOD[Phase.MAIL]
        replies = exchange.rcpt if begun and exchange.rcpt else (None,) * len(message.recipients)
        outcomes = tuple(
            _one(reply, whole, to, exchange, rulebook) for reply, to in zip(replies, message.recipients, strict=True)
        )
        if exchange.end_of_data_sent and exchange.end is None:
            outcomes = tuple(_unsure(outcome) for outcome in outcomes)
        if not any(isinstance(outcome, Sent) for outcome in outcomes):
            outcomes = tuple(_patient(outcome) for outcome in outcomes)  # Rule 6
    slow_down = _closed(exchange) and not any(_closed_for_another(outcome) for outcome in outcomes)
    return Verdict(
        message=message,
        phase=exchange.phase,
        outcomes=outcomes,
        slow_down=slow_down,
        ended=_ended(exchange, slow_down=slow_down),
        heard=_heard(outcomes),
        relay=exchange.relay,
    )


def heard_at_the_door(trouble: RelayTrouble, rulebook: Rulebook = DEFAULT) -> Heard | None:
    """What a reply before the first message asks for: always about the relay. None: nothing that is known."""
    if trouble.reply is None:
        return None
    words = without_addresses(trouble.reply.text)
    advice = advise(trouble.reply, trouble.phase, None, rulebook.table, words)
    if advice is None:
        return None
    return _asked(advice, "relay", "", f"the relay {advice.reason}: at {trouble.phase.value}: {trouble.reply}")


def _closed(exchange: Exchange) -> bool:
    replies = (exchange.mail, *exchange.rcpt, exchange.data, exchange.end)
    return any(reply is not None and reply.code == SERVICE_CLOSING for reply in replies)


def _closed_for_another(outcome: Outcome) -> bool:
    """A 421 with words that are known for the destination's, or about a mailbox."""
    return (
        isinstance(outcome, Deferred)
        and outcome.blame is not Blame.SESSION
        and outcome.reply is not None
        and outcome.reply.code == SERVICE_CLOSING
    )


def _ended(exchange: Exchange, *, slow_down: bool) -> bool:
    if exchange.end_of_data_sent or exchange.mail is None or exchange.mail.kind != _GOOD[Phase.MAIL]:
        return False
    lost = exchange.loss is not None and exchange.loss.phase in {Phase.RCPT, Phase.DATA, Phase.CONTENT}
    return lost or slow_down


def _heard(outcomes: Iterable[Outcome]) -> tuple[Heard, ...]:
    """Once for the relay and for each domain: of several wishes the one that asks for most."""
    most: dict[str, Heard] = {}
    for outcome in outcomes:
        if not isinstance(outcome, Deferred) or outcome.heard is None:
            continue
        before = most.setdefault(outcome.heard.domain, outcome.heard)
        if _weight(outcome.heard) > _weight(before):
            most[outcome.heard.domain] = outcome.heard
    return tuple(most.values())


def _weight(heard: Heard) -> tuple[bool, float]:
    return heard.action == "pause", heard.wait or 0.0


def in_doubt_after_crash(reason: str) -> InDoubt:
    """The outcome of an orphan of which nothing else is known."""
    return InDoubt(blame=Blame.WORKER, reason=reason)


def _whole(exchange: Exchange, rulebook: Rulebook) -> Outcome:
    """The outcome of everything but RCPT: it holds for each recipient that was not refused there."""
    if _contradicts_itself(exchange):
        refused = "the relay refused a command before the content, took recipients, and had the content"
        return InDoubt(blame=Blame.MESSAGE, reason=f"may have been delivered: {refused}")
    steps = ((Phase.MAIL, exchange.mail), (Phase.DATA, exchange.data), (Phase.END, exchange.end))
    for phase, reply in steps:
        if reply is not None and reply.kind != _GOOD[phase]:
            said = _refused(phase, reply, exchange, exchange.message.recipients, rulebook)
            return _refusal(said, Blame.MESSAGE)
    if exchange.end is not None:
        return _sent(exchange.end)
    if exchange.end_of_data_sent:
        reason = exchange.loss.reason if exchange.loss else "the session ended"
        return InDoubt(blame=Blame.MESSAGE, reason=f"may have been delivered: after the end of data {reason}")
    if exchange.loss is not None:
        where = exchange.loss.phase.value
        return Deferred(blame=Blame.SESSION, reason=f"the session broke at {where}: {exchange.loss.reason}")
    return Deferred(blame=Blame.SESSION, reason="the relay ended the session before the message was sent")


def _contradicts_itself(exchange: Exchange) -> bool:
    """Ahead of its answers the whole message is out: a relay that refused MAIL may take it for whom it took at RCPT."""
    answered = exchange.end is not None and exchange.end.kind != _GOOD[Phase.END]
    for_somebody = any(reply is not None and reply.kind == _GOOD[Phase.RCPT] for reply in exchange.rcpt)
    if answered or not (exchange.end_of_data_sent and for_somebody):
        return False
    steps = ((Phase.MAIL, exchange.mail), (Phase.DATA, exchange.data))
    return any(reply is not None and reply.kind != _GOOD[phase] for phase, reply in steps)


def _sent(reply: Reply) -> Sent:
    return Sent(reply=reply, queue_id=queue_id(reply))


def _one(rcpt: Reply | None, whole: Outcome, recipient: str, exchange: Exchange, rulebook: Rulebook) -> Outcome:
    if rcpt is None or rcpt.kind == _GOOD[Phase.RCPT]:
        return whole
    said = _refused(Phase.RCPT, rcpt, exchange, (recipient,), rulebook)
    return _refusal(said, Blame.RECIPIENT)


def _unsure(outcome: Outcome) -> Outcome:
    """In a window the data is out before the envelope is answered: after nonsense it may have been delivered."""
    if isinstance(outcome, Deferred) and outcome.reply is not None and outcome.reply.kind not in {4, 5}:
        return InDoubt(blame=Blame.MESSAGE, reason=f"may have been delivered: {outcome.reason}")
    return outcome


def _patient(outcome: Outcome) -> Outcome:
    return replace(outcome, at_once=False) if isinstance(outcome, Deferred) else outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refusal:
    """A reply that is not the good one, and for whom."""

    phase: Phase
    reply: Reply
    recipients: Sequence[str]
    rulebook: Rulebook
    words: str
    """Its text without addresses: an address must not decide the judgement."""

    @property
    def where(self) -> str:
        return f"at {_DONE_BY[self.phase]}: {self.reply}"

    @property
    def advice(self) -> Advice | None:
        provider = self.rulebook.provider_of(domain_of(self.recipients[0]))
        return advise(self.reply, self.phase, provider, self.rulebook.table, self.words)

    @property
    def about_domain(self) -> str:
        """Of the destination that is meant; "" where there are several, or where nobody was named yet (Rule 8)."""
        alone = len(self.recipients) == 1 or self.rulebook.destination(self.recipients)
        return domain_of(self.recipients[0]) if alone and self.phase is not Phase.MAIL else ""


def _refused(phase: Phase, reply: Reply, exchange: Exchange, recipients: Sequence[str], rulebook: Rulebook) -> _Refusal:
    words = without_addresses(reply.text, (*recipients, exchange.message.mail_from))
    return _Refusal(phase=phase, reply=reply, recipients=recipients, rulebook=rulebook, words=words)


def _refusal(said: _Refusal, blame: Blame) -> Outcome:
    advice = said.advice
    if advice is not None and _comes_first(advice, said.phase):
        return _as_advised(said, advice, blame)
    special = _about_us_or_the_transaction(said)
    if special is not None:
        return special if advice is None else _with_advice(special, advice, said.rulebook)
    if advice is not None:
        return _as_advised(said, advice, blame)
    return _by_class(said, blame)


def _by_class(said: _Refusal, blame: Blame) -> Outcome:
    """Rule 5."""
    if _ABOUT_MESSAGE.fullmatch(said.reply.status) or _ABOUT_SENDER.search(said.words):
        blame = Blame.MESSAGE
    match said.reply.kind:
        case 4:
            return Deferred(blame=blame, reply=said.reply, reason=f"deferred {said.where}", unexplained=True)
        case 5:
            return Failed(blame=blame, reply=said.reply, reason=f"refused {said.where}")
        case _ if said.phase is Phase.END:
            nonsense = f"may have been delivered: an answer that makes no sense {said.where}"
            return InDoubt(blame=Blame.MESSAGE, reason=nonsense)
        case _:
            nonsense = f"an answer that makes no sense {said.where}"
            return Deferred(blame=Blame.SESSION, reply=said.reply, reason=nonsense)


def _comes_first(advice: Advice, phase: Phase) -> bool:
    """Whether it is to be asked before what speaks of us (Rule 7): the words are known, and for somebody else's."""
    return advice.listed and (advice.action == "refuse" or (advice.about != "relay" and phase is not Phase.MAIL))


def _as_advised(said: _Refusal, advice: Advice, blame: Blame) -> Outcome:
    """Rules 7 and 8. What asks for patience gets it, whatever its class."""
    about = "relay" if advice.about == "destination" and said.phase is Phase.MAIL else advice.about
    who = "relay" if about == "relay" else f"destination {said.about_domain}".rstrip()
    reason = f"the {who} {advice.reason}: {said.where}"
    if advice.action == "refuse":
        return Failed(blame=blame, reply=said.reply, reason=reason)
    # Greylisting that names no time is left to `[retry]`: its usual five minutes are no promise, and ours grow to that.
    wait = retry_after(said.reply, said.words) if advice.category == "greylist" else advice.wait
    heard = None
    if about == "relay":
        blame, heard = Blame.SESSION, _asked(advice, "relay", "", reason)
    elif about == "destination":
        blame = Blame.DESTINATION
        heard = _asked(advice, "destination", said.about_domain, reason) if said.about_domain else None
    paced = said.rulebook.paced and heard is not None
    return Deferred(blame=blame, reply=said.reply, reason=reason, wait=wait or 0.0, heard=heard, paced=paced)


def _with_advice(special: Deferred, advice: Advice, rulebook: Rulebook) -> Deferred:
    """What speaks of us, and its words are known as well: how long it lasts, and what the relay is to be spared."""
    if special.at_once:
        return special
    heard = _asked(advice, "relay", "", special.reason) if advice.about != "recipient" else None
    return replace(special, wait=advice.wait or 0.0, heard=heard, paced=rulebook.paced and heard is not None)


def _asked(advice: Advice, about: Literal["relay", "destination"], domain: str, reason: str) -> Heard | None:
    """None: what it asks for concerns this message alone."""
    match advice.action:
        case "slow_down" | "pause" as action:
            wait, category = advice.wait, advice.category
            return Heard(about=about, domain=domain, action=action, wait=wait, reason=reason, category=category)
        case "defer" | "refuse":
            return None
        case _:
            assert_never(advice.action)


def _about_us_or_the_transaction(said: _Refusal) -> Deferred | None:
    reply = said.reply
    if reply.code == SERVICE_CLOSING:
        return Deferred(blame=Blame.SESSION, reply=reply, reason=f"the relay closed the session {said.where}")
    if reply.kind not in {4, 5}:
        return None
    why = next((pattern.why for pattern in SESSION_REPLIES if pattern.matches(said.phase, reply, said.words)), "")
    if why and not _ABOUT_RECIPIENT.search(said.words):
        return Deferred(blame=Blame.SESSION, reply=reply, reason=f"the relay {why}: {said.where}")
    if said.phase is Phase.RCPT and _transaction_is_full(reply, said.words):
        reason = f"the transaction was full {said.where}"
        return Deferred(blame=Blame.RECIPIENT, reply=reply, at_once=True, reason=reason)
    return None


# How relays name a message they took, each with whose it is.
_QUEUE_IDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i)\bqueued on \S+ (?:as )?([\w-]*\d[\w-]*)",  # Yandex
        r"(?i)\bqueued (?:as|with id):? ([\w.+-]*\w)",  # Postfix, SendGrid, Mailjet, Mailpit; Stalwart
        r"\bInternalId=(\w+)",  # Exchange
        r"\bids?=([\w.-]*\w)",  # Exim; KumoMTA
        r"(\S+) - gsmtp$",  # Gmail
        r"(?i)^(?=\S*\d)([\w.-]+) (?:message|mail) accepted for delivery",  # OpenSMTPD, Sendmail, Proofpoint; Comcast
        r"(?i)^ok: +message (\d+) accepted",  # Cisco IronPort
        r"(?i)\bqueued \(([\w.-]+)\)",  # Haraka
        r"(?i)^ok:? \d+ qp (\d+)$",  # qmail
        r"(?i)^ok ([0-9a-f]{16}-[0-9a-f-]{20,})$",  # Amazon SES
    )
)
_QUEUE_ID_MOST = 191  # characters: what the column holds on MariaDB; the longest seen have about 90


def queue_id(reply: Reply) -> str:
    """The relay's own queue id, read from its final 250; "" if it names none or in a way not known here."""
    found = next((match[1] for pattern in _QUEUE_IDS if (match := pattern.search(reply.text))), "")
    return found if len(found) <= _QUEUE_ID_MOST else ""


def _transaction_is_full(reply: Reply, words: str) -> bool:
    """X.5.3, or 452 and the historical 552 (RFC 5321 section 4.5.3.1.10) that say so in words."""
    return reply.status in {"4.5.3", "5.5.3"} or (reply.code in {452, 552} and bool(_TOO_MANY.search(words)))


def _most_recipients(exchange: Exchange) -> int | None:
    """How many the relay takes, where it has refused a message for the number of its recipients; None: it has not.

    Without a number in its words it is asked with half of them. It is always fewer than now, so that this ends.
    """
    accepted = sum(reply is not None and reply.kind == _GOOD[Phase.RCPT] for reply in exchange.rcpt)
    said = exchange.end or exchange.data
    if accepted < 2 or said is None or said.kind not in {4, 5}:  # noqa: PLR2004
        return None
    words = without_addresses(said.text, (*exchange.message.recipients, exchange.message.mail_from))
    if not _TOO_MANY.search(words):
        return None
    told = [number for word in re.findall(r"\d{1,5}", words) if 0 < (number := int(word)) < accepted]
    return max(told, default=accepted // 2)


def _divided(exchange: Exchange, rulebook: Rulebook) -> tuple[Outcome, ...]:
    """Who was refused at RCPT stays refused; the others are asked again at once, fewer at a time."""
    said = exchange.end or exchange.data
    whole = Deferred(
        blame=Blame.SESSION,
        reply=said,
        at_once=True,
        reason=f"the relay takes fewer recipients in one transaction: {said}",
    )
    pairs = zip(exchange.rcpt, exchange.message.recipients, strict=True)
    return tuple(_one(reply, whole, to, exchange, rulebook) for reply, to in pairs)


_CHANGING = re.compile(r"<[^>]*>|\S+@\S+|\S*\d\S*")  # addresses, and words with a digit: times, queue ids, hosts


def signature(outcome: Outcome, recipient: str) -> str:
    """What makes two permanent refusals "identical": code, status and words, without the recipient and numbers."""
    if not isinstance(outcome, Failed) or outcome.reply is None:
        return ""
    reply = outcome.reply
    words = _CHANGING.sub("…", reply.text.lower().replace(recipient.lower(), "…"))
    local_part = recipient.lower().rpartition("@")[0]
    if local_part:
        words = re.sub(rf"(?<!\w){re.escape(local_part)}(?!\w)", "…", words)
    return f"{reply.code} {reply.status} {words}"
