"""`poller check`: a verdict and a remedy for each thing, all at once, and nothing written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from databases import free_port
from servers.fault import Faults, FaultServer

from poller.cli import main

if TYPE_CHECKING:
    from pathlib import Path


def check(path: Path) -> tuple[int, list[str]]:
    result = CliRunner().invoke(main, ["--config", str(path), "check"])
    return result.exit_code, result.output.splitlines()


def written(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text)
    return path


def test_a_bad_configuration_shows_every_problem_and_still_looks_at_the_database(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"""[database]
url = "postgresql://poller@127.0.0.1:{free_port()}/shop"
[smtp]
hosst = "smtp.example.com"
reply_timeout = "5"
username = "shop"
password_file = "missing.secret"
""",
    )
    code, lines = check(path)
    failed = [line for line in lines if line.startswith("FAIL")]
    assert code == 2
    assert [line.split()[1] for line in failed] == ["config", "config", "config", "database"]
    assert 'smtp.hosst: unknown key; did you mean "host"?' in failed[0]
    assert "smtp.reply_timeout: not a duration" in failed[1]
    assert "missing.secret: No such file" in failed[2]
    assert "refused" in failed[3]


def test_a_missing_sqlite_file_is_said_and_not_made(tmp_path: Path) -> None:
    with FaultServer(Faults()) as relay:
        path = written(tmp_path, f'[smtp]\nhost = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\n')
        code, lines = check(path)
    assert code == 1
    assert [line.split()[1] for line in lines if line.startswith("FAIL")] == ["database"]
    assert not (tmp_path / "outbox.db").exists()


@pytest.mark.parametrize("refused", [0, 1])
def test_a_good_installation_passes_and_a_refused_login_does_not(tmp_path: Path, refused: int) -> None:
    faults = Faults(users={"shop": "secret"}, refuse_logins=refused)
    with FaultServer(faults) as relay:
        smtp = f'host = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\nusername = "shop"\npassword = "secret"\n'
        path = written(tmp_path, f"[smtp]\n{smtp}")
        assert CliRunner().invoke(main, ["--config", str(path), "migrate"]).exit_code == 0
        code, lines = check(path)
        assert relay.messages == []
    assert code == refused
    assert ("FAIL relay" in "\n".join(lines)) == bool(refused)
