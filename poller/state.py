"""The state directory of one worker: who it is, and that it is alone.

Rule 1. One process at a time: the lock is the kernel's (flock), so it ends with the process, `kill -9` included.
Rule 2. `identity` is made once and stays with the directory; the same worker name with another identity is another
        worker.

Raises StateTaken when another process holds the directory, OSError (with its path) when it can't be used.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIVATE = 0o700


class StateTaken(Exception):  # noqa: N818 - named by who is to blame
    """Another process works with this directory. The text says which, and the remedy."""


def default_directory(name: str, environ: Mapping[str, str]) -> Path:
    """Where a worker called `name` keeps its state: $STATE_DIRECTORY (systemd), else under the user's state home."""
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0]) / name
    home = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "poller" / name


class StateDirectory:
    """A directory that is ours until `release`."""

    def __init__(self, path: Path) -> None:
        path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        self.path = path
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise StateTaken(
                f"{path} is in use by process {holder}; give this worker its own [worker] name or state_dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self.identity = self._identity()

    def _identity(self) -> str:
        file = self.path / "identity"
        if not file.exists():
            new = file.with_suffix(".new")
            new.write_text(secrets.token_hex(16) + "\n")
            new.replace(file)
        return file.read_text().strip()

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._lock)
