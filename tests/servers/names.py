"""A DNS server on loopback, UDP only, that answers as it is told and remembers what it was asked."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Self

import dns.message
import dns.rcode
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Reply = Callable[[dns.message.QueryMessage], dns.message.Message | None]


class NameServer:
    """Answers in a thread of its own. A domain that was not told about does not exist."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._replies: dict[str, Reply] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def has(self, domain: str, *records: str, ttl: int = 600) -> None:
        """A domain with these MX records, as in "10 mx.example.com."; with none of them it still exists."""
        found = dns.rrset.from_text(domain + ".", ttl, "IN", "MX", *records) if records else None
        self._replies[domain] = lambda query: _answered(query, found)

    def says(self, name: str, *texts: str) -> None:
        """A name with these TXT records, each in strings of 255 octets at most."""
        records = [" ".join(f'"{text[at : at + 255]}"' for at in range(0, len(text), 255)) for text in texts]
        found = dns.rrset.from_text(name + ".", 600, "IN", "TXT", *records)
        self._replies[name] = lambda query: _answered(query, found)

    def fails(self, domain: str, rcode: dns.rcode.Rcode = dns.rcode.SERVFAIL) -> None:
        """Answers with an error."""
        self._replies[domain] = lambda query: _refused(query, rcode)

    def is_silent(self, domain: str) -> None:
        """Never answers."""
        self._replies[domain] = lambda _query: None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, client = self._socket.recvfrom(65535)
            if not data:
                return
            query = dns.message.from_wire(data)
            assert isinstance(query, dns.message.QueryMessage)
            domain = query.question[0].name.to_text(omit_final_dot=True)
            self.asked.append(domain)
            reply = self._replies.get(domain, lambda asked: _refused(asked, dns.rcode.NXDOMAIN))(query)
            if reply is not None:
                self._socket.sendto(reply.to_wire(), client)


def _answered(query: dns.message.QueryMessage, found: dns.rrset.RRset | None) -> dns.message.Message:
    reply = dns.message.make_response(query)
    if found is not None:
        reply.answer.append(found)
    return reply


def _refused(query: dns.message.QueryMessage, rcode: dns.rcode.Rcode) -> dns.message.Message:
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    return reply
