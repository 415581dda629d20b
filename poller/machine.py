"""Which machine this is, and which life of its kernel.

Raises nothing: where a system does not tell, the answer is "".
"""

from __future__ import annotations

import contextlib
from pathlib import Path


def machine_id() -> str:
    """The system's own name of itself, 32 hex digits, made when it is installed (machine-id(5)).

    A container usually has none, which is as well: it would be that of its image.
    """
    with contextlib.suppress(OSError, UnicodeError):
        text = Path("/etc/machine-id").read_text(encoding="ascii").strip()
        return "" if text == "uninitialized" else text
    return ""


def boot() -> str:
    """The kernel's name of its present life."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
