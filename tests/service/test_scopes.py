"""Every kind of limit, on every way to the wire, on every database: counted where it counts, at the relay.

A run has all ways at once: rows that are claimed and prefetched, templates that are composed ahead, rows that a relay
defers or hands back by closing the session, and a worker that is killed half way. Whatever comes together, in no window
of the period does the relay hear of more messages than the limit and its burst allow.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import databases
import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer, Heard
from servers.provider import most_within
from service.bench import terminate

from poller.outbox.database import transaction

if TYPE_CHECKING:
    from service.bench import Bench

A_SECOND, BURST = 10, 1
LIMIT = {"rates": [f"{A_SECOND}/s"]}
SLOW = "slow.example"
SENDER = "news@letters.example"
SCOPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "outbox": ({"throttle": LIMIT}, {}),
    "relay": ({"smtp": LIMIT}, {}),
    "sender": ({f'throttle.senders."{SENDER}"': LIMIT}, {"sender": f"News <{SENDER}>"}),
    "sender domain": ({'throttle.senders."@letters.example"': LIMIT}, {"sender": SENDER.upper()}),
    "provider": ({"throttle.providers.slow": {**LIMIT, "domains": [SLOW]}}, {}),
    "domain": ({f'throttle.domains."{SLOW}"': LIMIT}, {}),
}
"""Settings, and what makes a row fall under them."""
USUAL = {("sqlite", "outbox"), ("sqlite", "provider"), ("mariadb", "sender"), ("mariadb", "relay")} | {
    ("postgresql", scope) for scope in ("domain", "sender domain")
}
EACH = [
    pytest.param(kind, scope, marks=() if (kind, scope) in USUAL else pytest.mark.long)
    for kind in databases.KINDS
    for scope in SCOPES
]


class Counted:
    """The answers of a relay that now and then defers, and when it heard of which message that is limited."""

    def __init__(self, *, defer_every: int = 0) -> None:
        self.at: list[float] = []
        self.free: list[float] = []
        self.defer_every = defer_every

    def __call__(self, heard: Heard) -> bytes | None:
        if heard.verb != "RCPT":
            return None
        if b"free" in heard.line:
            self.free.append(time.time())
            return None
        self.at.append(time.time())
        is_deferred = self.defer_every and len(self.at) % self.defer_every == 0
        return b"451 4.2.0 come back later\r\n" if is_deferred else None

    def most(self, seconds: float = 1.0) -> int:
        return most_within(self.at, seconds)


def limited(bench: Bench, count: int, **columns: Any) -> None:
    bench.insert(count, **{"recipients": f"user{{n}}@{SLOW}", **columns})


@pytest.mark.parametrize(("kind", "scope"), EACH)
def test_no_window_has_more_than_the_limit_whatever_way_the_rows_come(bench: Bench, scope: str) -> None:
    settings, columns = SCOPES[scope]
    limited(bench, 10, **columns)
    limited(bench, 8, template="hello", body_text=None, context={"n": 1}, **columns)
    limited(bench, 4, priority=2, body_text="Long. " * 20_000, **columns)
    limited(bench, 8, priority=7, **columns)
    (bench.directory / "templates").mkdir()
    (bench.directory / "templates" / "hello.txt").write_text("Hello {{ n }}\n")
    counted = Counted(defer_every=7)
    tables = {**settings, "templates": {"directory": str(bench.directory / "templates")}, "poll": {"batch_size": 9}}
    with FaultServer(Faults(answer=counted, close_after=6)) as server:
        config = bench.configure(server.host, server.port, **tables)
        with bench.running(config) as process:
            bench.wait_for(lambda: len(counted.at) >= 14)
            process.kill()
            process.wait()
        with bench.running(config) as process:
            bench.wait_for(lambda: set(bench.statuses()) == {"sent"})
            terminate(process)
    assert counted.most() <= A_SECOND + BURST


@pytest.mark.parametrize(("kind", "body"), [("sqlite", "plain"), ("postgresql", "template"), ("mariadb", "template")])
def test_a_limit_of_a_sender_holds_and_a_pace_that_is_lowered_live_holds_at_once(bench: Bench, body: str) -> None:
    columns: dict[str, Any] = {"sender": f"News <{SENDER}>"}
    if body == "template":
        columns |= {"template": "hello", "body_text": None, "context": {"n": 1}}
    (bench.directory / "templates").mkdir()
    (bench.directory / "templates" / "hello.txt").write_text("Hello {{ n }}\n")
    limited(bench, 60, **columns)
    counted = Counted()
    tables = {
        f'throttle.senders."{SENDER}"': {"rates": ["20/s"]},
        "templates": {"directory": str(bench.directory / "templates")},
    }
    with (
        FaultServer(Faults(answer=counted)) as server,
        bench.running(bench.configure(server.host, server.port, **tables)) as process,
    ):
        bench.wait_for(lambda: len(counted.at) >= 15)
        slower = sa.text("UPDATE outbox_throttle SET pace = 0.1 WHERE kind = 'sender'")
        transaction(bench.engine, lambda connection: connection.execute(slower))
        lowered = time.time()
        bench.wait_for(lambda: time.time() > lowered + 4)
        terminate(process)
    assert counted.most() <= 20 + BURST
    later = [at for at in counted.at if at > lowered + 1.5]  # obeyed within about a second
    assert len(later) >= 3
    assert most_within(later, 1.0) <= 2 + BURST


@pytest.mark.parametrize(("kind", "scope"), [each for each in EACH if each.values[1] not in {"outbox", "relay"}])
def test_what_is_paused_is_in_nobodys_way_and_is_not_claimed_again_and_again(bench: Bench, scope: str) -> None:
    settings, columns = SCOPES[scope]
    limited(bench, 1000, priority=1, **columns)
    bench.insert(5, recipients="free{n}@free.example")
    counted = Counted()
    kind = scope.partition(" ")[0]
    paused = "UPDATE outbox_throttle SET paused_until = '2099-01-01 00:00:00', reason = 'asked' WHERE kind = "
    with FaultServer(Faults(answer=counted)) as server:
        config = bench.configure(server.host, server.port, **settings)
        assert bench.poller(config, "migrate").returncode == 0
        insert = sa.text("INSERT INTO outbox_throttle (kind, name) VALUES (:kind, :name)")
        name = {"sender": SENDER, "sender domain": "@letters.example", "domain": SLOW, "provider": "slow"}[scope]
        transaction(bench.engine, lambda c: c.execute(insert, {"kind": kind, "name": name}))
        transaction(bench.engine, lambda c: c.execute(sa.text(f"{paused}'{kind}'")))
        with bench.running(config) as process:
            bench.wait_for(lambda: len(counted.free) == 5)
            time.sleep(1)
            terminate(process)
    assert counted.at == []
    assert max(row.claim_seq for row in bench.rows() if row.domain == SLOW) == 0
