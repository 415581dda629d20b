"""Users with the roles of sql/*/roles.sql, as the tests of the outbox have them; the service is stopped at the end."""

from __future__ import annotations

from outbox.conftest import login as login  # noqa: PLC0414 - a fixture
from service import zygote


def pytest_sessionfinish() -> None:
    zygote.stop()
