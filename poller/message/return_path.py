"""Pure: where bounces go, so that each finds its row: a return path and an envelope id that carry a token.

    bounces+ae…@example.com    `[bounces] address = "bounces+{token}@example.com"` (VERP)
    ENVID=AQ…                  where the relay offers DSN (RFC 3461)

In the address it stands in base32 and in small letters: there are systems that change the case of a local part.

Rule 1. A token is signed (`poller.sealed`): nobody can make one for another row, nor one for unsubscribing.
Rule 2. It names the row and holds part of a hash of its Message-ID: after a restored backup an id may be another row's.
Rule 3. A row with an `envelope_from` of its own keeps it; then the envelope id alone tells.

Raises BadToken from `row_of`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from poller.message.bounce_settings import PLACE, BounceSettings
from poller.sealed import Malformed, keys_of, opened, seal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from poller.message.draft import Draft
    from poller.sealed import Keys

PURPOSE: Final = "bounce"
_CONTENT = struct.Struct(">Q4s")


class Marked(NamedTuple):
    """What a token names."""

    row_id: int
    fingerprint: bytes


class ReturnPaths:
    """Makes tokens, and reads them. Without a key it makes and reads none."""

    def __init__(self, settings: BounceSettings | None = None) -> None:
        self._settings = settings or BounceSettings()
        self._keys: Keys = keys_of(self._settings.key) if self._settings.key else ()
        before, _, after = (self._settings.address or "").partition(PLACE)
        self._around = (before, after)

    def token(self, draft: Draft) -> str:
        """Of a row; "" without a key."""
        if not self._keys:
            return ""
        content = _CONTENT.pack(draft.id, fingerprint(draft.message_id))
        seconds = int(draft.date.timestamp())
        return seal(content, purpose=PURPOSE, outbox="", keys=self._keys, issued_at=seconds)

    def address(self, token: str) -> str | None:
        """The return path with this token; None where none is configured."""
        if not (token and self._settings.address):
            return None
        octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        return base64.b32encode(octets).decode().rstrip("=").lower().join(self._around)

    def envelope_id(self, token: str) -> str:
        """For a relay that offers DSN; "" for none."""
        return token if self._settings.dsn else ""

    def tokens_in(self, addresses: Iterable[str]) -> Iterator[str]:
        """What may be a token in addresses that a message came to."""
        before, after = self._around
        if not self._settings.address:
            return
        for address in addresses:
            small = address.lower()
            if small.startswith(before.lower()) and small.endswith(after.lower()):
                token = _as_written(small[len(before) : len(small) - len(after)])
                if token:
                    yield token

    def row_of(self, token: str) -> Marked:
        """The row that a token names. Raises BadToken."""
        if not self._keys:
            raise Malformed("there is no key in [bounces]")
        found = opened(token, purpose=PURPOSE, outbox="", keys=self._keys)
        try:
            return Marked(*_CONTENT.unpack(found.content))
        except struct.error:
            raise Malformed("the token names no row") from None


def fingerprint(message_id: str) -> bytes:
    """Rule 2."""
    return hashlib.sha256(message_id.encode()).digest()[:4]


def _as_written(text: str) -> str:
    """A token from the base32 of an address; as it is where it is none, for `row_of` to refuse."""
    try:
        octets = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return text
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
