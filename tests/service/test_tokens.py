"""A drain by a relay that takes tokens: over their ends, and over each refusal that the providers document.

The endpoint and the relay share a clock: a token is good until its end, and not a moment longer. Whatever the two say,
no row is charged for it, and none is lost. POLLER_TEST_LONG=1 takes 2,000 rows, every refusal and each database.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from databases import free_port
from servers.fault import Faults, FaultServer, Heard
from servers.refusals import AT_THE_ENDPOINT, AT_THE_RELAY
from servers.tokens import Said, TokenEndpoint, said
from service.bench import WHATEVER_THE_DATABASE, books, terminate

if TYPE_CHECKING:
    from service.bench import Bench

LONG = bool(os.environ.get("POLLER_TEST_LONG"))
ROWS = 2000 if LONG else 300
EVERY = 1 if LONG else 5
"""Of so many documented refusals, one."""
LIFE_S = 3
"""Of a token: an hour in production. A sixth of it is kept back."""
WELCOME, ENDED = b"235 2.7.0 welcome\r\n", b"530 5.7.57 Client not authenticated to send mail.\r\n"


class Provider:
    """Gives tokens and takes them. The refusals come one by one, each in the place of an answer."""

    def __init__(self, life: int, at_the_endpoint: list[Said], at_the_relay: list[bytes]) -> None:
        self.life = life
        self.ends: dict[str, float] = {}
        self.sessions: dict[int, str] = {}
        self.used: set[str] = set()
        self.too_late = 0
        in_twos = range(0, len(at_the_endpoint), 2)
        self.refusing = iter([step for n in in_twos for step in (*at_the_endpoint[n : n + 2], None)])
        # A token that is refused once is fetched anew: each such reply comes twice in a row.
        self.not_taking = iter(
            [
                step
                for reply in at_the_relay
                for step in ([reply, reply, None] if reply.startswith(b"5") else [reply, None])
            ]
        )
        self.refused: list[object] = []
        self.lock = threading.Lock()

    def give(self, _: dict[str, str]) -> Said:
        with self.lock:
            answer = next(self.refusing, None)
            if isinstance(answer, Said):
                self.refused.append(answer)
                return answer
            token = f"token-{len(self.ends) + 1}"
            self.ends[token] = time.monotonic() + self.life
            return said({"access_token": token, "expires_in": self.life, "token_type": "Bearer"})

    def take(self, session: int, _: str, token: str) -> bytes:
        with self.lock:
            reply = next(self.not_taking, None)
            if isinstance(reply, bytes):
                self.refused.append(reply)
                return reply
            self.sessions[session] = token
            return WELCOME if time.monotonic() < self.ends[token] else ENDED

    def look(self, heard: Heard) -> bytes | None:
        """At each MAIL: the token of the session has not ended."""
        if heard.verb != "MAIL":
            return None
        with self.lock:
            token = self.sessions[heard.session]
            self.used.add(token)
            if time.monotonic() < self.ends[token]:
                return None
            self.too_late += 1
            return ENDED


def drained(bench: Bench, provider: Provider, **faults: object) -> dict[str, object]:
    """What is in the books, and what the service has said of it."""
    look = Faults(take_token=provider.take, answer=provider.look, mechanisms=("PLAIN", "XOAUTH2"), **faults)  # type: ignore[arg-type]
    with TokenEndpoint(provider.give) as endpoint, FaultServer(look) as relay:
        bench.insert(ROWS)
        tokens = {"token_url": endpoint.url, "grant": "client_credentials", "client_id": "poller", "scope": "smtp"}
        config = bench.configure(
            relay.host,
            relay.port,
            smtp={"username": "shop@example.com", "max_messages_per_connection": 25},
            # "Concurrent connections limit exceeded" asks for a pause of a minute: that has its own tests.
            **{"[throttle.replies]": {"action": "defer", "codes": [4], "phases": ["auth"], "about": "relay"}},
            **{"smtp.oauth2": {**tokens, "client_secret": "client-secret-value"}},
        )
        code = bench.run(config, "--drain", "--for", "100s")
        found = books(bench, relay)
    (bench.directory / "seen").write_text(
        f"{ROWS} rows, {len(provider.ends)} tokens, {len(provider.refused)} refusals, {provider.too_late} too late\n"
    )
    text = (bench.directory / f"{bench.name}.log").read_text()
    assert [
        secret for secret in ("client-secret-value", *(f'"{token}"' for token in provider.ends)) if secret in text
    ] == []
    return {
        "code": code,
        "statuses": dict(found.statuses),
        "lost": found.lost,
        "duplicates": found.duplicates,
        "charged": found.attempts - ROWS,
        "doubts": found.doubts,
    }


WHOLE = {"code": 0, "statuses": {"sent": ROWS}, "lost": 0, "duplicates": 0, "charged": 0, "doubts": 0}


@WHATEVER_THE_DATABASE
def test_a_drain_over_two_ends_of_a_token_costs_no_row_anything(bench: Bench) -> None:
    provider = Provider(LIFE_S, [], [])
    assert drained(bench, provider, reply_delay=4.5 * LIFE_S / 3 / ROWS) == WHOLE
    assert len(provider.used) >= 3
    said_of = [line["event"] for line in bench.log() if line["event"].startswith(("token.", "relay."))]
    assert set(said_of) == {"token.fetched"}


@WHATEVER_THE_DATABASE
def test_a_drain_over_each_documented_refusal_costs_no_row_anything(bench: Bench) -> None:
    at_the_endpoint = [answer for answer, _ in list(AT_THE_ENDPOINT.values())[::EVERY]]
    at_the_relay = [reply for reply, _ in list(AT_THE_RELAY.values())[::EVERY]]
    provider = Provider(1, at_the_endpoint, at_the_relay)
    assert drained(bench, provider) == WHOLE
    # A 5yz is told when the second token is refused too, unless there was none; then it was told as the first one.
    told = " ".join(line["reason"] for line in bench.log() if line["event"] in {"relay.unavailable", "token.refused"})
    assert [reply for reply in at_the_relay if reply.split(b"\r\n")[0][10:40].decode().strip() not in told] == []
    assert [answer for answer in at_the_endpoint if answer not in provider.refused] == []


ONE = pytest.mark.parametrize("kind", ["sqlite"])


@ONE
def test_tokens_are_counted_and_a_refusal_is_told_where_one_looks(bench: Bench) -> None:
    provider = Provider(3600, [AT_THE_ENDPOINT["Entra 65001, no consent"].answer] * 2, [b"535 5.7.3 no\r\n"])
    port = free_port()
    faults = Faults(take_token=provider.take, mechanisms=("XOAUTH2",))
    with TokenEndpoint(provider.give) as endpoint, FaultServer(faults) as relay:
        tokens = {"token_url": endpoint.url, "grant": "client_credentials", "client_id": "poller", "scope": "smtp"}
        config = bench.configure(
            relay.host,
            relay.port,
            smtp={"username": "shop@example.com"},
            http={"listen": f"127.0.0.1:{port}"},
            **{"smtp.oauth2": {**tokens, "client_secret": "client-secret-value"}},
        )
        bench.insert(3)
        with bench.running(config) as process:
            bench.wait_for(lambda: bench.statuses() == {"sent": 3})
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            terminate(process)
    counts = [line.partition("{")[2] for line in text.splitlines() if line.startswith("poller_login_tokens_total{")]
    assert counts == [
        'relay="smtp",result="failed"} 2.0',
        'relay="smtp",result="fetched"} 3.0',
        'relay="smtp",result="refused"} 2.0',
    ]


@ONE
def test_a_stop_waits_for_no_token_endpoint(bench: Bench) -> None:
    with TokenEndpoint(lambda _: Said(silent=60)) as endpoint, FaultServer(Faults()) as relay:
        table = {"token_url": endpoint.url, "grant": "client_credentials", "client_id": "a", "scope": "s"}
        config = bench.configure(
            relay.host,
            relay.port,
            smtp={"username": "u"},
            worker={"stop_timeout": "1s"},
            **{"smtp.oauth2": {**table, "client_secret": "b", "timeout": "1h"}},
        )
        bench.insert(1)
        with bench.running(config) as process:
            bench.wait_for(lambda: bool(endpoint.asked))
            terminate(process)
    assert [(row.status, row.attempts) for row in bench.rows()] == [("queued", 0)]
