"""What a system is asked about itself."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from poller import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

IOREG = """+-o J313AP  <class IOPlatformExpertDevice, id 0x100000227, registered, matched, active>
    {
      "IOPlatformSerialNumber" = "C02XXXXXXXXX"
      "IOPlatformUUID" = "5A1B9B4E-0000-5C4F-9E9C-1D6E2F3A4B5C"
    }
"""
SAYS = {"/usr/sbin/ioreg": IOREG, "/usr/sbin/sysctl": "0C8D9E7A-1111-4A4B-8C8D-2E3F4A5B6C7D\n"}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """This machine as if it were another, with what the programs there print."""

    def run(command: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=SAYS[command[0]])

    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.subprocess, "run", run)
    machine._answer.cache_clear()
    yield monkeypatch
    machine._answer.cache_clear()


@pytest.mark.usefixtures("mac")
def test_a_mac_is_known_by_its_hardware_and_by_the_session_of_its_kernel() -> None:
    assert machine.machine_id() == "5A1B9B4E-0000-5C4F-9E9C-1D6E2F3A4B5C"
    assert machine.boot() == "0C8D9E7A-1111-4A4B-8C8D-2E3F4A5B6C7D"


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("x", 5)])
def test_what_a_system_does_not_tell_is_unknown(mac: pytest.MonkeyPatch, error: Exception) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise error

    mac.setattr(machine.subprocess, "run", run)
    assert (machine.machine_id(), machine.boot()) == ("", "")
