"""Manners: slots, pauses and relays, as rows, table and wire show them together.

A limit holds on the wire and is obeyed by rows in hand; what may not go is neither lost, nor charged, nor claimed again
and again; and nobody waits for somebody else's relay or destination.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
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


def test_a_row_that_a_relay_alone_refuses_is_given_up_and_the_relay_does_not_rest(bench: Bench) -> None:
    def answer(heard: Heard) -> bytes | None:
        refuses = heard.verb == "RCPT" and b"elsewhere" in heard.line
        return b"554 5.7.1 Relay access denied\r\n" if refuses else None

    odd = bench.insert(4, recipients="user{n}@elsewhere.example", priority=1)
    with FaultServer(Faults(answer=answer)) as server:
        config = configure(bench, server, retry={"give_up_after": "2s"})
        with bench.running(config) as process:
            for _ in range(12):
                bench.insert(3)
                time.sleep(0.3)
            bench.wait_for(lambda: bench.statuses() == Counter({"sent": 36, "failed": 4}))
            terminate(process)
    assert all("given up after" in row.error and "Relay access denied" in row.error for row in bench.rows(*odd))
    assert len([line for line in bench.log() if line["event"] == "relay.unavailable"]) <= 1


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
    assert claims(bench) <= 2  # on a busy machine one slot may be missed


def test_a_limit_that_the_wire_does_not_reach_costs_next_to_nothing(bench: Bench) -> None:
    bench.insert(150)
    with FaultServer(Faults(reply_delay=0.01)) as server:
        assert bench.run(configure(bench, server, throttle={"rates": ["1000/s"]}), "--once") == 0
    assert len(server.messages) == 150
    assert (
        sum(row.claim_seq for row in bench.rows()) < 4 * 150
    )  # of a hundred slots that came at first, most were missed


# --- what may not go now ---


def test_a_row_for_two_domains_waits_for_none_and_takes_its_turn_at_the_slow_one(bench: Bench) -> None:
    bench.insert(8, recipients="user{n}@slow.example")
    (both,) = bench.insert(1, recipients="you@slow.example, me@free.example")
    bench.insert(100, recipients="later{n}@slow.example")
    table = {'throttle.domains."slow.example"': {"rates": ["4/s"]}}
    with FaultServer() as server, bench.running(configure(bench, server, **table)) as process:
        bench.wait_for(lambda: domains(server)["free.example"] == 1)
        assert domains(server)["slow.example"] < 8
        bench.wait_for(lambda: bench.row(both).status == "sent")
        assert domains(server)["slow.example"] < 30
        terminate(process)
    assert bench.row(both).claim_seq < 2 * A_FEW_CLAIMS


def test_a_row_for_two_domains_goes_to_the_one_that_does_not_pause(bench: Bench) -> None:
    (both,) = bench.insert(1, recipients="you@paused.example, me@free.example")
    pause = "INSERT INTO outbox_throttle (kind, name, paused_until) VALUES ('domain', 'paused.example', '{}')"
    sql(bench, pause.format("2099-01-01 00:00:00.000000"))
    with FaultServer() as server, bench.running(configure(bench, server)) as process:
        bench.wait_for(lambda: domains(server)["free.example"] == 1, seconds=6)
        time.sleep(1)
        assert bench.row(both).status == "queued"
        sql(bench, "UPDATE outbox_throttle SET paused_until = NULL")
        bench.wait_for(lambda: bench.row(both).status == "sent")
        terminate(process)
    assert domains(server) == Counter({"free.example": 1, "paused.example": 1})
    assert {one.attempts for one in bench.recipients(both).values()} == {1}


def test_a_relay_that_pauses_is_not_even_connected_to(bench: Bench) -> None:
    bench.insert(5)
    sql(
        bench,
        "INSERT INTO outbox_throttle (kind, name, paused_until) VALUES ('relay', 'smtp', '2099-01-01 00:00:00.000000')",
    )
    with FaultServer() as server, bench.running(configure(bench, server)) as process:
        time.sleep(2)
        assert server.sessions == 0
        sql(bench, "DELETE FROM outbox_throttle")
        bench.wait_for(lambda: len(server.messages) == 5, seconds=4)
        terminate(process)


def test_a_relay_that_asks_for_a_pause_is_left_alone_and_another_takes_over(bench: Bench) -> None:
    bench.insert(60)
    with (
        FaultServer(at_mail(b"450 4.7.0 too many messages, try again in 300 seconds\r\n")) as first,
        FaultServer() as other,
    ):
        config = configure(bench, first, **{"relays.other": relay(other, order=2)})
        with bench.running(config) as process:
            bench.wait_for(lambda: bench.statuses()["sent"] == 60)
            terminate(process)
        asked = [line for line in first.commands if line.startswith(b"MAIL")]
    assert len(asked) <= 2
    assert {row.attempts for row in bench.rows()} == {1}


def test_a_worker_that_can_not_connect_leaves_its_place_to_others(bench: Bench) -> None:
    bench.insert(1)
    config = bench.configure(
        "127.0.0.1", closed_port(), smtp={"max_connections": 1, "rest_first": "20s", "rest_longest": "20s"}
    )
    with bench.running(config):
        bench.wait_for(lambda: any(line["event"] == "relay.unavailable" for line in bench.log()))
        time.sleep(0.3)
        query = sa.text("SELECT connected_to FROM outbox_worker")
        assert transaction(bench.engine, lambda c: c.execute(query).scalar_one()) is None


def test_a_place_at_one_relay_is_kept_while_another_is_used(bench: Bench) -> None:
    for _ in range(10):
        bench.insert(1, recipients="user@one.example")
        bench.insert(1, recipients="user@two.example")
    with FaultServer() as one, FaultServer() as two:
        tables = {
            "relays.a": relay(one, domains=["one.example"], max_connections=1),
            "relays.b": relay(two, domains=["two.example"], max_connections=1),
        }
        config = bench.configure("127.0.0.1", closed_port(), **tables)
        with bench.running(config):
            bench.wait_for(lambda: bench.statuses()["sent"] == 20)
            held = {name for name, server in (("a", one), ("b", two)) if server.connections}
            query = sa.text("SELECT connected_to FROM outbox_worker")
            assert set((transaction(bench.engine, lambda c: c.execute(query).scalar_one()) or "").split()) == held


def test_what_a_relay_asks_for_at_the_door_is_written_down_for_all_workers(bench: Bench) -> None:
    bench.insert(1)
    busy = Faults(banner=b"421 4.7.0 too many connections, try again in 300 seconds\r\n")
    with FaultServer(busy) as server, bench.running(configure(bench, server)) as process:
        bench.wait_for(lambda: any(line["event"] == "throttle.paused" for line in bench.log()))
        time.sleep(1.5)
        assert server.sessions == 1
        terminate(process)
    assert [line["scope"] for line in bench.log() if line["event"] == "throttle.paused"] == ["relay smtp"]


def test_a_row_of_the_table_that_is_deleted_or_nonsense_stops_nothing(bench: Bench) -> None:
    bench.insert(60)
    table = {"throttle": {"rates": ["20/s"]}, 'throttle.domains."example.com"': {"rates": ["20/s"]}}
    with FaultServer() as server, bench.running(configure(bench, server, **table)) as process:
        bench.wait_for(lambda: len(server.messages) > 5)
        sql(bench, "DELETE FROM outbox_throttle")
        bench.wait_for(lambda: len(server.messages) > 25)
        sql(bench, 'UPDATE outbox_throttle SET slots = \'{"next": "never", "h": 7\'')
        bench.wait_for(lambda: len(server.messages) == 60)
        terminate(process)
    assert most_within([message.at for message in server.messages], 1.0) <= 3 * 20  # twice what went was forgotten


# --- two relays ---


def test_the_first_in_order_takes_all_until_it_breaks_and_then_the_next_at_no_cost(bench: Bench) -> None:
    bench.insert(40)
    with FaultServer(Faults(close_after=10)) as first, FaultServer() as second:
        tables = {"relays.second": relay(second, order=2)}
        assert (
            bench.run(configure(bench, first, smtp={"rest_first": "20s", "rest_longest": "20s"}, **tables), "--once")
            == 0
        )
        accepted = len(first.messages), len(second.messages)
    assert accepted[0] >= 10
    assert sum(accepted) == 40
    assert {(row.status, row.attempts, row.setbacks) for row in bench.rows()} <= {("sent", 1, 0), ("sent", 1, 1)}


def test_a_run_to_the_end_waits_for_the_only_relay_that_may_take_what_is_left(bench: Bench) -> None:
    bench.insert(30)
    with FaultServer(Faults(close_after=10)) as general, FaultServer() as corporate:
        config = configure(bench, general, **{"relays.corp": relay(corporate, domains=["corp.example"])})
        assert bench.run(config, "--once") == 0
        assert len(general.messages) == 30
    assert {row.attempts for row in bench.rows()} == {1}


def test_two_of_one_order_share_by_weight(bench: Bench) -> None:
    bench.insert(200)
    with FaultServer() as first, FaultServer() as second:
        tables = {"relays.second": relay(second, weight=3)}
        assert bench.run(configure(bench, first, **tables), "--once") == 0
        accepted = len(first.messages), len(second.messages)
    assert sum(accepted) == 200
    assert 20 < accepted[0] < 85  # of 200 by chance a quarter: 50 with a deviation of 6
    assert claims(bench) == 1


def test_a_row_goes_by_the_relay_that_it_names(bench: Bench) -> None:
    bench.insert(5)
    bench.insert(5, relay="second", recipients="user{n}@named.example")
    with FaultServer() as first, FaultServer() as second:
        config = configure(bench, first, **{"relays.second": relay(second, order=2)})
        assert bench.run(config, "--once") == 0
        assert (domains(first), domains(second)) == (Counter({"example.com": 5}), Counter({"named.example": 5}))


# --- when mail may go ---


def closed_now() -> str:
    """Quiet hours that hold for the next hours."""
    now = datetime.now(UTC)
    begin, end = now - timedelta(hours=1), now + timedelta(hours=2)
    return f"{begin:%H:%M}-{end:%H:%M}"


def test_in_quiet_hours_nothing_is_claimed_nor_connected_to_and_the_end_is_told(bench: Bench) -> None:
    bench.insert(3)
    with FaultServer() as server:
        config = configure(bench, server, throttle={"quiet": [closed_now()]})
        assert bench.run(config, "--once") == 1
        assert server.sessions == 0
    assert claims(bench) == 0
    assert [line["event"] for line in bench.log() if line["event"].startswith("outbox.")] == ["outbox.closed"]


def test_a_run_to_the_end_of_what_may_go_leaves_the_rest_and_says_so_by_its_exit_code(bench: Bench) -> None:
    bench.insert(5)
    table = {"throttle": {"rates": ["100/s", "3/d"]}}
    with FaultServer() as server:
        config = configure(bench, server, **table)
        assert bench.run(config, "--once") == 1
        assert bench.run(config, "--drain", "--for", "2s") == 1
        assert len(server.messages) == 3
    assert bench.statuses() == Counter(sent=3, queued=2)
    assert claims(bench) == 1
