"""The conversation by BDAT (RFC 3030): several messages on the wire whose final replies are still to come.

Rule 1. At most `Session.window` messages are unanswered. Each is one group: RSET if due, MAIL, each RCPT, BDAT LAST and
        the content, with no wait between; what the relay refuses it reads and discards.
Rule 2. Before each message whose predecessor is not known to have ended with 250 stands an RSET: RFC 3030 section 2
        calls the state after a refused chunk indeterminate. Postfix forgets the transaction; Exim keeps it, refuses the
        next MAIL, and takes the next content for the sender and the recipients of the one before.
Rule 3. Each message is judged by its own replies. When the session ends, those whose end may have left and whose final
        reply was not read are in doubt; those whose end has not left are not.
Rule 4. After a few refusals in a session one message at a time is sent: relays hang up on clients that make many
        errors, and what is in flight then would be in doubt.
Rule 5. The first sign that the relay does not bear a window ends the taking; what is in flight is read to its end.
Rule 6. What a hook raises stops the sending at once; what was committed before is still waited for and reported, then
        it comes out.

There is no 354, and no dot-stuffing. Content is one chunk: an unfinished last chunk delivers nothing, so smaller chunks
would not narrow the doubt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.exchange import Phase
from poller.smtp.actions import LineLost, Send
from poller.smtp.commands import chunk, envelope_commands
from poller.smtp.replies import DONE, RawReply
from poller.smtp.transaction import (
    AWAIT_END,
    LAST_PIECE,
    finds_out,
    goes_on,
    is_done,
    out_of_step,
    read_group,
    weigh_end,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.exchange import Exchange, Message
    from poller.smtp.actions import Talk
    from poller.smtp.transaction import Session, Transaction

MOST_REPLIES = 10_000
"""To come at any time: they wait in our memory while we write, and the reader takes a flood for an attack."""

MOST_REFUSALS = 8
"""Exim hangs up at the eleventh RSET behind a refused transaction, Postfix at the twentieth error in a row."""


def next_by_bdat(
    session: Session,
    take: Callable[[], Message | None],
    clock: Callable[[], float],
    meanwhile: Callable[[], None],
) -> Talk[Exchange | None]:
    """Fill the window from `take`, then read the first of the flight to its final reply.

    None: what a hook raised at the first message is in `Session.trouble`.
    """
    yield from _fill(session, take, clock)
    if not session.flight:
        return None
    transaction = session.flight[0]
    if session.deaf:
        transaction.lose(session.over)
    elif not transaction.lacking:
        meanwhile()
        try:
            yield from _read(transaction, session)
        except LineLost as lost:
            weigh_end(session, lost.loss.reason)
            session.over = session.over or lost.loss.reason
            transaction.lose(session.over)
        accepted = is_done(transaction.end)
        session.refusals += not accepted
        session.reset_due = len(session.flight) > 1 or not accepted
    return session.report(clock())


def _fill(session: Session, take: Callable[[], Message | None], clock: Callable[[], float]) -> Talk[None]:
    flight = session.flight
    first = flight[0]
    if not (first.spoken or first.lacking or session.over):
        yield from _say(first, session)
    while len(flight) < session.window and _may_take(session) and (message := take()) is not None:
        transaction = session.begin(message, clock(), ahead=True)
        if not transaction.lacking:
            yield from _say(transaction, session)


def _may_take(session: Session) -> bool:
    if session.over or session.trouble or session.sign or session.refusals >= MOST_REFUSALS:
        return False
    return sum(len(transaction.message.recipients) + 3 for transaction in session.flight) < MOST_REPLIES


def _say(transaction: Transaction, session: Session) -> Talk[None]:
    """The whole group, the last piece of the content apart if that is long."""
    transaction.spoken = True
    transaction.reset_first, session.reset_due = session.reset_due, True
    reset = b"RSET\r\n" if transaction.reset_first else b""
    content = chunk(transaction.message.content)
    last: bytes | memoryview = b"".join(
        (reset, *envelope_commands(transaction.message, session.features), b"BDAT %d LAST\r\n" % len(content), content)
    )
    # While the relay weighs an earlier message it need not read, so a write may have to wait as long as a final reply.
    patience = Phase.END if len(session.flight) > 1 else Phase.CONTENT
    transaction.phase = Phase.CONTENT
    try:
        if len(content) > LAST_PIECE:
            group = memoryview(last)
            last = group[-LAST_PIECE:]
            yield Send(patience, group[:-LAST_PIECE])
        if (yield from _commit(transaction, session)):
            transaction.end_of_data_sent = True
            yield Send(patience, last, leaves=True)
    except LineLost as lost:
        transaction.end_of_data_sent = transaction.end_of_data_sent and lost.taken >= len(last)
        weigh_end(session, lost.loss.reason)
        session.over = lost.loss.reason
        transaction.lose(session.over)


def _commit(transaction: Transaction, session: Session) -> Talk[bool]:
    try:
        yield transaction.committing
    except Exception as trouble:  # noqa: BLE001 - a caller's hook may raise anything; it comes out, later (Rule 6)
        session.trouble = trouble
        session.flight.pop()
        return False
    return True


def _read(transaction: Transaction, session: Session) -> Talk[None]:
    if not (yield from read_group(transaction, session)):
        return
    raw: RawReply = yield AWAIT_END
    reply = raw.reply
    if transaction.has_recipient and (transaction.end_of_data_sent or reply.code // 100 != DONE):
        transaction.end = reply
        goes_on(transaction, session, reply, DONE)
    elif reply.code // 100 == DONE:
        what = "for nobody" if transaction.end_of_data_sent else "that was not complete"
        if transaction.end_of_data_sent and any(map(is_done, transaction.rcpt)):  # MAIL was refused, and yet
            transaction.end = reply
        out_of_step(transaction, session, f"the relay took a message {what}: {reply}")
    else:
        transaction.phase, transaction.data = Phase.DATA, reply
        goes_on(transaction, session, reply, DONE)
    finds_out(transaction, session)
