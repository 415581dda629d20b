"""Pure: what of a message is kept beside its row, once it is known what became of it.

Rule 1. What a template gave is kept while the row may be tried again, so that the next copy is the same; and only then.
Rule 2. Of the bytes that a relay accepted, as much is kept as `[message] keep_sent` says: nothing, their hash, or all.
Rule 3. Nothing is written where nothing changes. A row that goes out at once has nothing to write, unless `keep_sent`
        asks for it.
Rule 4. What is too large is not kept (MOST), and keeps no outcome from being written.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import field, replace
from typing import Final, Literal

from poller.frozen import dataclass
from poller.statuses import TERMINAL

KeepSent = Literal["none", "hash", "full"]

MOST: Final = 4_000_000
"""Bytes, compressed: they travel in one statement, and some servers take no more than 16 MB of those."""
_FAST: Final = 1  # zlib's level
_PIECE: Final = 256 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is kept of one row.

    `rendered` is what its template gave, packed, and `made_of` a hash of what that was made of; None: not kept.
    `sha256` is that of the bytes that were accepted last, and `message` those bytes, packed. In a step, None for
    `sha256` leaves what is kept of them as it is.
    """

    rendered: bytes | None = field(default=None, repr=False)
    made_of: str | None = None
    sha256: str | None = None
    message: bytes | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.rendered or b"") + len(self.message or b"")


NOTHING: Final = Kept()


def keeping(
    status: str,
    *,
    before: Kept | None,
    rendered: Kept | None = None,
    accepted: bytes | None = None,
    keep_sent: KeepSent = "none",
) -> Kept | None:
    """What is to be kept from now on of a row that is `status` now; None: what is kept stays as it is.

    `rendered` is what its template gave for this try, `accepted` the bytes if somebody has just accepted them.
    """
    before = before or NOTHING
    again = rendered if rendered and status not in TERMINAL and rendered.size <= MOST else NOTHING
    copy = NOTHING if accepted is None else _copy(accepted, keep_sent, before.sha256)
    if copy.sha256 is None and again.rendered == before.rendered:
        return None
    return replace(copy, rendered=again.rendered, made_of=again.made_of)


def _copy(content: bytes, keep_sent: KeepSent, known: str | None) -> Kept:
    if keep_sent == "none" or (sha256 := sha256_of(content)) == known:
        return NOTHING
    return Kept(sha256=sha256, message=_packed(content) if keep_sent == "full" else None)


def _packed(content: bytes) -> bytes | None:
    """Piece by piece: of what will not fit, no more is packed than does."""
    packer, view = zlib.compressobj(_FAST), memoryview(content)
    pieces: list[bytes] = []
    size = 0
    for start in range(0, len(view), _PIECE):
        pieces.append(packer.compress(view[start : start + _PIECE]))
        size += len(pieces[-1])
        if size > MOST:
            return None
    pieces.append(packer.flush())
    return b"".join(pieces) if size + len(pieces[-1]) <= MOST else None


def sha256_of(content: bytes) -> str:
    """As it is kept: in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def unpacked(message: bytes) -> bytes:
    """The bytes that were accepted. Raises zlib.error."""
    return zlib.decompress(message)
