"""One outbox of each kind for the whole session, emptied before each test: a fresh database costs far more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import databases
import pytest
import sqlalchemy as sa
from conftest import REQUIRED
from outbox.ground import store_for

from poller.outbox.database import connect
from poller.outbox.tables import meta, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings
    from poller.outbox.store import Store


@pytest.fixture(scope="session")
def shared_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DatabaseSettings]]:
    contexts = {}
    settings: dict[str, DatabaseSettings] = {}
    for kind in databases.KINDS:
        context = databases.database(kind, tmp_path_factory.mktemp(kind))
        try:
            settings[kind] = context.__enter__()
        except databases.Missing:
            if kind in REQUIRED:
                raise
        else:
            contexts[kind] = context
    yield settings
    for context in contexts.values():
        context.__exit__(None, None, None)


@pytest.fixture
def shared(kind: str, shared_databases: dict[str, DatabaseSettings]) -> DatabaseSettings:
    """The settings of an empty outbox."""
    if kind not in shared_databases:
        pytest.skip(f"no {kind} on this machine")
    return shared_databases[kind]


@pytest.fixture(scope="session")
def shared_engines(shared_databases: dict[str, DatabaseSettings]) -> Iterator[dict[str, Engine]]:
    engines = {kind: connect(settings) for kind, settings in shared_databases.items()}
    yield engines
    for engine in engines.values():
        engine.dispose()


@pytest.fixture
def engine(kind: str, shared: DatabaseSettings, shared_engines: dict[str, Engine]) -> Engine:  # noqa: ARG001 - may skip
    """An engine for an empty outbox."""
    engine = shared_engines[kind]
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            if table is meta:
                connection.execute(sa.delete(meta).where(meta.c.name.not_like("migration %")))
            else:
                connection.execute(sa.delete(table))
    return engine


@pytest.fixture
def store(engine: Engine) -> Store:
    """The store of a worker named w1."""
    return store_for(engine, "w1")


@pytest.fixture
def other(engine: Engine) -> Store:
    """The store of a worker named w2 at the same outbox."""
    return store_for(engine, "w2")
