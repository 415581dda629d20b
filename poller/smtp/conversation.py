r"""The conversation with a relay, without I/O: what to say next, given what was answered.

Each conversation is a generator. It yields actions and is sent the answers: a `RawReply` for `Await`, the name of the
TLS version and cipher for `StartTls`, nothing for the rest. A lost line is thrown in as `LineLost`. So it can be driven
by a socket (`poller.smtp.connection`) or by a table in a test.

Rule 1. Every reply is read and checked, in order; none is skipped because a later one says enough.
Rule 2. Content goes out only for a recipient that was accepted, after a 354. A 354 with no recipient accepted is
        answered by a lone dot, which delivers nothing (RFC 2920 section 3.1).
Rule 3. `Committing` comes immediately before the bytes that hold the end of data, and only then. The end of data is
        deemed sent when the line has taken those bytes; a line that breaks before it took them all delivered nothing.
Rule 4. A transaction that ended without 250 leaves an RSET due; the next one says it first.
Rule 5. After a 421, a lost line, or a reply that does not fit, the session is over: `Session.over` says why. A reply
        that does not fit is recorded in its place, and as a `Loss`, because what the relay did is then unknown.

`transact` raises nothing of its own: whatever happened is in the `Exchange`. Login and greeting are in
`poller.smtp.opening`. A transaction has two halves, `envelope` and `content`, each with its bytes apart from the
reading of its replies, so that the end of one message and the envelope of the next can share a round trip.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from poller.exchange import Exchange, Loss, Message, Phase, Reply
from poller.smtp.commands import envelope_commands, lacking, stuffed
from poller.smtp.replies import DONE, GO_ON, Features, RawReply

T = TypeVar("T")

LAST_PIECE = 16 * 1024
"""Bytes: one TLS record. Content up to this size goes out in one piece with its end; of longer content the rest goes
first, so that a line lost on the way is not a doubt."""


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes; `phase` is what a failure would interrupt."""

    phase: Phase
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Await:
    """Wait for one reply, as long as `phase` allows."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class StartTls:
    """Begin TLS now; refuse if plain text waits behind the go-ahead. The answer names version and cipher."""


@dataclass(frozen=True, slots=True)
class Committing:
    """The next `Send` holds the end of this message's data; `rcpt` is what each recipient was told so far."""

    message: Message
    rcpt: tuple[Reply | None, ...]


Action = Send | Await | StartTls | Committing
Talk = Generator[Action, Any, T]


class LineLost(Exception):  # noqa: N818 - a fact thrown into a conversation, named as one
    """The line is gone. `said` is what the relay managed to say before, if that was a whole reply."""

    def __init__(self, loss: Loss, said: RawReply | None = None) -> None:
        super().__init__(loss.reason)
        self.loss = loss
        self.said = said


@dataclass(kw_only=True, slots=True)
class Session:
    """What outlives a transaction on one line."""

    features: Features
    reset_due: bool = False
    over: str = ""
    """Why no further transaction may begin, "" while one may."""


@dataclass(kw_only=True, slots=True)
class Transaction:
    """One message on its way: the facts so far."""

    message: Message
    phase: Phase = Phase.MAIL
    mail: Reply | None = None
    rcpt: list[Reply | None] = field(default_factory=list)
    data: Reply | None = None
    end: Reply | None = None
    loss: Loss | None = None
    end_of_data_sent: bool = False

    @property
    def has_recipient(self) -> bool:
        """The relay took at least one recipient of this very transaction."""
        return _is_done(self.mail) and any(_is_done(reply) for reply in self.rcpt)

    def exchange(self, seconds: float) -> Exchange:
        """The facts, for good."""
        unread = len(self.message.recipients) - len(self.rcpt)
        return Exchange(
            message=self.message,
            phase=self.phase,
            mail=self.mail,
            rcpt=(*self.rcpt, *[None] * unread),
            data=self.data,
            end=self.end,
            loss=self.loss,
            end_of_data_sent=self.end_of_data_sent,
            seconds=seconds,
        )


def transact(message: Message, session: Session, clock: Callable[[], float] = time.monotonic) -> Talk[Exchange]:
    """One mail transaction, from RSET if due to the final reply. Nothing is sent if the relay lacks what it needs."""
    began = clock()
    if wanting := lacking(message, session.features):
        return Exchange(message=message, phase=Phase.MAIL, rcpt=(None,) * len(message.recipients), lacking=wanting)
    transaction = Transaction(message=message)
    try:
        yield from envelope(transaction, session)
        if transaction.phase is Phase.CONTENT:
            yield from content(transaction, session)
    except LineLost as lost:
        _record_lost_line(transaction, session, lost)
    session.reset_due = not _is_done(transaction.end)
    return transaction.exchange(clock() - began)


# The envelope ---------------------------------------------------------------------------------------------------------


def envelope(transaction: Transaction, session: Session) -> Talk[None]:
    """Through to the reply to DATA. Ends in `Phase.CONTENT` if the content may follow."""
    commands = envelope_commands(transaction.message, session.features)
    if session.features.pipelining:
        if session.reset_due:
            commands.insert(0, b"RSET\r\n")
        yield Send(Phase.MAIL, b"".join(commands))
        yield from read_envelope(transaction, session)
    else:
        yield from _envelope_in_steps(transaction, session, commands)


def read_envelope(transaction: Transaction, session: Session) -> Talk[None]:
    """Read the replies to an envelope that was sent as one group (RFC 2920)."""
    if session.reset_due and not (yield from _read_rset(transaction, session)):
        return
    if not (yield from _read_mail(transaction, session)):
        return
    for _ in transaction.message.recipients:
        if not (yield from _read_rcpt(transaction, session)):
            return
    yield from _read_data(transaction, session)


def _envelope_in_steps(transaction: Transaction, session: Session, commands: list[bytes]) -> Talk[None]:
    """Without PIPELINING: nothing is sent whose predecessor was refused."""
    if session.reset_due:
        yield Send(Phase.RSET, b"RSET\r\n")
        if not (yield from _read_rset(transaction, session)):
            return
    yield Send(Phase.MAIL, commands[0])
    if not (yield from _read_mail(transaction, session)) or not _is_done(transaction.mail):
        return
    for command in commands[1:-1]:
        yield Send(Phase.RCPT, command)
        if not (yield from _read_rcpt(transaction, session)):
            return
    if transaction.has_recipient:
        yield Send(Phase.DATA, commands[-1])
        yield from _read_data(transaction, session)


# Each reader records one reply in its place and returns whether the session goes on.


def _read_rset(transaction: Transaction, session: Session) -> Talk[bool]:
    transaction.phase = Phase.RSET
    raw: RawReply = yield Await(Phase.RSET)
    if raw.code // 100 == DONE:
        return True
    # There is no place for this reply in an exchange, and without a clean state MAIL would only earn a 503.
    return _out_of_step(transaction, session, f"the relay did not accept RSET: {raw.reply}")


def _read_mail(transaction: Transaction, session: Session) -> Talk[bool]:
    transaction.phase = Phase.MAIL
    raw: RawReply = yield Await(Phase.MAIL)
    transaction.mail = reply = raw.reply
    return _goes_on(transaction, session, reply, DONE)


def _read_rcpt(transaction: Transaction, session: Session) -> Talk[bool]:
    transaction.phase = Phase.RCPT
    raw: RawReply = yield Await(Phase.RCPT)
    reply = raw.reply
    transaction.rcpt.append(reply)
    return _goes_on(transaction, session, reply, DONE)


def _read_data(transaction: Transaction, session: Session) -> Talk[bool]:
    transaction.phase = Phase.DATA
    raw: RawReply = yield Await(Phase.DATA)
    transaction.data = reply = raw.reply
    if not _goes_on(transaction, session, reply, GO_ON):
        return False
    if reply.kind == GO_ON and not transaction.has_recipient:
        return (yield from _decline_to_send(transaction, session))
    if reply.kind == GO_ON:
        transaction.phase = Phase.CONTENT
    return True


def _decline_to_send(transaction: Transaction, session: Session) -> Talk[bool]:
    """Asked for content that nobody is to get.

    The lone dot's reply has no place: it answers no content of ours, and as `end` a 250 would look like delivery.
    """
    if any(_is_done(reply) for reply in transaction.rcpt):
        # MAIL was refused, yet RCPT and DATA were taken: into whose transaction, only the relay knows.
        return _out_of_step(transaction, session, "the relay refused MAIL and then took RCPT and DATA")
    yield Send(Phase.DATA, b".\r\n")
    raw: RawReply = yield Await(Phase.DATA)
    if raw.code // 100 == DONE:
        return _out_of_step(transaction, session, f"the relay took a message for nobody: {raw.reply}")
    return _goes_on(transaction, session, raw.reply, DONE)


# The content ----------------------------------------------------------------------------------------------------------


def content(transaction: Transaction, session: Session) -> Talk[None]:
    """The content, its end and the final reply."""
    ready = memoryview(stuffed(transaction.message.content))
    cut = max(0, len(ready) - LAST_PIECE)
    if cut:
        yield Send(Phase.CONTENT, ready[:cut])
    yield Committing(transaction.message, tuple(transaction.rcpt))
    yield Send(Phase.CONTENT, ready[cut:])
    transaction.phase = Phase.END
    transaction.end_of_data_sent = True
    yield from read_end(transaction, session)


def read_end(transaction: Transaction, session: Session) -> Talk[None]:
    """Read the final reply."""
    raw: RawReply = yield Await(Phase.END)
    transaction.end = reply = raw.reply
    _goes_on(transaction, session, reply, DONE)


def quit_session() -> Talk[None]:
    """Take leave. Raises LineLost."""
    yield Send(Phase.QUIT, b"QUIT\r\n")
    yield Await(Phase.QUIT)


# Replies that end a session -------------------------------------------------------------------------------------------

CLOSING = 421
"""RFC 5321 section 3.8: the relay closes the line, whatever it was asked."""


def _is_done(reply: Reply | None) -> bool:
    return reply is not None and reply.kind == DONE


def _goes_on(transaction: Transaction, session: Session, reply: Reply, good: int) -> bool:
    """False, and the session is over, after 421 or a reply of a class that cannot be an answer here."""
    if reply.code == CLOSING:
        session.over = f"the relay closed the session: {reply}"
        return False
    if reply.kind not in {good, 4, 5}:
        return _out_of_step(transaction, session, f"a reply that does not fit: {reply}")
    return True


def _out_of_step(transaction: Transaction, session: Session, reason: str) -> bool:
    transaction.loss = Loss(phase=transaction.phase, reason=reason)
    session.over = reason
    return False


def _record_lost_line(transaction: Transaction, session: Session, lost: LineLost) -> None:
    """A relay may refuse in the midst of content and hang up: then its words are the answer, not the broken line."""
    session.over = lost.loss.reason
    transaction.loss = lost.loss
    if transaction.phase is Phase.CONTENT and lost.said is not None and lost.said.code // 100 in {4, 5}:
        transaction.end = lost.said.reply
