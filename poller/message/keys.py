"""Private keys that sign mail: read from their files, and what the DNS must say of them.

Rule 1. A file is read once in the life of a process: a key that is replaced counts from the next start.
Rule 2. What cannot be a key of DKIM is refused with a remedy before any mail goes: a file that others may read or
        write, a public key, a passphrase, an RSA key that is too weak (RFC 8301) or too long for verifiers.
Rule 3. Nothing of a private key is in an error or a repr.

Raises `KeyTrouble`. Needs cryptography, the extra `dkim`, which is imported by anyone who has a key.
"""

from __future__ import annotations

import base64
import hashlib
import stat
from dataclasses import field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

RSA_LEAST: Final = 2048
"""Bits. RFC 8301 section 3.2: signers should use at least so many; large receivers distrust less."""
RSA_MOST: Final = 4096
"""Bits. RFC 8301 section 3.2: verifiers need not take more."""
_LARGEST_FILE: Final = 64 * 1024  # bytes: no key is longer


class KeyTrouble(Exception):  # noqa: N818 - named by what is to blame
    """A file gives no key to sign with; the words are the reason and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SigningKey:
    """One private key. `sign` takes the octets that the signature covers."""

    algorithm: Literal["rsa-sha256", "ed25519-sha256"]
    """The tag a= (RFC 6376 section 3.3, RFC 8463)."""
    kind: str
    """In words: "RSA 2048"."""
    public: str
    """The tag p= of the DNS record, in base64."""
    sign: Callable[[bytes], bytes] = field(repr=False)

    @property
    def record(self) -> str:
        """The text of the DNS record (RFC 6376 section 3.6.1)."""
        return f"v=DKIM1; k={self.algorithm.partition('-')[0]}; p={self.public}"


@lru_cache(maxsize=1024)
def read_key(path: str) -> SigningKey:
    """The key in a PEM file (PKCS #8 or PKCS #1). Raises KeyTrouble."""
    if not find_spec("cryptography"):
        raise KeyTrouble('signing needs the package cryptography; pip install "poller[dkim]"')
    return _key_of(_private_key(_content(Path(path))))


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise KeyTrouble("is no file; name the file of the private key")
        if status.st_mode & stat.S_IRWXO:
            raise KeyTrouble(f"is open to every user of this machine; run: chmod o= {path}")
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that can't be one
        reason = error.strerror if isinstance(error, OSError) else "not the name of a file"
        raise KeyTrouble(f"{reason}; the user that runs the worker must be able to read it") from None
    if len(content) > _LARGEST_FILE:
        raise KeyTrouble("is too large to be a key; name the file of the private key")
    return content


def _private_key(content: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - few sign
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    if b"PRIVATE KEY-----" not in content:
        found = "a public key" if b"PUBLIC KEY-----" in content else "no private key in PEM"
        raise KeyTrouble(f"holds {found}; make one: openssl genpkey -algorithm ed25519, or docs/dkim.md")
    try:
        return load_pem_private_key(content, password=None)
    except TypeError:
        raise KeyTrouble("is locked with a passphrase; unlock it: openssl pkey -in LOCKED -out KEY_FILE") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyTrouble("holds a private key that is damaged or of an unknown kind; make it anew") from None


def _key_of(private: Any) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - few sign
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415

    match private:
        case RSAPrivateKey():
            return _rsa_key(private)
        case Ed25519PrivateKey():
            return SigningKey(
                algorithm="ed25519-sha256",
                kind="Ed25519",
                public=_base64(private.public_key().public_bytes_raw()),
                sign=lambda octets: private.sign(hashlib.sha256(octets).digest()),  # RFC 8463 section 3: of the hash
            )
        case _:
            kind = type(private).__name__.strip("_").removesuffix("PrivateKey")
            raise KeyTrouble(f"holds a key of the kind {kind}; DKIM knows RSA and Ed25519")


def _rsa_key(private: Any) -> SigningKey:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - few sign
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415

    bits = private.key_size
    if not RSA_LEAST <= bits <= RSA_MOST:
        reason = "too weak" if bits < RSA_LEAST else "longer than verifiers must take"
        raise KeyTrouble(f"holds an RSA key of {bits} bits, which is {reason} (RFC 8301); make one of {RSA_LEAST}")
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    padding, digest = PKCS1v15(), SHA256()
    return SigningKey(
        algorithm="rsa-sha256",
        kind=f"RSA {bits}",
        public=_base64(public),
        sign=lambda octets: private.sign(octets, padding, digest),
    )


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
