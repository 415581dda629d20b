"""Postfix's smtp-sink: takes everything, as fast as it comes.

    with Sink("-h", "sink.test") as relay: ...     # any options of smtp-sink(1)

`dump=True` keeps each transaction: `relay.messages()`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from servers.processes import free_port, greets, wait_until

if TYPE_CHECKING:
    from typing import Self

BACKLOG = 1000


def available() -> str:
    """ "" or why it cannot run here."""
    return "" if shutil.which("smtp-sink") else "smtp-sink is not installed"


class Sink:
    """A context manager."""

    host = "127.0.0.1"

    def __init__(self, *options: str, dump: bool = False) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="poller-sink-"))
        self._directory.chmod(0o777)  # as root it drops its privileges
        user = [] if os.geteuid() else ["-u", "nobody"]
        dumping = ["-d", "%M."] if dump else []
        self._command = ["smtp-sink", *user, *dumping, *options, f"{self.host}:{self.port}", str(BACKLOG)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=self._directory)
        wait_until(lambda: greets(self.port), "smtp-sink's greeting")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        shutil.rmtree(self._directory, ignore_errors=True)

    def messages(self) -> list[bytes]:
        """Each dumped transaction: its envelope as header lines, then the content."""
        return [path.read_bytes() for path in sorted(self._directory.iterdir()) if path.stat().st_size]
