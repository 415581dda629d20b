"""A bell that another thread, or a signal, can ring to end a wait at once."""

from __future__ import annotations

import contextlib
import os
import weakref


class Bell:
    """Once rung it stays rung: no later wait can miss it. `fd` becomes readable then."""

    def __init__(self) -> None:
        self.fd, self._rope = os.pipe()
        os.set_blocking(self._rope, False)
        self.rung = False
        weakref.finalize(self, _close, self.fd, self._rope)

    def ring(self) -> None:
        """From any thread, as often as one likes. Never blocks, never raises."""
        self.rung = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._rope, b"!")


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)
