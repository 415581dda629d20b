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
