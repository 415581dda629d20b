"""Private keys for tests, each made once, and the other half for a verifier."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, Literal

import dkim
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from poller.message.settings import DkimKeySettings, DkimSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from poller.message.dkim import DkimSigner

Kind = Literal["rsa", "ed25519", "weak", "ec", "public", "locked"]
SELECTORS: Final[dict[Kind, str]] = {"rsa": "s2026", "ed25519": "s2026e"}


@functools.cache
def pem(kind: Kind, number: int = 0) -> bytes:  # noqa: ARG001 - another one for each number
    """A key in PEM: good ones, and ones that can't sign."""
    match kind:
        case "rsa" | "public" | "locked":
            private = rsa.generate_private_key(65537, 2048)
        case "weak":
            private = rsa.generate_private_key(65537, 1024)
        case "ec":
            return ec.generate_private_key(ec.SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if kind == "public":
        return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    lock = BestAvailableEncryption(b"secret") if kind == "locked" else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def key_file(directory: Path, kind: Kind, number: int = 0) -> str:
    """Its path; only the owner may read it."""
    path = directory / f"{kind}-{number}.pem"
    path.write_bytes(pem(kind, number))
    path.chmod(0o600)
    return str(path)


def table_keys(directory: Path, *kinds: Kind, number: int = 0) -> tuple[DkimKeySettings, ...]:
    """A key of each kind in a file, with its selector."""
    paths = {kind: key_file(directory, kind, number) for kind in kinds}
    return tuple(DkimKeySettings(selector=SELECTORS[kind], key_file=path) for kind, path in paths.items())


def table(directory: Path, *kinds: Kind, number: int = 0) -> DkimSettings:
    """What stands in `[dkim."…"]`."""
    return DkimSettings(keys=table_keys(directory, *kinds, number=number))


def verdicts(message: bytes, signers: Sequence[DkimSigner]) -> list[bool]:
    """dkimpy's, for each signature in the message from the top; the DNS has the keys of `signers`."""
    published = {f"{it.selector}._domainkey.{it.domain}.": it.key.record.encode() for it in signers}
    found = dkim.DKIM(message)
    count = sum(name.lower() == b"dkim-signature" for name, _ in found.headers)
    return [_is_good(found, number, published) for number in range(count)]


def _is_good(message: dkim.DKIM, number: int, published: dict[str, bytes]) -> bool:
    try:
        return bool(message.verify(number, dnsfunc=lambda name, timeout=5: published.get(name.decode())))  # noqa: ARG005 - dkimpy's signature
    except dkim.DKIMException:
        return False
