"""Which machine this is, and which life of its kernel.

Raises nothing: where a system does not tell, the answer is "".
"""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
from pathlib import Path

ASKED_S = 5.0
_PLATFORM_UUID = re.compile(r'"IOPlatformUUID" = "([^"]+)"')


def machine_id() -> str:
    """The system's own name of itself, made when it is installed (machine-id(5)), or that of the hardware (macOS).

    A container usually has none, which is as well: it would be that of its image.
    """
    if sys.platform == "darwin":
        found = _PLATFORM_UUID.search(_answer("/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"))
        return found[1] if found else ""
    with contextlib.suppress(OSError, UnicodeError):
        text = Path("/etc/machine-id").read_text(encoding="ascii").strip()
        return "" if text == "uninitialized" else text
    return ""


def boot() -> str:
    """The kernel's name of its present life."""
    if sys.platform == "darwin":
        return _answer("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


@functools.lru_cache
def _answer(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=ASKED_S)  # noqa: S603 - ours
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
