"""A program under measurement, as a process: how long it took, what it cost.

Peak memory is the kernel's high-water mark of the process's own address space (VmHWM): `ru_maxrss` would also count
what the parent held when it forked.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

LOOK_EVERY_S = 0.02
LIMIT_S = 600.0  # for one run of anything
STOP_LIMIT_S = 60.0
WORKER = (sys.executable, "-m", "poller")
_HIGH_WATER = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one process from its start to its end."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    exit_code: int


def measured(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    until: Callable[[], bool] | None = None,
    limit: float = LIMIT_S,
) -> Cost:
    """Run it to its end, or until `until` holds: then it gets a SIGTERM. Raises TimeoutError past `limit`."""
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(environment or {})}
        )
    peak = 0.0
    ended = os.pidfd_open(process.pid)
    try:
        while not select.select([ended], [], [], LOOK_EVERY_S)[0]:
            peak = max(peak, high_water_mb(process.pid))
            if until is not None and until():
                process.send_signal(signal.SIGTERM)
                until, limit = None, time.monotonic() - began + STOP_LIMIT_S
            if time.monotonic() - began > limit:
                raise TimeoutError(  # noqa: TRY301 - the same road as any other end: the process must not outlive us
                    f"{' '.join(command)} did not end in {limit:g} s\n{log.read_text()[-2000:]}"
                )
        seconds = time.monotonic() - began
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(ended)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(seconds=seconds, cpu_seconds=cpu, peak_mb=peak, exit_code=process.returncode)


def worker(config: Path, *arguments: str, until: Callable[[], bool] | None = None, limit: float = LIMIT_S) -> Cost:
    """`poller run` with these arguments; its log is beside the configuration. Raises RuntimeError if it refuses."""
    log = log_of(config)
    cost = measured([*WORKER, "--config", str(config), "run", *arguments], log, until=until, limit=limit)
    if cost.exit_code:
        raise RuntimeError(f"poller run ended with {cost.exit_code}\n{log.read_text()[-2000:]}")
    return cost


def log_of(config: Path) -> Path:
    """Where `worker` keeps the log."""
    return config.with_suffix(".log")


class Processors:
    """How busy all of them are while the block lasts, by whomever."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def busy(self, seconds: float) -> float:
        """Their share of the block's last `seconds`, in percent."""
        last_at, last_used, last_all = self._seen[-1]
        _, used, whole = next(seen for seen in self._seen if seen[0] >= last_at - seconds or seen is self._seen[-2])
        return (last_used - used) / (last_all - whole) * 100

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            spent = [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            idle = spent[3] + spent[4]
            self._seen.append((time.monotonic(), float(sum(spent) - idle), float(sum(spent))))


def lines_reach(log: Path, wanted: int) -> Callable[[], bool]:
    """Whether so many messages were logged as sent, for `until`; reads what is new each time."""
    seen = position = 0

    def reached() -> bool:
        nonlocal seen, position
        with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
            file.seek(position)
            new = file.read()
            position += len(new)
            seen += new.count(b"attempt.sent")
        return seen >= wanted

    return reached


def high_water_mb(pid: int) -> float:
    """Peak resident memory so far; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        found = _HIGH_WATER.search(Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process's threads so far; finer than a tick, of which an idle one uses none."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9
