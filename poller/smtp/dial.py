"""Reaching a relay: name, addresses, TCP.

Every address the name has is tried, in the resolver's order, `connect_timeout` each. A ring of the bell ends the wait.
The resolver itself cannot be interrupted; its own timeouts bound it.

Raises RelayTrouble(CONNECT) with what went wrong at each address and the remedy.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import TYPE_CHECKING, NamedTuple

from poller.exchange import Phase, RelayTrouble
from poller.units import format_duration

if TYPE_CHECKING:
    from poller.smtp.wake import Bell

MAX_ADDRESSES = 16
"""Tried per attempt; a name with more is a load balancer, and the next attempt gets another order."""
STOPPING = "the service is stopping"


def place(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address: what a relay is called in the log and in errors."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Dialled(NamedTuple):
    """A connected, non-blocking socket without Nagle's delay, and the addresses of its two ends."""

    sock: socket.socket
    peer: str
    ours: str


def dial(host: str, port: int, seconds: float, bell: Bell) -> Dialled:
    """Connect. Raises RelayTrouble."""
    failures: list[str] = []
    for family, address in _resolve(host, port)[:MAX_ADDRESSES]:
        try:
            return _connect(family, address, seconds, bell)
        except OSError as error:
            failures.append(f"{address[0]}: {_in_words(error, seconds)}")
        if bell.rung:
            raise RelayTrouble(Phase.CONNECT, f"{place(host, port)}: {STOPPING}")
    reason = (
        f"cannot connect to {place(host, port)} ({'; '.join(failures)}); check [smtp] host and port, and any firewall"
    )
    raise RelayTrouble(Phase.CONNECT, reason)


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is not a host name"
        reason = f"{place(host, port)}: the name has no address: {words}; check [smtp] host and this machine's DNS"
        raise RelayTrouble(Phase.CONNECT, reason) from error
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc] # AF_INET and AF_INET6 only


def _connect(family: socket.AddressFamily, address: tuple[str, int], seconds: float, bell: Bell) -> Dialled:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _await_connected(sock, sock.connect_ex(address), seconds, bell)
        return Dialled(sock, sock.getpeername()[0], sock.getsockname()[0])
    except BaseException:
        sock.close()
        raise


def _await_connected(sock: socket.socket, code: int, seconds: float, bell: Bell) -> None:
    """Raises OSError when the attempt fails, takes too long, or the bell rings."""
    if code == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        poll.register(bell.fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(seconds * 1000)]
        code = errno.ECANCELED if ready else errno.ETIMEDOUT
        if sock.fileno() in ready:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _in_words(error: OSError, seconds: float) -> str:
    if error.errno == errno.ETIMEDOUT:
        return f"no answer within {format_duration(seconds)}"
    return (error.strerror or str(error)).lower()
