"""The conversation by DATA: message after message, as far ahead as the session's gear allows (`poller.smtp.gears`).

Rule 1. Content goes out only for a recipient that was accepted, after a 354. A 354 with no recipient accepted is
        answered by a lone dot, which delivers nothing (RFC 2920 section 3.1). But a 354 behind a refused MAIL is out of
        step: the relay may not have forgotten the message before, and would deliver an empty one to its recipients.
Rule 2. In the gear `overlap` the end of a message and the envelope of the next are one write (RFC 2920 section 3.1 lets
        content be first in a group): one round trip for each message. If there is no next one, and in the gear
        `transaction`, the end goes alone. In the gear `off` nothing is sent whose predecessor was refused.
Rule 3. The end of data clears the relay's state whatever its answer (RFC 5321 section 4.1.1.4), so no RSET stands
        between. A relay that calls a command of ours out of turn all the same does not bear the gear. The session ends
        then, and the message is unanswered.
Rule 4. A relay may hold back the final reply until it has dealt with the envelope behind it, as Postfix does: the reply
        is awaited as long as RFC 5321 says, which is ample for both.
Rule 5. The end of data is deemed sent when its last byte has left this machine, whatever became of the bytes behind it.
Rule 6. Before the end of data leaves, nothing that the relay said may be unread. A 4xx or 5xx there is its answer,
        given early; a 2xx or 3xx is out of step, and would otherwise be taken for the final reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.exchange import Phase
from poller.smtp.actions import LineLost, Send, Unasked
from poller.smtp.commands import envelope_commands, in_two
from poller.smtp.gears import Gear
from poller.smtp.replies import DONE, GO_ON, RawReply
from poller.smtp.transaction import (
    AWAIT_DATA,
    AWAIT_END,
    LAST_PIECE,
    finds_out,
    goes_on,
    is_done,
    out_of_step,
    read_group,
    read_mail,
    read_rcpt,
    read_rset,
    record_lost_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.exchange import Exchange, Message
    from poller.smtp.actions import Talk
    from poller.smtp.transaction import Session, Transaction


def next_by_data(
    session: Session,
    take: Callable[[], Message | None],
    clock: Callable[[], float],
    meanwhile: Callable[[], None],
) -> Talk[Exchange]:
    """The first of the flight, to its final reply. `take` gives the message to begin ahead, or None."""
    transaction = session.flight[0]
    if session.deaf:
        transaction.lose(session.over)
    elif not transaction.lacking:
        try:
            yield from _envelope(transaction, session)
            if transaction.phase is Phase.CONTENT:
                yield from _content(transaction, session, take, clock, meanwhile)
        except LineLost as lost:
            yield from record_lost_line(transaction, session, lost)
        session.reset_due = not is_done(transaction.end)
    return session.report(clock())


UNASKED = Unasked()

# The envelope ---------------------------------------------------------------------------------------------------------


def _envelope(transaction: Transaction, session: Session) -> Talk[None]:
    """Through to the reply to DATA. Ends in `Phase.CONTENT` if the content may follow."""
    if session.gear is Gear.OFF and not transaction.spoken:
        yield from _envelope_in_steps(transaction, session)
        return
    if not transaction.spoken:
        yield Send(Phase.MAIL, _group(transaction, session))
    if (yield from read_group(transaction, session)):
        yield from _read_data(transaction, session)
    if finds_out(transaction, session):
        transaction.in_vain, transaction.phase = True, Phase.MAIL
        session.over = session.over or session.sign


def _group(transaction: Transaction, session: Session) -> bytes:
    transaction.spoken = True
    transaction.reset_first = session.reset_due
    reset = b"RSET\r\n" if session.reset_due else b""
    return b"".join((reset, *envelope_commands(transaction.message, session.features), b"DATA\r\n"))


def _envelope_in_steps(transaction: Transaction, session: Session) -> Talk[None]:
    lines = envelope_commands(transaction.message, session.features)
    if session.reset_due:
        yield Send(Phase.RSET, b"RSET\r\n")
        if not (yield from read_rset(transaction, session)):
            return
    yield Send(Phase.MAIL, lines[0])
    if not (yield from read_mail(transaction, session)) or not is_done(transaction.mail):
        return
    for line in lines[1:]:
        yield Send(Phase.RCPT, line)
        if not (yield from read_rcpt(transaction, session)):
            return
    if transaction.has_recipient:
        yield Send(Phase.DATA, b"DATA\r\n")
        yield from _read_data(transaction, session)


def _read_data(transaction: Transaction, session: Session) -> Talk[None]:
    transaction.phase = Phase.DATA
    raw: RawReply = yield AWAIT_DATA
    transaction.data = reply = raw.reply
    if not goes_on(transaction, session, reply, GO_ON) or reply.code // 100 != GO_ON:
        return
    if transaction.has_recipient:
        transaction.phase = Phase.CONTENT
    else:
        yield from _decline_to_send(transaction, session)


def _decline_to_send(transaction: Transaction, session: Session) -> Talk[None]:
    """Asked for content that nobody is to get.

    The lone dot's reply has no place: it answers no content of ours, and as `end` a 250 would look like delivery.
    """
    if not is_done(transaction.mail):
        # Into whose transaction DATA was taken, only the relay knows.
        out_of_step(transaction, session, "the relay refused MAIL and then took DATA")
        return
    yield Send(Phase.DATA, b".\r\n")
    raw: RawReply = yield AWAIT_DATA
    if raw.code // 100 == DONE:
        out_of_step(transaction, session, f"the relay took a message for nobody: {raw.reply}")
    else:
        goes_on(transaction, session, raw.reply, DONE)


# The content ----------------------------------------------------------------------------------------------------------


def _content(
    transaction: Transaction,
    session: Session,
    take: Callable[[], Message | None],
    clock: Callable[[], float],
    meanwhile: Callable[[], None],
) -> Talk[None]:
    """The content, its end with what may follow, and the final reply."""
    if session.over:  # the line was lost behind the end of the message before; only what had come could be read
        return transaction.lose(session.over)
    before, last = in_two(transaction.message.content, LAST_PIECE)
    if before is not None:
        yield Send(Phase.CONTENT, before)
    if (yield from _answered_early(transaction, session)):
        return None
    following = _envelope_behind(session, take, clock)
    yield transaction.committing
    transaction.end_of_data_sent = True
    try:
        yield Send(Phase.CONTENT, b"".join((last, following)) if following else last, leaves=True)
    except LineLost as lost:
        if lost.taken < len(last):
            transaction.end_of_data_sent = False
            raise
        session.over = lost.loss.reason
    transaction.phase = Phase.END
    meanwhile()
    raw: RawReply = yield AWAIT_END
    transaction.end = reply = raw.reply
    goes_on(transaction, session, reply, DONE)


def _answered_early(transaction: Transaction, session: Session) -> Talk[bool]:
    """Rule 6. True: the session is over, and the end of data does not leave."""
    raw: RawReply | None = yield UNASKED
    if raw is None:
        return False
    reply = raw.reply
    if reply.kind in {DONE, GO_ON}:
        out_of_step(transaction, session, f"the relay spoke before the message had ended: {reply}")
        return True
    transaction.end = reply
    session.over = f"the relay answered before the message had ended: {reply}"
    session.deaf = True
    return True


def _envelope_behind(session: Session, take: Callable[[], Message | None], clock: Callable[[], float]) -> bytes:
    """Rule 2: of the next message, if there is one now and it can go."""
    message = take() if session.gear > Gear.TRANSACTION else None
    if message is None:
        return b""
    following = session.begin(message, clock(), ahead=True)
    session.reset_due = False
    return b"" if following.lacking else _group(following, session)
