"""How many bytes that were written to a socket have not left this machine.

Linux tells by SIOCOUTQNSD (tcp(7)): written, and never transmitted. It still tells when the line is broken. What was
transmitted and not acknowledged does not count: it may have arrived.

Other systems are not asked. Theirs count what was transmitted too, so that a number above 0 proves nothing. There every
byte that the kernel took may have left: a broken line leaves a doubt more often, and `end_timeout` begins earlier.
"""

from __future__ import annotations

import fcntl
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

SIOCOUTQNSD = 0x894B
"""linux/sockios.h"""
_NOTHING = struct.pack("i", 0)


def unsent(sock: socket.socket) -> int:
    """Bytes; 0 where it can't be told."""
    if sys.platform != "linux":
        return 0
    try:
        answer: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, _NOTHING))[0]
    except (OSError, ValueError):  # no TCP, or closed
        return 0
    return answer
