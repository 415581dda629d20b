"""Hearing of new rows at once, on PostgreSQL: LISTEN on a connection of its own.

Rule 1. It is a hint. `heard` is called when rows were inserted, and once after each connect: what happened meanwhile is
        unknown. Looking at intervals stays the truth.
Rule 2. A connection that is lost is made again, with growing pauses, until `stop`.

A pooler passes no notifications: behind one the Ear listens at `[database] listen_url`. Without it, it says so once and
is deaf.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from poller.outbox.database import connect, is_pooled, transaction
from poller.outbox.migrate import sql_directory
from poller.outbox.trouble import words_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection, Engine

    from poller.outbox.settings import DatabaseSettings

CHANNEL = "outbox"  # as in sql/postgresql/listen.sql
TRIGGER = "outbox_heard"
_DEAF = "a pooler passes no notifications: new rows are found by looking; [database] listen_url may lead around it"
AGAIN_FIRST_S, AGAIN_LONGEST_S = 1.0, 60.0


class Ear:
    """Listens in a thread of its own from `start` to `stop`.

    `heard` and `lost` (why, in words) are called there.
    """

    def __init__(
        self,
        engine: Engine,
        settings: DatabaseSettings,
        *,
        heard: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._has_own = settings.listen_url is not None
        if settings.listen_url:
            self._engine = connect(replace(settings, url=settings.listen_url, pooled=False))
        self._heard = heard
        self._lost = lost
        self._stopping = threading.Event()
        self._read_end, self._write_end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="ear", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when nothing will be called any more."""
        self._stopping.set()
        os.write(self._write_end, b"!")
        if self._thread.ident is not None:
            self._thread.join()
        os.close(self._read_end)
        os.close(self._write_end)

    def _run(self) -> None:
        pause = AGAIN_FIRST_S
        while not self._stopping.is_set():
            try:
                if not self._has_own and is_pooled(self._engine):
                    self._lost(_DEAF)
                    return
                with contextlib.closing(self._connected()) as connection:
                    pause = AGAIN_FIRST_S
                    self._listen(connection)
            except (sa.exc.SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error, OSError) as why:
                self._lost(words_of(why))
                self._stopping.wait(pause)
                pause = min(pause * 2, AGAIN_LONGEST_S)

    def _connected(self) -> Any:
        """A connection of the driver's own that belongs to no pool."""
        raw = self._engine.raw_connection()
        driver: Any = raw.driver_connection
        raw.detach()
        driver.autocommit = True
        return driver

    def _listen(self, connection: Any) -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        schema = connection.execute("SELECT current_schema()").fetchone()[0]
        self._heard()
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        poll.register(connection.fileno(), select.POLLIN)
        while not self._stopping.is_set():
            poll.poll()
            connection.pgconn.consume_input()
            news = [notice.extra.decode() for notice in iter(connection.pgconn.notifies, None)]
            if schema in news:
                self._heard()


def install(engine: Engine) -> bool:
    """Make the trigger that notifies, on PostgreSQL; elsewhere there is none. True: it was not there."""
    if engine.dialect.name != "postgresql" or is_installed(engine):
        return False
    text = (sql_directory("postgresql") / "listen.sql").read_text(encoding="utf-8")
    transaction(engine, lambda c: _run_raw(c, text))
    return True


def is_installed(engine: Engine) -> bool:
    """Whether INSERTs notify."""
    query = sa.text("SELECT 1 FROM pg_trigger WHERE tgrelid = CAST('outbox' AS regclass) AND tgname = :name")
    return transaction(engine, lambda c: c.execute(query, {"name": TRIGGER}).first(), reading=True) is not None


def _run_raw(connection: Connection, text: str) -> None:
    dbapi: Any = connection.connection.driver_connection
    dbapi.execute(text)
