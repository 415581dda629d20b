"""`poller plan`, `explain` and `status`: when it will be done, and what it waits for. Nothing is changed by looking."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from poller.cli import main
from poller.outbox.database import connect
from poller.outbox.guard import stranger
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import meta, outbox, throttle
from poller.outbox.tables import worker as workers
from poller.pacing import Scope, as_row, paused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine


@dataclass
class Place:
    """An outbox, its configuration, and what somebody types."""

    path: Path
    engine: Engine

    def configure(self, text: str) -> None:
        self.path.write_text(f'[message]\nsender = "shop@example.com"\n{text}')

    def type(self, *words: str) -> tuple[int, str]:
        # No name server need hear of domains that are nobody's.
        environment = {"POLLER__THROTTLE__LOOK_UP_MX": "false"}
        result = CliRunner().invoke(main, ["--config", str(self.path), *words], env=environment)
        return result.exit_code, result.output

    def lines(self, *words: str) -> list[str]:
        code, output = self.type(*words)
        assert code == 0, output
        return [line.rstrip() for line in output.splitlines()]

    def insert(self, messages: int = 1, **columns: Any) -> int:
        """The id of the first."""
        row = {"recipients": "a@example.com", "subject": "Hi", "body_text": "Hello", **columns}
        with self.engine.begin() as connection:
            last = connection.execute(sa.select(sa.func.max(outbox.c.id))).scalar() or 0
            connection.execute(sa.insert(outbox), [row] * messages)
        return int(last) + 1

    def write(self, table: sa.Table, **columns: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.insert(table).values(columns))

    def let_a_worker_live(self, **more: Any) -> None:
        now = datetime.now(UTC)
        facts = {"name": "w1", "identity": "d", "incarnation": 1, "host": "h", "pid": 1, "version": "0"}
        times = {"started_at": now, "heartbeat_at": now, "lease_until": now + timedelta(hours=1)}
        self.write(workers, **facts, **times, **more)

    def explained(self, row_id: int) -> list[str]:
        return self.lines("explain", str(row_id))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    path = tmp_path / "config.toml"
    engine = connect(DatabaseSettings(url=f"sqlite:///{tmp_path / 'outbox.db'}"))
    found = Place(path, engine)
    found.configure("")
    assert found.type("migrate")[0] == 0
    yield found
    engine.dispose()


# ---- plan


def test_a_plan_of_an_empty_outbox_says_so(place: Place) -> None:
    assert place.lines("plan")[0] == "waiting   0 messages"


def test_a_plan_says_how_fast_why_and_until_when(place: Place) -> None:
    place.configure('[poll]\nbatch_size = 20\nbatch_pause = "17s"\n')
    place.let_a_worker_live()
    place.insert(4990)
    place.insert(10, due_at=datetime.now(UTC) + timedelta(minutes=5))
    lines = place.lines("plan")
    assert lines[0] == "waiting   5,000 messages, 10 of them due later"
    assert lines[1] == "rate      67 a minute"
    assert lines[2] == "held by   [poll] batch_size 20, then batch_pause 17s"
    assert lines[4].endswith(" UTC, in 1h14m")


def test_a_plan_names_the_slowest_destinations_what_it_left_out_and_what_to_mend(place: Place) -> None:
    place.configure(
        '[throttle.providers.google]\nrates = ["30/m", "1000/h"]\n[throttle.domains."a.example"]\ngap = "1h"'
    )
    place.insert(1100, recipients="x@gmail.com", relay="smtp")
    place.insert(3, recipients="x@a.example")
    place.insert(2, recipients="x@b.example", relay="elsewhere")
    place.insert(status="paused")
    place.let_a_worker_live()
    output = "\n".join(place.lines("plan"))
    assert "held by   domain a.example: a gap of 1h" in output
    table = [line.split()[:3] for line in output.splitlines() if line.startswith(("domain", "provider", "all"))]
    assert table == [["domain", "a.example", "3"], ["provider", "google", "1,100"]]
    assert "2 rows name the relay elsewhere, which is not configured" in output
    assert "1 rows that a person holds" in output


TROUBLE = "the relay localhost:25 is not available: at connect: connection refused"


def switch_off(place: Place) -> None:
    place.write(meta, name="paused", value="by an operator")
    place.let_a_worker_live()


def clone(place: Place) -> None:
    place.write(meta, name="belongs_to", value="elsewhere")
    place.let_a_worker_live()


def fall_silent(place: Place) -> None:
    place.let_a_worker_live(silent_from=datetime.now(UTC) - timedelta(seconds=1))


REASONS = {
    "nobody is alive": (lambda _: None, "no worker is alive; start one with: poller run"),
    "the worker is silent": (fall_silent, "no worker is alive (w1 is silent since "),
    "the relay is down": (lambda place: place.let_a_worker_live(trouble=TROUBLE), TROUBLE),
    "the switch is off": (switch_off, "the whole outbox is off: by an operator"),
    "the outbox is a clone": (clone, "this outbox belongs to elsewhere and was met at "),
}


@pytest.mark.parametrize("reason", REASONS)
def test_while_something_keeps_all_mail_from_going_nobody_says_when_it_ends(place: Place, reason: str) -> None:
    happen, words = REASONS[reason]
    happen(place)
    row_id = place.insert(5)
    assert place.lines("plan")[1].startswith(f"unknown   when they will have gone: {words}")
    assert (
        f"unknown when they will have gone: {words}" in place.lines("status")[2 if reason == "the switch is off" else 1]
    )
    assert place.explained(row_id)[0].startswith(words)
    planned, seen = (json.loads(place.type(command, "--json")[1]) for command in ("plan", "status"))
    assert (planned["last_at"], seen["seconds_left"]) == (None, None)
    assert planned["unknown_because"] == seen["unknown_because"] != []


def test_plan_and_status_reckon_alike_and_with_a_sender_that_was_slowed(place: Place) -> None:
    place.let_a_worker_live()
    place.configure('[throttle.senders."news@example.com"]\nrates = ["60/m"]\n')
    place.insert(600, sender="News <news@example.com>")
    place.write(throttle, kind="sender", name="news@example.com", pace=0.5, reason="slower, please")
    planned, seen = (json.loads(place.type(command, "--json")[1]) for command in ("plan", "status"))
    assert planned["seconds"] == pytest.approx(1200, rel=0.1)
    assert seen["seconds_left"] == pytest.approx(planned["seconds"], rel=0.01)
    assert "gone in 19m58s" in place.lines("status")[1]


def test_a_plan_of_a_batch_leaves_the_others_out_and_refuses_one_that_does_not_exist(place: Place) -> None:
    place.insert(7, batch="spring")
    place.insert(5)
    assert place.lines("plan", "--batch", "spring")[0] == "waiting   7 messages"
    assert place.type("plan", "--batch", "autumn") == (2, "Error: there is no batch 'autumn'\n")


def test_a_plan_for_programs_has_all_of_it(place: Place) -> None:
    place.configure('[smtp]\nhost = "smtp.office365.com"\n[throttle]\nrates = ["30/m"]\n')
    place.insert(61)
    found = json.loads(place.type("plan", "--json")[1])
    assert (found["messages"], found["batch"], found["bottleneck"]) == (61, None, "the whole outbox: 30/m")
    assert found["seconds"] == pytest.approx(120, abs=1)
    assert found["per_minute"] == pytest.approx(30, abs=0.5)
    assert [one["name"] for one in found["destinations"]] == ["all others"]
    assert "Exchange Online" in found["warnings"][0]


# ---- explain


def test_what_stops_everything_is_said_before_what_stops_a_row(place: Place) -> None:
    place.configure('[throttle]\nrates = ["1/m"]\nquiet = ["00:00-23:59"]\n')
    row = place.insert(2, due_at=datetime.now(UTC) + timedelta(hours=2)) + 1
    place.write(meta, name="paused", value="by Ann")
    stranger(place.engine, "elsewhere")
    lines = place.explained(row)
    expected = ("the whole outbox is off: by Ann", "this outbox belongs to elsewhere", "no worker is alive")
    assert [line.startswith(words) for line, words in zip(lines, expected, strict=False)] == [True] * 3
    assert [line for line in lines if line.startswith("it is due in")]


def test_looking_gives_an_outbox_no_home(place: Place) -> None:
    row = place.insert()
    place.explained(row)
    with place.engine.connect() as connection:
        names = connection.execute(sa.select(meta.c.name).where(meta.c.name == "belongs_to")).all()
    assert names == []


def test_a_row_that_waits_for_its_provider_is_told_how_many_are_before_it_and_about_when(place: Place) -> None:
    place.configure('[throttle.providers.google]\nrates = ["30/m"]\n')
    place.let_a_worker_live()
    place.insert(900, recipients="x@gmail.com")
    row = place.insert(recipients="x@googlemail.com")
    (line,) = place.explained(row)
    assert line.startswith("it waits for provider google: 30/m; 900 rows of it are before this one, so about ")
    place.insert(recipients="x@b.example", priority=0)
    assert "; 900 rows" in place.explained(row)[0]


def test_a_pause_is_told_with_its_reason_and_its_end(place: Place) -> None:
    place.let_a_worker_live()
    row = place.insert(recipients="x@b.example")
    until = datetime.now(UTC) + timedelta(hours=1)
    place.write(throttle, kind="domain", name="b.example", **as_row(paused(Scope(), until, "450 too many")))
    (line,) = place.explained(row)
    assert line == f"domain b.example is paused until {until:%Y-%m-%d %H:%M:%S} UTC (450 too many)"


def test_a_row_with_several_recipients_waits_for_each_destination(place: Place) -> None:
    place.let_a_worker_live()
    row = place.insert(recipients="x@free.example, y@c.example", cc="z@b.example")
    until = datetime.now(UTC) + timedelta(hours=1)
    for name, later in (("b.example", until), ("c.example", until + timedelta(hours=1))):
        place.write(throttle, kind="domain", name=name, **as_row(paused(Scope(), later, "busy")))
    assert [line.split()[1] for line in place.explained(row)] == ["c.example", "b.example"]


def test_a_relay_that_nobody_configured_is_named(place: Place) -> None:
    place.let_a_worker_live()
    (line,) = place.explained(place.insert(relay="fast"))
    assert line == "it names the relay fast, and there is none of that name; there are: smtp"


def test_a_row_that_nothing_holds_is_due(place: Place) -> None:
    place.let_a_worker_live()
    assert place.explained(place.insert()) == [
        "it is due, with priority 5; no due row is before it; batches, templates and senders take turns"
    ]


def test_trouble_of_the_relay_is_told(place: Place) -> None:
    place.let_a_worker_live(trouble="the relay smtp is not available: refused")
    assert place.explained(place.insert()) == ["the relay smtp is not available: refused"]


# ---- status


def test_status_shows_what_is_paused_slow_limited_and_learnt(place: Place) -> None:
    place.configure('[throttle]\nrates = ["60/m", "500/d"]\nwindows = ["00:00-12:00", "12:00-23:59"]\n')
    until = datetime.now(UTC) + timedelta(hours=1)
    place.write(throttle, kind="domain", name="b.example", **as_row(paused(Scope(), until, "busy")))
    place.write(throttle, kind="domain", name="c.example", pace=0.5, reason="slow [down]")
    place.write(throttle, kind="relay", name="smtp", session_limit=50)
    lines = place.lines("status")
    assert f"paused    domain b.example: until {until:%Y-%m-%d %H:%M:%S} UTC; busy" in lines
    assert "slow      domain c.example: slowed to 50%; slow [down]" in lines
    assert "limit     the whole outbox: 60/m and 500/d; 0 of 500/d used" in lines
    assert "limit     relay smtp: at most 50 messages on a connection, as learnt" in lines
    found = json.loads(place.type("status", "--json")[1])
    assert [(one["kind"], one["name"]) for one in found["throttles"]] == [
        ("domain", "b.example"),
        ("domain", "c.example"),
        ("outbox", ""),
        ("relay", "smtp"),
    ]
    assert found["throttles"][2]["quotas"] == [{"quota": "500/d", "used": 0, "of": 500}]


def test_status_without_limits_says_nothing_of_them(place: Place) -> None:
    assert not [line for line in place.lines("status") if line.startswith(("limit", "paused", "slow", "open"))]
