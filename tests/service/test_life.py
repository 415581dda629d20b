"""The life of the service: stopping, being killed, operators at work, and databases and relays that go away."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import databases
import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer, Heard
from service.bench import WHATEVER_THE_DATABASE, Bench, books, terminate

from poller.outbox.database import transaction
from poller.outbox.tables import suppression

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from poller.outbox.settings import DatabaseSettings

ONE = pytest.mark.parametrize("kind", ["sqlite"])
"""For what has nothing to do with the dialect."""


def during(number: int, act: Callable[[], None]) -> Callable[[Heard], bytes | None]:
    """A script that calls `act` while the `number`-th message is on the wire, its final reply outstanding."""
    ends = iter(range(1, 1_000_000))

    def answer(heard: Heard) -> bytes | None:
        if heard.verb == "." and next(ends) == number:
            act()
        return None

    return answer


def sql(bench: Bench, statement: str) -> None:
    transaction(bench.engine, lambda c: c.execute(sa.text(statement)))


@WHATEVER_THE_DATABASE
def test_sigterm_in_mid_batch_leaves_no_row_behind_and_nothing_goes_twice(bench: Bench) -> None:
    bench.insert(300)
    with FaultServer(Faults(reply_delay=0.005)) as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 30)
            terminate(process)
            assert process.returncode == 0
        halfway = bench.statuses()
        assert halfway["sending"] == 0
        assert halfway["queued"] > 0
        assert {row.claimed_by for row in bench.rows() if row.status == "queued"} == {None}
        assert bench.run(config, "--once") == 0
        found = books(bench, relay)
    assert (found.accepted, found.duplicates) == (300, 0)
    assert bench.statuses() == Counter(sent=300)


@ONE
def test_a_stop_cuts_a_relay_that_never_answers_and_the_message_is_in_doubt(bench: Bench) -> None:
    bench.insert(3)
    hung = during(1, lambda: time.sleep(4))
    with FaultServer(Faults(answer=hung)) as relay:
        config = bench.configure(relay.host, relay.port, worker={"stop_timeout": "500ms"})
        with bench.running(config) as process:
            bench.wait_for(lambda: bench.statuses()["sending"] > 0)
            time.sleep(0.5)
            took = terminate(process)
    assert took < 4
    first = bench.rows()[0]
    assert (first.status, first.doubts, first.attempts) == ("queued", 1, 0)
    assert bench.statuses() == Counter(queued=3)


def test_of_what_a_killed_worker_held_only_what_was_on_the_wire_is_in_doubt(bench: Bench) -> None:
    bench.insert(60)
    with FaultServer(Faults(reply_delay=0.02)) as relay:
        config = bench.configure(relay.host, relay.port)
        for kills in range(1, 4):
            with bench.running(config) as process:
                bench.wait_for(lambda seen=kills * 10: len(relay.messages) > seen)
                process.send_signal(signal.SIGKILL)
                process.wait()
            assert bench.statuses()["sending"] > 1
        assert bench.run(config, "--drain", "--for", "60s") == 0
        found = books(bench, relay)
    assert bench.statuses() == Counter(sent=60)
    assert (found.lost, found.wrongly_marked) == (0, 0)
    assert found.doubts <= 3
    assert found.duplicates <= found.doubts
    assert {row.setbacks for row in bench.rows()} == {0}


@pytest.mark.parametrize("kind", ["sqlite"])  # the state is the view's, which each database is asked for elsewhere
def test_of_a_killed_worker_every_command_says_that_it_is_silent(bench: Bench) -> None:
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, worker={"heartbeat": "200ms"})
        with bench.running(config) as process:
            bench.wait_for(lambda: bool(bench.log()))
            bench.insert(1)
            bench.wait_for(lambda: bench.statuses() == Counter(sent=1))
            process.kill()
            process.wait()
        (row_id,) = bench.insert(1, recipients="late@example.com")
        bench.wait_for(lambda: "is silent since" in bench.poller(config, "plan").stdout, seconds=10)
        explained, checked = bench.poller(config, "explain", str(row_id)), bench.poller(config, "check")
        assert "no worker is alive (w1 is silent since" in explained.stdout
        assert "w1 on" in (status := bench.poller(config, "status").stdout)
        assert "silent since" in status
        assert (checked.returncode, "w1 is silent since" in checked.stdout) == (1, True)
        assert bench.run(config, "--once") == 0
        assert bench.poller(config, "check").returncode == 0


@WHATEVER_THE_DATABASE
def test_without_its_journal_all_that_a_killed_worker_held_is_in_doubt(bench: Bench) -> None:
    bench.insert(40)
    with FaultServer(Faults(reply_delay=0.02)) as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 5)
            process.send_signal(signal.SIGKILL)
            process.wait()
        held = [row.id for row in bench.rows() if row.status == "sending"]
        assert held
        shutil.rmtree(bench.directory / "state-w1")
        sql(bench, "UPDATE outbox_worker SET lease_until = heartbeat_at")
        assert bench.run(config, "--drain", "--for", "60s") == 0
        found = books(bench, relay)
    assert bench.statuses() == Counter(sent=40)
    assert found.lost == 0
    assert {row.doubts for row in bench.rows(*held)} == {1}
    assert found.duplicates <= len(held)


@WHATEVER_THE_DATABASE
def test_a_killed_worker_told_to_hold_sends_nothing_twice(bench: Bench) -> None:
    bench.insert(40)
    with FaultServer(Faults(reply_delay=0.02)) as relay:
        config = bench.configure(relay.host, relay.port, retry={"on_doubt": "hold"})
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 5)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert bench.run(config, "--drain", "--for", "60s") == 1
        found = books(bench, relay)
    assert found.duplicates == 0
    assert found.lost == 0
    assert found.statuses["in_doubt"] > 0
    assert set(found.statuses) == {"sent", "in_doubt"}


def test_another_worker_takes_over_when_it_has_seen_the_lease_end(bench: Bench) -> None:
    bench.insert(10)
    bench.settings = {"smtp": {"end_timeout": "1s"}, "worker": {"takeover": "2s", "heartbeat": "500ms"}}
    with FaultServer(Faults(reply_delay=0.05)) as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 2)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert bench.statuses()["sending"] > 0
        bench.name = "w2"
        assert bench.run(bench.configure(relay.host, relay.port), "--drain", "--for", "60s") == 0
    assert bench.statuses() == Counter(sent=10)
    assert any(line["event"] == "rows.recovered" for line in bench.log())


@ONE
def test_two_processes_on_one_state_directory_are_refused(bench: Bench) -> None:
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            bench.wait_for(lambda: any(line["event"] == "worker.started" for line in bench.log()))
            second = bench.poller(config, "run", "--once")
            terminate(process)
    assert second.returncode == 2
    assert f"in use by process {process.pid}" in second.stderr


@ONE
def test_the_same_name_from_another_state_directory_is_refused_while_the_first_is_alive(bench: Bench) -> None:
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port)
        other = config.with_name("other.toml")
        other.write_text(config.read_text().replace("state-w1", "state-other"))
        with bench.running(config) as process:
            bench.wait_for(lambda: any(line["event"] == "worker.started" for line in bench.log()))
            second = bench.poller(other, "run", "--once")
            terminate(process)
    assert second.returncode == 2
    assert "a worker named 'w1' is alive" in second.stderr


@pytest.mark.parametrize("word", ["paused", "cancelled"])
def test_an_operators_word_outlives_a_deferral_but_not_an_acceptance(bench: Bench, word: str) -> None:
    accepted, deferred = bench.insert(2)

    def speak() -> None:
        sql(bench, f"UPDATE outbox SET status = '{word}'")

    faults = Faults(defer_first={"user1@example.com": 99}, answer=during(1, speak))
    with FaultServer(faults) as relay:
        bench.run(bench.configure(relay.host, relay.port), "--once")
    assert bench.row(accepted).status == "sent"
    row = bench.row(deferred)
    assert (row.status, row.claimed_by, row.attempts) == (word, None, 1)


def test_pause_all_holds_everything_back_until_resume_all(bench: Bench) -> None:
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port)
        assert bench.poller(config, "pause", "--all").returncode == 0
        bench.insert(5)
        with bench.running(config) as process:
            bench.wait_for(lambda: any(line["event"] == "outbox.paused" for line in bench.log()))
            time.sleep(0.5)
            assert (bench.statuses(), len(relay.messages)) == (Counter(queued=5), 0)
            assert bench.poller(config, "resume", "--all").returncode == 0
            bench.wait_for(lambda: bench.statuses() == Counter(sent=5))
            terminate(process)


def test_a_row_deleted_or_set_to_nonsense_while_it_is_sent_holds_up_nobody(bench: Bench) -> None:
    ids = bench.insert(20)

    def meddle() -> None:
        sql(bench, f"DELETE FROM outbox WHERE id = {ids[1]}")
        sql(bench, f"UPDATE outbox SET claim_seq = 77 WHERE id = {ids[2]}")
        sql(bench, f"UPDATE outbox SET status = 'queued', claimed_by = NULL, claimed_at = NULL WHERE id = {ids[3]}")

    with FaultServer(Faults(answer=during(1, meddle))) as relay:
        bench.run(bench.configure(relay.host, relay.port), "--once")
    rest = Counter(row.status for row in bench.rows() if row.id not in ids[1:4])
    assert rest == Counter(sent=17)
    said = {line["id"] for line in bench.log() if line["event"] in {"row.gone", "row.accepted_twice"}}
    sent = {recipient for message in relay.messages for recipient in message.recipients}
    assert ids[1] in said or "user1@example.com" not in sent  # who looks in time does not begin it
    assert ids[2] in said
    assert [note.outcome for note in bench.history(ids[2])] == ["accepted_twice"]


def test_an_address_that_was_corrected_leaves_no_open_recipient_behind(bench: Bench) -> None:
    (row_id,) = bench.insert(recipients="anna@exmaple.com, bob@example.com, carl@example.com")
    defer = {"anna@exmaple.com": 450, "bob@example.com": 450}
    with FaultServer(Faults(answer=lambda heard: busy(heard, defer))) as relay:
        config = bench.configure(relay.host, relay.port)
        bench.run(config, "--once")
        assert {a: line.status for a, line in bench.recipients(row_id).items()} == {
            "anna@exmaple.com": "queued",
            "bob@example.com": "queued",
            "carl@example.com": "sent",
        }
        defer.clear()
        sql(bench, f"UPDATE outbox SET recipients = 'anna@example.com, bob@example.com' WHERE id = {row_id}")
        assert bench.run(config, "--drain", "--for", "20s") == 0
    assert {a: line.status for a, line in bench.recipients(row_id).items()} == dict.fromkeys(
        ("anna@example.com", "bob@example.com", "carl@example.com"), "sent"
    )
    assert bench.row(row_id).status == "sent"


def busy(heard: Heard, defer: dict[str, int]) -> bytes | None:
    """450 to those recipients."""
    if heard.verb == "RCPT" and any(address in str(heard) for address in defer):
        return b"450 4.2.0 later\r\n"
    return None


def test_expired_and_suppressed_rows_never_reach_the_wire(bench: Bench) -> None:
    (late,) = bench.insert(recipients="late@example.com")
    sql(bench, f"UPDATE outbox SET expires_at = due_at WHERE id = {late}")
    (unwanted,) = bench.insert(recipients="Unwanted@Example.com")
    (mixed,) = bench.insert(recipients="unwanted@example.com, fine@example.com")
    (domain,) = bench.insert(recipients="anyone@closed.example")
    entries = [
        {"address": "unwanted@example.com", "reason": "asked us to stop"},
        {"address": "@closed.example", "reason": "closed"},
    ]
    transaction(bench.engine, lambda c: c.execute(sa.insert(suppression), entries))
    with FaultServer(Faults()) as relay:
        bench.run(bench.configure(relay.host, relay.port), "--once")
        assert [message.recipients for message in relay.messages] == [("fine@example.com",)]
    assert [bench.row(i).status for i in (late, unwanted, mixed, domain)] == [
        "expired",
        "suppressed",
        "partial",
        "suppressed",
    ]
    assert "asked us to stop" in bench.row(unwanted).error


@ONE
def test_staging_sends_everything_to_one_address_and_withholds_what_is_not_allowed(bench: Bench) -> None:
    bench.insert(recipients="customer@example.com, other@example.org", cc="third@example.net")
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port, message={"redirect_to": "dev@example.test"})
        assert bench.run(config, "--once") == 0
        assert [message.recipients for message in relay.messages] == [("dev@example.test",)]
        bench.insert(recipients="customer@example.com, me@ours.example")
        config = bench.configure(relay.host, relay.port, message={"only_to": ["@ours.example"]})
        assert bench.run(config, "--once") == 1
        assert relay.messages[-1].recipients == ("me@ours.example",)
    assert [row.status for row in bench.rows()] == ["sent", "partial"]


@WHATEVER_THE_DATABASE
def test_mail_that_needs_smtputf8_is_refused_in_words_where_the_relay_has_it_not(bench: Bench) -> None:
    bench.insert(recipients="用户@example.com")
    bench.insert(recipients="plain@example.com")
    with FaultServer(Faults(smtputf8=False)) as relay:
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 1
    first, second = bench.rows()
    assert (first.status, second.status) == ("failed", "sent")
    assert "SMTPUTF8" in first.error


@WHATEVER_THE_DATABASE
def test_a_blind_copy_that_needs_smtputf8_harms_nobody_else(bench: Bench) -> None:
    (row_id,) = bench.insert(recipients="a@example.com, b@example.com", bcc="用户@example.com")
    with FaultServer(Faults(smtputf8=False)) as relay:
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 1
        assert [set(message.recipients) for message in relay.messages] == [{"a@example.com", "b@example.com"}]
    assert bench.row(row_id).status == "partial"
    states = {address: state.status for address, state in bench.recipients(row_id).items()}
    assert states == {"a@example.com": "sent", "b@example.com": "sent", "用户@example.com": "failed"}


@ONE
def test_a_failed_row_that_is_retried_starts_afresh(bench: Bench) -> None:
    (row_id,) = bench.insert(recipients="bad@example.com")
    with FaultServer(Faults(refuse=frozenset({"bad@example.com"}))) as relay:
        config = bench.configure(relay.host, relay.port)
        assert bench.run(config, "--once") == 1
        assert bench.row(row_id).status == "failed"
        relay.faults = Faults()
        assert bench.poller(config, "retry", str(row_id), "--yes").returncode == 0
        assert bench.run(config, "--once") == 0
    assert (bench.row(row_id).status, bench.row(row_id).attempts) == ("sent", 1)


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_database_that_is_down_at_start_or_killed_in_mid_run_is_waited_for_and_nothing_is_lost(
    tmp_path: Path, kind: str
) -> None:
    try:
        server = databases.EmbeddedPostgres()
    except databases.Missing as why:
        pytest.skip(str(why))
    os.environ["POLLER_TEST_POSTGRESQL"], before = server.url, os.environ.get("POLLER_TEST_POSTGRESQL")
    try:
        with databases.database(kind, tmp_path) as settings:
            _survive_a_database_crash(settings, tmp_path, server)
    finally:
        del os.environ["POLLER_TEST_POSTGRESQL"]
        if before:
            os.environ["POLLER_TEST_POSTGRESQL"] = before
        server.stop()


def _survive_a_database_crash(settings: DatabaseSettings, directory: Path, server: databases.EmbeddedPostgres) -> None:
    bench = Bench(database=settings, directory=directory)
    bench.insert(300)
    with FaultServer(Faults(reply_delay=0.005)) as relay:
        server.kill()
        with bench.running(bench.configure(relay.host, relay.port)) as process:
            bench.wait_for(lambda: any(line["event"] == "database.unavailable" for line in bench.log()))
            server.start()
            bench.wait_for(lambda: len(relay.messages) > 60)
            server.kill()
            time.sleep(1.5)
            server.start()
            bench.engine.dispose()
            bench.wait_for(lambda: bench.statuses() == Counter(sent=300), seconds=60)
            terminate(process)
        found = books(bench, relay)
    assert (found.accepted, found.duplicates, found.lost) == (300, 0, 0)
    said = [line for line in bench.log() if line["event"].startswith("database.")]
    back = sum(line["event"] == "database.available" for line in said)
    reasons = Counter(line["reason"] for line in said if line["event"] == "database.unavailable")
    assert back >= 1
    assert max(reasons.values()) <= 3 + back  # once for each time away, and again on change: not once a try
    bench.close()


@ONE
def test_rows_inserted_while_the_service_runs_go_out_at_the_next_poll(bench: Bench) -> None:
    with FaultServer(Faults()) as relay, bench.running(bench.configure(relay.host, relay.port)) as process:
        for n in range(3):
            bench.insert(recipients=f"later{n}@example.com")
            bench.wait_for(lambda n=n: bench.statuses() == Counter(sent=n + 1))
        terminate(process)


@ONE
def test_the_connection_is_not_kept_when_nothing_is_to_be_sent(bench: Bench) -> None:
    bench.insert(2)
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port, smtp={"idle_close": "300ms"})
        with bench.running(config) as process:
            bench.wait_for(lambda: any(line["event"] == "session.closed" for line in bench.log()))
            terminate(process)
        assert relay.sessions == 1


def test_rows_paused_while_their_batch_is_sent_stay_behind(bench: Bench) -> None:
    bench.insert(40)
    with FaultServer(Faults(reply_delay=0.05)) as relay:
        with bench.running(bench.configure(relay.host, relay.port)) as process:
            bench.wait_for(lambda: len(relay.messages) >= 3)
            sql(bench, "UPDATE outbox SET status = 'paused' WHERE status IN ('queued', 'sending')")
            bench.wait_for(lambda: set(bench.statuses()) == {"sent", "paused"} and not _held(bench))
            time.sleep(0.5)
            terminate(process)
        assert len(relay.messages) == bench.statuses()["sent"]
    assert bench.statuses()["paused"] > 10


def _held(bench: Bench) -> int:
    return sum(1 for row in bench.rows() if row.status == "paused" and row.claimed_by)


@WHATEVER_THE_DATABASE
def test_a_few_identical_refusals_are_not_believed_because_we_stop(bench: Bench) -> None:
    bench.insert(9)

    def answer(heard: Heard) -> bytes | None:
        if heard.verb == "RCPT":
            time.sleep(0.2)
            return b"550 5.7.0 Policy server says no\r\n"
        return None

    with FaultServer(Faults(answer=answer)) as relay, bench.running(bench.configure(relay.host, relay.port)) as process:
        bench.wait_for(lambda: bench.statuses()["sending"] > 0)
        time.sleep(0.7)
        terminate(process)
    assert bench.statuses() == Counter(queued=9)
    assert {row.attempts for row in bench.rows()} == {0}
    assert sum(row.setbacks for row in bench.rows()) >= 1


@pytest.mark.parametrize("kind", ["postgresql"])
def test_a_worker_that_listens_sends_a_lone_row_long_before_its_next_look(bench: Bench) -> None:
    bench.settings = {"poll": {"interval": "10m", "listen": True}}
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port)
        assert "listen.sql" in bench.poller(config, "migrate").stdout
        with bench.running(config) as process:
            bench.wait_for(lambda: any(line["event"] == "worker.started" for line in bench.log()))
            for sent in range(1, 6):
                bench.insert(1)
                bench.wait_for(lambda sent=sent: bench.statuses()["sent"] == sent)
            terminate(process)


def test_the_table_says_what_the_configuration_limits(bench: Bench) -> None:
    bench.insert(1)
    sql(bench, "INSERT INTO outbox_throttle (kind, name, limits) VALUES ('domain', 'old.example', '1/h')")
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, throttle={"rates": ["600/m", "9000/d"], "burst": 5})
        assert bench.run(config, "--once") == 0
    query = sa.text("SELECT kind, name, limits FROM outbox_throttle")
    said = [tuple(row) for row in transaction(bench.engine, lambda c: c.execute(query).all())]
    assert said == [("outbox", "", "600/m and 9000/d, burst 5")]


@WHATEVER_THE_DATABASE
def test_a_service_deletes_by_itself_what_is_past_its_time(bench: Bench) -> None:
    done = bench.insert(3)
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, retention={"sent": "90d"})
        assert bench.run(config, "--once") == 0
        sql(bench, "UPDATE outbox SET finished_at = '2020-01-01 00:00:00'")
        (young,) = bench.insert(1)
        with bench.running(config) as process:
            bench.wait_for(lambda: [row.id for row in bench.rows()] == [young])
            bench.wait_for(lambda: bench.statuses() == Counter(sent=1))
            terminate(process)
    (said,) = [line for line in bench.log() if line["event"] == "rows.purged"]
    assert said["rows"] == len(done)
