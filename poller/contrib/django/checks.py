"""What `manage.py check` says of the outbox.

| id | says | when |
|---|---|---|
| poller.E001 | the alias is not in DATABASES | always |
| poller.E002 | the database is of a kind that has no outbox | always |
| poller.W001 | mail of a view may go out although the view fails | always, without ATOMIC_REQUESTS |
| poller.E003 | there is no outbox, or it lacks columns that this version writes | with `--database` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's name for it
from django.db import DatabaseError, connections, transaction

from poller.columns import APPLICATION_COLUMNS
from poller.contrib.django import place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BACKEND = "poller.contrib.django.EmailBackend"
_KINDS = ("postgresql", "mysql", "sqlite")
_HAS = {
    "postgresql": "SELECT column_name FROM information_schema.columns WHERE table_name = %s",
    "mysql": "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s",
    "sqlite": "SELECT name FROM pragma_table_info(%s)",
}
"""The columns that we have any right to."""


@register()
def settings_fit(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:  # noqa: ARG001 - Django's signature
    """The alias is there, of a kind that has an outbox, and views are transactions."""
    found: list[CheckMessage] = []
    for alias in _aliases():
        if alias not in connections:
            hint = "name one that is there: POLLER_DATABASE, or `database` in the OPTIONS of the mailer"
            found.append(Error(f"the outbox's database {alias!r} is not in DATABASES", hint=hint, id="poller.E001"))
        elif connections[alias].vendor not in _KINDS:
            hint = "an outbox lives in PostgreSQL, MariaDB, MySQL or SQLite"
            found.append(Error(f"the database {alias!r} can't hold an outbox", hint=hint, id="poller.E002"))
        elif not connections[alias].settings_dict["ATOMIC_REQUESTS"]:
            hint = "set ATOMIC_REQUESTS, or send mail inside transaction.atomic(); then silence this check"
            text = f"mail of a view that fails later goes out: {alias!r} commits each statement by itself"
            found.append(Warning(text, hint=hint, id="poller.W001"))
    return found


@register(Tags.database)
def schema_fits(
    app_configs: Sequence[Any] | None,  # noqa: ARG001 - Django's signature
    databases: Iterable[str] | None = None,
    **_: Any,
) -> list[CheckMessage]:
    """The table is there, with the columns that this version writes."""
    asked = [alias for alias in _aliases() if alias in connections and connections[alias].vendor in _KINDS]
    return [problem for alias in asked if alias in (databases or ()) for problem in _schema(alias)]


def _schema(alias: str) -> list[CheckMessage]:
    try:
        columns = _columns(alias)
    except DatabaseError as error:
        return [Error(f"the outbox in {alias!r} can't be looked at: {error}", id="poller.E003")]
    hint = "run `manage.py poller migrate`, or `poller migrate`; then grant the rights of sql/*/roles.sql"
    if not columns:
        return [Error(f"there is no outbox in {alias!r} that we may write to", hint=hint, id="poller.E003")]
    missing = [name for name in APPLICATION_COLUMNS if name not in columns]
    if missing:
        text = f"the outbox in {alias!r} lacks what this version writes: {', '.join(missing)}"
        return [Error(text, hint=hint, id="poller.E003")]
    return []


def _columns(alias: str) -> set[str]:
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute(_HAS[connections[alias].vendor], ["outbox"])
        return {str(name) for (name,) in cursor.fetchall()}


def _aliases() -> list[str]:
    """Where mail is written, and where the admin reads."""
    mailers = getattr(settings, "MAILERS", {}).values()
    ours = [mailer.get("OPTIONS", {}) for mailer in mailers if mailer.get("BACKEND") == _BACKEND]
    return list(dict.fromkeys([place.alias(), *(str(options.get("database", place.alias())) for options in ours)]))
