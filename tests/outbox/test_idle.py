"""A transaction that is left open, by a process that was stopped or a line that died, is ended by the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from poller.outbox.dialect import IDLE_WITHIN_S

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

ASK = {
    "postgresql": "SELECT setting::integer / 1000 FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'",
    "mariadb": "SELECT @@idle_transaction_timeout",
}


@pytest.mark.parametrize("kind", [*ASK])
def test_the_server_ends_what_is_idle_within_a_transaction(engine: Engine, kind: str) -> None:
    with engine.connect() as connection:
        assert connection.execute(sa.text(ASK[kind])).scalar() == IDLE_WITHIN_S
