"""One message on its way, the session it shares with others, and the reading of replies that all conversations share.

Rule 1. Every reply is read and checked, in order; none is skipped because a later one says enough.
Rule 2. After a 421, a lost line, or a reply that does not fit, the session is over: `Session.over` says why. A reply
        that does not fit is recorded in its place, and as a `Loss`, because what the relay did is then unknown; after
        it, and after a 421, no reply is believed any more.
Rule 3. A transaction that is not known to have ended with 250 leaves an RSET due.
Rule 4. A relay that does not bear its gear (`poller.smtp.gears`) is found out by an odd reply to what was sent ahead,
        or by a line lost while something was ahead. No message pays for that: what was ahead is unanswered.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from poller.exchange import Exchange, Loss, Phase
from poller.smtp.actions import Await, Committing, LineLost
from poller.smtp.commands import lacking
from poller.smtp.gears import Gear, blames_the_order, is_out_of_turn
from poller.smtp.replies import DONE, Features, RawReply

if TYPE_CHECKING:
    from poller.exchange import Message, Reply
    from poller.smtp.actions import Talk

LAST_PIECE = 16 * 1024
"""Bytes: one TLS record. Content up to this size goes out in one piece with its end; of longer content the rest goes
first, so that a line lost on the way is not a doubt."""
LARGE = 256 * 1024
"""Bytes of content: a round trip is nothing to its transfer, and two in memory are too many."""
CLOSING = 421
"""RFC 5321 section 3.8: the relay closes the line, whatever it was asked."""

AWAIT_RSET, AWAIT_MAIL, AWAIT_RCPT, AWAIT_DATA, AWAIT_END = (
    Await(phase) for phase in (Phase.RSET, Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.END)
)


@dataclass(kw_only=True, slots=True)
class Transaction:
    """One message on its way: the facts so far."""

    message: Message
    began: float = 0.0
    lacking: str = ""
    ahead: bool = False
    """It was begun while the final reply to another message was still to come."""
    spoken: bool = False
    """Its envelope is on the wire."""
    reset_first: bool = False
    """An RSET stood in front of its MAIL."""
    phase: Phase = Phase.MAIL
    mail: Reply | None = None
    rcpt: list[Reply | None] = field(default_factory=list)
    data: Reply | None = None
    end: Reply | None = None
    loss: Loss | None = None
    end_of_data_sent: bool = False
    in_vain: bool = False
    """The relay did not bear how it was said; nothing of it was delivered."""

    @property
    def has_recipient(self) -> bool:
        """The relay took at least one recipient of this very transaction."""
        return is_done(self.mail) and any(map(is_done, self.rcpt))

    @property
    def committing(self) -> Committing:
        """The announcement, with what its recipients were told so far."""
        return Committing(self.message, self._replies())

    @property
    def unanswered(self) -> bool:
        """It is free to be carried again: the session ended before its turn, or did not bear how it was said."""
        if self.in_vain:
            return True
        return self.ahead and self.loss is not None and self.mail is None and not self.end_of_data_sent

    @property
    def is_envelope(self) -> bool:
        """Its envelope was said and is not answered to its end."""
        return self.spoken and not self.end_of_data_sent and self.phase is not Phase.CONTENT

    def exchange(self, session: Session, now: float) -> Exchange:
        """The facts, for good. Without the content of a large message: nobody needs it any more."""
        message = self.message
        if len(message.content) > LARGE:
            message = replace(message, content=b"")
        return Exchange(
            message=message,
            phase=Phase.END if self.end_of_data_sent and self.data is None else self.phase,
            mail=self.mail,
            rcpt=self._replies(),
            data=self.data,
            end=self.end,
            loss=self.loss,
            lacking=self.lacking,
            end_of_data_sent=self.end_of_data_sent,
            unanswered=self.unanswered,
            seconds=0.0 if self.lacking else now - max(self.began, session.answered),
            relay=session.relay,
        )

    def _replies(self) -> tuple[Reply | None, ...]:
        unread = len(self.message.recipients) - len(self.rcpt)
        return (*self.rcpt, *[None] * unread) if unread else tuple(self.rcpt)

    def lose(self, reason: str) -> None:
        """It ends without a final reply, unless a loss is known already."""
        if self.loss is None:
            self.loss = Loss(phase=Phase.END if self.end_of_data_sent else self.phase, reason=reason)


@dataclass(kw_only=True, slots=True)
class Session:
    """What outlives a transaction on one line."""

    features: Features
    relay: str = ""
    gear: Gear = Gear.OVERLAP
    window: int = 1
    """How many messages may be unanswered where BDAT is spoken."""
    bears: Gear = Gear.WINDOW
    """The gear that the relay was found to bear, if that is lower than `gear`."""
    sign: str = ""
    """What showed it, in words; "" for nothing."""
    has_lost_envelope: bool = False
    """The line was lost while the commands of one envelope were answered."""
    reset_due: bool = False
    refusals: int = 0
    """Transactions by BDAT that did not end with 250."""
    over: str = ""
    """Why no further transaction may begin, "" while one may."""
    deaf: bool = False
    """No reply is believed any more."""
    trouble: Exception | None = None
    """What a hook raised, to come out when what was committed before is answered."""
    flight: deque[Transaction] = field(default_factory=deque)
    """What was begun and not yet reported, in order."""
    answered: float = 0.0
    """When the last final reply was read: only then could the relay turn to the next message."""

    def __post_init__(self) -> None:
        if not self.features.pipelining:
            self.gear = Gear.OFF

    def lower(self, gear: Gear, sign: str) -> None:
        """The relay bears no more than `gear`. Nothing is begun ahead any more."""
        if not self.sign and gear < self.gear:
            self.bears, self.sign = gear, sign

    def begin(self, message: Message, now: float, *, ahead: bool = False) -> Transaction:
        """A new transaction, the last of the flight."""
        transaction = Transaction(message=message, began=now, ahead=ahead, lacking=lacking(message, self.features))
        self.flight.append(transaction)
        return transaction

    def report(self, now: float) -> Exchange:
        """The first of the flight leaves it: its facts."""
        exchange = self.flight.popleft().exchange(self, now)
        if not exchange.lacking:
            self.answered = now
        return exchange


# Replies --------------------------------------------------------------------------------------------------------------


def is_done(reply: Reply | None) -> bool:
    """It says 2xx."""
    return reply is not None and reply.code // 100 == DONE


def goes_on(transaction: Transaction, session: Session, reply: Reply, good: int) -> bool:
    """False, and the session is over, after 421 or a reply of a class that cannot be an answer here."""
    kind = reply.code // 100
    if kind == good:
        return True
    if reply.code == CLOSING:
        session.over = f"the relay closed the session: {reply}"
        session.deaf = True
        return False
    if kind not in {4, 5}:
        return out_of_step(transaction, session, f"a reply that does not fit: {reply}")
    return True


def out_of_step(transaction: Transaction, session: Session, reason: str) -> bool:
    """What the relay did is unknown from here on."""
    weigh_end(session, reason)
    transaction.lose(reason)
    session.over = reason
    session.deaf = True
    return False


def _step(transaction: Transaction, phase: Phase) -> None:
    if not transaction.end_of_data_sent:
        transaction.phase = phase


def read_group(transaction: Transaction, session: Session) -> Talk[bool]:
    """The replies to an envelope that was sent as one group (RFC 2920), without the one to DATA or BDAT.

    False: the session is over.
    """
    if transaction.reset_first and not (yield from read_rset(transaction, session)):
        return False
    if not (yield from read_mail(transaction, session)):
        return False
    for _ in transaction.message.recipients:
        if not (yield from read_rcpt(transaction, session)):
            return False
    return True


# Each reader records one reply in its place and returns whether the session goes on.


def read_rset(transaction: Transaction, session: Session) -> Talk[bool]:
    """There is no place for this reply in an exchange, and without a clean state MAIL would only earn a 503."""
    _step(transaction, Phase.RSET)
    raw: RawReply = yield AWAIT_RSET
    if raw.code // 100 == DONE:
        return True
    if raw.code == CLOSING:  # an answer to everybody
        transaction.mail = raw.reply
        return goes_on(transaction, session, raw.reply, DONE)
    return out_of_step(transaction, session, f"the relay did not accept RSET: {raw.reply}")


def read_mail(transaction: Transaction, session: Session) -> Talk[bool]:
    """Of MAIL."""
    _step(transaction, Phase.MAIL)
    raw: RawReply = yield AWAIT_MAIL
    transaction.mail = reply = raw.reply
    return goes_on(transaction, session, reply, DONE)


def read_rcpt(transaction: Transaction, session: Session) -> Talk[bool]:
    """Of one RCPT."""
    _step(transaction, Phase.RCPT)
    raw: RawReply = yield AWAIT_RCPT
    reply = raw.reply
    transaction.rcpt.append(reply)
    return goes_on(transaction, session, reply, DONE)


def last_words() -> Talk[RawReply | None]:
    """Behind a lost write: the next reply that had come before."""
    try:
        raw: RawReply = yield AWAIT_END
    except LineLost:
        return None
    return raw


def record_lost_line(transaction: Transaction, session: Session, lost: LineLost) -> Talk[None]:
    """A relay may refuse in the midst of content and hang up: then its words are the answer, not the broken line."""
    reason = lost.loss.reason
    weigh_end(session, reason)
    said = yield from last_words()
    if said is not None and transaction.phase is Phase.CONTENT and said.code // 100 in {4, 5}:
        transaction.end = said.reply
    elif said is not None:
        reason = f"{reason}, after saying: {said.reply}"
    session.over = session.over or reason
    transaction.lose(reason)


# Gears ----------------------------------------------------------------------------------------------------------------


def finds_out(transaction: Transaction, session: Session) -> bool:
    """Whether the replies to an envelope show that the relay does not bear how it was said (Rule 4)."""
    odd = _odd_reply(transaction)
    if odd is None:
        return False
    session.lower(Gear.TRANSACTION if transaction.ahead else Gear.OFF, f"to a command sent ahead it said: {odd}")
    return True


def _odd_reply(transaction: Transaction) -> Reply | None:
    """Of a group, the reply that finds fault with the order of the commands, not with what they say.

    Behind a command that was refused such a reply is due. To the first command of a session it has other reasons.
    """
    due = transaction.mail if transaction.ahead and is_out_of_turn(transaction.mail) else None
    if due is None and is_done(transaction.mail):
        due = next(filter(is_out_of_turn, transaction.rcpt), None)
        if due is None and transaction.has_recipient and is_out_of_turn(transaction.data):
            due = transaction.data
    return due or next(filter(blames_the_order, (transaction.mail, *transaction.rcpt, transaction.data)), None)


def weigh_end(session: Session, reason: str) -> None:
    """A lost line, or a reply that does not fit: while something was ahead, that is a sign against the gear."""
    flight = session.flight
    if len(flight) > 1 or (flight and flight[0].ahead and flight[0].is_envelope):
        session.lower(Gear.TRANSACTION, f"while a message was ahead: {reason}")
        for transaction in flight:
            transaction.in_vain = transaction.ahead and transaction.is_envelope
    elif flight and flight[0].is_envelope and session.gear > Gear.OFF:
        session.has_lost_envelope = True
