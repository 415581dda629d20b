"""Hearing of new rows: a hint that comes at once, and again after the connection was lost."""

from __future__ import annotations

import queue
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.ground import by_hand, insert

from poller.outbox.listen import Ear, install, is_installed
from poller.outbox.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

pytestmark = pytest.mark.parametrize("kind", ["postgresql"])  # only PostgreSQL notifies

SOON_S = 20


@contextmanager
def listening(engine: Engine) -> Iterator[queue.SimpleQueue[str]]:
    news: queue.SimpleQueue[str] = queue.SimpleQueue()
    settings = DatabaseSettings(url=engine.url.render_as_string(hide_password=False))
    ear = Ear(engine, settings, heard=lambda: news.put("heard"), lost=lambda _: news.put("lost"))
    ear.start()
    assert news.get(timeout=SOON_S) == "heard"  # once, for what was there before
    try:
        yield news
    finally:
        ear.stop()


@pytest.fixture
def notifying(engine: Engine) -> Iterator[Engine]:
    install(engine)
    yield engine
    by_hand(engine, "DROP TRIGGER outbox_heard ON outbox")


def test_an_insert_is_heard_when_it_is_committed_and_not_before(notifying: Engine) -> None:
    with listening(notifying) as news:
        with notifying.begin() as connection:
            connection.execute(sa.text("INSERT INTO outbox (recipients, body_text) VALUES ('a@example.com', 'x')"))
            with pytest.raises(queue.Empty):
                news.get(timeout=0.2)
        assert news.get(timeout=SOON_S) == "heard"


def test_a_lost_connection_is_made_again_and_counts_as_news(notifying: Engine) -> None:
    with listening(notifying) as news:
        by_hand(
            notifying,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT current_schema%'"
            " AND datname = current_database() AND pid <> pg_backend_pid()",
        )
        assert news.get(timeout=SOON_S) == "lost"
        assert news.get(timeout=SOON_S) == "heard"
        insert(notifying)
        assert news.get(timeout=SOON_S) == "heard"


def test_the_trigger_is_made_once(engine: Engine) -> None:
    assert [is_installed(engine), install(engine), is_installed(engine), install(engine)] == [False, True, True, False]
    by_hand(engine, "DROP TRIGGER outbox_heard ON outbox")
