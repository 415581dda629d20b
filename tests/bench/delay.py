"""The delay proxy: a longer wire. Forwards TCP, each byte half a round-trip time later, and counts what passes.

    with Delay(relay.port, rtt=0.02) as wire: ...     # wire.port
    wire.passed                                       # Passed, once the block has ended

Rule 1. Only time is added: neither rate nor concurrency is limited. What arrives together leaves together.
Rule 2. It costs little beside what it measures: one thread, one system call to wait, one to read and one to write for
        each piece; no copying but the kernel's. Its own ceiling is measured with `smtp-source` and published.
Rule 3. It lives no longer than who started it: the end of its standard input is its end, and there it prints its
        counts as one line of JSON.

A round trip is a change of direction: the far end answers after the near end spoke. Run as a program of its own
(`python delay.py PORT SECONDS`), so that it takes no time from the process under measurement.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

PIECE = 256 * 1024  # bytes in one read: more than a socket's buffer usually holds
HELD_MOST = (
    64 * 1024 * 1024
)  # bytes under way in one direction, before the sender is made to wait: never in a benchmark
END_TIMEOUT_S = 10.0


@dataclass(kw_only=True)
class Passed:
    """What went through."""

    connections: int = 0
    round_trips: int = 0
    bytes_out: int = 0
    """From the near end, who connected, to the far end."""
    bytes_back: int = 0
    cpu_seconds: float = 0.0


@dataclass(kw_only=True, eq=False)
class Direction:
    """One half of a connection: what was read from `source` waits for its time to be written to `sink`."""

    source: socket.socket
    sink: socket.socket
    is_out: bool
    under_way: deque[tuple[float, memoryview]] = field(default_factory=deque)
    held: int = 0
    ended: bool = False
    """The source has no more to say."""
    blocked: bool = False
    """The sink takes nothing now."""
    done: bool = False

    def read(self, delay: float) -> int:
        """Take what is there; returns its size, 0 at the end."""
        try:
            data = self.source.recv(PIECE)
        except BlockingIOError:
            return -1
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return 0
        self.under_way.append((time.monotonic() + delay, memoryview(data)))
        self.held += len(data)
        return len(data)

    def write(self, now: float) -> None:
        """Pass on what is due."""
        self.blocked = False
        while self.under_way and self.under_way[0][0] <= now:
            due, data = self.under_way[0]
            try:
                taken = self.sink.send(data)
            except BlockingIOError:
                self.blocked = True
                return
            except OSError:
                self.under_way.clear()
                self.ended = True
                break
            self.held -= taken
            if taken < len(data):
                self.under_way[0] = (due, data[taken:])
            else:
                self.under_way.popleft()
        if self.ended and not self.under_way and not self.done:
            self.done = True
            with contextlib.suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)


class Wire:
    """All connections of one proxy, served by one loop."""

    def __init__(self, listener: socket.socket, target: int, delay: float) -> None:
        self.listener = listener
        self.target = target
        self.delay = delay
        self.passed = Passed()
        self.directions: dict[socket.socket, Direction] = {}
        self.spoke_last: dict[socket.socket, bool] = {}  # by the near end's socket: whether it was the near end

    def serve(self, until: int) -> Passed:
        """Until the file descriptor `until` is at its end."""
        while True:
            readable, writable = self._watched()
            ready, _, _ = select.select([self.listener, until, *readable], writable, [], self._patience())
            if until in ready:
                break
            if self.listener in ready:
                self._accept()
            for source in ready:
                if source is not self.listener:
                    self._read(self.directions[source])
            now = time.monotonic()
            for direction in [*self.directions.values()]:
                direction.write(now)
            self._forget()
        self.passed.cpu_seconds = time.process_time()
        return self.passed

    def _watched(self) -> tuple[list[socket.socket], list[socket.socket]]:
        directions = self.directions.values()
        readable = [d.source for d in directions if not d.ended and d.held < HELD_MOST]
        return readable, [d.sink for d in directions if d.blocked]

    def _patience(self) -> float | None:
        dues = [d.under_way[0][0] for d in self.directions.values() if d.under_way and not d.blocked]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _accept(self) -> None:
        near, _ = self.listener.accept()
        far = socket.create_connection(("127.0.0.1", self.target))
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.directions[near] = Direction(source=near, sink=far, is_out=True)
        self.directions[far] = Direction(source=far, sink=near, is_out=False)
        self.spoke_last[near] = False
        self.passed.connections += 1

    def _read(self, direction: Direction) -> None:
        size = direction.read(self.delay)
        if size <= 0:
            return
        near = direction.source if direction.is_out else direction.sink
        if direction.is_out:
            self.passed.bytes_out += size
        else:
            self.passed.bytes_back += size
            self.passed.round_trips += self.spoke_last[near]
        self.spoke_last[near] = direction.is_out

    def _forget(self) -> None:
        for near in [near for near in self.spoke_last if self.directions[near].done]:
            far = self.directions[near].sink
            if not self.directions[far].done:
                continue
            for sock in (near, far):
                del self.directions[sock]
                sock.close()
            del self.spoke_last[near]


class Delay:
    """A proxy in a process of its own, before a port of the loopback interface. `rtt` in seconds."""

    def __init__(self, target: int, *, rtt: float = 0.0) -> None:
        self._command = [sys.executable, "-I", "-S", __file__, str(target), str(rtt / 2)]
        self.passed = Passed()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            said, _nothing = self._process.communicate(timeout=END_TIMEOUT_S)
            self.passed = Passed(**json.loads(said))
        finally:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Serve until standard input ends; print the port first and the counts last."""
    target, delay = int(sys.argv[1]), float(sys.argv[2])
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        print(listener.getsockname()[1], flush=True)  # noqa: T201 - the process's answer
        passed = Wire(listener, target, delay).serve(sys.stdin.fileno())
    print(json.dumps(asdict(passed)), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    main()
