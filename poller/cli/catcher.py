"""A mail catcher: an SMTP server on this machine alone, that keeps every message as a file and sends none on.

    with Catcher(Path("mail")) as catcher: ...     # mail to catcher.host, catcher.port

Rule 1. A message is a file, whole, before its 250 leaves; a number and the first recipient make the file's name.
Rule 2. Only CRLF "." CRLF ends a message, and only the dot that begins a line is taken away (RFC 5321 section 4.5.2).
Rule 3. The file is what came over the wire, below the envelope: `Return-Path`, and an `X-Envelope-To` for each
        recipient, which is where a blind copy shows.
Rule 4. Leaving the context closes every socket and waits for every thread.

It offers PIPELINING, 8BITMIME, SMTPUTF8 and SIZE; no TLS and no login, so it listens on 127.0.0.1 only, on a free
port. `refuse` is asked about each recipient and answers "" or a whole reply, such as "451 4.7.1 later". It runs in the
connection's thread. Raises OSError when the directory can't be made or no socket can be had.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

MAX_SIZE = 25_000_000  # bytes of one message, offered as SIZE
MAX_RECIPIENTS = 1000  # of one message; RFC 5321 section 4.5.3.1.8 wants 100 at least
COMMAND_LIMIT = 4096  # octets of a command line; RFC 5321 section 4.5.3.1.4 wants 512, its extensions add a few hundred
PIECE = 64 * 1024  # octets read at once of a line of content
IDLE_TIMEOUT_S = 300  # RFC 5321 section 4.5.3.2.7
NAME_MOST = 60  # characters of an address that a file name keeps

_PATH = re.compile(
    r'(?P<word>FROM|TO): *<(?P<path>(?:"(?:[^"\\]|\\.)*"|[^<>"])*)>(?P<options>(?: +[^ ]+)*) *', re.IGNORECASE
)
_OPTION = re.compile(r"SIZE=(?P<size>[0-9]{1,20})|BODY=(?:7BIT|8BITMIME)|(?P<utf8>SMTPUTF8)", re.IGNORECASE)
_UNFIT_FOR_A_NAME = re.compile(r"[^\w.@+-]")


class Catcher:
    """A context manager: while it lasts it takes mail at `host` and `port`. `caught` counts the files."""

    host = "127.0.0.1"

    def __init__(
        self, directory: Path, *, refuse: Callable[[str], str | None] | None = None, max_size: int = MAX_SIZE
    ) -> None:
        self.directory = directory
        self.max_size = max_size
        self.refuse = refuse or (lambda _address: None)
        self.port = 0
        self.caught = 0
        self._guard = threading.Lock()  # for what follows, and `caught`
        self._lines: dict[socket.socket, threading.Thread] = {}
        self._is_closing = False

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._listener = socket.create_server((self.host, 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="catcher")
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        # a blocking accept is woken by a caller on every system; by closing its socket, only on some
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port)):
            self._accepting.join()
        self._listener.close()
        with self._guard:
            lines = dict(self._lines)
        for line in lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in lines.values():
            thread.join()

    def _accept(self) -> None:
        while True:
            line, _ = self._listener.accept()
            if self._is_closing:
                line.close()
                return
            thread = threading.Thread(target=self._serve, args=(line,), name="catcher-line")
            with self._guard:
                self._lines[line] = thread
            thread.start()

    def _serve(self, line: socket.socket) -> None:
        # a client that hangs up, falls silent or is cut off ends its own session only
        with line, contextlib.suppress(OSError):
            line.settimeout(IDLE_TIMEOUT_S)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Session(line, self).run()
        with self._guard:
            del self._lines[line]

    def keep(self, mail_from: str, recipients: Sequence[str], content: bytes) -> int:
        """Write one message (Rules 1, 3) and return its number. Raises OSError."""
        envelope = [f"Return-Path: <{mail_from}>", *(f"X-Envelope-To: {address}" for address in recipients)]
        with self._guard:
            number = self.caught + 1
            name = f"{number:04}_{_UNFIT_FOR_A_NAME.sub('_', recipients[0])[:NAME_MOST]}"
            half = self.directory / f".{name}"
            half.write_bytes("".join(f"{field}\r\n" for field in envelope).encode() + content)
            half.replace(self.directory / f"{name}.eml")
            self.caught = number
        return number


class _Session:
    """One connection: reads a command, answers it. Clients that pipeline find their answers in order."""

    def __init__(self, line: socket.socket, catcher: Catcher) -> None:
        self._line = line
        self._catcher = catcher
        self._greeted = False
        self._answers: dict[str, Callable[[str], str]] = {
            "EHLO": self._ehlo,
            "HELO": self._helo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda _: "250 2.0.0 OK",
            "VRFY": lambda _: "252 2.5.0 send it, and see",
        }
        self._forget()

    def _forget(self) -> None:
        self._mail_from: str | None = None
        self._utf8 = False
        self._recipients: list[str] = []

    def run(self) -> None:
        """Until QUIT, or the end of the line."""
        with self._line.makefile("rb") as self._input:
            self._say("220 localhost poller mail catcher ESMTP")
            while command := self._input.readline(COMMAND_LIMIT):
                verb, _, rest = command.decode("utf-8", "surrogateescape").strip().partition(" ")
                if not command.endswith(b"\n"):
                    self._say("500 5.5.6 line too long")
                    return  # where the next command begins is anybody's guess
                if verb.upper() == "QUIT":
                    self._say("221 2.0.0 bye")
                    return
                answer = self._answers.get(verb.upper())
                self._say(answer(rest.strip()) if answer else "500 5.5.2 no such command")

    def _say(self, reply: str) -> None:
        self._line.sendall(f"{reply}\r\n".encode("utf-8", "replace"))

    # --- the answers ---

    def _ehlo(self, _name: str) -> str:
        self._helo(_name)
        offers = ("localhost", "PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
        return "".join(f"250-{offer}\r\n" for offer in offers) + f"250 SIZE {self._catcher.max_size}"

    def _helo(self, _name: str) -> str:
        self._greeted = True
        self._forget()
        return "250 localhost"

    def _rset(self, _rest: str) -> str:
        self._forget()
        return "250 2.0.0 OK"

    def _mail(self, rest: str) -> str:
        found = _PATH.fullmatch(rest)
        if not self._greeted or self._mail_from is not None:
            return "503 5.5.1 " + ("one MAIL at a time" if self._greeted else "EHLO comes first")
        if not found or found["word"].upper() != "FROM":
            return "501 5.5.4 write MAIL FROM:<address>"
        options = [_OPTION.fullmatch(option) for option in found["options"].split()]
        known = [option for option in options if option]
        if len(known) < len(options):
            return "555 5.5.4 an option that was not offered"
        if any(int(option["size"] or 0) > self._catcher.max_size for option in known):
            return f"552 5.3.4 more than {self._catcher.max_size} bytes"
        utf8 = any(option["utf8"] for option in known)
        if trouble := _spelling_trouble(found["path"], utf8=utf8):
            return trouble
        self._mail_from, self._utf8 = found["path"], utf8
        return "250 2.1.0 OK"

    def _rcpt(self, rest: str) -> str:
        found = _PATH.fullmatch(rest)
        if self._mail_from is None:
            return "503 5.5.1 MAIL comes first"
        if not found or found["word"].upper() != "TO" or not found["path"]:
            return "501 5.5.4 write RCPT TO:<address>"
        if found["options"]:
            return "555 5.5.4 an option that was not offered"
        if len(self._recipients) >= MAX_RECIPIENTS:
            return "452 4.5.3 too many recipients"
        address = found["path"]
        refusal = _spelling_trouble(address, utf8=self._utf8) or self._catcher.refuse(address)
        if refusal:
            return refusal
        self._recipients.append(address)
        return "250 2.1.5 OK"

    def _data(self, _rest: str) -> str:
        if not self._recipients or self._mail_from is None:
            return "503 5.5.1 MAIL comes first" if self._mail_from is None else "554 5.5.1 no valid recipient"
        self._say("354 end with a dot on a line of its own")
        content = self._content()
        mail_from, recipients = self._mail_from, self._recipients
        self._forget()
        if content is None:
            return f"552 5.3.4 more than {self._catcher.max_size} bytes"
        try:
            number = self._catcher.keep(mail_from, recipients, content)
        except OSError as why:
            return f"452 4.3.1 can't write the message: {why.strerror}"
        return f"250 2.0.0 OK: queued as {number:04}"

    def _content(self) -> bytes | None:
        """All up to the final dot, dots unstuffed; None when it is too large. Raises OSError when the line ends."""
        content = bytearray()
        is_too_large = False
        while piece := self._input.readline(PIECE):
            # a line begins behind CRLF only: a bare LF begins none, so it can't smuggle in an end (CVE-2023-51764)
            begins = not content or content.endswith(b"\r\n")
            if begins and piece == b".\r\n":
                return None if is_too_large else bytes(content)
            content += piece[1:] if begins and piece.startswith(b".") else piece
            if len(content) > self._catcher.max_size:
                is_too_large = True
                del content[:-2]  # the last two say whether the next line begins
        raise ConnectionError("hung up in the middle of a message")


def _spelling_trouble(address: str, *, utf8: bool) -> str | None:
    """A reply for an address that can't be taken as it is spelled."""
    if any("\udc80" <= char <= "\udcff" for char in address):
        return "501 5.1.3 the address is not UTF-8"
    return None if utf8 or address.isascii() else "553 5.6.7 such an address needs SMTPUTF8"
