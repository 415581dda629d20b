"""A MariaDB whose administrator has other tastes: SQL modes and character sets that change how statements are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from outbox.ground import insert, sent, status_of, store_for
from servers.mariadb import MariaDB, Unavailable

from poller.outbox.database import DatabaseRefused, connect
from poller.outbox.migrate import apply, require_current
from poller.outbox.settings import DatabaseSettings
from poller.pacing.gate import Gate

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
    try:
        with MariaDB(f"--sql-mode={sql_mode}", f"--character-set-server={charset}") as server:
            engine = connect(DatabaseSettings(url=server.url))
            yield engine
            engine.dispose()
    except Unavailable as why:
        pytest.skip(str(why))


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


def test_an_engine_that_only_says_it_is_mysql_is_refused_by_its_banner() -> None:
    """TiDB answers as MySQL, and ignores SKIP LOCKED without a word."""
    try:
        with MariaDB("--version=5.7.10-TiDB-v4.0.0") as server:
            engine = connect(DatabaseSettings(url=server.url))
            with pytest.raises(DatabaseRefused, match=r"TiDB.*SKIP LOCKED.*use PostgreSQL"):
                require_current(engine)
            engine.dispose()
    except Unavailable as why:
        pytest.skip(str(why))
