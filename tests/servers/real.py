"""The real servers that the tests have, each with how to start it and to log in: for tests that go through all."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from servers import aiosmtp, dovecot, exim, nodes, opensmtpd, postfix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, kw_only=True)
class Real:
    """One make of server. `gear` is what it is spoken to with by default."""

    name: str
    reason: Callable[[], str]
    """Why it cannot run here, or ""."""
    start: Callable[[], Any]
    """A context manager with `host`, `port` and `messages()`."""
    gear: str
    bears_overlap: bool
    session_limit: int = 0
    """Messages that it takes in one session; 0 for any number."""
    login: Mapping[str, str] = field(default_factory=dict)
    recipient: str = "user@example.test"


REAL = (
    Real(name="Postfix", reason=postfix.available, start=postfix.Postfix, gear="overlap", bears_overlap=True),
    Real(
        name="Exim",
        reason=exim.available,
        start=exim.Exim,
        gear="overlap",
        bears_overlap=True,
        recipient="user@b.test",
    ),
    Real(
        name="OpenSMTPD",
        reason=opensmtpd.available,
        start=opensmtpd.OpenSmtpd,
        session_limit=100,
        gear="off",
        bears_overlap=True,
        recipient="user@b.test",
    ),
    Real(
        name="Dovecot",
        reason=dovecot.available,
        start=dovecot.Submission,
        gear="transaction",
        bears_overlap=False,
        login={"username": "shop", "password": dovecot.PASSWORD},
    ),
    Real(
        name="Haraka",
        reason=lambda: nodes.available("Haraka"),
        start=nodes.Haraka,
        gear="transaction",
        bears_overlap=False,
    ),
    Real(
        name="smtp-server",
        reason=lambda: nodes.available("smtp-server"),
        start=nodes.SmtpServer,
        gear="transaction",
        bears_overlap=True,
    ),
    Real(name="aiosmtpd", reason=aiosmtp.available, start=aiosmtp.Aiosmtpd, gear="off", bears_overlap=True),
)


def running(real: Real) -> Iterator[Any]:
    """The server, for a fixture. Skips where it cannot run, unless $POLLER_TEST_REQUIRE names it."""
    if reason := real.reason():
        if real.name in os.environ.get("POLLER_TEST_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)
    with real.start() as server:
        yield server
