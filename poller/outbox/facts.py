"""What kind of database this is, and how the outbox in it stands: for `poller check`. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from poller.outbox.database import transaction
from poller.outbox.dialects import DIALECTS
from poller.outbox.migrate import SchemaTrouble, pending
from poller.outbox.tables import Utc, meta

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Server and schema at one moment. `trouble` is why the schema can't be used, `pending` what it lacks."""

    dialect: str
    server: str
    version: tuple[int, ...]
    now: datetime
    trouble: str
    pending: tuple[str, ...]
    paused: str | None
    open_schema: str = ""
    """Where everybody may make functions that would run with our rights, if one fitted what we call."""


def about(engine: Engine) -> Facts:
    """Ask the server. Raises DatabaseRefused, DatabaseUnavailable."""
    server, version, now = transaction(engine, _server, reading=True)
    try:
        missing = tuple(migration.name for migration in pending(engine))
        trouble = ""
    except SchemaTrouble as error:
        missing, trouble = (), str(error)
    paused = None
    if not missing and not trouble:
        query = sa.select(meta.c.value).where(meta.c.name == "paused")
        paused = transaction(engine, lambda c: c.execute(query).scalar(), reading=True)
    return Facts(
        dialect=engine.dialect.name,
        server=server,
        version=version,
        now=now,
        trouble=trouble,
        pending=missing,
        paused=paused,
        open_schema=transaction(engine, _open_schema, reading=True),
    )


_OPEN_SCHEMA = sa.text("""
SELECT CAST(current_schema() AS text)
WHERE has_schema_privilege(CAST('public' AS name), CAST(current_schema() AS text), CAST('CREATE' AS text))""")


def _open_schema(connection: Connection) -> str:
    if connection.dialect.name != "postgresql":
        return ""
    return connection.execute(_OPEN_SCHEMA).scalar() or ""


def _server(connection: Connection) -> tuple[str, tuple[int, ...], datetime]:
    dialect = connection.dialect
    numbers: tuple[int, ...] = tuple(part for part in dialect.server_version_info or () if isinstance(part, int))
    name = (
        "MariaDB"
        if getattr(dialect, "is_mariadb", False)
        else {"postgresql": "PostgreSQL", "sqlite": "SQLite"}.get(dialect.name, "MySQL")
    )
    now = connection.execute(sa.select(sa.literal_column(DIALECTS[dialect.name].now, type_=Utc()))).scalar_one()
    assert now is not None  # noqa: S101 - a clock always answers
    return f"{name} {'.'.join(map(str, numbers))}", numbers, now
