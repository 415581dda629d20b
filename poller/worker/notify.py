"""Telling a supervisor that we are ready, alive, and stopping: sd_notify(3), where one asks for it.

`$NOTIFY_SOCKET` names its socket (systemd's `Type=notify`); without it, or where it can't be reached, nothing happens:
whether mail goes out does not depend on who looks on.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

ABSTRACT: Final = "@"
"""How the name of a socket begins that is in no directory."""


class Supervisor:
    """Who started us, if it wants to be told. Each call is one datagram, and never raises."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith(ABSTRACT) else name

    def ready(self) -> None:
        """The service has begun to work."""
        self._tell("READY=1")

    def alive(self) -> None:
        """It comes on: said more often than any `WatchdogSec` that makes sense."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """A stop was asked for; the message in hand is finished first."""
        self._tell("STOPPING=1")

    def _tell(self, words: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(words.encode(), self._address)
