"""Debian's OpenDKIM as a milter that verifies: what it says of each signature stands in Authentication-Results.

    with OpenDkim({"s._domainkey.example.com": "v=DKIM1; ..."}) as milter, Postfix(milter.for_postfix) as relay: ...
    results(message)                # ["dkim=pass (2048-bit key) ...", ...], the first signature first

It reads keys from a file instead of the DNS, and nothing of the system's own instance.
"""

from __future__ import annotations

import email
import re
import shutil
import socket
from typing import TYPE_CHECKING

from servers.program import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTHORITY = "verifier.example.test"


def available() -> str:
    """ "" or why it cannot run here."""
    return "" if shutil.which("opendkim") else "opendkim is not installed"


class OpenDkim(Program):
    """A context manager; `records` are the TXT records by name."""

    def __init__(self, records: Mapping[str, str]) -> None:
        super().__init__()
        self._records = dict(records)

    @property
    def for_postfix(self) -> dict[str, str]:
        """Parameters that put it in front of a Postfix's queue."""
        return {"smtpd_milters": f"inet:{self.host}:{self.port}", "milter_default_action": "tempfail"}

    def configure(self) -> list[str]:
        """As the base class has it."""
        keys, config = self.directory / "keys", self.directory / "opendkim.conf"
        keys.write_text("".join(f"{name} {record}\n" for name, record in self._records.items()))
        config.write_text(
            f"Mode v\nSocket inet:{self.port}@{self.host}\nTestPublicKeys {keys}\nAuthservID {AUTHORITY}\n"
            "AlwaysAddARHeader yes\nInternalHosts 192.0.2.1\nSyslog no\nUserID nobody\n"
        )
        return ["opendkim", "-f", "-x", str(config)]

    def _greets(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(self.log_text())
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0


def results(message: bytes) -> list[str]:
    """What it said of each signature."""
    found = email.message_from_bytes(message).get_all("Authentication-Results", [])
    ours = [" ".join(text.split()) for text in found if text.strip().startswith(AUTHORITY)]
    return [item.strip() for text in ours for item in re.split(r";", text)[1:]]
