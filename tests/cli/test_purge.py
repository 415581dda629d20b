"""`poller purge`, and the service that does it by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from poller.cli import main
from poller.outbox.database import connect
from poller.outbox.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

OLD = (
    "INSERT INTO outbox (recipients, body_text, status, sent_at, finished_at)"
    " VALUES ('a@b.c', 'x', 'sent', '2020-01-01 00:00:00', '2020-01-01 00:00:00')"
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    assert typed(tmp_path, "migrate").exit_code == 0
    engine = connect(DatabaseSettings(url=f"sqlite:///{tmp_path}/outbox.db"))
    with engine.begin() as connection:
        for _ in range(3):
            connection.exec_driver_sql(OLD)
    yield engine
    engine.dispose()


def typed(directory: Path, *words: str, retention: str = 'sent = "90d"') -> Result:
    path = directory / "config.toml"
    text = (
        f'[database]\nurl = "sqlite:///{directory}/outbox.db"\n[smtp]\nhost = "localhost"\n[retention]\n{retention}\n'
    )
    path.write_text(text)
    return CliRunner().invoke(main, ["--config", str(path), *words])


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM outbox")).scalar_one())


def test_it_counts_asks_and_deletes(engine: Engine, tmp_path: Path) -> None:
    assert typed(tmp_path, "purge", "--dry-run").stdout == "3 rows are past their time\n"
    asked = typed(tmp_path, "purge")
    assert (asked.exit_code, "add --yes" in asked.output, rows(engine)) == (2, True, 3)
    done = typed(tmp_path, "purge", "--yes")
    said = "3 rows deleted with all that was theirs, and 0 lines of other history\n"
    assert (done.exit_code, done.stdout, rows(engine)) == (0, said, 0)


def test_without_a_time_nothing_is_deleted_and_it_says_how_to_give_one(engine: Engine, tmp_path: Path) -> None:
    refused = typed(tmp_path, "purge", "--yes", retention="")
    assert (refused.exit_code, 'sent = "90d"' in refused.output, rows(engine)) == (2, True, 3)
