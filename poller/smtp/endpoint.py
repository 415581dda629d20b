"""Asking a token endpoint: one POST over verified TLS, and its answer as a fact.

Rule 1. Certificates and host names are always verified (`poller.smtp.tls`). No redirect is followed: a secret goes only
        where it was meant to. No proxy is used.
Rule 2. The whole answer has `seconds`, however slowly it drips, and 64 KB. A ring of the bell ends the wait; then what
        was asked goes on by itself, so that a refresh token which the answer brings is still written down.

Raises Unanswered, in words that hold no secret. It judges no answer.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import SplitResult, urlencode, urlsplit

from poller import __version__
from poller.exchange import RelayTrouble
from poller.smtp.dial import STOPPING, place
from poller.smtp.tls import client_context, in_words
from poller.smtp.wake import Bell
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

MOST_BYTES = 64 * 1024
"""Of an answer; those of the large providers have 2 to 6 KB."""
_PORTS = {"https": 443, "http": 80}


class Unanswered(Exception):  # noqa: N818 - named by what happened
    """There is no answer; the text says why, and what to do."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    kind: str
    """The media type, without parameters, in lower case."""
    body: bytes
    retry_after: str
    date: str
    """The other side's clock, as it writes it."""


class Call:
    """One question to `url`. `cancel` may be called from another thread."""

    def __init__(self, url: str, *, ca_file: str | None, seconds: float) -> None:
        """Raises Unanswered when `ca_file` cannot be read."""
        self._parts = urlsplit(url)
        self._seconds = seconds
        self._connection = _connection(self._parts, ca_file, seconds)
        self._is_cancelled = False

    def post(self, form: Mapping[str, str]) -> Answer:
        """Ask. Raises Unanswered."""
        path = self._parts.path or "/"
        path += f"?{self._parts.query}" if self._parts.query else ""
        where = place_of(self._parts)
        try:
            self._connection.request("POST", path, body=urlencode(form), headers=_HEADERS)
            with self._connection.getresponse() as response:  # owns the socket from here on
                body = response.read(MOST_BYTES + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unanswered(f"{where}: {self._in_words(error)}") from None
        finally:
            self._connection.close()
        if len(body) > MOST_BYTES:
            raise Unanswered(f"{where} answers with more than {MOST_BYTES // 1024} KB; is it a token endpoint?")
        return Answer(
            status=response.status,
            kind=response.headers.get_content_type(),
            body=body,
            retry_after=response.headers.get("Retry-After", ""),
            date=response.headers.get("Date", ""),
        )

    def cancel(self) -> None:
        """End the question: the one who asked has waited long enough."""
        self._is_cancelled = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's: another thread reads from it

    def _in_words(self, error: Exception) -> str:
        if self._is_cancelled or isinstance(error, TimeoutError):
            return late(self._seconds)
        if isinstance(error, ssl.SSLError):
            return in_words(error, self._parts.hostname or "").replace("[smtp] ", "[smtp.oauth2] ")
        if isinstance(error, http.client.RemoteDisconnected):
            return "closed the connection without an answer"
        if isinstance(error, socket.gaierror):
            return f"the name has no address: {error.strerror}; check the address and this machine's DNS"
        if isinstance(error, OSError):
            return f"{(error.strerror or str(error)).lower()}; check the address, and any firewall"
        return "does not answer in HTTP"


_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
    "User-Agent": f"poller/{__version__}",
    "Connection": "close",
}


def place_of(url: SplitResult | str) -> str:
    """What an endpoint is called in words: its host, and the port if it is not the usual one."""
    parts = urlsplit(url) if isinstance(url, str) else url
    host = parts.hostname or ""
    return host if parts.port in {None, _PORTS.get(parts.scheme)} else place(host, parts.port or 0)


def late(seconds: float) -> str:
    """That there was no answer in time."""
    return f"no answer within {format_duration(seconds)}"


def _connection(parts: SplitResult, ca_file: str | None, seconds: float) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=seconds)
    try:
        context = client_context(ca_file)
    except RelayTrouble as trouble:
        raise Unanswered(trouble.reason.replace("[smtp] ", "[smtp.oauth2] ")) from None
    return http.client.HTTPSConnection(host, parts.port, timeout=seconds, context=context)


def in_time(work: Callable[[], T], *, seconds: float, bell: Bell, cancel: Callable[[], None], who: str) -> T:
    """What `work` returns or raises, Rule 2. Raises Unanswered when it takes longer, or the bell rings.

    `work` goes on in a thread of its own; its end then interests nobody.
    """
    done = Bell()
    ends: list[T | BaseException] = []

    def run() -> None:
        try:
            ends.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            ends.append(error)
        done.ring()

    threading.Thread(target=run, name="token", daemon=True).start()
    ready = _wait(seconds, done, bell)
    if not ends:
        if ready:
            raise Unanswered(STOPPING)
        cancel()
        raise Unanswered(f"{who}: {late(seconds)}")
    (end,) = ends
    if isinstance(end, BaseException):
        raise end
    return end


def _wait(seconds: float, *bells: Bell) -> list[tuple[int, int]]:
    poll = select.poll()
    for bell in bells:
        poll.register(bell.fd, select.POLLIN)
    return poll.poll(seconds * 1000)
