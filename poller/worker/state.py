"""The state directory of one worker: who it is, and that it is alone.

Rule 1. One process at a time: the lock is the kernel's (flock), so it ends with the process, `kill -9` included.
Rule 2. `identity` is made once and stays with the directory; the same worker name with another identity is another
        worker. The file knows where it stands (machine, device, inode), so that a copy is known for one (`is_copy`),
        and becomes a home of its own by `settle`. A device is compared within one life of the kernel: in the next it
        may have another number.

Raises StateTaken when another process holds the directory, OSError (with its path) when it can't be used.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from poller.machine import boot, machine_id

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
        self.identity, self.is_copy = self._read_identity()

    def _read_identity(self) -> tuple[str, bool]:
        file = self.path / "identity"
        if not file.exists() or not file.read_text(errors="replace").strip():  # a power cut may leave it empty
            self._write_identity(secrets.token_hex(16))
        identity, *place = file.read_text(errors="replace").split()
        is_copy = not _is_the_same(place, _place_of(file))
        if not is_copy and place != _place_of(file):  # the kernel began anew
            self._write_identity(identity)
        return identity, is_copy

    def _write_identity(self, identity: str) -> None:
        new = self.path / "identity.new"
        new.touch()
        new.write_text(" ".join((identity, *_place_of(new))) + "\n")
        new.replace(self.path / "identity")

    def settle(self) -> None:
        """Know this for its place from now on."""
        if self.is_copy:
            self._write_identity(self.identity)
            self.is_copy = False

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._lock)


def _place_of(file: Path) -> list[str]:
    """Inode, machine, the kernel's life, device; "-" for what is not known.

    A file system without a device (overlay, network) gets a number each time it is mounted: that tells nothing.
    """
    facts = file.stat()
    device = str(facts.st_dev) if os.major(facts.st_dev) else "-"
    return [str(facts.st_ino), machine_id() or "-", boot() or "-", device]


def _is_the_same(one: list[str], other: list[str]) -> bool:
    if len(one) != len(other):
        return False
    inode, machine, life, device = zip(one, other, strict=True)
    return inode[0] == inode[1] and machine[0] == machine[1] and (life[0] != life[1] or device[0] == device[1])
