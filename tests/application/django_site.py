"""A Django project without files: configured once in a process, its database named by each test."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import django
import pymysql
import sqlalchemy as sa
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENGINES = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite3"}
_NOWHERE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
CONTRIB = "poller.contrib.django"

_MAIL: dict[str, Any] = (
    {"MAILERS": {"default": {"BACKEND": f"{CONTRIB}.EmailBackend"}}}
    if django.VERSION >= (6, 1)
    else {"EMAIL_BACKEND": f"{CONTRIB}.EmailBackend"}
)


def configure() -> None:
    if settings.configured:
        return
    pymysql.version_info = (2, 2, 1, "final", 0)  # type: ignore[assignment] # Django asks for mysqlclient's
    pymysql.install_as_MySQLdb()
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        DATABASES={DEFAULT_DB_ALIAS: _NOWHERE},
        DEFAULT_FROM_EMAIL="shop@example.com",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "django.contrib.admin",
            CONTRIB,
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        ROOT_URLCONF="application.django_urls",
        SECRET_KEY="a test's",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        USE_TZ=True,
        **_MAIL,
    )
    django.setup()


@contextmanager
def database(url: str) -> Iterator[Any]:
    """Django's default connection, to this database."""
    configure()
    at = sa.make_url(url)
    connections.databases[DEFAULT_DB_ALIAS] = connections.configure_settings(
        {
            DEFAULT_DB_ALIAS: {
                "ENGINE": f"django.db.backends.{_ENGINES[at.get_backend_name()]}",
                "NAME": at.database,
                "USER": at.username or "",
                "PASSWORD": str(at.password or ""),
                "HOST": at.host or "",
                "PORT": str(at.port or ""),
            }
        }
    )[DEFAULT_DB_ALIAS]
    _forget()
    try:
        yield connections[DEFAULT_DB_ALIAS]
    finally:
        connections[DEFAULT_DB_ALIAS].close()
        _forget()


def _forget() -> None:
    with suppress(AttributeError):
        del connections[DEFAULT_DB_ALIAS]


@contextmanager
def atomic() -> Iterator[Any]:
    with transaction.atomic():
        yield transaction
