"""A MariaDB whose administrator has other tastes: SQL modes and character sets that change how statements are read."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from databases import free_port
from outbox.ground import insert, sent, status_of, store_for
from servers.processes import wait_until

from poller.outbox.database import connect
from poller.outbox.migrate import apply
from poller.outbox.settings import DatabaseSettings
from poller.throttle.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

DEFAULTS = [
    ("ANSI_QUOTES", "utf8mb4"),
    ("ANSI", "ucs2"),
    ("ORACLE", "utf16"),
    ("PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH", "latin1"),
    ("EMPTY_STRING_IS_NULL", "utf32"),
]


@pytest.fixture
def engine(sql_mode: str, charset: str) -> Iterator[Engine]:
    if not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")):
        pytest.skip("no mariadbd on this machine to start with other defaults")
    directory = Path(tempfile.mkdtemp(prefix="poller-maria-"))
    data, port = directory / "data", free_port()
    user = [f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', 'nobody')}"]
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
    made = subprocess.run([*install, *user], check=False, capture_output=True, text=True, timeout=60)
    if made.returncode:
        shutil.rmtree(directory, ignore_errors=True)
        pytest.skip(f"mariadb-install-db can make no private server here: {made.stderr[-200:]}")
    options = [f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1", f"--socket={directory}/s"]
    options += [f"--sql-mode={sql_mode}", f"--character-set-server={charset}", "--innodb-buffer-pool-size=16M"]
    process = subprocess.Popen(
        ["mariadbd", "--no-defaults", *options, *user], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        server = sa.create_engine(f"mysql+pymysql://root@127.0.0.1:{port}/")
        wait_until(lambda: _answers(server), "MariaDB answers", 30)
        with server.begin() as connection:
            connection.exec_driver_sql("CREATE DATABASE shop")
        server.dispose()
        engine = connect(DatabaseSettings(url=f"mysql://root@127.0.0.1:{port}/shop"))
        yield engine
        engine.dispose()
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _answers(server: Engine) -> bool:
    try:
        with server.connect() as connection:
            return connection.exec_driver_sql("SELECT 1").scalar() == 1
    except sa.exc.OperationalError:
        return False


@pytest.mark.parametrize(("sql_mode", "charset"), DEFAULTS)
def test_a_row_goes_its_way(engine: Engine, sql_mode: str, charset: str) -> None:
    apply(engine)
    with engine.connect() as connection:
        assert charset in connection.exec_driver_sql("SELECT @@character_set_server").scalar_one()
        assert sql_mode.split(",", maxsplit=1)[0] in connection.exec_driver_sql("SELECT @@GLOBAL.sql_mode").scalar_one()
    row_id = insert(engine, recipients="Zoë <zoë@münchen.example>", subject="Grüße 🚀", headers={"X-A": "é"})
    store = store_for(engine, "w1")
    (row,) = store.claim(Gate(limit=5))
    assert (row.content["subject"], row.domain) == ("Grüße 🚀", "münchen.example")
    assert store.record([sent(store, row)]).written == {row_id}
    assert status_of(engine, row_id) == "sent"
