"""Who signs a message: chosen by the domain in From.

Rule 1. The table of that very domain signs, else that of the nearest domain above it: mail from news.example.com is
        signed by example.com, which DMARC takes for aligned unless the domain asks for `adkim=s` (RFC 9989).
Rule 2. Every key of the table makes a signature: a receiver that does not know Ed25519 checks the one by RSA.
Rule 3. Mail from any other domain goes out without a signature of ours; a relay may add its own.
Rule 4. While a key of any table can't be used, nothing is composed: mail that lost its signature would pass unseen.

The keys are read when this is made, and never again. A second scheme beside DKIM is a second `Signer`; what it
needs of the message beside is a field of `Letter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from poller.message.dkim import DkimSigner, letter_of
from poller.message.draft import Unsendable
from poller.message.keys import KeyTrouble, read_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from poller.message.dkim import Letter
    from poller.message.parts import Base64
    from poller.message.settings import DkimSettings


class Signer(Protocol):
    """Makes one header field that vouches for a message."""

    def field(self, letter: Letter) -> bytes:
        """The field with its final CRLF."""


class Signing:
    """Every signer that is configured. `problems` are the keys that can't be used, in words with the remedy."""

    def __init__(self, tables: Mapping[str, DkimSettings]) -> None:
        self.problems: list[str] = []
        self._signers = {domain: tuple(self._signers_of(domain, table)) for domain, table in tables.items()}

    def _signers_of(self, domain: str, table: DkimSettings) -> Iterator[DkimSigner]:
        for key in table.all_keys:
            try:
                yield DkimSigner(domain=domain, selector=key.selector, key=read_key(key.key_file))
            except KeyTrouble as error:
                self.problems.append(f'[dkim."{domain}"] key_file {key.key_file}: {error}')

    @property
    def domains(self) -> tuple[str, ...]:
        """Those that have a table."""
        return tuple(self._signers)

    def keys_of(self, domain: str) -> tuple[DkimSigner, ...]:
        """The signers of one table."""
        return self._signers[domain]

    def signing_domain(self, author: str) -> str | None:
        """The domain that signs mail from `author`, a domain in ASCII; None where none does (Rule 1)."""
        labels = author.split(".")
        names = (".".join(labels[at:]) for at in range(len(labels)))
        return next((name for name in names if name in self._signers), None)

    def signatures(self, author: str, head: bytes, body: Sequence[bytes | Base64], date: datetime) -> bytes:
        """What is to stand before the header. Raises Unsendable (Rule 4)."""
        if self.problems:
            raise Unsendable("sender", f"its mail could not be signed: {self.problems[0]}")
        domain = self.signing_domain(author) if self._signers else None
        if domain is None:
            return b""
        signers: Sequence[Signer] = self._signers[domain]
        letter = letter_of(head, _pieces(body), date)
        return b"".join([signer.field(letter) for signer in signers])


def _pieces(body: Sequence[bytes | Base64]) -> Iterator[bytes]:
    for piece in body:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece
