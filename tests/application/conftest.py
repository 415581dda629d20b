"""Users with the roles of sql/*/roles.sql, as the tests of the outbox have them."""

from __future__ import annotations

from outbox.conftest import login as login  # noqa: PLC0414 - a fixture
