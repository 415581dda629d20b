"""A TCP proxy before a database that cuts the line at a COMMIT: before the server has it, or before we have its reply.

Both wire protocols spell the statement in clear text on a connection without TLS, and send it alone.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

When = Literal["before the server had it", "before its reply"]
READ = 1 << 16


@dataclass(kw_only=True)
class CommitCutter:
    """The proxy; a context manager. `decide` is asked at each COMMIT, and says when to cut, or None."""

    host: str
    port: int
    decide: Callable[[], When | None]
    cuts: int = 0
    listens: int = field(init=False)
    """The port to connect to."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listens = self._listener.getsockname()[1]
        self._lines: set[_Line] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for line in list(self._lines):
            line.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((self.host, self.port), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            line = _Line(self, near, far)
            self._lines.add(line)
            for target in (line.to_server, line.to_client):
                threading.Thread(target=target, daemon=True).start()

    def forget(self, line: _Line) -> None:
        """It has ended."""
        self._lines.discard(line)


def _is_commit(data: bytes) -> bool:
    """Not `BEGIN ISOLATION LEVEL READ COMMITTED`."""
    return data.rstrip(b"\0").endswith(b"COMMIT")


class _Line:
    def __init__(self, proxy: CommitCutter, near: socket.socket, far: socket.socket) -> None:
        self._proxy, self._near, self._far = proxy, near, far
        self._swallow = False
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def to_server(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._near.recv(READ):
                when = self._proxy.decide() if _is_commit(data) else None
                if when:
                    self._proxy.cuts += 1
                if when == "before the server had it":
                    break
                self._swallow = when is not None
                self._far.sendall(data)
        if not self._swallow:
            self.cut()

    def to_client(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._far.recv(READ):
                if self._swallow:  # the server has answered: the transaction is committed, and nobody hears of it
                    break
                self._near.sendall(data)
        self._swallow = False
        self.cut()

    def cut(self) -> None:
        for sock in (self._near, self._far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._proxy.forget(self)
