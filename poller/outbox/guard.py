"""The clone guard: an outbox that was copied or restored elsewhere must not start mailing by itself.

Rule 1. An outbox remembers the places at which it is at home (`outbox_meta`, "belongs_to", one to a line). A worker
        that meets it at another place sends nothing. The first one enters its own.
Rule 2. An outbox that is older than what a worker's journal knows of it is switched off for everybody.
Rule 3. Both end with `poller adopt`, and with nothing else.

A place is the normalised URL without user and password, and what tells two servers of one address apart: PostgreSQL's
system identifier, and for what is on this machine (SQLite, a local MariaDB) the machine's id. Where a server does not
tell, the URL decides alone. Or it is the name that `[database] belongs_to` gives: several workers that reach one
database by different names, or through a proxy, need such a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from poller.machine import machine_id
from poller.outbox.database import DatabaseRefusal, transaction
from poller.outbox.dialects import dialect_of
from poller.outbox.tables import meta
from poller.outbox.upsert import insert_unless_there, upsert

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from poller.outbox.settings import DatabaseSettings

BELONGS_TO = "belongs_to"
HELD = "older than it was: "
"""How the reason begins for which Rule 2 has switched an outbox off."""

_PORTS = {"postgresql": 5432, "mysql": 3306}


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """What `adopt` did: where the outbox was at home before, and whether it was switched on again."""

    homes: tuple[str, ...]
    is_new: bool
    switched_on: bool
    still_off: str


def home_of(settings: DatabaseSettings, engine: Engine) -> str:
    """The place by which an outbox knows that it is at home. Raises DatabaseUnavailable."""
    if settings.belongs_to:
        return settings.belongs_to
    address = address_of(settings)
    identity = _cluster(engine) if engine.dialect.name == "postgresql" else _machine_of(address)
    return f"{address} on {identity}" if identity else address


_MAY_ASK = "SELECT has_function_privilege(to_regprocedure('pg_catalog.pg_control_system()'), 'EXECUTE')"
_ASK = "SELECT system_identifier FROM pg_catalog.pg_control_system()"


def _cluster(engine: Engine) -> str:
    """PostgreSQL's name of it; "" where we may not ask, or where a service that is like PostgreSQL has none."""
    if not transaction(engine, lambda c: c.exec_driver_sql(_MAY_ASK).scalar(), reading=True):
        return ""
    try:
        return f"cluster {transaction(engine, lambda c: c.exec_driver_sql(_ASK).scalar_one(), reading=True)}"
    except DatabaseRefusal:
        return ""


def _machine_of(address: str) -> str:
    """The machine that we are on, if the database is too. Of another nothing is known that outlasts a new start."""
    is_here = address.startswith("sqlite:") or "://localhost:" in address
    return f"machine {machine_id()}" if is_here and machine_id() else ""


def address_of(settings: DatabaseSettings) -> str:
    """The normalised URL, without user and password."""
    url = make_url(settings.url)
    kind = "mysql" if url.get_backend_name() == "mariadb" else url.get_backend_name()
    if kind == "sqlite":
        return f"sqlite:///{Path(url.database or '').resolve()}"
    host = url.host or url.query.get("host") or url.query.get("unix_socket") or "localhost"
    host = host if isinstance(host, str) else ",".join(host)
    near = host.lower().rstrip(".") in {"localhost", "127.0.0.1", "::1"} or host.startswith("/")
    where = f"{'localhost' if near else host.lower().rstrip('.')}:{url.port or _PORTS.get(kind, 0)}"
    return f"{kind}://{where}/{url.database or ''}" + (f" schema {settings.schema}" if settings.schema else "")


def stranger(engine: Engine, home: str) -> str:
    """Why the outbox is not at home at `home`, in words; "" if it is. The first to ask makes it so."""
    homes = transaction(engine, _homes, reading=True) or transaction(engine, lambda c: _move_in(c, home))
    if home in homes:
        return ""
    return (
        f"this outbox belongs to {' and '.join(homes)} and was met at {home}: a copy must not send what the original"
        " sends; if it is to work here: poller adopt"
    )


def hold(engine: Engine, why: str) -> None:
    """Switch the outbox off, because it is older than it was. A word of an operator's is left."""
    row = {"name": "paused", "value": f"{HELD}{why}; look at it, then: poller adopt"}
    transaction(engine, lambda c: insert_unless_there(c, meta, row))


def adopt(engine: Engine, home: str) -> Adopted:
    """Let the outbox be at home at `home` too, and switch it on again if Rule 2 had switched it off."""
    return transaction(engine, lambda c: _adopt(c, home))


def _homes(connection: Connection) -> list[str]:
    query = sa.select(meta.c.value).where(meta.c.name == BELONGS_TO)
    return [line for line in (connection.execute(query).scalar() or "").splitlines() if line]


def _move_in(connection: Connection, home: str) -> list[str]:
    insert_unless_there(connection, meta, {"name": BELONGS_TO, "value": home})
    return _homes(connection)


def _adopt(connection: Connection, home: str) -> Adopted:
    homes = _homes(connection)
    if home not in homes:
        now = sa.text(dialect_of(connection).now)
        upsert(connection, meta, [{"name": BELONGS_TO, "value": "\n".join([*homes, home]), "updated_at": now}])
    paused = connection.execute(sa.select(meta.c.value).where(meta.c.name == "paused")).scalar()
    held = paused is not None and paused.startswith(HELD)
    if held:
        connection.execute(sa.delete(meta).where(meta.c.name == "paused"))
    off = "" if held else paused or ""
    return Adopted(homes=tuple(homes), is_new=home not in homes, switched_on=held, still_off=off)
