"""The listener: `/healthz`, `/readyz`, `/metrics`. It reads, and changes nothing.

It belongs on a loopback or management address: who can reach it learns how much mail there is, and nobody's address.
A request that does not come within some seconds is dropped. Raises OSError where it can't listen.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from poller.log import without_addresses
from poller.outbox.database import connect
from poller.web.health import health_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.settings import HttpSettings
    from poller.worker.service import Service

PATIENCE_S = 5.0
TEXT = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
NEEDS = 'the numbers want a library: pip install "poller[metrics]"\n'

_Answer = tuple[int, str, bytes]


class Server:
    """Listens from `start` to `stop`, in threads of its own."""

    def __init__(self, settings: HttpSettings, service: Service) -> None:
        assert settings.listen is not None  # noqa: S101 - who calls has looked
        host, _, port = settings.listen.rpartition(":")
        self._service = service
        self._engine = connect(service.config.database)
        self._metrics = self._metrics_if_there()
        pages: dict[str, Callable[[], _Answer]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._numbers,
        }
        self._http = _Listener(host.strip("[]"), int(port), _handler(pages))
        self._thread = threading.Thread(target=self._http.serve_forever, name="http", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._thread.is_alive():
            self._http.shutdown()
        self._http.server_close()
        self._engine.dispose()

    def _metrics_if_there(self) -> Any:
        try:
            from poller.web.metrics import Metrics  # noqa: PLC0415 - an extra
        except ModuleNotFoundError:
            return None
        return Metrics(self._service, self._engine)

    def _healthz(self) -> _Answer:
        return _said(health_of(self._service).dead)

    def _readyz(self) -> _Answer:
        return _said(health_of(self._service).unready)

    def _numbers(self) -> _Answer:
        if self._metrics is None:
            return 501, TEXT, NEEDS.encode()
        return 200, PROMETHEUS, self._metrics.text()


def _said(why_not: str) -> _Answer:
    return (503, TEXT, f"{without_addresses(why_not)}\n".encode()) if why_not else (200, TEXT, b"ok\n")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""


def _handler(pages: dict[str, Callable[[], _Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S
        server_version = "poller"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            code, kind, body = page() if page else (404, TEXT, b"there are /healthz, /readyz and /metrics\n")
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Nothing: a scrape is no event."""

    return Handler
