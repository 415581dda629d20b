"""The end of data: when it has left, and what may be unread before it."""

from __future__ import annotations

import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

import pytest
from smtp.letters import courier_to, letter, letters

from poller.judgement.outcome import Deferred, Failed, InDoubt, Sent, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers.certs import Authority, Certificate

    from poller.exchange import Exchange

EHLO = b"250-slow.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
LARGE = b"Subject: letter 1\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000
RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: close by RST."""


class Relay:
    """Takes one line: greets, answers EHLO, and leaves the rest to `talk`."""

    def __init__(self, talk: Callable[[socket.socket], None], certificate: Certificate | None = None) -> None:
        self._talk = talk
        self._certificate = certificate
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        if self._certificate is not None:
            sock = self._certificate.server_context().wrap_socket(sock, server_side=True)
        with sock:
            sock.sendall(b"220 slow.test ESMTP\r\n")
            sock.recv(1000)
            sock.sendall(EHLO)
            self._talk(sock)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(20)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    read = b""
    while not read.endswith(end):
        more = sock.recv(65536)
        if not more:
            return read
        read += more
    return read


def accept_envelope(sock: socket.socket) -> None:
    read_until(sock, b"DATA\r\n")
    sock.sendall(b"250 ok\r\n250 ok\r\n354 go\r\n")


@pytest.fixture(params=["plain", "tls"])
def security(request: pytest.FixtureRequest, authority: Authority) -> Iterator[dict[str, str]]:
    if request.param == "plain":
        yield {}
    else:
        yield {"host": "localhost", "security": "tls", "ca_file": str(authority.ca_file)}


def first(port: int, content: bytes, **settings: object) -> Exchange:
    courier = courier_to(port, **settings)
    (exchange,) = courier.carry(iter([letter(1, content=content)]))
    return exchange


def test_what_lay_in_the_kernel_when_the_line_broke_was_not_sent(
    security: dict[str, str], certificate: Certificate
) -> None:
    read = threading.Event()

    def talk(sock: socket.socket) -> None:
        accept_envelope(sock)
        sock.recv(1000)
        read.wait(0.5)  # meanwhile the kernel takes what it can
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with Relay(talk, certificate if security else None) as relay:
        exchange = first(relay.port, LARGE, **security)
    assert not exchange.end_of_data_sent
    assert [type(outcome) for outcome in judge(exchange).outcomes] == [Deferred]


def test_the_time_for_the_final_reply_begins_when_the_message_has_left(
    security: dict[str, str], certificate: Certificate
) -> None:
    def talk(sock: socket.socket) -> None:
        accept_envelope(sock)
        pause = threading.Event()
        read = b""
        while not read.endswith(b"\r\n.\r\n"):
            read += sock.recv(4096)
            pause.wait(0.02)  # about two seconds in all, and never half a second without a byte
        sock.sendall(b"250 taken\r\n")

    with Relay(talk, certificate if security else None) as relay:
        exchange = first(relay.port, LARGE, **security, end_timeout=0.5, block_timeout=5.0)
    assert [type(outcome) for outcome in judge(exchange).outcomes] == [Sent]


def test_a_relay_that_takes_nothing_more_is_given_up_before_the_end_without_a_doubt() -> None:
    enough = threading.Event()

    def talk(sock: socket.socket) -> None:
        accept_envelope(sock)
        enough.wait(10)

    with Relay(talk) as relay:
        exchange = first(relay.port, LARGE, block_timeout=0.3, end_timeout=5.0)
        enough.set()
    assert not exchange.end_of_data_sent


def test_an_acceptance_that_came_before_the_content_is_none() -> None:
    def talk(sock: socket.socket) -> None:
        read_until(sock, b"DATA\r\n")
        sock.sendall(b"250 ok\r\n250 ok\r\n354 go\r\n250 taken already\r\n")
        sock.recv(1000)

    with Relay(talk) as relay:
        exchange = first(relay.port, b"Subject: letter 1\r\n\r\nhello\r\n")
    assert not exchange.end_of_data_sent
    assert [type(outcome) for outcome in judge(exchange).outcomes] == [Deferred]


def test_a_refusal_that_comes_before_the_end_is_the_answer_and_the_end_does_not_leave() -> None:
    seen: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        read_until(sock, b"DATA\r\n")
        sock.sendall(b"250 ok\r\n250 ok\r\n354 go\r\n552 5.3.4 too large\r\n")
        while more := sock.recv(65536):
            seen.append(more)

    with Relay(talk) as relay:
        exchange = first(relay.port, LARGE, pipelining="transaction")
    assert [type(outcome) for outcome in judge(exchange).outcomes] == [Failed]
    assert not b"".join(seen).endswith(b"\r\n.\r\n")


def test_no_empty_message_is_sent_where_mail_was_refused_and_data_taken() -> None:
    """To a relay that has not forgotten the message before, a lone dot would be a message for its recipients."""
    seen: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        accept_envelope(sock)
        read_until(sock, b"\r\n.\r\n")
        sock.sendall(b"250 taken\r\n")
        read_until(sock, b"DATA\r\n")
        sock.sendall(b"503 5.5.1 nested MAIL\r\n550 5.1.1 no\r\n354 go\r\n")
        while more := sock.recv(65536):
            seen.append(more)

    with Relay(talk) as relay:
        courier = courier_to(relay.port, pipelining="transaction")
        one, two = courier.carry(letters(2))
        assert not courier.is_open
    assert [type(judge(exchange).outcomes[0]) for exchange in (one, two)] == [Sent, Deferred]
    assert two.loss is not None
    assert seen == []


def test_a_reset_behind_a_message_that_has_left_is_a_doubt() -> None:
    def talk(sock: socket.socket) -> None:
        accept_envelope(sock)
        read_until(sock, b"\r\n.\r\n")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with Relay(talk) as relay:
        exchange = first(relay.port, LARGE)
    assert exchange.end_of_data_sent
    assert [type(outcome) for outcome in judge(exchange).outcomes] == [InDoubt]
