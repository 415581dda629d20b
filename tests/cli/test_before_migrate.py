"""Before `poller migrate`: each command says which outbox is missing, in one line, and makes no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from poller.cli import main

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("run --once", "status", "show 1", "plan", "pause --all", "retry 1", "adopt --yes")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose configuration names no database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLLER_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("[worker]\nstate_dir = 'state'\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_file_is_named_and_not_made(elsewhere: Path, command: str) -> None:
    result = CliRunner().invoke(main, command.split())
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert f"no outbox {elsewhere / 'outbox.db'}; run: poller migrate" in result.output
    assert [path.name for path in elsewhere.iterdir()] == ["config.toml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_database_without_our_tables_is_named(elsewhere: Path, command: str) -> None:
    (elsewhere / "outbox.db").touch()
    result = CliRunner().invoke(main, command.split())
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert f"the outbox {elsewhere / 'outbox.db'} lacks 0001_outbox; run: poller migrate" in result.output


def test_migrate_prints_without_making_and_says_where_it_made(elsewhere: Path) -> None:
    printed = CliRunner().invoke(main, ["migrate", "--sql"])
    assert (printed.exit_code, "CREATE TABLE outbox " in printed.output) == (0, True)
    assert not (elsewhere / "outbox.db").exists()
    made = CliRunner().invoke(main, ["migrate"])
    assert f"the outbox {elsewhere / 'outbox.db'} is up to date" in made.output
    assert (elsewhere / "outbox.db").exists()
