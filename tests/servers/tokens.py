"""A token endpoint that says what it is told to, on the loopback, in HTTP or over TLS; and what it was asked.

with TokenEndpoint(lambda asked: said({"access_token": "t", "expires_in": 3600})) as endpoint:
    ...                     # fetch from endpoint.url
endpoint.asked              # every form, in order
"""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: float = 0.0
    """Seconds before anything is said, not beyond the end of the test."""
    drip: float = 0.0
    """Seconds between two bytes of the body."""
    hang_up: bool = False


def said(fields: Mapping[str, Any], status: int = 200, **more: Any) -> Said:
    """In JSON."""
    return Said(status=status, body=json.dumps(fields).encode(), **more)


def refusal(error: str, words: str = "", status: int = 400, **more: Any) -> Said:
    """As RFC 6749 section 5.2 has it."""
    return said({"error": error, "error_description": words}, status, **more)


def jwt(**claims: Any) -> str:
    """A token that can be read, with a signature that nobody checks."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, b"signature"))


class TokenEndpoint:
    """A context manager. `answer` is given each form, with the path under "path"."""

    def __init__(
        self, answer: Callable[[dict[str, str]], Said], *, tls: ssl.SSLContext | None = None, skew: float = 0.0
    ) -> None:
        self.answer = answer
        self.asked: list[dict[str, str]] = []
        self.skew = skew
        """Seconds that its clock is ahead."""
        self.stopping = threading.Event()
        endpoint = self

        class Visitor(_Visitor):
            where = endpoint

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Visitor)
        self._server.daemon_threads = False  # waited for at the end: what is left open is a warning elsewhere
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # who hangs up is no news
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
        self.base = f"{scheme}://{host}:{self._server.server_address[1]}"
        self.url = f"{self.base}/token"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Visitor(BaseHTTPRequestHandler):
    where: TokenEndpoint

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(text).items()} | {"path": self.path}
        self.where.asked.append(form)
        answer = self.where.answer(form)
        self.where.stopping.wait(answer.silent)
        if answer.hang_up or self.where.stopping.is_set():
            return
        self.send_response(answer.status)
        for name, value in ({"Content-Type": answer.kind} | dict(answer.headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        for piece in _pieces(answer):
            self.wfile.write(piece)
            self.where.stopping.wait(answer.drip)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.where.skew)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


def _pieces(answer: Said) -> Iterator[bytes]:
    if not answer.drip:
        yield answer.body
        return
    for number in range(len(answer.body)):
        yield answer.body[number : number + 1]
