"""A command imports what it needs: the libraries take far longer than the command."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from poller.cli import COMMANDS, main

if TYPE_CHECKING:
    from pathlib import Path

LIBRARIES = ("apscheduler", "dns", "jinja2", "pydantic", "rich", "sqlalchemy", "structlog")
TO_LOOK = {"pydantic", "sqlalchemy"}
RUN = """
import sys
from poller.cli import main
main(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""


def imported(*arguments: str) -> set[str]:
    """The modules that a command has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, check=True, text=True, timeout=60
    )
    return set(done.stderr.split())


def test_the_list_of_commands_imports_no_library() -> None:
    assert imported("--help") & set(LIBRARIES) == set()


@pytest.mark.parametrize("command", [["status"], ["show", "1"], ["plan"], ["explain", "1"], ["pause", "--all"]])
def test_who_looks_imports_the_database_and_nothing_that_sends(tmp_path: Path, command: list[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[database]\nurl = "sqlite:///{tmp_path}/outbox.db"\n[smtp]\nhost = "localhost"\n')
    for before in (["migrate"], ["send", "--to", "a@example.com", "--from", "b@example.com", "--text", "x"]):
        assert CliRunner().invoke(main, ["--config", str(config), *before]).exit_code == 0
    found = imported("--config", str(config), *command)
    assert found & set(LIBRARIES) == TO_LOOK
    assert [name for name in found if name.startswith(("sqlalchemy.dialects.postg", "sqlalchemy.dialects.mysql"))] == []


@pytest.mark.parametrize("command", ["status", "run", "demo"])
def test_a_system_that_it_cannot_run_on_is_told_so_in_words(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    said = CliRunner().invoke(main, [command])
    assert (said.exit_code, "on Windows run it in WSL" in said.output) == (2, True)


def test_an_application_needs_nothing_that_only_some_systems_have() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import poller; poller.enqueue"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_each_command_is_listed_by_a_line_that_fits_and_knows_its_own_name() -> None:
    for name, (_, _, line) in COMMANDS.items():
        command = main.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert (command.name, line.endswith("."), len(line) < 80) == (name, True, True)
