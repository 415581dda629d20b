"""What real servers bear. The families in `poller.smtp.gears.PROVEN` are proven here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from servers.processes import wait_until
from servers.real import REAL, Real, running
from smtp.letters import letter, settings

from poller.smtp.courier import Courier
from poller.smtp.gears import PROVEN, Gear, family_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.exchange import Exchange

MESSAGES = 60
EACH = pytest.mark.parametrize("real", REAL, ids=lambda real: real.name)


@pytest.fixture
def relay(real: Real) -> Iterator[Any]:
    yield from running(real)


def carried(real: Real, port: int, **more: Any) -> tuple[Courier, list[Exchange], list[dict[str, Any]]]:
    """Some messages, over as many sessions as it takes; what was taken in vain goes first in the next one."""
    lowered: list[dict[str, Any]] = []
    courier = Courier(
        settings(port, **real.login, **more),
        session_events=lambda event, facts: lowered.append(facts) if event == "relay.lowered" else None,
    )
    pending, seen = [letter(number, real.recipient) for number in range(1, MESSAGES + 1)], []
    for _ in range(5):
        courier.open()
        source = iter(pending)
        exchanges = list(courier.carry(source))
        seen += [exchange for exchange in exchanges if not exchange.unanswered]
        pending = [exchange.message for exchange in exchanges if exchange.unanswered] + list(source)
        if not pending:
            break
    return courier, seen, lowered


@EACH
def test_each_server_takes_everything_once_in_its_default_gear(real: Real, relay: Any) -> None:
    courier, seen, lowered = carried(real, relay.port, pipelining="auto")
    opened = courier.handshake
    courier.close()
    assert [exchange.end and exchange.end.code for exchange in seen] == [250] * MESSAGES
    assert lowered == []
    assert opened is not None
    assert (family_of(opened.banner) != "") == (real.gear == "overlap")
    wait_until(lambda: len(relay.messages()) >= MESSAGES, "delivery")
    assert len(relay.messages()) == MESSAGES


@EACH
def test_a_server_that_does_not_bear_overlap_costs_one_doubt_at_most_and_is_spoken_to_more_carefully(
    real: Real, relay: Any
) -> None:
    courier, seen, lowered = carried(real, relay.port, pipelining="overlap")
    courier.close()
    assert len(seen) == MESSAGES
    doubts = [exchange for exchange in seen if exchange.end_of_data_sent and exchange.end is None]
    assert [exchange.end.code for exchange in seen if exchange.end] == [250] * (MESSAGES - len(doubts))
    assert len(doubts) <= (not real.bears_overlap)
    assert [facts["pipelining"] for facts in lowered] == ([] if real.bears_overlap else ["transaction"])
    assert courier.bears is (Gear.WINDOW if real.bears_overlap else Gear.TRANSACTION)
    wait_until(lambda: len(relay.messages()) >= MESSAGES, "delivery")
    assert len(relay.messages()) == MESSAGES


def test_each_proven_family_is_tested_with_the_real_server() -> None:
    assert {family.name for family in PROVEN} == {real.name for real in REAL if real.gear == "overlap"}
