"""What a person orders while mail goes out: a rest that ends, and limits that change, for every worker at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from databases import free_port
from servers.fault import Faults, FaultServer
from service.bench import terminate

if TYPE_CHECKING:
    from service.bench import Bench

ONE = pytest.mark.parametrize("kind", ["sqlite"])
HOURS = {"rest_first": "2h", "rest_longest": "2h"}


def test_a_relay_that_rests_is_used_at_once_when_a_person_says_so(bench: Bench) -> None:
    port = free_port()
    bench.insert(3)
    config = bench.configure("127.0.0.1", port, smtp=HOURS)
    with bench.running(config) as process:
        bench.wait_for(lambda: any(line["event"] == "relay.unavailable" for line in bench.log()))
        with FaultServer(port=port) as relay:
            said = bench.poller(config, "retry", "--relay", "smtp", "--now")
            assert (said.returncode, "ends the rest of relay smtp" in said.stderr) == (0, True), said.stderr
            bench.wait_for(lambda: len(relay.messages) == 3)
            terminate(process)
    assert "relay.roused" in {line["event"] for line in bench.log()}


def test_the_pause_of_a_destination_ends_for_those_who_wait_for_it(bench: Bench) -> None:
    bench.insert(2)
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO outbox_throttle (kind, name, paused_until, reason)"
                " VALUES ('domain', 'example.com', '2100-01-01 00:00:00.000000', 'asked')"
            )
        with bench.running(config) as process:
            said = bench.poller(config, "retry", "--domain", "example.com", "--now")
            assert "the pause of domain example.com has ended" in said.stdout, said.stderr
            bench.wait_for(lambda: bench.statuses() == Counter(sent=2))
            terminate(process)


def test_a_limit_that_is_changed_live_holds_at_once_up_and_down_and_over_a_restart(bench: Bench) -> None:
    bench.settings = {'throttle.senders."shop@example.com"': {"rates": ["1/h"]}}
    bench.insert(4)
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) == 1)
            said = bench.poller(config, "limit", "set", "sender", "shop@example.com", "100/s", "--as", "anna")
            assert said.stdout == "sender shop@example.com: 100/s; configured: 1/h\n", said.stderr
            bench.wait_for(lambda: len(relay.messages) == 4)
            assert bench.poller(config, "limit", "set", "outbox", "1/d").returncode == 0
            terminate(process)
        bench.insert(3)
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) == 5)
            shown = bench.poller(config, "status").stdout
            assert "override  sender shop@example.com: 100/s (set by operator anna, " in shown
            assert "configured: 1/h" in shown
            assert bench.poller(config, "limit", "clear", "outbox").returncode == 0
            bench.wait_for(lambda: len(relay.messages) == 7)
            terminate(process)


@ONE
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["set", "sender", "shop@example.com", "60"], "not a rate"),
        (["set", "outbox"], "say how much"),
        (["set", "relay", "nix", "1/m"], "there is no relay 'nix'"),
        (["pace", "outbox", "0%"], "is no share"),
    ],
)
def test_a_limit_that_means_nothing_is_refused_with_the_remedy(bench: Bench, arguments: list[str], words: str) -> None:
    said = bench.poller(bench.configure("127.0.0.1", 1), "limit", *arguments)
    assert (said.returncode, words in said.stderr) == (2, True), said.stderr


def test_the_end_of_a_batch_is_told_once_by_two_workers_of_which_one_is_killed(bench: Bench) -> None:
    bench.settings = {"batches": {"every": "100ms", "quiet": "500ms"}}
    bench.insert(60, batch="spring")
    other = replace(bench, name="w2")
    with FaultServer(Faults(reply_delay=0.05)) as relay:
        first, second = bench.configure(relay.host, relay.port), other.configure(relay.host, relay.port)
        with bench.running(first) as killed, other.running(second) as process:
            bench.wait_for(lambda: len(relay.messages) > 10)
            killed.kill()
            killed.wait()
            assert ends(bench, other) == 0
            with bench.running(first) as again:
                bench.wait_for(lambda: bench.statuses() == Counter(sent=60))
                bench.wait_for(lambda: ends(bench, other) > 0)
                terminate(again)
            terminate(process)
        assert "60 of 60 have ended" in bench.poller(first, "batch", "spring").stdout
    assert ends(bench, other) == 1


def ends(*benches: Bench) -> int:
    return sum(line["event"] == "batch.done" for bench in benches for line in bench.log())
