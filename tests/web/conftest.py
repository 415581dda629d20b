"""A page of a fresh outbox, and two who may see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from service import zygote
from web.visit import ANNA, BOB, Visitor, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.outbox.settings import DatabaseSettings


def pytest_sessionfinish() -> None:
    zygote.stop()


@pytest.fixture
def port(database: DatabaseSettings) -> Iterator[int]:
    """Of the page."""
    with serving(database) as server:
        yield server.port


@pytest.fixture
def anna(port: int) -> Visitor:
    """May act."""
    visitor = Visitor(port)
    visitor.enter(ANNA)
    return visitor


@pytest.fixture
def bob(port: int) -> Visitor:
    """May read."""
    visitor = Visitor(port)
    visitor.enter(BOB)
    return visitor
