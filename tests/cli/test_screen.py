"""What a person sees on a terminal: words from outside are shown as they are, and neither obeyed nor lost."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from poller.cli import look, main
from poller.outbox.database import DatabaseUnavailable, connect
from poller.outbox.migrate import apply
from poller.outbox.settings import DatabaseSettings
from poller.visible import visible

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Engine

ODD = "[/policy] [red]x[/red] :warning: \x1b[31m \u202eevil\r\n\x85 é"
SHOWN = r"[/policy] [red]x[/red] :warning: \x1b[31m \u202eevil\r\n\x85 é"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = DatabaseSettings(url=f"sqlite:///{tmp_path / 'outbox.db'}")
    engine = connect(settings)
    apply(engine)
    insert(engine)
    engine.dispose()
    path = tmp_path / "config.toml"
    path.write_text(f'[database]\nurl = "{settings.url}"\n[smtp]\nhost = "localhost"\n', encoding="utf-8")
    return path


def insert(engine: Engine) -> None:
    row = {"to": f"<{ODD}> you@example.com", "odd": ODD}
    statements = (
        (
            "outbox (recipients, subject, body_text, batch, status, error, reply_code, reply_text, finished_at)"
            " VALUES (:to, :odd, 'x', :odd, 'failed', :odd, 550, :odd, datetime('now'))"
        ),
        (
            "outbox_attempt (outbox_id, claim_seq, at, worker, outcome, error)"
            " VALUES (1, 1, datetime('now'), :odd, 'failed', :odd)"
        ),
        ("outbox_throttle (kind, name, paused_until, reason) VALUES ('domain', :odd, '2099-01-01 00:00:00', :odd)"),
        (
            "outbox_worker"
            " (name, host, pid, incarnation, identity, version, started_at, heartbeat_at, lease_until, trouble)"
            " VALUES (:odd, :odd, 1, 1, 'i', '1', datetime('now'), datetime('now'), datetime('now', '+1 hour'), :odd)"
        ),
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(f"INSERT INTO {statement}"), row)


@pytest.mark.parametrize("command", [["status"], ["show", "1"], ["explain", "1"], ["plan"]])
def test_words_from_outside_are_shown_as_they_are(config: Path, command: list[str]) -> None:
    said = CliRunner().invoke(main, ["--config", str(config), *command])
    assert (said.exit_code, said.exception) == (0, None)
    assert [char for char in said.output if not char.isprintable() and char != "\n"] == []
    if command[0] in {"status", "show"}:
        assert SHOWN in said.output.replace("\n", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_a_character_gets_its_escape_and_the_rest(config: Path, encoding: str) -> None:
    command = [sys.executable, "-m", "poller", "--config", str(config), "show", "1"]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=60, env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"by [/policy]" in done.stdout.splitlines()[-1]


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(look.time, "sleep", sleep)
    return slept


def test_the_watched_screen_has_a_clock_and_says_when_it_cannot_look(
    config: Path, ticks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = look.overview

    def overview(engine: Engine) -> object:
        if len(ticks) == 1:
            raise DatabaseUnavailable("gone for [/odd] a moment")
        return seen(engine)

    monkeypatch.setattr(look, "overview", overview)
    said = CliRunner().invoke(main, ["--config", str(config), "status", "--watch"])
    assert isinstance(said.exception, SystemExit)
    assert "UTC, Ctrl-C ends it" in said.output
    assert len(ticks) == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 😀", "plain é 😀"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\u2066b", r"a\u2066b"),
        ("\ud800", r"\ud800"),
        ("a\nb", r"a\nb"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_the_message_of_a_row_that_was_sent_is_said_not_to_be_what_was_sent(config: Path, tmp_path: Path) -> None:
    engine = connect(DatabaseSettings(url=f"sqlite:///{tmp_path / 'outbox.db'}"))
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO outbox (recipients, sender, body_text) VALUES ('a@b.c', 'd@e.f', 'x')")
        connection.exec_driver_sql(
            "INSERT INTO outbox (recipients, sender, body_text, status, first_attempt_at, sent_at, finished_at) VALUES"
            " ('a@b.c', 'd@e.f', 'x', 'sent', '2026-11-22 09:00:00', '2026-11-22 09:00:01', '2026-11-22 09:00:01')"
        )
    engine.dispose()
    queued, sent = (CliRunner().invoke(main, ["--config", str(config), "show", n, "--raw"]) for n in "23")
    assert (queued.exit_code, queued.stderr, b"\r\n\r\nx" in queued.stdout_bytes) == (0, "", True)
    said = "not what was sent at 2026-11-22 09:00:01 UTC, which is not kept: what the row would become now\n"
    assert (sent.exit_code, sent.stderr, b"\r\n\r\nx" in sent.stdout_bytes) == (0, said, True)


def test_for_a_program_columns_are_parted_by_tabs_and_no_line_is_padded_or_wrapped(
    config: Path, tmp_path: Path
) -> None:
    engine = connect(DatabaseSettings(url=f"sqlite:///{tmp_path / 'outbox.db'}"))
    long = "x" * 200
    with engine.begin() as connection:
        for name in ("a", "b" * 60):
            values = f"('x@{name}.example', 'd@e.f', 'x', '{long}')"
            connection.exec_driver_sql(f"INSERT INTO outbox (recipients, sender, body_text, batch) VALUES {values}")
    engine.dispose()
    with config.open("a") as file:
        file.write('[throttle.domains."a.example"]\nrates = ["1/m"]\n')
    plan = CliRunner().invoke(main, ["--config", str(config), "plan"])
    assert plan.exit_code == 0, plan.output
    assert "slowest\twaiting\tlimit\tdone at (UTC)" in plan.stdout.splitlines()
    status = CliRunner().invoke(main, ["--config", str(config), "status"])
    assert [line for line in status.stdout.splitlines() if f" {long}: 0 of 2 sent" in line] != []
    lines = [*plan.stdout.splitlines(), *status.stdout.splitlines()]
    assert [line for line in lines if line != line.rstrip() or "\x1b" in line] == []
