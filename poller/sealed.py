"""Tokens: a few octets that travel through strangers' hands, and come back as they were or are refused.

    token      base64url without padding of: version (1 octet) | time (4) | signature (16) | content
    signature  HMAC-SHA256, its first 128 bits, over: purpose, outbox, version, time, content

Rule 1. Purpose and outbox are signed and not carried: a token that was made for one thing, or by another outbox, is
        forged in the eyes of every other.
Rule 2. The first key signs; each key verifies. So a key is changed without breaking what has been sent.
Rule 3. One content has one spelling: whatever is changed in a token, if only the last bits of base64, is refused.
Rule 4. Signatures are compared in constant time, with every key. No token and no key stands in an error.

A token hides nothing: who holds it can read its content. Raises `BadToken` and `UnusableKey`. Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import struct
from pathlib import Path
from typing import NamedTuple

VERSION = 1
SIGNATURE_OCTETS = 16  # half of SHA-256, as RFC 2104 section 5 allows: nobody tries 2**128 of them
KEY_LEAST = 32  # characters: 16 octets in hexadecimal digits, or 24 in base64
LAST_SECOND = 2**32 - 1
_HEAD = struct.Struct(">BI")
_LEAST = _HEAD.size + SIGNATURE_OCTETS
_LETTERS = re.compile(r"[A-Za-z0-9_-]{1,4096}")
_KEY_FILE_MOST = 64 * 1024  # octets

Keys = tuple[bytes, ...]
"""The first signs, all verify."""


class UnusableKey(ValueError):  # noqa: N818 - named by what is to blame
    """There is no key, or one that could be guessed. The text says which, and the remedy; never the key."""


class BadToken(ValueError):  # noqa: N818 - named by what is to blame
    """Not to be trusted. The text says why, in words that may be shown to the one who brought it."""


class Malformed(BadToken):
    """It was cut off, or altered on its way, or is something else."""


class Forged(BadToken):
    """None of our keys has signed it, for this purpose and this outbox."""


class Expired(BadToken):
    """It is ours, and too old."""


class Opened(NamedTuple):
    """What a token says; `issued_at` in whole seconds since 1970."""

    content: bytes
    issued_at: int


def keys_of(text: str) -> Keys:
    """The keys of a secret: one a line, the newest first. Raises UnusableKey."""
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise UnusableKey("holds no key; make one with: openssl rand -base64 32")
    for number, key in enumerate(found, start=1):
        if len(key) < KEY_LEAST:
            which = f"line {number} " if len(found) > 1 else ""
            reason = f"{which}has {len(key)} characters, and a key has {KEY_LEAST} at least"
            raise UnusableKey(f"{reason}; make one with: openssl rand -base64 32")
    return tuple(key.encode() for key in found)


def read_keys(path: str | Path) -> Keys:
    """The keys of a file. Raises UnusableKey, naming the file."""
    try:
        with Path(path).open("rb") as stream:
            return keys_of(stream.read(_KEY_FILE_MOST).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UnusableKey(f"{path}: not UTF-8 text; make one with: openssl rand -base64 32") from None
    except OSError as error:
        raise UnusableKey(f"{path}: {error.strerror}; name a file that this process can read") from None
    except UnusableKey as error:
        raise UnusableKey(f"{path} {error}") from None


def seal(content: bytes, *, purpose: str, outbox: str, keys: Keys, issued_at: int) -> str:
    """A token. `issued_at` in seconds since 1970; what lies before it, or behind 2106, is taken for its end."""
    head = _HEAD.pack(VERSION, min(max(issued_at, 0), LAST_SECOND))
    sealed = head + _signature(keys[0], purpose, outbox, head + content) + content
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def opened(token: object, *, purpose: str, outbox: str, keys: Keys) -> Opened:
    """What a token of ours says. Raises Malformed, Forged."""
    raw = _octets(token)
    version, issued_at = _HEAD.unpack_from(raw)
    if version != VERSION:
        raise Malformed("the token is of a kind that is not known here")
    signature, content = raw[_HEAD.size : _LEAST], raw[_LEAST:]
    signed = raw[: _HEAD.size] + content
    # Every key is asked before the answer is looked at: it takes as long whichever has signed.
    if True not in [hmac.compare_digest(signature, _signature(key, purpose, outbox, signed)) for key in keys]:
        raise Forged("the token is not one of ours")
    return Opened(content, issued_at)


def _octets(token: object) -> bytes:
    """Rule 3."""
    if isinstance(token, str) and _LETTERS.fullmatch(token):
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except binascii.Error:
            raw = b""
        if len(raw) >= _LEAST and base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == token:
            return raw
    raise Malformed("the token is not complete; was the link cut off?")


def _signature(key: bytes, purpose: str, outbox: str, signed: bytes) -> bytes:
    """Each part with its length, so that no two divisions of one text are the same."""
    parts = (b"poller token", purpose.encode(), outbox.encode(), signed)
    text = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return hmac.digest(key, text, "sha256")[:SIGNATURE_OCTETS]
