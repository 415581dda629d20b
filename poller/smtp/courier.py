"""The courier: carries messages to one relay, one session at a time.

    courier.open()                          # a session is ready, or RelayTrouble
    for exchange in courier.carry(pending): # pending is the caller's iterator
        record(exchange)
    # ended: nothing is pending any more, or not courier.is_open: rest if need be, then open() and carry on

Rule 1. One `Exchange` for each message taken from the iterator, in order. None is taken unless the line was quiet a
        moment before, so a relay that has closed it costs no row anything.
Rule 2. `carry` ends when the session does (lost, 421, a reply that does not fit). Whether to rest before the next
        `open` is the caller's to decide; what was not taken is still in the caller's iterator. The only session that
        `carry` replaces itself is one that has served its time: `max_messages_per_connection`, `max_connection_age`.
Rule 3. `committing(message, rcpt)` is called immediately before the bytes that hold the end of its data, `rcpt` being
        what its recipients were told. What it raises comes out of `carry`, the line is closed, it was not delivered.
Rule 4. Sent content is not held on to.

Raises RelayTrouble from `open`, and from `carry` when a planned replacement fails: then no message was taken.
A courier belongs to one thread; only `interrupt` may be called from others. It never sends a message twice, and judges
nothing.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from poller.smtp.connection import Connection
from poller.smtp.conversation import LineLost, Session, quit_session, transact
from poller.smtp.dial import place
from poller.smtp.opening import Handshake, Line, open_session
from poller.smtp.wake import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poller.exchange import Exchange, Message, Reply
    from poller.smtp.connection import Hook
    from poller.smtp.replies import Features
    from poller.smtp.settings import SmtpSettings


def _nothing(_: Message, __: tuple[Reply | None, ...]) -> None:
    """No journal."""


def _unheard(_: str, __: dict[str, Any]) -> None:
    """No log."""


class _Line:
    """One open session: the connection, what was agreed on it, and what it has done."""

    def __init__(self, connection: Connection, handshake: Handshake, now: float) -> None:
        self.connection = connection
        self.handshake = handshake
        self.session = Session(features=handshake.features)
        self.opened = self.used = now
        self.messages = 0


class Courier:
    """Carries messages to the relay of `settings`.

    `clock` counts seconds for ages and durations. `session_events(name, facts)` hears "session.opened" (relay, tls,
    authenticated, banner) and "session.closed" (relay, reason, messages, seconds).
    """

    def __init__(
        self,
        settings: SmtpSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        committing: Hook = _nothing,
        session_events: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.relay = place(settings.host, settings.port)
        self._settings = settings
        self._clock = clock
        self._committing = committing
        self._events = session_events or _unheard
        self._bell = Bell()
        self._line: _Line | None = None

    # The session ------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """A session is there, as far as we know."""
        return self._line is not None

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
        if self._line is not None and self._has_served_its_time(self._line):
            self._take_leave("it has served its time")
        if self._line is None:
            self._line = self._begin()

    def close(self) -> None:
        """Take leave politely, in two seconds at most. Never raises; without a session it does nothing."""
        self._take_leave("closed by us")

    def close_if_idle(self) -> None:
        """Take leave if nothing was sent for `idle_close`."""
        if self._line is not None and self.idle_seconds >= self._settings.idle_close:
            self._take_leave("idle")

    def interrupt(self) -> None:
        """From any thread: end the wait in progress, and every later one, at once. The courier is done for.

        A wait for the final reply ends in doubt: call it when waiting longer is worse.
        """
        self._bell.ring()

    # The messages -----------------------------------------------------------------------------------------------------

    def carry(self, messages: Iterator[Message]) -> Iterator[Exchange]:
        """An exchange for each message taken, until there is none left or no session to carry it. See Rules 1 and 2."""
        # Not a generator: between two steps a generator's frame would hold on to the message before.
        return iter(functools.partial(self._next, messages), None)

    def _next(self, messages: Iterator[Message]) -> Exchange | None:
        self._drop_if_dead()
        if self._line is None:
            return None
        if self._has_served_its_time(self._line):
            self.open()
        message = next(messages, None)
        return None if message is None else self._carry_one(message, self._line)

    def _carry_one(self, message: Message, line: _Line) -> Exchange:
        try:
            exchange = line.connection.drive(transact(message, line.session, self._clock), self._committing)
        except BaseException as error:
            self._drop(f"given up within a transaction: {type(error).__name__}")
            raise
        line.used = self._clock()
        line.messages += not exchange.lacking
        if line.session.over:
            self._drop(line.session.over)
        return replace(exchange, relay=self.relay)

    # Beginnings and ends ----------------------------------------------------------------------------------------------

    def _begin(self) -> _Line:
        connection = Connection(self._settings, self._bell)
        ends = Line(
            relay=self.relay,
            our_name=self._settings.ehlo_name or _our_name(connection.our_address),
            is_loopback=connection.is_loopback,
            tls=connection.tls,
        )
        handshake = connection.drive(open_session(self._settings, ends), self._committing)
        facts = {"tls": handshake.tls, "authenticated": handshake.authenticated, "banner": handshake.banner}
        self._events("session.opened", {"relay": self.relay, **facts})
        return _Line(connection, handshake, self._clock())

    def _has_served_its_time(self, line: _Line) -> bool:
        return (
            line.messages >= self._settings.max_messages_per_connection
            or self._clock() - line.opened >= self._settings.max_connection_age
        )

    def _drop_if_dead(self) -> None:
        if self._line is not None and (reason := self._line.connection.unasked()):
            self._drop(reason)

    def _take_leave(self, reason: str) -> None:
        if self._line is None:
            return
        with contextlib.suppress(LineLost):
            self._line.connection.drive(quit_session(), self._committing)
        self._line.connection.close()
        self._drop(reason)

    def _drop(self, reason: str) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        line.connection.abort()
        seconds = self._clock() - line.opened
        facts = {"relay": self.relay, "reason": reason, "messages": line.messages, "seconds": seconds}
        self._events("session.closed", facts)


def _our_name(address: str) -> str:
    """The full name of this machine, or an address literal if it has none (RFC 5321 section 4.1.4)."""
    name = socket.getfqdn()
    if "." in name and not name.startswith("localhost"):
        return name
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
