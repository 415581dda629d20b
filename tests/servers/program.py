"""A server that is a program of its own: started in a directory of its own, ended by its pid.

    with Haraka() as relay: ...     # relay.host, relay.port
    relay.messages()                # the contents that it took, in no order

Subclasses write the configuration in `configure` and name the command. What they took lies in `taken`, a file each.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from servers.processes import free_port, greets, wait_until

if TYPE_CHECKING:
    from typing import Self


class Program:
    """A context manager."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="poller-server-"))
        self.directory.chmod(0o755)
        self.taken = self.directory / "taken"
        self.taken.mkdir()
        self.taken.chmod(0o777)

    def configure(self) -> list[str]:
        """Write what it reads; the command that runs it in the foreground."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        command = self.configure()
        with (self.directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(self._greets, f"greeting of {command[0]}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _greets(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(self.log_text())
        return greets(self.port)

    def stop(self) -> None:
        """End it and its children, which share its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5)
        shutil.rmtree(self.directory, ignore_errors=True)

    def log_text(self) -> str:
        """What it wrote to its terminal."""
        return (self.directory / "output").read_text(errors="replace")

    def messages(self) -> list[bytes]:
        """The content of each message that it took."""
        return [path.read_bytes() for path in self.taken.iterdir()]
