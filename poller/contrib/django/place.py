"""Which database is the outbox's: POLLER_DATABASE, an alias of DATABASES, or "default"; and its URL for the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMES = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}


def alias() -> str:
    """The alias of the outbox's database."""
    return str(getattr(settings, "POLLER_DATABASE", DEFAULT_DB_ALIAS))


def url(vendor: str, database: Mapping[str, Any]) -> str:
    """The URL by which the service reaches the database that an entry of DATABASES describes. It holds the password."""
    name = str(database["NAME"])
    if vendor == "sqlite":
        return f"sqlite:///{name}"
    user, password = (quote(str(database.get(key) or ""), safe="") for key in ("USER", "PASSWORD"))
    host, port = str(database.get("HOST") or ""), str(database.get("PORT") or "")
    who = f"{user}:{password}@" if password else f"{user}@" if user else ""
    socket = {"postgresql": "host", "mysql": "unix_socket"}[vendor] if host.startswith("/") else ""
    where = "" if socket else host + (f":{port}" if port else "")
    options = "?" + urlencode({socket: host}) if socket else ""
    return f"{_SCHEMES[vendor]}://{who}{where}/{quote(name, safe='')}{options}"
