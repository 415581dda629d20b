"""`poller serve`, and the page beside a worker: what is told at the start, and at the end."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from databases import free_port
from servers.fault import FaultServer
from service import zygote
from service.bench import terminate
from web.visit import ANNA, Visitor

if TYPE_CHECKING:
    from pathlib import Path

    from service.bench import Bench

pytestmark = pytest.mark.parametrize("kind", ["sqlite"])
SECRET = {"username": "shop", "password_file": "/nowhere"}  # which nobody needs here
TOKEN = f'[http.tokens.anna]\ntoken = "{ANNA}"\nright = "act"\n'


def started(config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "poller", "--config", str(config), "serve"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=zygote.environment(), **pipes)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_shows_the_outbox_without_a_worker_until_it_is_stopped(bench: Bench, stop: signal.Signals) -> None:
    row = bench.insert()[0]
    port = free_port()
    config = bench.configure("localhost", 1, http={"listen": f"127.0.0.1:{port}"}, smtp=SECRET)
    config.write_text(config.read_text() + TOKEN)
    with started(config) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/\n"
        anna = Visitor(port, {"Authorization": f"Bearer {ANNA}"})
        bench.wait_for(lambda: answers(port))
        assert (anna.get(f"/row/{row}").code, anna.get("/readyz").text) == (200, "ok\n")
        metrics = anna.get("/metrics").text
        assert "poller_rows{" in metrics
        assert "poller_ready" not in metrics
        process.send_signal(stop)
        assert process.wait(20) == 0
    assert bench.statuses() == {"queued": 1}


def answers(port: int) -> bool:
    try:
        return Visitor(port).get("/healthz").code == 200
    except OSError:
        return False


def test_serve_says_when_nobody_can_sign_in_and_when_the_place_is_taken(bench: Bench) -> None:
    port = free_port()
    config = bench.configure("localhost", 1, http={"listen": f"127.0.0.1:{port}"})
    with started(config) as process:
        assert process.stdout is not None
        assert "nobody can sign in yet: give [http.tokens.NAME]" in process.stdout.readline()
        bench.wait_for(lambda: answers(port))
        second = bench.poller(config, "serve")
        assert (second.returncode, f"[http] listen 127.0.0.1:{port}: " in second.stderr) == (2, True)
        process.terminate()
        assert process.wait(20) == 0


def test_a_worker_serves_the_page_and_goes_on_whatever_is_asked_of_it(bench: Bench) -> None:
    port = free_port()
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, http={"listen": f"127.0.0.1:{port}"})
        config.write_text(config.read_text() + TOKEN)
        with bench.running(config) as process:
            bench.wait_for(lambda: answers(port))
            anna = Visitor(port, {"Authorization": f"Bearer {ANNA}"})
            assert anna.post("/act", {"act": "switch-off", "sure": "yes", "why": "lunch"}).code == 303
            bench.insert(3)
            assert "the whole outbox is off: lunch (operator anna)" in anna.get("/").words
            assert anna.post("/act", {"act": "switch-on", "sure": "yes"}).code == 303
            bench.wait_for(lambda: bench.statuses() == {"sent": 3})
            terminate(process)
    acted = [(line["action"], line["by"]) for line in bench.log() if line["event"] == "operator.acted"]
    assert acted == [("switch-off", "operator anna"), ("switch-on", "operator anna")]
    assert [line for line in bench.log() if line["level"] == "error"] == []


def test_without_the_page_there_are_health_and_numbers(bench: Bench) -> None:
    port = free_port()
    config = bench.configure("localhost", 1, http={"listen": f"0.0.0.0:{port}", "page": False})
    with started(config) as process:
        assert process.stdout is not None
        assert "no page: [http] page" in process.stdout.readline()
        bench.wait_for(lambda: answers(port))
        assert (Visitor(port).get("/").code, Visitor(port).get("/metrics").code) == (404, 200)
        process.terminate()
        assert process.wait(20) == 0
