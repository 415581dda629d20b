"""A relay that misbehaves on request, and keeps a ledger of every message it took.

    with FaultServer(Faults(drop_unanswered_every=10)) as relay:
        ...                     # send to relay.host, relay.port
    relay.messages              # every message accepted: also those whose 250 never left

Plain sockets and threads on the loopback, an ephemeral port. `Faults` has a knob for each common fault; `answer` sees
every command first and may answer anything, or raise `HangUp`. As a process: `python tests/servers/fault.py --help`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import json
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from typing import Self


class HangUp(Exception):  # noqa: N818 - an order, not an error
    """Close the line now, after `say`; with `reset` by RST instead of FIN."""

    def __init__(self, say: bytes = b"", *, reset: bool = False) -> None:
        super().__init__("hang up")
        self.say = say
        self.reset = reset


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A command as it came: `verb` is upper case ("MAIL"), "." for the end of data, "" for a line of a login."""

    verb: str
    line: bytes
    session: int
    """From 1."""
    taken: int
    """Messages taken in this session so far."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A message in the ledger. `answered` is False when the line was dropped instead of saying 250."""

    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    parameters: str
    """What stood behind the address in MAIL."""
    at: float
    """time.time()"""
    session: int
    answered: bool = True


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What to offer, and how to fail. Counts of 0 mean never."""

    pipelining: bool = True
    chunking: bool = True
    eight_bit_mime: bool = True
    smtputf8: bool = True
    size: int | None = 0
    """Announced limit; 0 names none, None does not offer SIZE."""
    helo_only: bool = False
    users: Mapping[str, str] = field(default_factory=dict)
    """Passwords by username; empty offers no AUTH."""
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    take_token: Callable[[int, str, str], bytes] | None = None
    """Answers a login by XOAUTH2 or OAUTHBEARER: given the session, the user and the token, the final reply."""
    explain_refusal: bytes = b""
    """JSON that a refusal of a token begins with, behind a 334."""
    old_auth_form: bool = False
    """Offer `AUTH=LOGIN` only."""
    starttls: ssl.SSLContext | None = None
    tls: ssl.SSLContext | None = None
    behind_starttls: bytes = b""
    """Plain text sent together with the 220 to STARTTLS."""

    banner: bytes = b"220 fault.test ESMTP\r\n"
    close_before_greeting: int = 0
    """The first so many sessions."""
    refuse_greeting: int = 0
    """554 to the first so many sessions."""
    refuse_logins: int = 0
    refuse_rcpt: int = 0
    """554 5.7.1 to the first so many RCPT."""
    defer_first: Mapping[str, int] = field(default_factory=dict)
    """451 to these recipients the first so many times; "*" is everybody else."""
    refuse: frozenset[str] = frozenset()
    """550 5.1.1 to these recipients, always."""
    max_recipients: int = 0
    """452 4.5.3 beyond, in one transaction."""
    max_connections: int = 0
    """421 4.3.2 as a greeting beyond."""
    close_after: int = 0
    """421 after so many messages in a session, at the next command."""
    close_at_once_after: int = 0
    """421 and the end of the line directly behind the so-manieth 250 of a session."""
    drop_after: int = 0
    """Drop the line after so many messages in a session, at the next command."""
    drop_unanswered_every: int = 0
    """Drop instead of the 250 for each so-manieth message, after taking it."""
    drop_unanswered: frozenset[int] = frozenset()
    """The same for these messages, counted from 1 over all sessions."""
    drop_within_content: int = 0
    """Drop after so many bytes of the first message's content."""
    reply_delay: float = 0.0
    """Seconds before each group of replies: a distant relay."""
    bytes_per_second: int = 0
    """Reads content no faster."""
    one_byte_replies: bool = False
    eager: bool = False
    """Each reply is written at once, also within a group, and nothing is read meanwhile."""
    buffer: int = 0
    """Bytes of socket buffer, each way; 0 leaves them to the system."""
    answer: Callable[[Heard], bytes | None] | None = None
    """Sees every command first (also ""); None leaves it to the knobs, b"" says nothing."""


class FaultServer:
    """The server; a context manager. All counters may be read at any time."""

    host = "127.0.0.1"

    def __init__(
        self, faults: Faults | None = None, *, port: int = 0, on_taken: Callable[[Taken], None] | None = None
    ) -> None:
        self.faults = faults or Faults()
        self.messages: list[Taken] = []
        self.commands: list[bytes] = []
        """Every command line of every session, in order, without CRLF."""
        self.sessions = 0
        self.connections = 0
        """Open now."""
        self.most_connections = 0
        self.counts: Counter[str] = Counter()
        """How often each counted fault, and each deferred recipient, has come up."""
        self.lock = threading.RLock()
        self.on_taken = on_taken
        self._live: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._listener = socket.create_server((self.host, port))
        if self.faults.buffer:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._listener.setsockopt(socket.SOL_SOCKET, option, self.faults.buffer)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every line, and wait for the threads."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.lock:
            for sock in self._live:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond `stop`."""
        self._stopping.wait(seconds)

    def due(self, name: str, times: int) -> bool:
        """Whether the counted fault `name` still has to come up; counts it if so."""
        with self.lock:
            if self.counts[name] >= times:
                return False
            self.counts[name] += 1
            return True

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        thread.start()
        with self.lock:
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._stopping.is_set():
                sock.close()
                return
            with self.lock:
                self.sessions += 1
                self.connections += 1
                self.most_connections = max(self.most_connections, self.connections)
                self._live.add(sock)
                number = self.sessions
            self._start(self._serve, sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        session = _Session(self, sock, number)
        try:
            session.run()
        except HangUp as order:
            with contextlib.suppress(OSError):
                if order.say:
                    session.sock.sendall(order.say)
                if order.reset:
                    session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (OSError, EOFError, ValueError):
            pass  # the client, or stop(), ended the line
        finally:
            session.sock.close()
            with self.lock:
                self._live.discard(sock)
                self.connections -= 1


class _Session:
    """One line: reads commands, groups replies as a pipelining server does."""

    def __init__(self, server: FaultServer, sock: socket.socket, number: int) -> None:
        self.server = server
        self.faults = server.faults
        self.sock = sock
        self.number = number
        self.taken = 0
        self.secure = False
        self.mail_from: str | None = None
        self.parameters = ""
        self.recipients: list[str] = []
        self._chunks: list[bytes] = []
        self._input = b""
        self._output = b""

    def run(self) -> None:
        if self.faults.tls:
            self._wrap(self.faults.tls)
        if self.server.due("close_before_greeting", self.faults.close_before_greeting):
            return
        self._greet()
        while True:
            line = self._read_line()
            verb = line.split(b" ", 1)[0].split(b":", 1)[0].decode("ascii", "replace").upper()
            with self.server.lock:
                self.server.commands.append(line)
            if verb == "BDAT":  # whatever the answer, the octets are no commands (RFC 3030 section 2)
                self._chunks.append(self._read_octets(int(line.split()[1])))
            self._heed(verb, line)

    def _greet(self) -> None:
        if self.server.due("refuse_greeting", self.faults.refuse_greeting):
            self._end(b"554 5.3.2 fault.test is not talking to you\r\n")
        if self.faults.max_connections and self.server.connections > self.faults.max_connections:
            self._end(b"421 4.3.2 too many connections\r\n")
        self._say(self.faults.banner)

    def _heed(self, verb: str, line: bytes) -> None:
        if self._answered(verb, line):
            return
        if verb != "QUIT" and self._enough(self.faults.close_after):
            self._end(b"421 4.7.0 that was enough for one session\r\n")
        if self._enough(self.faults.drop_after):
            raise HangUp
        rules: dict[str, Callable[[bytes], None]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "BDAT": self._bdat,
            "RSET": self._rset,
            "NOOP": self._noop,
            "QUIT": self._quit,
        }
        rules.get(verb, self._unknown)(line)

    def _answered(self, verb: str, line: bytes) -> bool:
        if self.faults.answer is None:
            return False
        answer = self.faults.answer(Heard(verb=verb, line=line, session=self.number, taken=self.taken))
        if answer is None:
            return False
        self._say(answer)
        return True

    def _enough(self, limit: int) -> bool:
        return bool(limit) and self.taken >= limit

    # Commands ---------------------------------------------------------------------------------------------------------

    def _unknown(self, _: bytes) -> None:
        self._say(b"500 5.5.2 what?\r\n")

    def _helo(self, _: bytes) -> None:
        self._say(b"250 fault.test\r\n")

    def _noop(self, _: bytes) -> None:
        self._say(b"250 2.0.0 ok\r\n")

    def _quit(self, _: bytes) -> None:
        self._end(b"221 2.0.0 bye\r\n")

    def _ehlo(self, _: bytes) -> None:
        faults = self.faults
        if faults.helo_only:
            return self._say(b"502 5.5.1 I am an old server\r\n")
        auth = f"AUTH={' '.join(faults.mechanisms)}" if faults.old_auth_form else f"AUTH {' '.join(faults.mechanisms)}"
        offers = {
            "PIPELINING": faults.pipelining,
            "CHUNKING": faults.chunking,
            "8BITMIME": faults.eight_bit_mime,
            "SMTPUTF8": faults.smtputf8,
            f"SIZE {faults.size or ''}".strip(): faults.size is not None,
            "STARTTLS": faults.starttls is not None and not self.secure,
            auth: bool(faults.users) or faults.take_token is not None,
        }
        lines = ["fault.test", *(offer for offer, given in offers.items() if given), "ENHANCEDSTATUSCODES"]
        return self._say("".join(f"250{'-' if x is not lines[-1] else ' '}{x}\r\n" for x in lines).encode())

    def _starttls(self, _: bytes) -> None:
        if self.faults.starttls is None or self.secure:
            return self._say(b"502 5.5.1 no STARTTLS\r\n")
        self._say(b"220 2.0.0 go ahead\r\n" + self.faults.behind_starttls)
        self._flush()
        self._input = b""
        return self._wrap(self.faults.starttls)

    def _wrap(self, context: ssl.SSLContext) -> None:
        with self.server.lock:
            self.server._live.discard(self.sock)
            self.sock = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
            self.server._live.add(self.sock)
        self.secure = True
        self.sock.do_handshake()

    def _auth(self, line: bytes) -> None:
        words = line.split()
        if words[1].upper() in {b"XOAUTH2", b"OAUTHBEARER"}:
            return self._auth_by_token(words)
        if words[1].upper() == b"LOGIN":
            username = self._question(b"334 VXNlcm5hbWU6\r\n")
            password = self._question(b"334 UGFzc3dvcmQ6\r\n")
        else:
            response = base64.b64decode(words[2]) if len(words) > 2 else self._question(b"334 \r\n")
            _, username, password = response.split(b"\0")
        if self.server.due("refuse_logins", self.faults.refuse_logins):
            return self._say(b"535 5.7.8 authentication failed\r\n")
        known = self.faults.users.get(username.decode())
        good = known is not None and known == password.decode()
        return self._say(b"235 2.7.0 welcome\r\n" if good else b"535 5.7.8 authentication failed\r\n")

    def _auth_by_token(self, words: list[bytes]) -> None:
        response = base64.b64decode(words[2]) if len(words) > 2 else self._question(b"334 \r\n")
        parts = [part for part in response.split(b"\1") if part]
        user = parts[0].removeprefix(b"user=").removeprefix(b"n,a=").removesuffix(b",").decode()
        token = parts[-1].removeprefix(b"auth=Bearer ").decode()
        take = self.faults.take_token
        reply = take(self.number, user, token) if take else b"504 5.5.4 not this one\r\n"
        if self.faults.explain_refusal and not reply.startswith(b"2"):
            self._question(b"334 %s\r\n" % base64.b64encode(self.faults.explain_refusal))
        self._say(reply)

    def _question(self, question: bytes) -> bytes:
        self._say(question)
        return base64.b64decode(self._read_line())

    def _mail(self, line: bytes) -> None:
        if self.mail_from is not None:
            return self._say(b"503 5.5.1 nested MAIL command\r\n")
        self.mail_from, _, parameters = line.decode().partition("<")[2].rpartition(">")
        self.parameters = parameters.strip()
        return self._say(b"250 2.1.0 ok\r\n")

    def _rcpt(self, line: bytes) -> None:
        if self.mail_from is None:
            return self._say(b"503 5.5.1 MAIL first\r\n")
        address = line.decode().partition("<")[2].rpartition(">")[0]
        deferrals = self.faults.defer_first.get(address, self.faults.defer_first.get("*", 0))
        if self.server.due("refuse_rcpt", self.faults.refuse_rcpt):
            return self._say(b"554 5.7.1 relay access denied\r\n")
        if self.server.due(f"451 {address}", deferrals):
            return self._say(b"451 4.7.1 greylisted, come back later\r\n")
        if address in self.faults.refuse:
            return self._say(b"550 5.1.1 no such user\r\n")
        if self.faults.max_recipients and len(self.recipients) >= self.faults.max_recipients:
            return self._say(b"452 4.5.3 too many recipients\r\n")
        self.recipients.append(address)
        return self._say(b"250 2.1.5 ok\r\n")

    def _data(self, _: bytes) -> None:
        if not self.recipients:
            return self._say(b"554 5.5.1 no valid recipients\r\n")
        self._say(b"354 go ahead\r\n")
        content = self._read_content()
        if self._answered(".", b"."):
            return self._forget()
        return self._take(content)

    def _bdat(self, line: bytes) -> None:
        if not self.recipients:
            self._chunks.clear()
            return self._say(b"554 5.5.1 no valid recipients\r\n")
        if not line.upper().endswith(b" LAST"):
            return self._say(b"250 2.0.0 %d octets\r\n" % len(self._chunks[-1]))
        content = b"".join(self._chunks)
        if self._answered(".", b"."):
            return self._forget()
        return self._take(content)

    def _take(self, content: bytes) -> None:
        with self.server.lock:
            number = len(self.server.messages) + 1
            every = self.faults.drop_unanswered_every
            lost = number in self.faults.drop_unanswered or bool(every and number % every == 0)
            taken = Taken(
                mail_from=self.mail_from or "",
                recipients=tuple(self.recipients),
                content=content,
                parameters=self.parameters,
                at=time.time(),
                session=self.number,
                answered=not lost,
            )
            self.server.messages.append(taken)
            if self.server.on_taken:
                self.server.on_taken(taken)
        if lost:
            raise HangUp
        self.taken += 1
        self._forget()
        self._say(b"250 2.0.0 Ok: queued as F%06d\r\n" % number)
        # Anyone who has taken a message says so before anything else (RFC 2920 section 3.2). With Nagle's algorithm, as
        # here, the replies behind it then wait for the client's ACK.
        self._flush()
        if self._enough(self.faults.close_at_once_after):
            self._end(b"421 4.7.0 that was enough for one session\r\n")

    def _rset(self, _: bytes) -> None:
        self._forget()
        self._say(b"250 2.0.0 flushed\r\n")

    def _forget(self) -> None:
        self.mail_from = None
        self.recipients = []
        self._chunks = []

    # Bytes ------------------------------------------------------------------------------------------------------------

    def _say(self, reply: bytes) -> None:
        self._output += reply
        if self.faults.eager:
            self._flush()

    def _end(self, reply: bytes) -> None:
        self._say(reply)
        self._flush()
        raise HangUp

    def _flush(self) -> None:
        output, self._output = self._output, b""
        if output and self.faults.reply_delay:
            self.server.pause(self.faults.reply_delay)
        for piece in [output[i : i + 1] for i in range(len(output))] if self.faults.one_byte_replies else [output]:
            self.sock.sendall(piece)

    def _fill(self) -> None:
        """Before it waits for the client, a server says what it has to say (RFC 2920 section 3.2)."""
        self._flush()
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self._input += data

    def _read_line(self) -> bytes:
        while b"\r\n" not in self._input:
            self._fill()
        line, _, self._input = self._input.partition(b"\r\n")
        return line

    def _read_content(self) -> bytes:
        """Up to the lone dot, unstuffed."""
        pieces = [b"\r\n" + self._input]
        size, tail = len(self._input), pieces[0]
        while b"\r\n.\r\n" not in tail:
            self._fill_anew()
            size += len(self._input)
            self._check_content(size)
            tail = tail[-4:] + self._input  # the end may be cut anywhere
            pieces.append(self._input)
        content, _, self._input = b"".join(pieces).partition(b"\r\n.\r\n")
        return (content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]

    def _read_octets(self, count: int) -> bytes:
        """Of a chunk."""
        pieces, size = [self._input], len(self._input)
        while size < count:
            self._fill_anew()
            size += len(self._input)
            self._check_content(size)
            pieces.append(self._input)
        octets = b"".join(pieces)
        self._input = octets[count:]
        return octets[:count]

    def _fill_anew(self) -> None:
        self._input = b""
        self._fill()

    def _check_content(self, size: int) -> None:
        limit = self.faults.drop_within_content
        if limit and size >= limit and self.server.due("drop_within_content", 1):
            raise HangUp(reset=True)
        if self.faults.bytes_per_second:
            self.server.pause(len(self._input) / self.faults.bytes_per_second)


# As a process ---------------------------------------------------------------------------------------------------------


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ledger", type=Path, help="append a JSON line per message taken, before it is answered")
    for knob in dataclasses.fields(Faults):
        if isinstance(knob.default, bool):
            parser.add_argument(f"--{knob.name.replace('_', '-')}", action=argparse.BooleanOptionalAction)
        elif isinstance(knob.default, int | float):
            parser.add_argument(f"--{knob.name.replace('_', '-')}", type=type(knob.default), metavar="N")
    return parser.parse_args(arguments)


def _write_ledger(path: Path, taken: Taken) -> None:
    entry = dataclasses.asdict(taken) | {"content": taken.content.decode("latin-1")}
    with path.open("a") as ledger:
        ledger.write(json.dumps(entry) + "\n")


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or SIGINT; the first line of output is the port."""
    options = vars(_parse(arguments))
    port, path = options.pop("port"), options.pop("ledger")
    faults = Faults(**{name: value for name, value in options.items() if value is not None})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with FaultServer(faults, port=port, on_taken=(lambda t: _write_ledger(path, t)) if path else None) as server:
        print(server.port, flush=True)  # noqa: T201 - the process's answer
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main(sys.argv[1:])
