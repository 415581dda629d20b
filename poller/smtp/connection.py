"""The connection: it owns the socket, waits, and drives conversations.

Rule 1. While it waits to write it also reads, so that two sides that both write can never block each other.
Rule 2. `LineLost` at a write says how many of its bytes may have left this machine. The rest never will, as the line is
        closed then. Under TLS a record leaves as a whole, so each write to it is one record at most. What the relay had
        said before can still be read.
        What the kernel took may lie in its buffer for long, where the relay reads slowly. A write that `leaves` waits
        until nothing of it lies there: only then does the time for the final reply begin, and what lay there when the
        line broke has not left. Only Linux tells (`poller.smtp.unsent`); elsewhere what the kernel took may have left.
Rule 3. Each wait ends: by its timeout (of `SmtpSettings`, by phase), by the line's end, or by the bell.

Raises `LineLost` and RelayTrouble, each in words that name the relay's side of it. It does not reconnect, and knows
nothing of messages. One thread uses it; only the bell is for others. It is longer than most files here: each way in
which a line can end has its own words.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from poller.exchange import Loss, Message, Phase, RelayTrouble, Reply
from poller.smtp.actions import Await, Committing, LineLost, Send, StartTls, Unasked, nothing_meanwhile
from poller.smtp.dial import STOPPING, dial, place
from poller.smtp.replies import MAX_WAITING, NotSmtp, RawReply, ReplyReader
from poller.smtp.tls import client_context, in_words
from poller.smtp.unsent import unsent
from poller.units import format_duration

if TYPE_CHECKING:
    from poller.smtp.actions import Action, Talk
    from poller.smtp.settings import SmtpSettings
    from poller.smtp.wake import Bell

T = TypeVar("T")
Hook = Callable[[Message, tuple[Reply | None, ...]], None]
"""Hears of each message immediately before the end of its data leaves, with the replies to its recipients so far."""

READ_SIZE = 64 * 1024
"""Bytes per read: more than any group of replies but those to thousands of recipients."""
TLS_RECORD = 16 * 1024
"""Bytes, at most (RFC 8446 section 5.1). Of a write of several records OpenSSL does not say which have left."""
QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Only Linux has it."""
QUIT_TIMEOUT_S = 2.0
"""For the farewell's reply. RFC 5321 wants it awaited; nothing depends on it, so not for long."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.05
"""Between two looks at what still lies in the kernel; most messages leave before the first."""

_ENVELOPE = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA})
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Connection:
    """One line to one relay, in plain text or TLS."""

    def __init__(self, settings: SmtpSettings, bell: Bell) -> None:
        """Connect, with TLS from the first byte if so set. Raises RelayTrouble."""
        self._settings = settings
        self._bell = bell
        self._reader = ReplyReader()
        self._poll = select.poll()
        self._poll.register(bell.fd, select.POLLIN)
        self._timeouts = _timeouts(settings)
        self.before_waiting: Callable[[], None] = nothing_meanwhile
        """Called when the replies to an envelope are to be waited for: a relay may take its time over them."""
        self._lost_line: Loss | None = None
        self._heard = False  # something, since we last wrote
        self.tls = ""
        context = client_context(settings.ca_file) if settings.security == "tls" else None
        self._sock: socket.socket
        self._sock, self.peer, self.our_address = dial(settings.host, settings.port, settings.connect_timeout, bell)
        self._poll.register(self._sock, select.POLLIN)
        self._polled = select.POLLIN
        if context is not None:
            try:
                self._begin_tls(context, Phase.CONNECT)
            except LineLost as lost:
                raise RelayTrouble(
                    lost.loss.phase, f"{place(settings.host, settings.port)}: {lost.loss.reason}"
                ) from lost

    @property
    def is_loopback(self) -> bool:
        """The other end is on this machine."""
        address = ipaddress.ip_address(self.peer.partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback

    def drive(self, talk: Talk[T], committing: Hook) -> T:
        """Hold a conversation to its end. What comes out of it, such as what `committing` raised, closes the line."""
        try:
            action = next(talk)
            while True:
                try:
                    answer = self._perform(action, committing)
                except LineLost as lost:
                    self._close_lost(lost, action)
                    action = talk.throw(lost)
                except Exception as error:  # noqa: BLE001 - the hook's: the conversation may have something to finish
                    action = talk.throw(error)
                else:
                    action = talk.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
        except BaseException:
            self.abort()
            raise

    def _perform(self, action: Action, committing: Hook) -> RawReply | str | None:
        match action:
            case Await():
                return self._read_reply(action.phase)
            case Send():
                self._write(action.data, action.phase)
                if action.leaves:
                    self._let_leave(len(action.data), action.phase)
            case Unasked():
                return self._said_unasked()
            case Committing():
                committing(action.message, action.rcpt)
            case StartTls():
                return self._upgrade()
        return None

    def _close_lost(self, lost: LineLost, action: Action) -> None:
        """Behind a lost write the replies that had come are facts; behind anything else nothing is left to believe."""
        if not isinstance(action, Send):
            self._reader = ReplyReader()
        self._lost_line = self._lost_line or lost.loss
        self.abort()

    # Reading and writing ----------------------------------------------------------------------------------------------

    def _read_reply(self, phase: Phase) -> RawReply:
        deadline = 0.0
        while True:
            try:
                reply = self._reader.take()
            except NotSmtp as error:
                raise self._lost(phase, str(error)) from error
            if reply is not None:
                return reply
            if self._lost_line is not None:
                raise LineLost(self._lost_line)
            deadline = deadline or time.monotonic() + self._timeouts[phase]
            if not self._await_bytes(deadline, phase):
                raise self._lost(phase, "the relay closed the connection")

    def _await_bytes(self, deadline: float, phase: Phase) -> bool:
        """Read what comes next; False at the end of the line."""
        if phase is Phase.END and not self._heard:
            # Other work was done since we wrote, so mostly it is there, and a poll would be a system call too many.
            data = self._read(phase)
            if data is not None:
                return bool(data)
        if not self._has_pending():
            if phase in _ENVELOPE:
                self.before_waiting()
            if self._heard:
                self._acknowledge()
            self._wait(select.POLLIN, deadline, phase)
        return self._receive(phase)

    def _write(self, data: bytes | memoryview, phase: Phase) -> None:
        if self._lost_line is not None:
            raise LineLost(self._lost_line)
        self._heard = False
        rest = memoryview(data)
        at_once = TLS_RECORD if isinstance(self._sock, ssl.SSLSocket) else len(rest)
        try:
            while rest:
                rest = rest[self._write_some(rest[:at_once], phase) :]
        except LineLost as lost:
            taken = len(data) - len(rest)
            in_the_kernel = 0 if isinstance(self._sock, ssl.SSLSocket) else unsent(self._sock)
            lost.taken = max(0, taken - in_the_kernel)
            raise

    def _let_leave(self, size: int, phase: Phase) -> None:
        """Wait until nothing of what was written lies in the kernel; each part that leaves has the whole time anew."""
        left = least = unsent(self._sock)
        if not left:
            return
        deadline = time.monotonic() + self._patience_to_write(phase)
        pause = FIRST_PAUSE_S
        try:
            while left:
                if self._wait_a_little(pause, phase) and not self._receive(phase):
                    raise self._lost(phase, "the relay closed the connection")
                pause = min(2 * pause, LONGEST_PAUSE_S)
                left = unsent(self._sock)
                if left < least:
                    least, deadline = left, time.monotonic() + self._patience_to_write(phase)
                if left and time.monotonic() > deadline:
                    words = format_duration(self._patience_to_write(phase))
                    raise self._lost(phase, f"the relay took nothing of the message for {words}")
        except LineLost as lost:
            left = unsent(self._sock)
            is_whole = left == 0
            lost.taken = size if is_whole else 0 if isinstance(self._sock, ssl.SSLSocket) else max(0, size - left)
            raise

    def _wait_a_little(self, seconds: float, phase: Phase) -> bool:
        """Whether there is something to read. Raises LineLost when the bell rings."""
        self._poll_for(select.POLLIN)
        ready = dict(self._poll.poll(seconds * 1000))
        if self._bell.fd in ready:
            raise self._lost(phase, STOPPING)
        return self._sock.fileno() in ready

    def _patience_to_write(self, phase: Phase) -> float:
        return self._timeouts[phase] if phase is Phase.END else self._settings.block_timeout

    def _write_some(self, data: memoryview, phase: Phase) -> int:
        """How many bytes were taken; 0 after a wait."""
        try:
            return self._sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._wait_to_write(select.POLLOUT | select.POLLIN, phase)
        except ssl.SSLWantReadError:
            self._wait_to_write(select.POLLIN, phase)
        except OSError as error:
            raise self._broken(phase, error) from error
        return 0

    def _wait_to_write(self, events: int, phase: Phase) -> None:
        """Until there is room; each block has the whole time, and what comes in meanwhile is kept."""
        ready = self._wait(events, time.monotonic() + self._patience_to_write(phase), phase)
        if ready & _READABLE and not self._receive(phase):
            raise self._lost(phase, "the relay closed the connection")

    def _receive(self, phase: Phase) -> bool:
        """Read what is there; False at the end of the line."""
        return self._read(phase) != b""

    def _read(self, phase: Phase) -> bytes | None:
        """What is there, which the reader has been fed: None for nothing, no bytes at the end of the line."""
        try:
            data = self._sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self._wait(select.POLLOUT, time.monotonic() + self._settings.block_timeout, phase)
            return None
        except ssl.SSLEOFError:
            return b""
        except OSError as error:
            raise self._lost(phase, _in_words(error)) from error
        self._heard = True
        try:
            self._reader.feed(data)
        except NotSmtp as error:
            raise self._lost(phase, str(error)) from error
        return data

    def _said_unasked(self) -> RawReply | None:
        self._poll_for(select.POLLIN)
        if self._has_pending() or self._sock.fileno() in dict(self._poll.poll(0)):
            try:
                self._receive(Phase.CONTENT)  # an end of the line shows itself at the write that follows
            except LineLost:
                return None
        return self._last_words()

    def _acknowledge(self) -> None:
        """We heard a part of the replies and have nothing to say to it, so no ACK goes out with our next bytes.

        A relay that writes each reply by itself, with Nagle's algorithm on, would not write the next one before our
        ACK, and the kernel delays that by 40 ms (RFC 9293 section 3.8.6.3).
        """
        if QUICK_ACK is not None:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)

    def _has_pending(self) -> bool:
        """TLS may have decrypted more than was read; the socket shows no sign of it."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _wait(self, events: int, deadline: float, phase: Phase) -> int:
        """What the socket is ready for. Raises LineLost at the deadline and when the bell rings."""
        self._poll_for(events)
        left = max(0.0, deadline - time.monotonic())
        ready = dict(self._poll.poll(left * 1000))
        is_answered = phase is Phase.END and events == select.POLLIN and self._sock.fileno() in ready
        if self._bell.fd in ready and not is_answered:  # the final reply is a fact, and without it there is a doubt
            raise self._lost(phase, STOPPING)
        if not ready:
            raise self._lost(phase, f"the relay was silent for {format_duration(self._patience(phase))}")
        return ready[self._sock.fileno()]

    def _poll_for(self, events: int) -> None:
        if events != self._polled:
            self._poll.modify(self._sock, events)
            self._polled = events

    def _patience(self, phase: Phase) -> float:
        return self._timeouts.get(phase, self._settings.block_timeout)

    def _broken(self, phase: Phase, error: OSError) -> LineLost:
        """A write failed. What the relay said before it hung up may still be in the socket, as much as it can hold."""
        with contextlib.suppress(LineLost):
            for _ in range(MAX_WAITING // READ_SIZE):
                if not self._receive(phase):
                    break
        return self._lost(phase, _in_words(error))

    def _lost(self, phase: Phase, reason: str) -> LineLost:
        return LineLost(Loss(phase=phase, reason=reason))

    def _last_words(self) -> RawReply | None:
        """The next whole reply that nobody has read."""
        with contextlib.suppress(NotSmtp):
            return self._reader.take()
        return None

    # TLS --------------------------------------------------------------------------------------------------------------

    def _upgrade(self) -> str:
        """After the 220 to STARTTLS. Plain text behind it would be taken for the relay's own words under TLS."""
        if not self._reader.is_empty:
            reason = "plain text was waiting behind the reply to STARTTLS: somebody may be tampering with the line"
            raise LineLost(Loss(phase=Phase.STARTTLS, reason=reason))
        self._begin_tls(client_context(self._settings.ca_file), Phase.STARTTLS)
        return self.tls

    def _begin_tls(self, context: ssl.SSLContext, phase: Phase) -> None:
        self._poll.unregister(self._sock)
        self._sock = secure = context.wrap_socket(
            self._sock, server_hostname=self._settings.name_in_certificate, do_handshake_on_connect=False
        )
        self._poll.register(secure, select.POLLIN)
        self._polled = select.POLLIN
        try:
            self._shake_hands(secure, phase)
        except (OSError, LineLost) as error:
            self.abort()
            if isinstance(error, LineLost):
                raise
            words = in_words(error, self._settings.host) if isinstance(error, ssl.SSLError) else _in_words(error)
            raise LineLost(Loss(phase=phase, reason=words)) from error
        self.tls = f"{secure.version()} {(secure.cipher() or ('',))[0]}"

    def _shake_hands(self, secure: ssl.SSLSocket, phase: Phase) -> None:
        deadline = time.monotonic() + self._settings.connect_timeout
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline, phase)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT, deadline, phase)
            else:
                return

    # The end ----------------------------------------------------------------------------------------------------------

    def unasked(self) -> str:
        """What the relay did since nobody asked it anything: "" for nothing, else words. Does not wait."""
        self._poll_for(select.POLLIN)
        ready = self._poll.poll(0)
        if self._bell.rung:
            return STOPPING
        if not ready and self._reader.is_empty:
            return ""
        try:
            alive = self._receive(Phase.MAIL)
        except LineLost as lost:
            return lost.loss.reason
        if alive and self._reader.is_empty:
            return ""  # TLS had something to say to itself, such as a session ticket
        said = self._last_words()
        if said is not None:
            return f"the relay said, unasked: {said.reply}"
        return "the relay spoke unasked" if alive else "the relay closed the connection"

    def close(self) -> None:
        """Close after a farewell. Never raises, never waits."""
        if isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()  # sends our close_notify; does not wait for theirs
        self.abort()

    def abort(self) -> None:
        """Close at once; what the kernel has not taken is gone. Never raises; twice is fine."""
        if self._sock.fileno() >= 0:
            self._poll.unregister(self._sock)
        self._sock.close()


def _timeouts(settings: SmtpSettings) -> dict[Phase, float]:
    """How long to wait for a reply in each phase."""
    return dict.fromkeys(Phase, settings.reply_timeout) | {
        Phase.DATA: settings.data_timeout,
        Phase.END: settings.end_timeout,
        Phase.CONTENT: settings.block_timeout,
        Phase.CONNECT: settings.connect_timeout,
        Phase.QUIT: QUIT_TIMEOUT_S,
    }


def _in_words(error: OSError) -> str:
    return f"the connection broke: {(error.strerror or str(error)).lower()}"
