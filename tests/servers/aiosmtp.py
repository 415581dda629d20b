"""A real aiosmtpd, which keeps what it takes in a maildir."""

from __future__ import annotations

import importlib.util
import sys

from servers.program import Program


def available() -> str:
    """ "" or why it cannot run here."""
    return "" if importlib.util.find_spec("aiosmtpd") else "aiosmtpd is not installed"


class Aiosmtpd(Program):
    """Offers no PIPELINING, and is spoken to in lock-step."""

    def configure(self) -> list[str]:
        maildir = self.directory / "maildir"
        self.taken = maildir / "new"
        at = f"{self.host}:{self.port}"
        return [sys.executable, "-m", "aiosmtpd", "-n", "-l", at, "-c", "aiosmtpd.handlers.Mailbox", str(maildir)]
