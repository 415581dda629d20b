"""The book of what was accepted: an SMTP server that writes down every message, and can be cut at any byte.

    with Recorder() as relay:
        ...                 # send to relay.host, relay.port
    relay.entries           # every message whose content reached its end, whether or not the 250 went out

Rule 1. A message is entered when its end of data was read, before a reply is thought of. That is delivery: a relay
        that crashes now has it in its queue.
Rule 2. `Entry.answered` is true once the whole 250 was handed to the kernel.
Rule 3. What the client managed to write before it died is still read and entered.

Lean on purpose (blocking sockets, a thread for each line, no parsing of what need not be known), so that it is not
what a measurement measures. It speaks PIPELINING and CHUNKING. For scripted misbehaviour see `servers.fault`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

PHASES = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "end", "RSET", "QUIT")
How = Literal["closed", "reset", "half a reply", "silence", "byte by byte", "in content"]

READ = 1 << 18
HEADER = 8192  # bytes of a message in which its Message-ID is looked for
CONTENT_READ = 4096  # bytes of content that are read before a cut "in content"

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(<[^>\r\n]+>)", re.IGNORECASE | re.MULTILINE)
_ADDRESS = re.compile(rb"<([^>]*)>")


@dataclass(kw_only=True, slots=True)
class Entry:
    """One message accepted. `life` is the number of crashes before it."""

    number: int
    message_id: str
    recipients: tuple[str, ...]
    at: float
    """time.monotonic()"""
    life: int
    client: str = ""
    """What it calls itself in EHLO."""
    answered: bool = False


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What befalls the reply to `phase`, the so-manieth times it is due, counted from 1 over all sessions."""

    phase: str
    how: How
    times: frozenset[int] = frozenset({1})


class _HangUp(Exception):  # noqa: N818 - an order, not an error
    pass


@dataclass(kw_only=True)
class Recorder:
    """The server; a context manager. `entries` and `done` may be read at any time."""

    cut: Cut | None = None
    defer_every: int = 0
    """451 to the first RCPT of each so-manieth recipient: makes clients say RSET."""
    on_taken: Callable[[Entry], bool] | None = None
    """Sees each entry before it is answered; False hangs up instead of answering."""
    host: str = "127.0.0.1"
    entries: list[Entry] = field(default_factory=list)
    life: int = 0
    done: int = 0
    """Cuts that took place."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._counts: Counter[str] = Counter()
        self._known: set[str] = set()
        self.stopping = threading.Event()
        self._listener = socket.create_server((self.host, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Break every line."""
        with self._lock:
            for sock in self._live:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def wait_until_quiet(self, seconds: float = 10) -> None:
        """Until the lines of a dead client are read to their ends (Rule 3)."""
        deadline = time.monotonic() + seconds
        while self._live:
            assert time.monotonic() < deadline, "a line outlived its client"
            time.sleep(0.001)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._live.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, ValueError, _HangUp):
                _Session(self, sock).run()
        finally:
            sock.close()
            with self._lock:
                self._live.discard(sock)

    def enter(self, content: bytes, recipients: list[str], client: str) -> Entry:
        """Rule 1."""
        found = _MESSAGE_ID.search(content[:HEADER])
        with self._lock:
            entry = Entry(
                number=len(self.entries) + 1,
                message_id=found[1].decode() if found else "",
                recipients=tuple(recipients),
                at=time.monotonic(),
                life=self.life,
                client=client,
            )
            self.entries.append(entry)
        return entry

    def befalls(self, phase: str) -> How | None:
        """What happens to this reply."""
        if self.cut is None or self.cut.phase != phase:
            return None
        with self._lock:
            self._counts[phase] += 1
            if self._counts[phase] not in self.cut.times:
                return None
            self.done += 1
        return self.cut.how

    def defers(self, address: str) -> bool:
        """Whether this recipient is told to come back later: once, and each so-manieth."""
        if not self.defer_every:
            return False
        with self._lock:
            first = address not in self._known
            self._known.add(address)
            return first and len(self._known) % self.defer_every == 0


class _Session:
    """One line."""

    def __init__(self, server: Recorder, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._client = ""
        self._input = bytearray()
        self._output = bytearray()
        self._unanswered: list[Entry] = []
        self._recipients: list[str] = []
        self._content: bytearray | None = None
        self._looked = 0
        self._chunk = 0
        self._last = False
        self._step = self._command

    def run(self) -> None:
        self._say("greeting", b"220 recorder.test ESMTP\r\n")
        self._flush()
        while data := self._sock.recv(READ):
            self._input += data
            while self._step():
                pass
            self._flush()

    # Each step takes one thing from the input; False: it is not all there.

    def _command(self) -> bool:
        end = self._input.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._input[:end])
        del self._input[: end + 2]
        verb = line[:4].upper()
        if verb == b"QUIT":
            self._say("QUIT", b"221 2.0.0 bye\r\n")
            self._flush()
            raise _HangUp
        _VERBS.get(verb, _Session._unknown)(self, line)
        return True

    def _ehlo(self, line: bytes) -> None:
        self._client = line[5:].decode()
        offers = (b"PIPELINING", b"8BITMIME", b"SMTPUTF8", b"CHUNKING", b"SIZE 0")
        lines = b"".join(b"250-%s\r\n" % offer for offer in offers)
        self._say("EHLO", b"250-recorder.test\r\n" + lines + b"250 ENHANCEDSTATUSCODES\r\n")

    def _mail(self, _: bytes) -> None:
        self._recipients = []
        self._say("MAIL", b"250 2.1.0 ok\r\n")

    def _rcpt(self, line: bytes) -> None:
        found = _ADDRESS.search(line)
        address = found[1].decode() if found else ""
        if self._server.defers(address):
            return self._say("RCPT", b"451 4.7.1 come back later\r\n")
        self._recipients.append(address)
        return self._say("RCPT", b"250 2.1.5 ok\r\n")

    def _data(self, _: bytes) -> None:
        if not self._recipients:
            return self._say("DATA", b"554 5.5.1 no valid recipients\r\n")
        self._say("DATA", b"354 go ahead\r\n")
        self._looked = 0
        self._step = self._read_content
        return None

    def _bdat(self, line: bytes) -> None:
        words = line.split()
        self._chunk, self._last = int(words[1]), len(words) > 2
        self._step = self._read_chunk

    def _rset(self, _: bytes) -> None:
        self._recipients = []
        self._say("RSET", b"250 2.0.0 flushed\r\n")

    def _noop(self, _: bytes) -> None:
        self._output += b"250 2.0.0 ok\r\n"

    def _unknown(self, _: bytes) -> None:
        self._output += b"502 5.5.1 what?\r\n"

    def _read_content(self) -> bool:
        self._cut_content()
        end = 0 if self._input.startswith(b".\r\n") else self._input.find(b"\r\n.\r\n", self._looked) + 2
        if end == 1:
            self._looked = max(0, len(self._input) - 4)
            return False
        content = bytes(self._input[:end])
        del self._input[: end + 3]
        self._step = self._command
        self._take(content)
        return True

    def _cut_content(self) -> None:
        if self._looked or len(self._input) < CONTENT_READ:
            return
        if self._server.befalls("content"):
            self._hang_up(reset=True)

    def _read_chunk(self) -> bool:
        if len(self._input) < self._chunk:
            return False
        content = self._content = (self._content or bytearray()) + self._input[: self._chunk]
        del self._input[: self._chunk]
        self._step = self._command
        if not self._last:
            self._output += b"250 2.0.0 go on\r\n"
        elif not self._recipients:
            self._content = None
            self._output += b"554 5.5.1 no valid recipients\r\n"
        else:
            self._content = None
            self._take(bytes(content))
        return True

    def _take(self, content: bytes) -> None:
        entry = self._server.enter(content, self._recipients, self._client)
        self._recipients = []
        if self._server.on_taken is not None and not self._server.on_taken(entry):
            raise _HangUp
        self._say("end", b"250 2.0.0 Ok: queued as R%06d\r\n" % entry.number)
        self._unanswered.append(entry)

    # What goes out

    def _say(self, phase: str, reply: bytes) -> None:
        how = self._server.befalls(phase)
        if how is None:
            self._output += reply
            return
        self._flush()
        match how:
            case "closed":
                raise _HangUp
            case "reset":
                self._hang_up(reset=True)
            case "half a reply":
                self._sock.sendall(reply[: len(reply) // 2])
                raise _HangUp
            case "silence":
                self._ignore()
            case _:
                for position in range(len(reply)):
                    self._sock.sendall(reply[position : position + 1])
                    time.sleep(0.002)

    def _hang_up(self, *, reset: bool) -> None:
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _HangUp

    def _ignore(self) -> None:
        while self._sock.recv(READ):
            pass
        raise _HangUp

    def _flush(self) -> None:
        if not self._output:
            return
        output, self._output = self._output, bytearray()
        answered, self._unanswered = self._unanswered, []
        self._sock.sendall(output)
        for entry in answered:
            entry.answered = True


_VERBS: dict[bytes, Callable[[_Session, bytes], None]] = {
    b"EHLO": _Session._ehlo,
    b"HELO": _Session._ehlo,
    b"MAIL": _Session._mail,
    b"RCPT": _Session._rcpt,
    b"DATA": _Session._data,
    b"BDAT": _Session._bdat,
    b"RSET": _Session._rset,
    b"NOOP": _Session._noop,
}
