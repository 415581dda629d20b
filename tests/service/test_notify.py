"""What stands beside the mail: a supervisor hears of it over a real socket, and an error there stops no mail."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers.fault import Faults, FaultServer
from structlog.testing import capture_logs

from poller.batches.watch import BatchWatch
from poller.config.load import load
from poller.worker.notify import Supervisor
from poller.worker.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.bench import Bench

ONE = pytest.mark.parametrize("kind", ["sqlite"])  # no database has a part in it
UNIT = Path(__file__).parents[2] / "deploy" / "poller.service"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(10)
        yield address, listening


@ONE
def test_ready_alive_and_stopping_are_told_in_this_order(
    bench: Bench, supervisor: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, listening = supervisor
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with FaultServer(Faults(pipelining=False)) as relay:
        service = Service(load(bench.configure(relay.host, relay.port), {}), limit=1.5)
        service.run(signals=False)
    listening.setblocking(False)
    told = []
    deadline = time.monotonic() + 5
    while "STOPPING=1" not in told and time.monotonic() < deadline:
        told.append(listening.recv(100).decode())
    assert (told[0], set(told[1:-1]), told[-1]) == ("READY=1", {"WATCHDOG=1"}, "STOPPING=1")


@ONE
def test_an_error_beside_the_mail_stops_no_mail(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(BatchWatch, "round", broken)
    with FaultServer(Faults()) as relay, capture_logs() as lines:
        config = bench.configure(relay.host, relay.port, batches={"every": "100ms"})
        service = Service(load(config, {}), limit=2.5)
        late = threading.Timer(1.0, bench.insert)
        late.start()
        finished = service.run(signals=False)
        late.join()
    assert {(line["job"], line["reason"]) for line in lines if line["event"] == "job.failed"} == {
        ("batches", "ZeroDivisionError()")
    }
    assert (finished.crashed, bench.statuses()) == (False, {"sent": 1})


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "@nobody-listens"}])
def test_without_a_supervisor_nothing_happens(environ: dict[str, str]) -> None:
    supervisor = Supervisor(environ)
    supervisor.ready()
    supervisor.alive()
    supervisor.stopping()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_exposed_to_little() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout.splitlines()[-1:]
