"""One outbox of each kind for the whole session, emptied before each test: a fresh database costs far more."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import databases
import pytest
import sqlalchemy as sa
from conftest import REQUIRED
from outbox.ground import FILES, roles_sql, store_for

from poller.outbox.database import connect
from poller.outbox.migrate import statements
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import meta, metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine

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


@pytest.fixture
def login(kind: str, database: DatabaseSettings) -> Iterator[Callable[[str], Engine]]:
    """An engine that logs in as a new user who has one of the roles."""
    admin = connect(database)
    raw = admin.raw_connection()
    cursor = raw.cursor()
    for statement in statements(roles_sql(kind), FILES[kind]) * 2:  # it may be repeated
        cursor.execute(statement)
    raw.commit()
    raw.close()
    users: list[str] = []
    engines: list[Engine] = []

    def login(role: str) -> Engine:
        user = f"u_{secrets.token_hex(4)}"
        users.append(user)
        quoted = user if kind == "postgresql" else f"'{user}'@'%'"
        made = {
            "postgresql": [f"CREATE ROLE {user} LOGIN PASSWORD 'x' IN ROLE {role}"],
            "mariadb": [
                f"CREATE USER {quoted} IDENTIFIED BY 'x'",
                f"GRANT {role} TO {quoted}",
                f"SET DEFAULT ROLE {role} FOR {quoted}",
            ],
        }[kind]
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in made:
                connection.exec_driver_sql(statement.replace("%", "%%"))
        url = sa.make_url(database.url).set(username=user, password="x")
        engines.append(connect(DatabaseSettings(url=url.render_as_string(hide_password=False))))
        return engines[-1]

    yield login
    for engine in engines:
        engine.dispose()
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for user in users:
            drop = f"DROP ROLE {user}" if kind == "postgresql" else f"DROP USER '{user}'@'%%'"
            connection.exec_driver_sql(drop)
    admin.dispose()
