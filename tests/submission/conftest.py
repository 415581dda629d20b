"""A listener before a fresh outbox, and the bench of the service's tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from service import zygote
from service.bench import Bench

from poller.log import get_logger
from poller.message.settings import MessageSettings
from poller.submission.listener import Listener
from poller.submission.settings import SubmissionSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from poller.outbox.settings import DatabaseSettings


def pytest_sessionfinish() -> None:
    zygote.stop()


@pytest.fixture
def bench(database: DatabaseSettings, tmp_path: Path) -> Iterator[Bench]:
    """A fresh installation."""
    bench = Bench(database=database, directory=tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def listening(database: DatabaseSettings) -> Iterator[Callable[..., Listener]]:
    """Makes listeners with given settings, that take mail until the test's end."""
    with contextlib.ExitStack() as stack:

        def make(*, elsewhere: DatabaseSettings | None = None, **settings: Any) -> Listener:
            listener = Listener(
                SubmissionSettings(**{"listen": "127.0.0.1:0", **settings}),
                message=MessageSettings(max_size=100_000),
                database=elsewhere or database,
                domain="here.test",
                log=get_logger(),
            )
            listener.start()
            stack.callback(listener.stop)
            return listener

        yield make
