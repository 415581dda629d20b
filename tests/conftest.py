"""Fixtures that every test may use: a fresh database of each kind that can be had."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import databases
import hypothesis
import pytest

from poller.outbox.database import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

hypothesis.settings.register_profile("poller", deadline=None)  # a busy machine is no fault of a rule
hypothesis.settings.load_profile("poller")

REQUIRED = frozenset(filter(None, os.environ.get("POLLER_TEST_REQUIRE", "").split(",")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not os.environ.get("POLLER_TEST_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes long: POLLER_TEST_LONG=1 runs it"))


def pytest_sessionfinish() -> None:
    databases.stop_embedded()


@pytest.fixture(params=databases.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """One of postgresql, mariadb, sqlite: the test runs once for each."""
    return str(request.param)


def _database(kind: str, directory: Path, *, migrated: bool) -> Iterator[DatabaseSettings]:
    try:
        context = databases.database(kind, directory, migrated=migrated)
        settings = context.__enter__()
    except databases.Missing as why:
        if kind in REQUIRED:
            raise
        pytest.skip(str(why))
    try:
        yield settings
    finally:
        context.__exit__(None, None, None)


@pytest.fixture
def database(kind: str, tmp_path: Path) -> Iterator[DatabaseSettings]:
    """A fresh outbox."""
    yield from _database(kind, tmp_path, migrated=True)


@pytest.fixture
def bare_database(kind: str, tmp_path: Path) -> Iterator[DatabaseSettings]:
    """A fresh database without any table."""
    yield from _database(kind, tmp_path, migrated=False)


@pytest.fixture
def engine(database: DatabaseSettings) -> Iterator[Engine]:
    """An engine for a fresh outbox."""
    engine = connect(database)
    yield engine
    engine.dispose()
