"""The fault table: 400 rows, a relay that misbehaves, `run --drain` started once and left alone.

Whatever the relay does, nothing is lost, nothing fails that was not the message's own 5xx, trouble of the session
costs no attempt, and a message goes twice only where the answer to its final dot was lost.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from servers import certs
from servers.fault import Faults, FaultServer
from service.bench import books, terminate

if TYPE_CHECKING:
    from pathlib import Path

    from service.bench import Bench, Books

ROWS = 400

pytestmark = pytest.mark.parametrize(
    "kind", ["sqlite"]
)  # the judgement is the same on each; the store has its own suite


def drained(bench: Bench, relay: FaultServer, *, code: int = 0, mixed: int = 0, **settings: dict[str, object]) -> Books:
    """All rows, of which the first `mixed` go to three destinations in turn."""
    for number in range(mixed):
        bench.insert(1, recipients=f"other{number}@{'abc'[number % 3]}.example")
    bench.insert(ROWS - mixed)
    config = bench.configure(relay.host, relay.port, **settings)
    assert bench.run(config, "--drain", "--for", "80s") == code
    return books(bench, relay)


def assert_all_sent_once(found: Books, *, attempts: int = ROWS) -> None:
    assert dict(found.statuses) == {"sent": ROWS}
    assert (found.accepted, found.duplicates, found.lost) == (ROWS, 0, 0)
    assert (found.attempts, found.doubts) == (attempts, 0)


def test_421_after_every_50_messages_costs_no_row_anything(bench: Bench) -> None:
    with FaultServer(Faults(close_after=50)) as relay:
        assert_all_sent_once(drained(bench, relay))


def test_a_line_dropped_after_every_50_messages_costs_no_row_anything(bench: Bench) -> None:
    with FaultServer(Faults(drop_after=50)) as relay:
        assert_all_sent_once(drained(bench, relay))


def test_a_lost_final_reply_is_a_doubt_and_at_most_one_duplicate(bench: Bench) -> None:
    with FaultServer(Faults(drop_unanswered_every=50)) as relay:
        found = drained(bench, relay)
        lost_replies = sum(1 for message in relay.messages if not message.answered)
    assert dict(found.statuses) == {"sent": ROWS}
    assert found.lost == 0
    assert found.doubts == lost_replies
    assert found.duplicates == lost_replies
    assert lost_replies >= ROWS // 50


def test_a_lost_final_reply_is_held_for_a_person_when_told_so(bench: Bench) -> None:
    with FaultServer(Faults(drop_unanswered_every=50)) as relay:
        found = drained(bench, relay, code=1, retry={"on_doubt": "hold"})
        lost_replies = sum(1 for message in relay.messages if not message.answered)
    assert dict(found.statuses) == {"sent": ROWS - lost_replies, "in_doubt": lost_replies}
    assert found.duplicates == 0


@pytest.mark.parametrize("window", [1, 8])
def test_a_lost_line_costs_a_doubt_for_each_in_flight_and_the_one_taken_ahead_nothing(
    bench: Bench, window: int
) -> None:
    with FaultServer(Faults(drop_unanswered_every=50)) as relay:
        found = drained(bench, relay, code=1, retry={"on_doubt": "hold"}, smtp={"window": window})
        lost_replies = sum(1 for message in relay.messages if not message.answered)
    assert found.statuses["sent"] + found.statuses["in_doubt"] == ROWS
    assert lost_replies <= found.doubts <= lost_replies * window
    assert found.duplicates == 0
    assert sum(row.setbacks for row in bench.rows()) == 0


def test_a_recipient_deferred_at_first_is_delivered_at_its_second_attempt(bench: Bench) -> None:
    deferred = {f"user{n}@example.com": 1 for n in range(0, ROWS, 20)}
    with FaultServer(Faults(defer_first=deferred)) as relay:
        assert_all_sent_once(drained(bench, relay), attempts=ROWS + len(deferred))


def test_a_login_refused_at_first_costs_no_row_anything(bench: Bench) -> None:
    with FaultServer(Faults(users={"shop": "secret"}, refuse_logins=3)) as relay:
        login = {"username": "shop", "password": "secret"}
        assert_all_sent_once(drained(bench, relay, smtp=login))
        assert relay.sessions >= 4


def test_a_relay_that_is_down_at_first_is_waited_for(bench: Bench) -> None:
    with FaultServer(Faults()) as placeholder:
        port = placeholder.port
    started: list[FaultServer] = []

    def late() -> None:
        time.sleep(1.5)
        started.append(FaultServer(Faults(), port=port).__enter__())

    thread = threading.Thread(target=late)
    thread.start()
    try:
        bench.insert(ROWS)
        config = bench.configure("127.0.0.1", port)
        assert bench.run(config, "--drain", "--for", "80s") == 0
        thread.join()
        assert_all_sent_once(books(bench, started[0]))
    finally:
        thread.join()
        started[0].stop()


def test_a_greeting_of_554_is_the_relays_trouble(bench: Bench) -> None:
    with FaultServer(Faults(refuse_greeting=1)) as relay:
        assert_all_sent_once(drained(bench, relay))


def test_a_relay_that_refuses_our_host_at_rcpt_costs_no_row_anything(bench: Bench) -> None:
    with FaultServer(Faults(refuse_rcpt=5)) as relay:
        assert_all_sent_once(drained(bench, relay))


def refusing(count: int) -> Faults:
    """The first so many recipients are refused alike."""
    refusals = iter(range(count))

    def answer(heard: object) -> bytes | None:
        if getattr(heard, "verb", "") == "RCPT" and next(refusals, None) is not None:
            return b"550 5.7.0 Policy server says no\r\n"
        return None

    return Faults(answer=answer)


def test_ten_identical_refusals_in_a_row_are_an_incident_and_fail_nobody(bench: Bench) -> None:
    with FaultServer(refusing(25)) as relay:
        found = drained(bench, relay, mixed=60)
    assert dict(found.statuses) == {"sent": ROWS}
    assert found.attempts == ROWS
    assert any(line["event"] == "relay.incident" for line in bench.log())


def test_ten_identical_refusals_of_one_destination_suspend_it_and_fail_nobody(bench: Bench) -> None:
    hearing = {"first_pause": "300ms", "longest_pause": "1s", "raise_every": "100ms"}
    with FaultServer(refusing(10)) as relay:
        bench.insert(12, recipients="big{n}@big.example")
        bench.insert(40)
        config = bench.configure(relay.host, relay.port, throttle=hearing)
        with bench.running(config) as process:
            bench.wait_for(lambda: bench.statuses()["sent"] >= 45)
            terminate(process)
    assert bench.statuses()["failed"] == 0
    assert [
        row.attempts for row in bench.rows() if row.domain == "big.example" and row.status == "queued" and row.attempts
    ] == []
    heard = [line for line in bench.log() if line["event"] == "throttle.paused"]
    assert heard[0]["scope"] == "domain big.example"


@pytest.mark.skipif(bool(certs.available()), reason=certs.available())
def test_an_untrusted_certificate_leaves_every_row_queued_and_says_why(bench: Bench, tmp_path: Path) -> None:
    context = certs.Authority(tmp_path).issue("127.0.0.1").server_context()
    with FaultServer(Faults(starttls=context)) as relay:
        bench.insert(ROWS)
        config = bench.configure(relay.host, relay.port, smtp={"security": "starttls"})
        assert bench.run(config, "--drain", "--for", "3s") == 1
    found = books(bench, relay)
    assert dict(found.statuses) == {"queued": ROWS}
    assert (found.attempts, found.accepted) == (0, 0)
    assert {row.claim_seq for row in bench.rows()} == {0}
    said = [line for line in bench.log() if line["event"] == "relay.unavailable"]
    assert "ca_file" in said[0]["reason"]
