"""The courier: carries messages to one relay, one session at a time.

    courier.open()                          # a session is ready, or RelayTrouble
    for exchange in courier.carry(pending): # pending is the caller's iterator
        record(exchange)
    # ended: nothing is pending any more, or not courier.is_open: rest if need be, then open() and carry on

Rule 1. One `Exchange` for each message taken from the iterator, in order, each as soon as its final reply is read.
        With nothing in flight none is taken unless the line was quiet a moment before, so a relay that has closed it
        costs no row anything.
Rule 2. Where the session's gear allows it (`poller.smtp.gears`), messages are taken ahead: one, whose envelope goes out
        with the end of the one in hand; or up to `window` unanswered ones (`poller.smtp.window`). None is taken ahead
        when the session has served its time. When the iterator has none now, nothing is held back. An exchange that is
        `unanswered` was taken in vain, and is free to be carried again: the session ended before its turn, or the relay
        did not bear the gear. In that case the session ends, `bears` is lowered, and "relay.lowered" is told.
Rule 3. `carry` ends when the session does (lost, 421, a reply that does not fit). Whether to rest before the next
        `open` is the caller's to decide; what was not taken is still in the caller's iterator. The only session that
        `carry` replaces itself is one that has served its time: `max_messages_per_connection`, `max_connection_age`,
        and the time of the token that it was opened with.
Rule 4. `committing(message, rcpt)` is called immediately before the bytes that hold the end of its data, `rcpt` being
        what its recipients were told so far (None for those of whom nothing was read: in a window, all). What it raises
        comes out of `carry`, and the line is closed. Before that, each message committed earlier has been waited for
        and its exchange has come out. Messages taken and not come out then were not delivered, and are forgotten.
        `meanwhile` is called when such bytes have left and the reply to the first in flight is to be waited for, and
        before each wait for the replies to an envelope.
Rule 5. What the iterator or `meanwhile` raises comes out of `carry` when all that was taken before has. The session
        stays.
Rule 6. An exchange that could not come out, because something else was raised (KeyboardInterrupt, say) or because the
        caller said `close`, comes out first of the next `carry`, for which no session is needed.
Rule 7. Sent content is not held on to. A large message comes out without it, and none is taken ahead behind one.

Raises RelayTrouble from `open`, and from `carry` when a planned replacement fails: then no message was taken.
A courier belongs to one thread; only `interrupt` may be called from others. It never sends a message twice, and judges
nothing.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from poller.exchange import Phase, RelayTrouble
from poller.smtp.actions import LineLost, nothing_meanwhile
from poller.smtp.connection import Connection
from poller.smtp.conversation import next_exchange, none_ahead, quit_session
from poller.smtp.dial import place
from poller.smtp.gears import Gear, first_gear
from poller.smtp.opening import Handshake, Line, open_session
from poller.smtp.tokens import Tokens
from poller.smtp.transaction import LARGE, Session
from poller.smtp.wake import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poller.exchange import Exchange, Message, Reply
    from poller.smtp.connection import Hook
    from poller.smtp.replies import Features
    from poller.smtp.settings import SmtpSettings
    from poller.smtp.token_answers import Token

ENVELOPES_LOST = 3
"""Sessions in a row that end while one envelope is answered: a relay may not bear its commands in one write."""

_FIRST = "smtp"
"""The table of the first relay, which the words of a trouble name."""


def _nothing(_: Message, __: tuple[Reply | None, ...]) -> None:
    """No journal."""


def _unheard(_: str, __: dict[str, Any]) -> None:
    """No log."""


class _Line:
    """One open session: the connection, what was agreed on it, and what it has done."""

    def __init__(self, connection: Connection, handshake: Handshake, session: Session, now: float) -> None:
        self.connection = connection
        self.handshake = handshake
        self.session = session
        self.opened = self.used = now
        self.messages = 0
        self.usable_for = float("inf")
        """Seconds, where a token ends."""


class Courier:
    """Carries messages to the relay of `settings`.

    `clock` counts seconds for ages and durations. `session_events(name, facts)` hears "session.opened" (relay, tls,
    authenticated, banner, pipelining), "session.closed" (relay, reason, messages, seconds) and "relay.lowered" (relay,
    pipelining, reason), and what `Tokens` tells. `table` is where the settings are
    written, for the remedies in RelayTrouble. `tokens` are those of this relay, where its couriers share them.
    """

    def __init__(
        self,
        settings: SmtpSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        session_events: Callable[[str, dict[str, Any]], None] | None = None,
        table: str = _FIRST,
        tokens: Tokens | None = None,
    ) -> None:
        self.relay = place(settings.host, settings.port)
        self.session_limit: int | None = None
        """How many messages the relay takes in a session, where that was learnt."""
        self.bears = Gear.WINDOW
        """The gear that the relay is known to bear at most, where that was learnt."""
        self._settings = settings
        self._clock = clock
        self._committing: Hook = _nothing
        self._meanwhile: Callable[[], None] = nothing_meanwhile
        self._events = session_events or _unheard
        self._bell = Bell()
        self._line: _Line | None = None
        self._left: deque[Exchange] = deque()
        self._trouble: Exception | None = None
        self._table = table
        self.tokens = tokens
        if settings.oauth2.is_given:
            self.tokens = tokens or Tokens(settings.oauth2, table=table)
            self.tokens.events = lambda event, facts: self._events(event, {"relay": self.relay, **facts})
        self._envelopes_lost = self._served = 0

    # The session ------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """A session is there, as far as we know."""
        return self._line is not None

    @property
    def messages(self) -> int:
        """That were begun in the present session, or in the last one if there is none."""
        return self._line.messages if self._line else self._served

    @property
    def handshake(self) -> Handshake | None:
        """How the present session came about."""
        return self._line.handshake if self._line else None

    @property
    def features(self) -> Features | None:
        """What the relay offers in the present session."""
        return self._line.handshake.features if self._line else None

    @property
    def idle_seconds(self) -> float:
        """Since the present session last did something; 0 without one."""
        return self._clock() - self._line.used if self._line else 0.0

    def open(self) -> None:
        """Make sure of a session: keep the present one if it is quiet and young enough, else begin one.

        Raises RelayTrouble.
        """
        self._drop_if_dead()
        if self._line is not None and not self._line.session.flight and self._has_served_its_time(self._line):
            self._take_leave("it has served its time")
        if self._line is None:
            self._line = self._begin()

    def close(self) -> None:
        """Take leave politely, in two seconds at most. Never raises; without a session it does nothing.

        Within `carry`: what is committed is waited for first, as long as for any final reply; what is not is given up.
        """
        self._take_leave("closed by us")

    def close_if_idle(self) -> None:
        """Take leave if nothing was sent for `idle_close`."""
        if self._line is not None and not self._line.session.flight and self.idle_seconds >= self._settings.idle_close:
            self._take_leave("idle")

    def interrupt(self) -> None:
        """From any thread: end the wait in progress, and every later one, at once. The courier is done for.

        A wait for the final reply ends in doubt: call it when waiting longer is worse.
        """
        self._bell.ring()

    # The messages -----------------------------------------------------------------------------------------------------

    def carry(
        self,
        messages: Iterator[Message],
        *,
        committing: Hook = _nothing,
        meanwhile: Callable[[], None] = nothing_meanwhile,
    ) -> Iterator[Exchange]:
        """An exchange for each message taken, until there is none left or no session to carry it. See the Rules.

        `committing` is called before the end of a message's data leaves, `meanwhile` when there is only waiting to do.
        """
        self._committing, self._meanwhile = committing, meanwhile
        # Not a generator: between two steps a generator's frame would hold on to the message before.
        return iter(functools.partial(self._next, messages), None)

    def _next(self, messages: Iterator[Message]) -> Exchange | None:
        if self._left:
            return self._left.popleft()
        line = self._line
        if line is None or not line.session.flight:
            self._raise_trouble()
            line = self._begun(messages)
        if line is None:
            return None
        exchange = self._advance(line, functools.partial(self._take_ahead, messages), self._use_the_wait)
        session = line.session
        if session.over:
            self._left.extend(self._rest(line))
            self._drop(session.over)
        elif session.sign and not session.flight:
            self._drop(session.sign)
        elif session.trouble is not None and not session.flight:
            self._drop(f"given up within a transaction: {type(session.trouble).__name__}")
        if exchange is None:
            self._raise_trouble()
        return exchange

    def _begun(self, messages: Iterator[Message]) -> _Line | None:
        """The session with the next message in hand; None if there is no session or no message."""
        self._drop_if_dead()
        if self._line is None:
            return None
        if self._has_served_its_time(self._line):
            self.open()
        message = next(messages, None)
        if message is None:
            return None
        session = self._line.session
        session.gear = min(session.gear, self.bears)
        session.begin(message, self._clock())
        return self._line

    def _take_ahead(self, messages: Iterator[Message]) -> Message | None:
        """The next message, if the session can take it on and the iterator has one now."""
        if self._line is None or self._trouble is not None or self._has_served_its_time(self._line):
            return None
        if self.bears < Gear.OVERLAP:  # another worker has found out
            return None
        if len(self._line.session.flight[-1].message.content) > LARGE:
            return None
        try:
            return next(messages, None)
        except Exception as trouble:  # noqa: BLE001 - the caller's own; it gets it back (Rule 5)
            self._trouble = trouble
            return None

    def _use_the_wait(self) -> None:
        try:
            self._meanwhile()
        except Exception as trouble:  # noqa: BLE001 - the caller's own; the line is fine, and it comes out as by Rule 5
            self._trouble = self._trouble or trouble

    def _advance(
        self,
        line: _Line,
        take: Callable[[], Message | None] = none_ahead,
        meanwhile: Callable[[], None] = nothing_meanwhile,
    ) -> Exchange | None:
        """The first of the flight, to its end; None if a hook raised and nothing is in flight."""
        talk = next_exchange(line.session, take, self._clock, meanwhile)
        try:
            exchange = line.connection.drive(talk, self._committing)
        except BaseException as error:
            self._abandon(line, f"given up within a transaction: {type(error).__name__}")
            raise
        line.used = self._clock()
        if exchange is not None:
            line.messages += not (exchange.lacking or exchange.unanswered)
        return exchange

    def _rest(self, line: _Line) -> Iterator[Exchange]:
        """The flight, to its end: without waiting if the session is over."""
        while line.session.flight:
            exchange = self._advance(line)
            if exchange is not None:
                yield exchange

    def _abandon(self, line: _Line, reason: str) -> None:
        """Rules 4 and 6: what may have been delivered comes out later, the rest is forgotten."""
        for transaction in line.session.flight:
            if transaction.end_of_data_sent:
                transaction.lose(reason)
                self._left.append(transaction.exchange(line.session, self._clock()))
        line.session.flight.clear()
        self._drop(reason)

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    # Beginnings and ends ----------------------------------------------------------------------------------------------

    def _begin(self) -> _Line:
        try:
            return self._begun_session() if self.tokens is None else self._begun_with(self.tokens)
        except RelayTrouble as trouble:  # whose words are those of the first relay's table
            remedy = trouble.reason
            for end in ("]", ".oauth2]"):
                remedy = remedy.replace(f"[{_FIRST}{end}", f"[{self._table}{end}")
            raise RelayTrouble(trouble.phase, remedy, trouble.reply) from trouble

    def _begun_with(self, tokens: Tokens) -> _Line:
        """A token that is refused once is followed by another one; whose is refused too, the relay is in trouble."""
        while True:
            token = tokens.current(self._bell)
            try:
                line = self._begun_session(token)
            except RelayTrouble as trouble:
                if tokens.refused(token, trouble):
                    continue
                hints = tokens.hints(token) if trouble.phase is Phase.AUTH and trouble.reply is not None else ""
                raise RelayTrouble(trouble.phase, f"{trouble.reason}{hints}", trouble.reply) from trouble
            tokens.accepted()
            line.usable_for = tokens.usable_for(token)
            return line

    def _begun_session(self, token: Token | None = None) -> _Line:
        connection = Connection(self._settings, self._bell)
        connection.before_waiting = self._use_the_wait
        ends = Line(
            relay=self.relay,
            our_name=self._settings.ehlo_name or _our_name(connection.our_address),
            is_loopback=connection.is_loopback,
            tls=connection.tls,
        )
        handshake = connection.drive(
            open_session(self._settings, ends, token.value if token else None), self._committing
        )
        gear = first_gear(self._settings, handshake.features, handshake.banner, self.bears)
        facts = {"tls": handshake.tls, "authenticated": handshake.authenticated, "banner": handshake.banner}
        facts["pipelining"] = gear.word
        self._events("session.opened", {"relay": self.relay, **facts})
        session = Session(features=handshake.features, relay=self.relay, gear=gear, window=self._settings.window)
        return _Line(connection, handshake, session, self._clock())

    def _has_served_its_time(self, line: _Line) -> bool:
        most = min(self._settings.max_messages_per_connection, self.session_limit or sys.maxsize)
        return line.messages + len(line.session.flight) >= most or self._clock() - line.opened >= min(
            self._settings.max_connection_age, line.usable_for
        )

    def _drop_if_dead(self) -> None:
        if self._line is not None and not self._line.session.flight and (reason := self._line.connection.unasked()):
            self._drop(reason)

    def _take_leave(self, reason: str) -> None:
        if self._line is None or not self._landed(self._line, reason):
            return
        with contextlib.suppress(LineLost):
            self._line.connection.drive(quit_session(), self._committing)
        self._line.connection.close()
        self._drop(reason)

    def _landed(self, line: _Line, reason: str) -> bool:
        """Bring the flight to its end. False: the session ended with it."""
        session = line.session
        if session.flight and not any(transaction.end_of_data_sent for transaction in session.flight):
            session.over, session.deaf = reason, True  # an envelope was said: QUIT would be taken for content
        self._left.extend(self._rest(line))
        if session.over or session.trouble:
            self._drop(session.over or reason)
            return False
        return True

    def _learn_from(self, session: Session) -> None:
        """A gear that the relay did not bear is lowered for good; a line that we ended ourselves shows nothing."""
        if self._bell.rung:
            return
        lost = session.has_lost_envelope
        self._envelopes_lost = self._envelopes_lost + 1 if lost else 0
        if self._envelopes_lost >= ENVELOPES_LOST:
            session.lower(Gear.OFF, f"{ENVELOPES_LOST} sessions in a row ended within an envelope: {session.over}")
        if session.sign and session.bears < self.bears:
            self.bears = session.bears
            facts = {"relay": self.relay, "pipelining": self.bears.word, "reason": session.sign}
            self._events("relay.lowered", facts)

    def _drop(self, reason: str) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        line.connection.abort()
        self._served = line.messages
        self._learn_from(line.session)
        self._trouble = self._trouble or line.session.trouble
        seconds = self._clock() - line.opened
        facts = {"relay": self.relay, "reason": reason, "messages": line.messages, "seconds": seconds}
        self._events("session.closed", facts)


def _our_name(address: str) -> str:
    """The full name of this machine, or an address literal if it has none (RFC 5321 section 4.1.4)."""
    name = socket.getfqdn()
    if "." in name and not name.startswith("localhost"):
        return name
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
