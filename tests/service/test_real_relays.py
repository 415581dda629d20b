"""The service with real servers that nobody here wrote: with its defaults, and with more than they bear."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from servers.processes import wait_until
from servers.real import REAL, Real, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.bench import Bench

ROWS = int(os.environ.get("POLLER_TEST_ROWS", "500"))
ON_SQLITE = pytest.mark.parametrize("kind", ["sqlite"])
"""What the wire bears does not depend on the database."""
EACH = pytest.mark.parametrize("real", REAL, ids=lambda real: real.name)
NOT_BEARING = pytest.mark.parametrize(
    "real", [real for real in REAL if not real.bears_overlap], ids=lambda real: real.name
)


@pytest.fixture
def relay(real: Real) -> Iterator[Any]:
    yield from running(real)


def gears(bench: Bench) -> list[str]:
    """Of each session, in order."""
    return [line["pipelining"] for line in bench.log() if line["event"] == "session.opened"]


@ON_SQLITE
@EACH
def test_with_defaults_every_row_is_delivered_once(bench: Bench, real: Real, relay: Any) -> None:
    bench.insert(ROWS, recipients=real.recipient)
    assert bench.run(bench.configure(relay.host, relay.port, smtp=real.login), "--once") == 0
    wait_until(lambda: len(relay.messages()) >= ROWS, "delivery", seconds=60)
    rows = bench.rows()
    seen = Counter(row.status for row in rows), sum(row.doubts for row in rows), len(relay.messages())
    print(real.name, *seen, gears(bench))  # noqa: T201 - the figures of the page
    assert seen == (Counter(sent=ROWS), 0, ROWS)
    assert set(gears(bench)) == {real.gear}
    learnt = [line["messages"] for line in bench.log() if line["event"] == "relay.learnt"]
    assert learnt == ([real.session_limit] if 0 < real.session_limit < ROWS else [])


@ON_SQLITE
@NOT_BEARING
def test_a_gear_that_is_not_borne_is_lowered_for_good_and_costs_one_doubt_at_most(
    bench: Bench, real: Real, relay: Any
) -> None:
    bench.insert(40, recipients=real.recipient, on_doubt="hold")
    config = bench.configure(relay.host, relay.port, smtp={**real.login, "pipelining": "overlap"})
    bench.run(config, "--once")
    wait_until(lambda: len(relay.messages()) >= 40, "delivery", seconds=60)
    rows = bench.rows()
    assert sum(row.doubts for row in rows) <= 1
    assert {row.attempts for row in rows if row.status == "sent"} == {1}
    assert {row.status for row in rows} <= {"sent", "in_doubt"}
    assert gears(bench) == ["overlap", "transaction"]
    events = Counter(line["event"] for line in bench.log())
    assert (events["relay.lowered"], events["relay.unavailable"], events["throttle.paused"]) == (1, 0, 0)
    assert "pipelining transaction, as learnt" in bench.poller(config, "status").stdout
    (after,) = bench.insert(recipients=real.recipient)
    assert "pipelining transaction, as learnt" in bench.poller(config, "explain", str(after)).stdout
    bench.run(config, "--once")
    assert bench.row(after).status == "sent"
    assert gears(bench)[2:] == ["transaction"]
    assert len(relay.messages()) == 41


@ON_SQLITE
@NOT_BEARING
def test_a_trial_tells_what_is_not_borne(bench: Bench, real: Real, relay: Any) -> None:
    config = bench.configure(relay.host, relay.port, smtp=real.login)
    told = bench.poller(config, "check", "--deliver-to", real.recipient).stdout
    assert "ok   pipelining transaction: 3 of 3 accepted" in told
    assert "warn pipelining overlap: " in told
    assert 'ok   pipelining bears transaction; used: transaction ([smtp] pipelining = "auto")' in told
