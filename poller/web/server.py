"""The listener: the page where the extra `web` is installed and wanted, else health and numbers alone.

Health must not need an extra: a probe asks every worker. So the small server of the standard library stays for who
wants no page, and whatever both serve is answered by `poller.web.plain`.

Raises OSError where it can't listen.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from poller.outbox.database import connect
from poller.web.plain import TEXT, Answer, answers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from poller.config.load import Config
    from poller.worker.service import Service

PATIENCE_S = 5.0


class Listening(Protocol):
    """A server between its making, which takes the port, and its end."""

    def start(self) -> None:
        """Answer from now on, in threads of its own."""

    def stop(self) -> None:
        """Answer no more."""


def has_page(config: Config) -> bool:
    """Whether there is a page: it is wanted, and the extra is installed."""
    return config.http.page and all(find_spec(name) for name in ("starlette", "uvicorn"))


def server_of(config: Config, service: Service | None) -> Listening:
    """Listens as `[http]` says; `service` is the worker in this process, if there is one."""
    assert config.http.listen is not None  # noqa: S101 - who calls has looked
    if has_page(config):
        from poller.web.site import PageServer  # noqa: PLC0415 - an extra

        return PageServer(config, service)
    return SmallServer(config, service)


class SmallServer:
    """`/healthz`, `/readyz`, `/metrics`. A request that does not come within some seconds is dropped."""

    def __init__(self, config: Config, service: Service | None) -> None:
        port = int((config.http.listen or "").rpartition(":")[2])
        self._engine = connect(config.database)
        self._http = _Listener(config.http.host, port, _handler(answers(service, self._engine)))
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


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""


def _handler(pages: Mapping[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S
        server_version = "poller"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            answer = page() if page else Answer(404, TEXT, b"there are /healthz, /readyz and /metrics\n")
            self.send_response(answer.code)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
            """Nothing: a scrape is no event."""

    return Handler
