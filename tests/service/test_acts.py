"""What an operator does to many rows while mail goes out: quickly, told truly, and with a name in the history."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer
from service import zygote
from service.bench import terminate

from poller.outbox.database import transaction
from poller.outbox.tables import attempt

if TYPE_CHECKING:
    from pathlib import Path

    from service.bench import Bench

MANY = [120, pytest.param(100_000, marks=pytest.mark.long)]
ONE = pytest.mark.parametrize("kind", ["sqlite"])


def told(said: str, verb: str) -> tuple[int, int]:
    """How many rows a command says that it changed, and how many of them in a worker's hands."""
    rested = re.search(rf"^(\d+) rows? {verb}$", said, re.MULTILINE)
    in_hand = re.search(rf"^(\d+) rows? {verb} while being sent", said, re.MULTILINE)
    assert rested, said
    return int(rested[1]), int(in_hand[1]) if in_hand else 0


@pytest.mark.parametrize("many", MANY)
def test_what_a_command_says_of_many_rows_is_what_the_table_says(bench: Bench, many: int) -> None:
    bench.settings = {"poll": {"batch_size": 20}, "database": {"lock_timeout": "10s"}}
    with FaultServer(Faults(reply_delay=0.01 if many < 1000 else 0.002)) as relay:
        config = bench.configure(relay.host, relay.port)
        bench.insert(many, batch="big")
        with bench.running(config) as process:
            bench.wait_for(lambda: len(relay.messages) > 10)
            paused = told(typed(bench, config, "pause", "--batch", "big", "--yes"), "paused")
            bench.wait_for(lambda: in_hands(bench) == 0)
            before = bench.statuses()
            assert sum(paused) - paused[1] <= before["paused"] <= sum(paused)
            assert (before["paused"] + before["sent"], set(before)) == (many, {"paused", "sent"})
            resumed = told(typed(bench, config, "resume", "--batch", "big", "--yes"), "resumed")
            assert resumed == (before["paused"], 0)
            cancelled = told(typed(bench, config, "cancel", "--batch", "big", "--yes"), "cancelled")
            bench.wait_for(lambda: in_hands(bench) == 0)
            after = bench.statuses()
            assert sum(cancelled) - cancelled[1] <= after["cancelled"] <= sum(cancelled)
            assert (after["cancelled"] + after["sent"], set(after)) == (many, {"cancelled", "sent"})
            retried = told(typed(bench, config, "retry", "--batch", "big", "--yes"), "retried")
            assert retried == (after["cancelled"], 0)
            bench.wait_for(lambda: bench.statuses() == Counter(sent=many), seconds=300)
            terminate(process)

    assert len(relay.messages) == many


def typed(bench: Bench, config: Path, *arguments: str) -> str:
    """What a command says, run at once: no time for all to be sent meanwhile."""
    log = bench.directory / "typed.log"
    log.unlink(missing_ok=True)
    assert zygote.start(["--config", str(config), *arguments], log).wait(60) == 0, log.read_text()
    return log.read_text()


def in_hands(bench: Bench) -> int:
    """Rows that an operator changed and a worker still holds."""
    query = "SELECT count(*) FROM outbox WHERE status IN ('paused', 'cancelled') AND claimed_by IS NOT NULL"
    found = transaction(bench.engine, lambda c: c.exec_driver_sql(query + " AND finished_at IS NULL").scalar_one())
    return int(found)


@pytest.mark.parametrize(
    ("arguments", "environment", "who"),
    [
        (["--as", "anna"], {}, "operator anna"),
        ([], {"SUDO_USER": "bob"}, "operator bob"),
        (["--as", "anna\x1b[31m\n" + "x" * 200], {}, "operator anna\\x1b[31m\\n" + "x" * 86),
    ],
)
def test_the_history_says_who_did_it(  # noqa: PLR0917 - fixtures
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    who: str,
) -> None:
    assert tmp_path
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (row_id,) = bench.insert()
    config = bench.configure("127.0.0.1", 1)
    assert bench.poller(config, "pause", str(row_id), *arguments).returncode == 0
    (line,) = bench.history(row_id)
    assert (line.worker, line.outcome, line.error) == (who, "pause", "was queued")
    assert who in bench.poller(config, "show", str(row_id)).stdout.replace("\\\\", "\\")


@ONE
def test_where_nobody_can_be_asked_more_than_one_row_needs_a_yes(bench: Bench) -> None:
    bench.insert(2, batch="b")
    config = bench.configure("127.0.0.1", 1)
    refused = bench.poller(config, "cancel", "--batch", "b")
    assert (refused.returncode, bench.statuses()) == (2, Counter(queued=2))
    assert "nobody is there to be asked about 2 rows; if it is meant, add --yes" in refused.stderr
    assert bench.poller(config, "adopt").returncode == 2
    assert bench.poller(config, "cancel", "--batch", "b", "--yes").returncode == 0
    assert bench.statuses() == Counter(cancelled=2)


@ONE
def test_the_switch_says_who_used_it(bench: Bench) -> None:
    config = bench.configure("127.0.0.1", 1)
    assert bench.poller(config, "pause", "--all", "--why", "moving", "--as", "anna").returncode == 0
    assert "moving (operator anna)" in bench.poller(config, "status").stdout


def test_the_books_of_an_act_hold_a_line_for_each_row(bench: Bench) -> None:
    bench.insert(3, batch="b")
    config = bench.configure("127.0.0.1", 1)
    assert bench.poller(config, "pause", "--batch", "b", "--yes", "--as", "anna").returncode == 0
    query = sa.select(attempt.c.outbox_id, attempt.c.worker).order_by(attempt.c.outbox_id)
    lines = transaction(bench.engine, lambda c: c.execute(query).all())
    assert [tuple(line) for line in lines] == [(row.id, "operator anna") for row in bench.rows()]
