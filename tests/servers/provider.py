"""Mail providers behind one port, which allow so much and then block, and the books of what they took.

    big = Provider(name="big", domains=frozenset({"big.example"}), count=30, seconds=60, block=600, manner="421")
    with ProviderServer(big) as server:
        ...                     # send to server.host, server.port
    server.counted("big").most_in_window

Rule 1. A provider lets in `count` messages in any `seconds` that end now. One more begins a block of `block` seconds,
        in which everything to it is refused in its manner; with `extends` each attempt begins the block anew.
Rule 2. Only the provider that blocks refuses; "421" and "drop" end the session all the same, and what else was in it.
Rule 3. A message is entered when its end of data was read and it was not refused there, before a reply is thought of.
Rule 4. Time is monotonic, and taken once for each message. `most_within` is exact: no window, wherever it begins,
        holds more than it says.

Beside the providers there is what a relay does: so many messages on a connection, so many connections at a time, and
moods, which anyone who tests may change at any moment: refused logins, dropped lines.

One thread and one event loop serve all lines: the books need no lock, and thousands of messages pass in a second.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import re
import socket
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Self

Manner = Literal["421", "451", "550", "drop"]
Mood = Literal["well", "no logins", "drops"]

REFUSALS: dict[str, bytes] = {
    "421": b"421 4.7.0 mx.example: too many messages from your address, come back later\r\n",
    "451": b"451 4.7.1 mx.example: too many messages from your address, come back later\r\n",
    "550": b"550 5.1.1 user unknown\r\n",
}
OTHERS = ""
"""The provider of every domain that none names: it allows everything."""

_ADDRESS = re.compile(rb"<([^>]*)>")
_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(<[^>\r\n]+>)", re.IGNORECASE | re.MULTILINE)
_STOP_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Provider:
    """What one provider allows, and how it refuses."""

    name: str
    domains: frozenset[str]
    count: int
    seconds: float
    block: float
    """Seconds."""
    manner: Manner = "421"
    after_data: bool = False
    """It refuses at the end of data instead of at RCPT."""
    extends: bool = False
    says: bytes = b""
    """Instead of the words of its manner, a whole reply with CRLF."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A message that was taken."""

    at: float
    """time.monotonic()"""
    message_id: str
    recipients: tuple[str, ...]
    providers: tuple[str, ...]
    session: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A recipient, or at the end of data a message, that was not. `blocked`: the block had already begun."""

    at: float
    provider: str
    recipient: str
    session: int
    blocked: bool


@dataclass(kw_only=True)
class Connection:
    """One line, from its beginning to its end (None: still open)."""

    number: int
    opened: float
    closed: float | None = None
    refused: str = ""
    """The code with which the connection itself was refused, or its login."""
    taken: int = 0
    cut_off: bool = False
    """It was told that its messages are enough."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What the books say of one provider."""

    accepted: int
    duplicates: int
    most_in_window: int
    """In any window of the provider's seconds."""
    blocks: int
    refused: int
    attempts_in_blocks: int
    first: float | None
    last: float | None


def most_within(times: Iterable[float], seconds: float) -> int:
    """The highest count in any half-open window [t, t + seconds), exactly."""
    ordered = sorted(times)
    most = begin = 0
    for end, at in enumerate(ordered):
        while at - ordered[begin] >= seconds:
            begin += 1
        most = max(most, end - begin + 1)
    return most


@dataclass(kw_only=True)
class _Standing:
    """How a provider stands towards us now."""

    provider: Provider
    let_in: deque[float] = field(default_factory=deque)
    blocked_until: float = float("-inf")
    blocks: int = 0

    def refuses(self, now: float) -> bool:
        """Whether this message is refused; enters it, or begins a block, as Rule 1 says."""
        if now < self.blocked_until:
            if self.provider.extends:
                self.blocked_until = now + self.provider.block
            return True
        while self.let_in and self.let_in[0] <= now - self.provider.seconds:
            self.let_in.popleft()
        if len(self.let_in) < self.provider.count:
            self.let_in.append(now)
            return False
        self.blocked_until = now + self.provider.block
        self.blocks += 1
        return True


class ProviderServer:
    """The server; a context manager. The books may be read at any time."""

    host = "127.0.0.1"

    def __init__(
        self,
        *providers: Provider,
        pipelining: bool = True,
        chunking: bool = False,
        per_connection: int = 0,
        max_connections: int = 0,
        users: Mapping[str, str] | None = None,
        reply_delay: float = 0.0,
        on_accepted: Callable[[Accepted], None] | None = None,
    ) -> None:
        """`per_connection` messages on a line and `max_connections` at a time are borne; 0 bears any number."""
        self.pipelining = pipelining
        self.chunking = chunking
        self.per_connection = per_connection
        self.max_connections = max_connections
        self.users = dict(users or {})
        self.reply_delay = reply_delay
        self.mood: Mood = "well"
        self.accepted: list[Accepted] = []
        self.refused: list[Refused] = []
        self.connections: list[Connection] = []
        self.open = 0
        self.most_open = 0
        """As many connections at the same time as ever were, those that were turned away among them."""
        self.on_accepted = on_accepted
        """Called in the server's thread."""
        self.standing = {provider.name: _Standing(provider=provider) for provider in providers}
        self._of_domain = {domain: p.name for p in providers for domain in p.domains}
        self.live: set[asyncio.Transport] = set()
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._began = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._began.wait(_STOP_S)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        server = self._loop.run_until_complete(self._loop.create_server(lambda: _Session(self), sock=self._listener))
        self._loop.call_soon(self._began.set)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._hang_up()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def turn(self, mood: Mood) -> None:
        """Change the mood and end every line, as a relay that is restarted does."""
        self.mood = mood
        self._loop.call_soon_threadsafe(self._hang_up)

    def _hang_up(self) -> None:
        for transport in list(self.live):
            transport.abort()

    def provider_of(self, recipient: str) -> str:
        """The name of the provider that takes this address's mail."""
        return self._of_domain.get(recipient.rpartition("@")[2].lower(), OTHERS)

    def times(self, provider: str | None = None) -> list[float]:
        """When messages to a provider were accepted (None: all), in order."""
        return [entry.at for entry in list(self.accepted) if provider is None or provider in entry.providers]

    def counted(self, provider: str) -> Counted:
        """What the books say of this provider; of OTHERS, in windows of a second."""
        times = self.times(provider)
        standing = self.standing.get(provider)
        refused = [entry for entry in list(self.refused) if entry.provider == provider]
        return Counted(
            accepted=len(times),
            duplicates=self.duplicates(provider),
            most_in_window=most_within(times, standing.provider.seconds if standing else 1.0),
            blocks=standing.blocks if standing else 0,
            refused=len(refused),
            attempts_in_blocks=sum(entry.blocked for entry in refused),
            first=min(times, default=None),
            last=max(times, default=None),
        )

    def duplicates(self, provider: str | None = None) -> int:
        """How often a recipient was sent a message that it had: one more than once counts each time after its first."""
        pairs = Counter(
            (entry.message_id, to)
            for entry in list(self.accepted)
            if provider is None or provider in entry.providers
            for to in entry.recipients
        )
        return sum(count - 1 for count in pairs.values())


class _Session(asyncio.Protocol):
    """One line. Replies to what came together go out together."""

    def __init__(self, server: ProviderServer) -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.book: Connection
        self._input = b""
        self._output = b""
        self._step: Callable[[], bool] = self._read_command
        self._ended = False
        self._mail = False
        self._recipients: list[str] = []
        self._chunks = b""
        self._octets = (0, False)
        self._username = ""
        self._logged_in = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        server = self.server
        self.book = Connection(number=len(server.connections) + 1, opened=time.monotonic())
        server.connections.append(self.book)
        server.live.add(transport)
        server.open += 1
        server.most_open = max(server.most_open, server.open)
        if server.max_connections and server.open > server.max_connections:
            self.book.refused = "421"
            self._end(b"421 4.3.2 too many connections\r\n")
        else:
            self._output += b"220 relay.example ESMTP\r\n"
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.server.live.discard(self.transport)
        self._count_out()

    def data_received(self, data: bytes) -> None:
        self._input += data
        while not self._ended and self._step():
            pass
        self._flush()

    def _count_out(self) -> None:
        if self.book.closed is None:
            self.book.closed = time.monotonic()
            self.server.open -= 1

    # Bytes ------------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        output, self._output = self._output, b""
        if not (output or self._ended):
            return
        if self.server.reply_delay:
            asyncio.get_running_loop().call_later(self.server.reply_delay, self._write, output, self._ended)
        else:
            self._write(output, self._ended)

    def _write(self, output: bytes, is_last: bool) -> None:  # noqa: FBT001 - bound to call_later
        if self.transport.is_closing():
            return
        self.transport.write(output)
        if is_last:
            self.transport.close()
            self._count_out()  # anyone who reads the end of the line may open another one at once

    def _end(self, reply: bytes) -> None:
        self._output += reply
        self._ended = True

    def _drop(self) -> None:
        """The line ends without a word to this command; those before it have had their replies."""
        self._ended = True

    def _read_command(self) -> bool:
        line, found, rest = self._input.partition(b"\r\n")
        if not found:
            return False
        self._input = rest
        verb = line.split(b" ", 1)[0].split(b":", 1)[0].upper()
        self._COMMANDS.get(verb, _Session._unknown)(self, line)
        return True

    def _read_content(self) -> bool:
        content, found, rest = self._input.partition(b"\r\n.\r\n")
        if not found:
            return False
        self._input, self._step = rest, self._read_command
        self._take(content)
        return True

    def _read_octets(self) -> bool:
        count, is_last = self._octets
        if len(self._input) < count:
            return False
        chunk, self._input = self._input[:count], self._input[count:]
        self._step = self._read_command
        self._chunks += chunk
        if not self._recipients:
            self._output += b"554 5.5.1 no valid recipients\r\n"
        elif is_last:
            self._take(self._chunks)
        else:
            self._output += b"250 2.0.0 ok\r\n"
        return True

    # Commands ---------------------------------------------------------------------------------------------------------

    def _unknown(self, _: bytes) -> None:
        self._output += b"500 5.5.2 what?\r\n"

    def _ehlo(self, _: bytes) -> None:
        offers = {
            "PIPELINING": self.server.pipelining,
            "CHUNKING": self.server.chunking,
            "AUTH PLAIN LOGIN": bool(self.server.users),
        }
        lines = ["relay.example", "8BITMIME", *(offer for offer, given in offers.items() if given)]
        self._output += "".join(f"250-{line}\r\n" for line in lines).encode() + b"250 ENHANCEDSTATUSCODES\r\n"

    def _helo(self, _: bytes) -> None:
        self._output += b"250 relay.example\r\n"

    def _auth(self, line: bytes) -> None:
        words = line.split()
        if len(words) > 2 and words[1].upper() == b"PLAIN":
            self._judge_login(*_plain(words[2]))
            return
        self._output += b"334 VXNlcm5hbWU6\r\n" if words[1:2] == [b"LOGIN"] else b"334 \r\n"
        self._step = self._read_username if words[1:2] == [b"LOGIN"] else self._read_plain

    def _line_of_login(self) -> bytes | None:
        line, found, rest = self._input.partition(b"\r\n")
        if not found:
            return None
        self._input = rest
        return line

    def _read_plain(self) -> bool:
        if (line := self._line_of_login()) is None:
            return False
        self._step = self._read_command
        self._judge_login(*_plain(line))
        return True

    def _read_username(self) -> bool:
        if (line := self._line_of_login()) is None:
            return False
        self._username = _decoded(line)
        self._output += b"334 UGFzc3dvcmQ6\r\n"
        self._step = self._read_password
        return True

    def _read_password(self) -> bool:
        if (line := self._line_of_login()) is None:
            return False
        self._step = self._read_command
        self._judge_login(self._username, _decoded(line))
        return True

    def _judge_login(self, username: str, password: str) -> None:
        if self.server.mood == "no logins" or self.server.users.get(username) != password:
            self.book.refused = "535"
            self._output += b"535 5.7.8 authentication failed\r\n"
            return
        self._logged_in = True
        self._output += b"235 2.7.0 welcome\r\n"

    def _mail_from(self, _: bytes) -> None:
        if self.server.mood == "drops":
            self._drop()
        elif self.server.users and not self._logged_in:
            self._output += b"530 5.7.0 log in first\r\n"
        elif self.server.per_connection and self.book.taken >= self.server.per_connection:
            self.book.cut_off = True
            self._end(b"421 4.7.0 too many messages in one connection\r\n")
        elif self._mail:
            self._output += b"503 5.5.1 nested MAIL command\r\n"
        else:
            self._mail = True
            self._output += b"250 2.1.0 ok\r\n"

    def _rcpt(self, line: bytes) -> None:
        found = _ADDRESS.search(line)
        if not self._mail or not found:
            self._output += b"503 5.5.1 MAIL first\r\n"
            return
        recipient = found[1].decode("ascii", "replace")
        if self._is_refused(recipient, at_the_end=False):
            return
        self._recipients.append(recipient)
        self._output += b"250 2.1.5 ok\r\n"

    def _is_refused(self, recipient: str, *, at_the_end: bool) -> bool:
        standing = self.server.standing.get(self.server.provider_of(recipient))
        if standing is None or standing.provider.after_data != at_the_end:
            return False
        now = time.monotonic()
        blocked = now < standing.blocked_until
        if not standing.refuses(now):
            return False
        provider = standing.provider
        self.server.refused.append(
            Refused(at=now, provider=provider.name, recipient=recipient, session=self.book.number, blocked=blocked)
        )
        if provider.manner == "drop":
            self._drop()
        elif provider.manner == "421":
            self._end(provider.says or REFUSALS["421"])
        else:
            self._output += provider.says or REFUSALS[provider.manner]
        return True

    def _data(self, _: bytes) -> None:
        if not self._recipients:
            self._output += b"554 5.5.1 no valid recipients\r\n"
            return
        self._output += b"354 go ahead\r\n"
        self._step = self._read_content
        self._input = b"\r\n" + self._input  # so that a dot in the first line ends an empty message

    def _bdat(self, line: bytes) -> None:
        words = line.upper().split()
        self._octets = (int(words[1]), words[-1] == b"LAST")
        self._step = self._read_octets

    def _take(self, content: bytes) -> None:
        recipients, server = tuple(self._recipients), self.server
        self._forget()
        providers = tuple(dict.fromkeys(server.provider_of(recipient) for recipient in recipients))
        firsts = [next(to for to in recipients if server.provider_of(to) == name) for name in providers]
        if any(self._is_refused(recipient, at_the_end=True) for recipient in firsts):
            return
        found = _MESSAGE_ID.search(content)
        entry = Accepted(
            at=time.monotonic(),
            message_id=found[1].decode("ascii", "replace") if found else "",
            recipients=recipients,
            providers=providers,
            session=self.book.number,
        )
        self.book.taken += 1
        server.accepted.append(entry)
        self._output += b"250 2.0.0 Ok: queued as P%06d\r\n" % len(server.accepted)
        self._flush()  # anyone who has taken a message says so before anything else (RFC 2920 section 3.2)
        if server.on_accepted:
            server.on_accepted(entry)

    def _rset(self, _: bytes) -> None:
        self._forget()
        self._output += b"250 2.0.0 flushed\r\n"

    def _noop(self, _: bytes) -> None:
        self._output += b"250 2.0.0 ok\r\n"

    def _quit(self, _: bytes) -> None:
        self._end(b"221 2.0.0 bye\r\n")

    def _forget(self) -> None:
        self._mail = False
        self._recipients = []
        self._chunks = b""

    _COMMANDS: Mapping[bytes, Callable[[_Session, bytes], None]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
        b"AUTH": _auth,
        b"MAIL": _mail_from,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"BDAT": _bdat,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"QUIT": _quit,
    }


def _plain(response: bytes) -> Sequence[str]:
    """The username and the password of SASL PLAIN; two that nobody has for what is not such a thing."""
    parts = _decoded(response).split("\0")
    return parts[1:] if len(parts) == 3 else ("", "\0")


def _decoded(text: bytes) -> str:
    try:
        return base64.b64decode(text).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
