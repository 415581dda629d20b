"""Starts the real program quickly: a process that has imported it once, and forks for each run.

Importing takes longer than most runs. The zygote has one thread and no connection, so that forking it is safe; the run
is handed to us (the sub-reaper), so that we wait for it as for a child of our own. Where that can't be had (not Linux)
`start` is an ordinary subprocess.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib import import_module
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Process(Protocol):
    """What tests need of subprocess.Popen."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Forked:
    """A run of the program, forked by the zygote; ours to wait for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout if timeout is not None else 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"run {self.pid}", timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Zygote:
    def __init__(self) -> None:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        )

    def fork(self, arguments: Sequence[str], log: Path) -> Forked:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([list(arguments), str(log)]) + "\n")
        self._process.stdin.flush()
        return Forked(int(self._process.stdout.readline()))

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(10)


_zygotes: list[_Zygote] = []


def start(arguments: Sequence[str], log: Path) -> Process:
    """Run `poller ARGUMENTS` with its output appended to `log`."""
    if sys.platform != "linux":
        with log.open("ab") as out:
            command = [sys.executable, "-m", "poller", *arguments]
            return subprocess.Popen(command, stdout=out, stderr=out, env=environment())
    if not _zygotes:
        _zygotes.append(_Zygote())
    return _zygotes[0].fork(arguments, log)


def stop() -> None:
    """End the zygote, if there is one."""
    while _zygotes:
        _zygotes.pop().close()


def environment() -> dict[str, str]:
    """Ours, but for settings of poller."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("POLLER")}
    return {**keep, "PYTHONUNBUFFERED": "1"}


def _serve(orders: IO[str]) -> None:
    for module in ("poller.cli.run", "psycopg", "pymysql", "sqlalchemy.dialects.sqlite.pysqlite"):
        with contextlib.suppress(ImportError):  # a driver may be missing
            import_module(module)
    main = import_module("poller.cli").main
    while order := orders.readline():
        arguments, log = json.loads(order)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            run_pid = os.fork()
            if run_pid:  # the one between: its end makes the run the sub-reaper's
                os.write(write, f"{run_pid}\n".encode())
                os._exit(0)
            os.close(read)
            os.close(write)
            _become(main, arguments, log)
        os.waitpid(child, 0)
        os.close(write)
        sys.stdout.write(os.read(read, 32).decode())
        sys.stdout.flush()
        os.close(read)


def _become(main: object, arguments: list[str], log: str) -> None:
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    random.seed()
    code = 1
    try:
        main(arguments, prog_name="poller")  # type: ignore[operator]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the end of a process: whatever it is, it is printed
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.stdin)
