"""What a worker says over HTTP, as a monitoring system asks it."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from databases import free_port
from prometheus_client.parser import text_string_to_metric_families
from servers.fault import Faults, FaultServer
from service.bench import terminate

if TYPE_CHECKING:
    from service.bench import Bench

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus-alerts.yml"
ONE = pytest.mark.parametrize("kind", ["sqlite"])


def ask(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def numbers(port: int) -> dict[str, float]:
    """Each sample, by its name and the values of its labels."""
    code, text = ask(port, "/metrics")
    assert code == 200, text
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_numbers_are_those_of_the_table_and_of_what_was_recorded(bench: Bench) -> None:
    bench.insert(30)
    bench.insert(5, recipients="refused@example.com")
    bench.insert(2, status="paused")
    port = free_port()
    with FaultServer(Faults(refuse=frozenset({"refused@example.com"}))) as relay:
        config = bench.configure(relay.host, relay.port, http={"listen": f"127.0.0.1:{port}"})
        with bench.running(config) as process:
            bench.wait_for(lambda: bench.statuses() == Counter(sent=30, failed=5, paused=2))
            bench.wait_for(lambda: numbers(port).get("poller_rows_recorded_total failed") == 5)
            bench.wait_for(lambda: numbers(port).get("poller_rows sent") == 30, seconds=30)
            found = numbers(port)
            assert ask(port, "/healthz") == ask(port, "/readyz") == (200, "ok\n")
            assert ask(port, "/elsewhere")[0] == 404
            terminate(process)
    assert {name: number for name, number in found.items() if name.startswith("poller_rows ")} == {
        f"poller_rows {status}": number for status, number in bench.statuses().items()
    }
    assert (found["poller_rows_recorded_total sent"], found["poller_ready"], found["poller_database_up"]) == (30, 1, 1)
    assert (found["poller_due_rows"], found["poller_workers alive"], found["poller_outbox_off"]) == (0, 1, 0)
    assert ask(port, "/healthz") == (0, "")


@ONE
def test_a_relay_that_is_away_makes_a_worker_unready_and_leaves_it_alive(bench: Bench) -> None:
    bench.insert(1)
    port = free_port()
    config = bench.configure("127.0.0.1", free_port(), http={"listen": f"127.0.0.1:{port}"})
    with bench.running(config) as process:
        bench.wait_for(lambda: ask(port, "/readyz")[0] == 503 and "is not available" in ask(port, "/readyz")[1])
        assert ask(port, "/healthz") == (200, "ok\n")
        assert numbers(port)["poller_ready"] == 0
        terminate(process)


@ONE
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_it_listens_on_ipv6_where_it_is_told_to(bench: Bench) -> None:
    port = free_port()
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, http={"listen": f"[::1]:{port}"})
        with bench.running(config) as process:
            bench.wait_for(lambda: ask(port, "/healthz", host="::1")[0] == 200)
            assert ask(port, "/healthz")[0] == 0
            terminate(process)


@ONE
def test_a_client_that_says_nothing_or_nonsense_holds_up_nobody(bench: Bench) -> None:
    port = free_port()
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, http={"listen": f"127.0.0.1:{port}"})
        with bench.running(config) as process:
            bench.wait_for(lambda: ask(port, "/healthz")[0] == 200)
            with (
                socket.create_connection(("127.0.0.1", port)) as silent,
                socket.create_connection(("127.0.0.1", port)) as odd,
            ):
                odd.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
                silent.sendall(b"GET /met")
                bench.insert(3)
                bench.wait_for(lambda: bench.statuses() == Counter(sent=3))
                assert ask(port, "/healthz")[0] == 200
            terminate(process)
    assert [line for line in bench.log() if line["level"] == "error"] == []


@ONE
def test_a_place_that_is_taken_is_named_and_nothing_starts(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, FaultServer() as relay:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        config = bench.configure(relay.host, relay.port, http={"listen": place})
        assert bench.run(config, "--once") == 2
    assert f"[http] listen {place}: " in (bench.directory / "w1.log").read_text()


@ONE
def test_the_alerts_speak_of_numbers_that_there_are(bench: Bench) -> None:
    asked = set(re.findall(r"\b(poller_\w+)(?=[{)\s])", "\n".join(re.findall(r"expr: (.*)", ALERTS.read_text()))))
    port = free_port()
    bench.insert(1)
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, http={"listen": f"127.0.0.1:{port}"})
        with bench.running(config) as process:
            bench.wait_for(lambda: bench.statuses() == Counter(sent=1))
            bench.wait_for(lambda: "poller_last_sent_seconds" in numbers(port), seconds=30)
            told = {name.partition(" ")[0] for name in numbers(port)}
            terminate(process)
    assert len(asked) > 5
    assert asked - told == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_the_alerts() -> None:
    assert subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, check=False).returncode == 0


@ONE
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_complain_about(bench: Bench) -> None:
    port = free_port()
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, http={"listen": f"127.0.0.1:{port}"})
        with bench.running(config) as process:
            bench.insert(3)
            bench.wait_for(lambda: bench.statuses() == Counter(sent=3))
            text = ask(port, "/metrics")[1]
            terminate(process)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
