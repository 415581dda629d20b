"""Whatever stands in front, a row that may go goes with the first claim of a worker that has seen nothing yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import databases
import pytest
import sqlalchemy as sa
from outbox.ground import insert, store_for
from outbox.test_plans import NOW, NUMBERS

from poller.delivery.claim_plan import Pacing
from poller.outbox.database import connect
from poller.outbox.tables import throttle
from poller.outbox.throttling import Throttles
from poller.pacing.limits import Limit
from poller.pacing.settings import ThrottleSettings
from poller.smtp.relays import RelaySettings
from poller.units import parse_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

LIMIT = Limit(rates=(parse_rate("10/m"),))
FREE = 5
MANY = [20_000, pytest.param(200_000, marks=pytest.mark.long)]


@pytest.fixture
def engine(database: DatabaseSettings) -> Iterator[Engine]:
    engine = connect(database)
    yield engine
    engine.dispose()


def in_front(engine: Engine, kind: str, count: int, **columns: str) -> list[int]:
    """So many rows that are due, at the first priority, and behind them a few that are free."""
    values = {"recipients": "you@limited.example", "body_text": "x", "priority": "0", **columns}
    rows = ", ".join(f"'{value}'" for value in values.values())
    numbers = NUMBERS[kind].format(n=count)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                f"INSERT INTO outbox ({', '.join(values)}, due_at) SELECT {rows}, {NOW[kind]} FROM ({numbers}) AS s"
            )
        )
    free = [insert(engine, recipients=f"me{n}@free.example", sender="me@free.example") for n in range(FREE)]
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE TABLE outbox" if kind == "mariadb" else "ANALYZE outbox")
    return free


def first_claim(engine: Engine, usable: tuple[str, ...] = ("smtp", "bulk"), **limits: Any) -> list[int]:
    relays = {"smtp": RelaySettings(), "bulk": RelaySettings(order=2, **limits.pop("bulk", {}))}
    pacing = Pacing(settings=ThrottleSettings(**limits), relays=relays, sender="Shop <shop@shop.example>")
    store, throttles = store_for(engine, "w1"), Throttles(engine, worker="w1")
    throttles.announce(dict.fromkeys(pacing.limits, "limited"))
    now = datetime.now(UTC)
    pacing.see(throttles.read(), now)
    gate = pacing.gate(20, now, usable=usable, afresh=True)
    return [row.id for row in store.claim(gate, pacing.choose(usable))]


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("sender", ["news@letters.example", "Letters <News@LETTERS.example>"])
def test_rows_of_a_sender_that_has_a_limit_are_passed(engine: Engine, kind: str, count: int, sender: str) -> None:
    free = in_front(engine, kind, count, sender=sender)
    claimed = first_claim(engine, senders={"news@letters.example": LIMIT})
    assert set(free) <= set(claimed)
    assert len(claimed) <= FREE + 1  # and the one that has a slot


@pytest.mark.parametrize("count", MANY)
def test_rows_of_a_relay_that_has_a_limit_are_passed(engine: Engine, kind: str, count: int) -> None:
    free = in_front(engine, kind, count, relay="bulk")
    claimed = first_claim(engine, bulk={"rates": LIMIT.rates})
    assert set(free) <= set(claimed)
    assert len(claimed) <= FREE + 1


@pytest.mark.parametrize("count", MANY)
def test_rows_of_a_relay_that_is_away_are_passed(engine: Engine, kind: str, count: int) -> None:
    free = in_front(engine, kind, count, relay="bulk")
    assert first_claim(engine, ("smtp",)) == free


def test_many_senders_that_are_each_paused_are_passed(engine: Engine, kind: str) -> None:
    senders = [f"s{n}@letters.example" for n in range(30)]
    free = in_front(engine, kind, 400, sender=senders[0])
    for sender in senders[1:]:
        in_front(engine, kind, 400, sender=sender)
    until = datetime.now(UTC) + timedelta(hours=1)
    lines = [{"kind": "sender", "name": name, "paused_until": until, "reason": "asked"} for name in senders]
    with engine.begin() as connection:
        connection.execute(sa.insert(throttle), lines)
    assert set(free) <= set(first_claim(engine))


@pytest.mark.parametrize("kind", [kind for kind in databases.KINDS if kind != "sqlite"])
@pytest.mark.parametrize("limited", [False, True])
def test_rows_that_somebody_has_locked_are_passed(engine: Engine, kind: str, limited: bool) -> None:  # noqa: FBT001
    free = in_front(engine, kind, 3_000)
    limits = {"domains": {"elsewhere.example": LIMIT}} if limited else {}
    with engine.connect() as other:
        other.exec_driver_sql("SELECT id FROM outbox WHERE recipients = 'you@limited.example' FOR UPDATE").all()
        assert first_claim(engine, **limits) == free
        other.rollback()
