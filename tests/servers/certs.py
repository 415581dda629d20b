"""A private CA and server certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def available() -> str:
    """ "" or why no certificate can be made here."""
    return "" if shutil.which("openssl") else "openssl is not installed"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """PEM files."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """What a server offers it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Authority:
    """A CA in `directory`; `ca_file` is what a client must trust."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ca_file = directory / "ca.pem"
        self._key = directory / "ca.key"
        subject = ["-subj", "/CN=poller test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        _openssl("req", "-x509", *_NEW_KEY, "-days", "2", *subject, "-keyout", self._key, "-out", self.ca_file)

    def issue(self, name: str = "localhost", *, days: int = 2, alternative: str | None = "") -> Certificate:
        """For a host name or an IP address; negative `days` make it expired.

        `alternative` is its name in subjectAltName, where that is another one; None: it has no such field.
        """
        stem = self._directory / f"{name.replace(':', '_')}.{days}.{alternative}"
        key, request, issued = (stem.with_name(stem.name + end) for end in (".key", ".csr", ".pem"))
        kind = "IP" if name.replace(".", "").isdigit() or ":" in name else "DNS"
        names = "" if alternative is None else f"subjectAltName={kind}:{alternative or name}\n"
        extensions = stem.with_name(stem.name + ".ext")
        extensions.write_text(f"{names}basicConstraints=critical,CA:FALSE\n")
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        signing = ["-CA", self.ca_file, "-CAkey", self._key, "-CAcreateserial", "-days", days, "-extfile", extensions]
        _openssl("x509", "-req", "-in", request, *signing, "-out", issued)
        return Certificate(certificate=issued, key=key)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(done.stderr)
