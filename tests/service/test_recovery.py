"""The road back: what a worker makes of what it left behind, with the real program, killed and restored and cut off."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer, Heard
from service import zygote
from service.bench import Bench, books, terminate
from structlog.testing import capture_logs

from poller.config.load import load
from poller.delivery import weigh
from poller.delivery.compose import Compose
from poller.journal import entries
from poller.journal.segments import MAGIC, SIZE, Segment, read, segments
from poller.outbox.database import transaction
from poller.outbox.guard import adopt, home_of
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import meta, outbox, worker
from poller.worker.service import Service

if TYPE_CHECKING:
    from service.zygote import Process

ONE = pytest.mark.parametrize("kind", ["sqlite"])
"""For what has nothing to do with the dialect."""
QUICK_TAKEOVER = {"smtp": {"end_timeout": "1s"}, "worker": {"takeover": "2s", "heartbeat": "500ms"}}
ENDLESS = "{% for a in range(9999) %}{% for b in range(9999) %}{{ '' }}{% endfor %}{% endfor %}"


def said(bench: Bench, event: str) -> list[dict[str, str]]:
    return [line for line in bench.log() if line["event"] == event]


def kill(process: Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def last_segment(bench: Bench) -> Path | None:
    found = [path for journal in bench.directory.glob(f"state-{bench.name}/journal-*") for path in segments(journal)]
    return found[-1] if found else None


def last_record(bench: Bench) -> list[object]:
    path = last_segment(bench)
    reading = read(path) if path else None
    return entries.read(reading.frames[-1].payload) if reading and reading.frames else []


def trouble_of(bench: Bench) -> str | None:
    query = sa.select(worker.c.trouble).where(worker.c.name == bench.name)
    return transaction(bench.engine, lambda c: c.execute(query).scalar(), reading=True)


def why_off(bench: Bench) -> str | None:
    query = sa.select(meta.c.value).where(meta.c.name == "paused")
    return transaction(bench.engine, lambda c: c.execute(query).scalar(), reading=True)


# --- a row that kills ---


@ONE
def test_a_row_whose_composing_kills_the_worker_three_times_fails_alone(bench: Bench) -> None:
    templates = bench.directory / "templates"
    templates.mkdir()
    (templates / "endless.txt").write_text(f"Subject: Hi\n\n{ENDLESS}")
    bench.settings = {"templates": {"directory": str(templates)}, "retry": {"first": "50ms"}}
    (deadly,) = bench.insert(body_text=None, template="endless", priority=0)
    bench.insert(8)
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port)
        for claim in (1, 2, 3):
            with bench.running(config) as process:
                bench.wait_for(lambda claim=claim: last_record(bench) == ["b", deadly, claim])
                kill(process)
        assert bench.run(config, "--drain", "--for", "30s") == 1
        found = books(bench, relay)
    row = bench.row(deadly)
    assert (row.status, row.error) == ("failed", "composing it has killed the worker 3 times")
    assert [line.outcome for line in bench.history(deadly)] == ["died", "died", "died", "failed"]
    assert bench.statuses() == Counter(sent=8, failed=1)
    assert (found.doubts, found.duplicates, found.lost) == (0, 0, 0)


# --- a database that comes back older than it was ---


def file_of(bench: Bench) -> str:
    return str(sa.make_url(bench.database.url).database)


def copy(source: str, target: str) -> None:
    """A consistent copy, as `.backup` makes it."""
    with sqlite3.connect(source) as here, sqlite3.connect(target) as there:
        here.backup(there)
    here.close()
    there.close()


def restore(bench: Bench, backup: str) -> None:
    """The file of yesterday in place of the one of today."""
    bench.engine.dispose()
    file = Path(file_of(bench))
    for companion in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
        companion.unlink(missing_ok=True)
    shutil.copy(backup, file)


def backed_up(bench: Bench) -> str:
    """The outbox as it is now, for later."""
    backup = str(bench.directory / "backup.db")
    copy(file_of(bench), backup)
    return backup


@ONE
def test_a_few_lost_outcomes_are_written_again_silently_and_no_message_goes_twice(bench: Bench) -> None:
    with FaultServer(Faults(refuse=frozenset({"user7@example.com"}))) as relay:
        config = bench.configure(relay.host, relay.port)
        assert bench.run(config, "--once") == 0  # so that the backup knows the worker
        bench.insert(40)
        backup = backed_up(bench)
        assert bench.run(config, "--once") == 1
        before = {row.id: (row.status, row.message_id, row.claim_seq, row.reply_code) for row in bench.rows()}
        restore(bench, backup)
        assert bench.statuses() == Counter(queued=40)
        bench.run(config, "--once")
        found = books(bench, relay)
    assert {row.id: (row.status, row.message_id, row.claim_seq, row.reply_code) for row in bench.rows()} == before
    assert (found.accepted, found.duplicates, found.lost, found.doubts) == (39, 0, 0, 0)
    assert (why_off(bench), said(bench, "outbox.held")) == (None, [])


@ONE
def test_many_lost_outcomes_switch_the_outbox_off_until_it_is_adopted(bench: Bench) -> None:
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port)
        assert bench.run(config, "--once") == 0
        backup = backed_up(bench)
        lost = bench.insert(60)
        assert bench.run(config, "--once") == 0
        restore(bench, backup)
        time.sleep(0.01)  # the outbox counts the time of an INSERT in milliseconds
        new = bench.insert(60, recipients="new{n}@example.com")
        assert new == lost
        with bench.running(config) as process:
            bench.wait_for(lambda: bool(said(bench, "outbox.paused")))
            time.sleep(0.5)
            assert (bench.statuses(), len(relay.messages)) == (Counter(queued=60), 60)
            assert "knows of 60 messages that were sent and are not marked here" in (why_off(bench) or "")
            assert adopt(bench.engine, home_of(bench.database, bench.engine)).switched_on
            bench.wait_for(lambda: bench.statuses() == Counter(sent=60))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert Counter(message.recipients for message in relay.messages) == Counter(
            (f"{name}{n}@example.com",) for name in ("user", "new") for n in range(60)
        )
        assert books(bench, relay).duplicates == 0


@ONE
def test_a_copy_of_the_outbox_elsewhere_sends_nothing_until_it_is_adopted(bench: Bench) -> None:
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port)
        assert bench.run(config, "--once") == 0
        bench.insert(5)
        elsewhere = bench.directory / "elsewhere"
        elsewhere.mkdir()
        copy(file_of(bench), str(elsewhere / "outbox.db"))
        there = Bench(
            database=DatabaseSettings(url=f"sqlite:///{elsewhere}/outbox.db"), directory=elsewhere, name="staging"
        )
        config = there.configure(relay.host, relay.port, worker={"heartbeat": "200ms"})
        with there.running(config) as process:
            there.wait_for(lambda: bool(said(there, "outbox.held")))
            there.wait_for(lambda: "a copy must not send" in (trouble_of(there) or ""))
            assert (there.statuses(), relay.messages) == (Counter(queued=5), [])
            assert there.poller(config, "adopt", "--yes").returncode == 0
            there.wait_for(lambda: there.statuses() == Counter(sent=5))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        there.close()


# --- a worker that stands still ---


@pytest.mark.parametrize("kind", ["postgresql"])  # where a worker that stands still can't hold the lock for all
def test_a_worker_stopped_in_mid_message_overwrites_nothing_and_its_late_250_settles_the_row(bench: Bench) -> None:
    ids = bench.insert(5, on_doubt="hold")
    waiting, go_on = threading.Event(), threading.Event()

    def answer(heard: Heard) -> bytes | None:
        if heard.verb == ".":
            waiting.set()
            go_on.wait(30)
        return None

    bench.settings = QUICK_TAKEOVER
    with FaultServer(Faults(answer=answer)) as relay, bench.running(bench.configure(relay.host, relay.port)) as first:
        assert waiting.wait(20)
        first.send_signal(signal.SIGSTOP)
        second = Bench(database=bench.database, directory=bench.directory, settings=QUICK_TAKEOVER, name="w2")
        try:
            with second.running(second.configure(relay.host, relay.port)) as other:
                second.wait_for(lambda: second.statuses() == Counter(in_doubt=5))
                go_on.set()
                bench.wait_for(lambda: len(relay.messages) == 1)
                time.sleep(0.2)  # its 250 is in the stopped worker's socket now
                first.send_signal(signal.SIGCONT)
                second.wait_for(lambda: second.statuses()["sent"] == 1)
                time.sleep(1)
                for process in (first, other):
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(30) == 0
        finally:
            first.send_signal(signal.SIGCONT)
            go_on.set()
            second.close()
    assert {row.id: row.status for row in bench.rows()} == {ids[0]: "sent"} | dict.fromkeys(ids[1:], "in_doubt")
    assert [line.outcome for line in bench.history(ids[0])] == ["in_doubt", "accepted"]
    assert {line.outcome for row_id in ids[1:] for line in bench.history(row_id)} == {"in_doubt"}
    assert len(relay.messages) == 1


# --- a journal that can't be written ---


@ONE
def test_a_state_directory_removed_in_mid_run_ends_the_worker_and_what_it_held_is_handed_back(bench: Bench) -> None:
    bench.insert(60)
    with FaultServer(Faults(reply_delay=0.01)) as relay:
        config = bench.configure(relay.host, relay.port, poll={"batch_size": 10})
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 5)
            shutil.rmtree(bench.directory / "state-w1")
            assert process.wait(30) == 1
        assert "was removed while it was in use" in said(bench, "journal.unavailable")[0]["reason"]
        halfway = bench.statuses()
        assert set(halfway) == {"sent", "queued"}
        assert bench.run(config, "--once") == 0
        found = books(bench, relay)
    assert bench.statuses() == Counter(sent=60)
    assert (found.duplicates, found.doubts) == (0, 0)


@ONE
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can limit another process")
def test_while_the_journal_has_no_room_nothing_is_sent_and_it_goes_on_when_it_has(bench: Bench) -> None:
    many = ", ".join(f"u{n}@example.com" for n in range(1990))  # all their replies need more than one segment
    with FaultServer(Faults()) as relay:
        config = bench.configure(
            relay.host, relay.port, smtp={"max_recipients_per_message": 2000}, worker={"heartbeat": "200ms"}
        )
        with bench.running(config) as process:
            bench.wait_for(lambda: bool(last_record(bench)))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (SIZE + 1, resource.RLIM_INFINITY))
            bench.insert(recipients=many, priority=0)
            bench.insert()
            bench.wait_for(lambda: "nothing is sent until it can be written" in (trouble_of(bench) or ""))
            time.sleep(0.7)
            assert (set(bench.statuses()), relay.messages) == ({"queued"}, [])
            assert len(said(bench, "journal.unavailable")) == 1
            assert str(bench.directory / "state-w1") in (trouble_of(bench) or "")
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            bench.wait_for(lambda: bench.statuses() == Counter(sent=2))
            bench.wait_for(lambda: trouble_of(bench) is None)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert len(said(bench, "journal.available")) == 1
        assert {row.doubts + row.setbacks for row in bench.rows()} == {0}


@ONE
def test_while_the_state_directory_cannot_be_looked_into_nothing_is_sent(
    bench: Bench,
) -> None:
    state = bench.directory / "state-w1"
    with FaultServer(Faults()) as relay:
        with bench.running(bench.configure(relay.host, relay.port)) as process:
            bench.insert()
            bench.wait_for(lambda: bench.statuses() == Counter(sent=1))
            aside = state.rename(bench.directory / "aside")
            state.write_text("")
            bench.insert(1)
            bench.wait_for(lambda: bool(said(bench, "journal.unavailable")))
            before = len(relay.messages)  # a batch that had begun goes on: its journal is open
            bench.insert(5)
            time.sleep(0.7)
            assert len(relay.messages) == before
            state.unlink()
            aside.rename(state)
            bench.wait_for(lambda: bench.statuses() == Counter(sent=7))
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert "not a directory" in said(bench, "journal.unavailable")[0]["reason"]
        assert books(bench, relay).duplicates == 0


# --- a person decides ---


def typed(bench: Bench, config: Path, *arguments: str) -> tuple[int, str]:
    """A command's exit code and what it said."""
    log = bench.directory / "typed.log"
    log.unlink(missing_ok=True)
    return zygote.start(["--config", str(config), *arguments], log).wait(60), log.read_text()


@ONE
def test_a_doubt_is_listed_with_what_to_look_for_and_settled_recipient_by_recipient(bench: Bench) -> None:
    (row_id,) = bench.insert(recipients="a@example.com, b@example.com, c@example.com", on_doubt="hold")
    refuse = frozenset({"c@example.com"})
    with FaultServer(Faults(drop_unanswered=frozenset({1}), refuse=refuse)) as relay:
        config = bench.configure(relay.host, relay.port)
        assert bench.run(config, "--once") == 1
        where = f"{relay.host}:{relay.port}"
    code, said = typed(bench, config, "resolve")
    (doubt,) = [
        line for line in bench.history(row_id) if line.outcome == "in_doubt" and line.recipient == "b@example.com"
    ]
    assert code == 0
    assert f"{row_id}  to a@example.com, b@example.com  once in doubt, last at" in said
    assert f"search the log of {where}, about {doubt.at:%Y-%m-%d %H:%M:%S} UTC" in said
    assert f"for the Message-ID {bench.row(row_id).message_id}" in said
    one = (str(row_id), "--recipient", "a@example.com")
    assert typed(bench, config, "resolve", *one)[0] == 2
    assert typed(bench, config, "resolve", "--batch", "x", *one, "--sent")[0] == 2
    code, said = typed(bench, config, "resolve", *one, "--sent", "--yes")
    assert (code, f"1 of its recipients taken as sent; row {row_id} is in_doubt now" in said) == (0, True)
    code, said = typed(bench, config, "resolve", *one, "--failed", "--yes")
    assert (code, f"of row {row_id}, a@example.com is not in doubt; in doubt are: b@example.com" in said) == (1, True)
    assert typed(bench, config, "resolve", str(row_id), "--failed", "--yes")[0] == 0
    assert bench.row(row_id).status == "partial"
    assert {address: line.status for address, line in bench.recipients(row_id).items()} == {
        "a@example.com": "sent",
        "b@example.com": "failed",
        "c@example.com": "failed",
    }
    assert typed(bench, config, "resolve") == (0, "nothing is in doubt\n")


# --- a power cut ---


def cut_power(bench: Bench, chance: random.Random) -> None:
    """The last segment as a power cut may leave it: of what was not synced a part, then rubbish; another boot."""
    path = last_segment(bench)
    reading = read(path) if path else None
    assert path is not None
    assert reading is not None
    # Each frame says what had been synced when it was written. Only of the last intent no frame may have told yet.
    intents = [
        f.position for f in reading.frames if reading.header.sync == "message" and entries.read(f.payload)[0] == "i"
    ]
    safe = max([*(frame.synced for frame in reading.frames), *intents], default=0)
    segment = Segment(path.with_suffix(".new"), SIZE)
    segment._write(MAGIC)
    head = {name: getattr(reading.header, name) for name in type(reading.header).__slots__} | {"boot": "another boot"}
    segment.append(reading.header.first, 0, json.dumps(head).encode())
    for frame in reading.frames:
        if frame.position <= safe:
            segment.append(*frame)
    kept = segment._used
    for frame in reading.frames:
        if frame.position > safe:
            segment.append(*frame)
    at = chance.randint(kept, segment._used)
    data = segment.path.read_bytes()
    segment.close()
    path.write_bytes((data[:at] + chance.randbytes(200)).ljust(SIZE, b"\0"))
    segment.path.unlink()


@ONE
@pytest.mark.parametrize("sync", ["none", "message"])
def test_a_power_cut_leaves_in_doubt_what_was_claimed_or_with_synced_intents_what_was_unanswered(
    bench: Bench, sync: str
) -> None:
    bench.insert(60)
    with FaultServer(Faults(reply_delay=0.01)) as relay:
        config = bench.configure(relay.host, relay.port, worker={"journal_sync": sync}, poll={"batch_size": 20})
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 25)
            kill(process)
        claimed = bench.statuses()["sending"]
        cut_power(bench, random.Random())
        assert bench.run(config, "--drain", "--for", "30s") == 0
        found = books(bench, relay)
    assert bench.statuses() == Counter(sent=60)
    assert (found.lost, found.wrongly_marked) == (0, 0)
    assert claimed > 1
    assert found.doubts <= (1 if sync == "message" else claimed)
    assert found.duplicates <= found.doubts


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_row_that_somebody_has_locked_does_not_hold_up_the_start(bench: Bench) -> None:
    bench.insert(40)
    with FaultServer(Faults(reply_delay=0.02)) as relay:
        config = bench.configure(relay.host, relay.port)
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 5)
            process.kill()
            process.wait()
        held = [row.id for row in bench.rows() if row.status == "sending"]
        with bench.engine.connect() as somebody:
            somebody.execute(sa.select(outbox.c.id).where(outbox.c.id == held[-1]).with_for_update())
            with bench.running(config) as process:
                bench.wait_for(lambda: bench.statuses()["sent"] == 39)
                somebody.rollback()
                bench.wait_for(lambda: bench.statuses()["sent"] == 40)
                terminate(process)
        found = books(bench, relay)
    assert (found.lost, found.duplicates - found.doubts <= 0) == (0, True)


# --- an error that nobody foresaw ---


@ONE
@pytest.mark.parametrize("where", ["composing", "judging"])
def test_an_unforeseen_error_is_said_once_with_its_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    (row_id,) = bench.insert()
    with FaultServer(Faults()) as relay, capture_logs() as lines:
        service = Service(load(bench.configure(relay.host, relay.port), {}), mode="once")
        if where == "judging":
            monkeypatch.setattr(weigh, "judge", broken)
        else:
            monkeypatch.setattr(Compose, "prepared", broken)
        assert service.run(signals=False).crashed
    (failed,) = [line for line in lines if line["event"] == "tick.failed"]
    assert (failed["about"], failed["reason"]) == (f"row {row_id}", "ZeroDivisionError()")
