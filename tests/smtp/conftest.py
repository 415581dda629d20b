"""What the tests of the wire share: certificates made once, and real relays started once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from servers import certs
from servers.certs import Authority

if TYPE_CHECKING:
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
