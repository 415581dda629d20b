"""Mail servers that cannot be installed beside Postfix, run from unpacked packages in a world of their own.

A program is looked for on PATH, in the given environment variable, and below `.cache/mta`, which
`tests/servers/fetch_mtas.sh` fills. It runs in its own mount namespace, where it finds the users and directories that
its package would have made; nothing of that can be seen outside. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from servers.processes import free_port, greets, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

UNPACKED = Path(__file__).parents[2] / ".cache" / "mta"


def find(program: str, variable: str) -> str:
    """Its path, or ""."""
    unpacked = UNPACKED / "usr" / "sbin" / program
    return shutil.which(program) or os.environ.get(variable, "") or (str(unpacked) if unpacked.exists() else "")


def reason_against(program: str, variable: str) -> str:
    """ "" or why it cannot run here."""
    if os.geteuid():
        return f"{program} must be started by root"
    if not find(program, variable):
        return f"no {program} on PATH, in ${variable}, or in .cache/mta (run tests/servers/fetch_mtas.sh)"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        return "no mount namespace can be had here"
    return ""


class Borrowed:
    """A server in a world of its own: its directory holds what is mounted over the system's."""

    host = "127.0.0.1"

    def __init__(self, users: Sequence[str], covered: Sequence[str]) -> None:
        """`users` are added to the system's; `covered` are directories replaced by empty ones."""
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="poller-mta-"))
        self.directory.chmod(0o755)
        self._mounts: list[tuple[Path, str]] = []
        for file, line in (("passwd", "{0}:x:{1}:{1}::/nonexistent:/bin/false\n"), ("group", "{0}:x:{1}:\n")):
            added = "".join(line.format(user, _FIRST_UID + n) for n, user in enumerate(users))
            self._cover(f"/etc/{file}").write_text(Path(f"/etc/{file}").read_text() + added)
        for directory in covered:
            self._cover(directory).mkdir()

    def _cover(self, path: str) -> Path:
        ours = self.directory / path.strip("/").replace("/", "_")
        self._mounts.append((ours, path))
        return ours

    def covering(self, path: str) -> Path:
        """Our directory that lies over the system's `path`."""
        return next(ours for ours, theirs in self._mounts if theirs == path)

    def start(self, *command: str) -> None:
        """Run it in the foreground of its world, and wait until it greets."""
        mounts = "".join(f"mount --bind {ours} {path} && " for ours, path in self._mounts)
        libraries = ":".join(str(path) for path in (UNPACKED / "usr" / "lib").glob("*-linux-gnu"))
        with (self.directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--fork",
                    "--pid",
                    "--kill-child",
                    "sh",
                    "-c",
                    f"{mounts}exec {shlex.join(command)}",
                ],
                env=os.environ | {"LD_LIBRARY_PATH": libraries},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._greets, f"greeting of {command[0]}")
        except BaseException:
            self.stop()
            raise

    def _greets(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(self.log_text())
        return greets(self.port)

    def stop(self) -> None:
        """End it and every child: they share a PID namespace, which dies with its first process.

        Killing `unshare` alone would not do: the kernel forgets --kill-child when a set-user-ID program starts.
        """
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        for child in children.read_text().split() if children.exists() else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)

    def log_text(self) -> str:
        """What it wrote to its terminal."""
        return (self.directory / "output").read_text(errors="replace")


_FIRST_UID = 64100
"""Of a range that Debian hands out to nobody."""
