"""What the tests of the wire share: certificates made once, and real relays started once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from servers import certs
from servers.certs import Authority

from poller.smtp import courier as couriers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers.certs import Certificate


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private CA."""
    if reason := certs.available():
        pytest.skip(reason)
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Certificate:
    """For localhost."""
    return authority.issue("localhost")


@pytest.fixture(autouse=True)
def _no_line_is_left_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test leaves to the garbage collector is reported as a warning in another test."""
    made: list[couriers.Courier] = []
    begin = couriers.Courier.__init__

    def remembered(self: couriers.Courier, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(couriers.Courier, "__init__", remembered)
    yield
    for courier in made:
        courier.interrupt()  # no waiting for its relay
        courier.close()
