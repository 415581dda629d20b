"""Manners: slots, pauses and relays, as rows, table and wire show them together.

A limit holds on the wire and is obeyed by rows in hand; what may not go is neither lost, nor charged, nor claimed again
and again; and nobody waits for somebody else's relay or destination.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer, Heard
from service.bench import terminate

from poller.outbox.database import transaction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from service.bench import Bench

pytestmark = pytest.mark.parametrize("kind", ["sqlite"])  # each dialect's claim has its own suite

A_FEW_CLAIMS = 6
"""Of one row, at most, that had to wait for a second or two: a loop at full speed makes hundreds."""


def relay(server: FaultServer | int, **settings: Any) -> dict[str, Any]:
    """The table of a further relay, or of one that is not there."""
    port = server if isinstance(server, int) else server.port
    return {"host": "127.0.0.1", "port": port, "security": "none", "rest_first": "1s", "rest_longest": "2s", **settings}


def configure(bench: Bench, first: FaultServer, **settings: Any) -> Path:
    return bench.configure(first.host, first.port, **settings)


def claims(bench: Bench) -> int:
    """How often the row was claimed that was claimed most."""
    return max(row.claim_seq for row in bench.rows())


def domains(server: FaultServer) -> Counter[str]:
    return Counter(to.rpartition("@")[2] for message in server.messages for to in message.recipients)


def most_within(times: Sequence[float], seconds: float) -> int:
    return max(sum(1 for at in times if begin <= at < begin + seconds) for begin in times)


def sql(bench: Bench, statement: str) -> None:
    transaction(bench.engine, lambda c: c.execute(sa.text(statement)))


def closed_port() -> int:
    with FaultServer() as placeholder:
        return placeholder.port


def at_mail(reply: bytes, times: int = 1_000_000) -> Faults:
    """Every envelope, or the first so many, is answered so."""
    left = iter(range(times))

    def answer(heard: Heard) -> bytes | None:
        return reply if heard.verb == "MAIL" and next(left, None) is not None else None

    return Faults(answer=answer)


# --- relays ---


def test_rows_that_only_a_resting_relay_may_take_are_not_claimed_again_and_again(bench: Bench) -> None:
    bench.insert(30, recipients="user{n}@elsewhere.example")
    with FaultServer() as corporate:
        config = bench.configure(
            "127.0.0.1", closed_port(), **{"relays.corp": relay(corporate, domains=["corp.example"])}
        )
        with bench.running(config):
            time.sleep(2)
            bench.insert(5, recipients="user{n}@corp.example")
            bench.wait_for(lambda: len(corporate.messages) == 5)
    assert claims(bench) < A_FEW_CLAIMS
    assert domains(corporate) == Counter({"corp.example": 5})


def test_a_row_that_names_an_unknown_relay_fails_though_the_first_rests(bench: Bench) -> None:
    with FaultServer() as other:
        (lost,) = bench.insert(1, relay="elsewhere")
        config = bench.configure("127.0.0.1", closed_port(), **{"relays.other": relay(other, order=2)})
        bench.insert(3)
        with bench.running(config):
            bench.wait_for(lambda: bench.statuses()["sent"] == 3 and bench.statuses()["failed"] == 1)
    assert bench.row(lost).error.startswith("relay: there is no relay 'elsewhere'")
    assert claims(bench) < A_FEW_CLAIMS


def test_two_relays_take_turns_while_both_have_rows(bench: Bench) -> None:
    with FaultServer(Faults(reply_delay=0.15)) as one, FaultServer(Faults(reply_delay=0.15)) as two:
        for _ in range(50):
            bench.insert(1, recipients="user@one.example")
            bench.insert(1, recipients="user@two.example")
        tables = {
            "relays.a": relay(one, domains=["one.example"]),
            "relays.b": relay(two, domains=["two.example"]),
        }
        config = bench.configure("127.0.0.1", closed_port(), **tables)
        with bench.running(config) as process:
            bench.wait_for(lambda: min(len(one.messages), len(two.messages)) > 1)
            assert max(len(one.messages), len(two.messages)) < 50
            terminate(process)


# --- what a hand writes ---


def test_a_pause_written_by_hand_holds_within_about_a_second_also_in_mid_batch(bench: Bench) -> None:
    with FaultServer(Faults(reply_delay=0.02)) as server:
        bench.insert(2000)
        with bench.running(configure(bench, server)):
            bench.wait_for(lambda: len(server.messages) > 20)
            sql(
                bench,
                "INSERT INTO outbox_throttle (kind, name, paused_until)"
                " VALUES ('domain', 'example.com', '2099-01-01 00:00:00.000000')",
            )
            time.sleep(2)
            so_far = len(server.messages)
            time.sleep(1)
            assert len(server.messages) == so_far
            assert bench.statuses()["sending"] == 0
            sql(bench, "UPDATE outbox_throttle SET paused_until = NULL")
            bench.wait_for(lambda: len(server.messages) > so_far, seconds=3)


# --- slots ---


def test_each_message_leaves_at_its_slot_and_a_run_to_the_end_waits_for_them_all(bench: Bench) -> None:
    bench.insert(13)
    with FaultServer() as server:
        assert bench.run(configure(bench, server, throttle={"rates": ["5/s"]}), "--once") == 0
    times = [message.at for message in server.messages]
    assert len(times) == 13
    assert most_within(times, 1.0) <= 6
    assert claims(bench) == 1


def test_a_paced_row_is_not_kept_from_its_slot_by_mail_that_needs_none(bench: Bench) -> None:
    bench.insert(3, recipients="user{n}@paced.example", priority=9)
    bench.insert(300)
    table = {'throttle.domains."paced.example"': {"rates": ["2/s"]}}
    with FaultServer(Faults(reply_delay=0.02)) as server, bench.running(configure(bench, server, **table)) as process:
        bench.wait_for(lambda: domains(server)["paced.example"] == 3)
        terminate(process)
    assert domains(server)["example.com"] < 250
    assert claims(bench) == 1


def test_a_limit_that_the_wire_does_not_reach_costs_next_to_nothing(bench: Bench) -> None:
    bench.insert(150)
    with FaultServer(Faults(reply_delay=0.01)) as server:
        assert bench.run(configure(bench, server, throttle={"rates": ["1000/s"]}), "--once") == 0
    assert len(server.messages) == 150
    assert (
        sum(row.claim_seq for row in bench.rows()) < 4 * 150
    )  # of a hundred slots that came at first, most were missed
