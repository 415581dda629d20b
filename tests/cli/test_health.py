"""`poller status --check`: what a monitoring system is told, in one line and by the exit code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from poller.cli import main
from poller.outbox.database import connect
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import meta, outbox
from poller.outbox.tables import worker as workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "config.toml").write_text(
        f'[database]\nurl = "sqlite:///{tmp_path}/outbox.db"\n[smtp]\nhost = "localhost"\n'
    )
    assert CliRunner().invoke(main, ["--config", f"{tmp_path}/config.toml", "migrate"]).exit_code == 0
    engine = connect(DatabaseSettings(url=f"sqlite:///{tmp_path}/outbox.db"))
    yield engine
    engine.dispose()


def told(directory: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["--config", f"{directory}/config.toml", "status", "--check", *words])
    (line,) = result.output.splitlines()
    return result.exit_code, line


def write(engine: Engine, table: sa.Table, **columns: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(table).values(columns))


def live(engine: Engine, **more: object) -> None:
    now = datetime.now(UTC)
    facts = {"name": "w1", "identity": "d", "incarnation": 1, "host": "h", "pid": 1, "version": "0"}
    times = {"started_at": now, "heartbeat_at": now, "lease_until": now + timedelta(hours=1)}
    write(engine, workers, **facts | times | more)


def insert(engine: Engine, *, minutes: float = 0, **columns: object) -> None:
    due = datetime.now(UTC) - timedelta(minutes=minutes)
    write(engine, outbox, recipients="a@b.c", body_text="x", due_at=due, **columns)


def sent(engine: Engine, *, minutes: float) -> None:
    at = datetime.now(UTC) - timedelta(minutes=minutes)
    insert(engine, status="sent", sent_at=at, finished_at=at)


def test_all_is_well(engine: Engine, tmp_path: Path) -> None:
    live(engine)
    insert(engine)
    assert told(tmp_path) == (0, "OK - 1 due, 1 workers alive | due=1 oldest_due=0s in_doubt=0 workers_alive=1")


def test_nobody_alive_is_critical(engine: Engine, tmp_path: Path) -> None:
    live(engine, silent_from=datetime.now(UTC) - timedelta(seconds=1))
    code, line = told(tmp_path)
    assert (code, line.startswith("CRITICAL - no worker is alive (w1 is silent since ")) == (2, True)


def test_a_relay_that_is_away_is_critical_in_its_own_words(engine: Engine, tmp_path: Path) -> None:
    live(engine, trouble="the relay mx:25 is not available: at connect: refused")
    code, line = told(tmp_path)
    assert (code, line.split(" | ")[0]) == (2, "CRITICAL - the relay mx:25 is not available: at connect: refused")


def test_mail_that_is_due_and_does_not_move_is_critical_and_a_queue_that_moves_is_not(
    engine: Engine, tmp_path: Path
) -> None:
    live(engine)
    insert(engine, minutes=11)
    code, line = told(tmp_path)
    assert (code, "1 due, the oldest for 11m, and nothing was ever sent" in line) == (2, True)
    assert told(tmp_path, "--max-age", "1h")[0] == 0
    sent(engine, minutes=12)
    assert "the last was sent 12m ago" in told(tmp_path)[1]
    sent(engine, minutes=1)
    assert told(tmp_path)[0] == 0


def test_what_a_person_should_look_at_is_a_warning(engine: Engine, tmp_path: Path) -> None:
    live(engine)
    insert(engine, minutes=60, status="in_doubt")
    code, line = told(tmp_path)
    assert (code, line.startswith("WARNING - 1 in doubt: poller resolve | ")) == (1, True)
    write(engine, meta, name="paused", value="by an operator")
    code, line = told(tmp_path)
    assert (code, "the whole outbox is off: by an operator" in line) == (1, True)


def test_what_cannot_be_looked_at_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[database]\nurl = "sqlite:///{tmp_path}/none.db"\n[smtp]\nhost = "x"\n')
    code, line = told(tmp_path)
    assert (code, line.startswith("UNKNOWN - ")) == (3, True)
    (tmp_path / "config.toml").write_text("[smtp]\nhosst = 1\n")
    code, line = told(tmp_path)
    assert (code, "hosst" in line) == (3, True)
