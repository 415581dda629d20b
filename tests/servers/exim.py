"""A real Exim of our own; it takes mail and keeps it in its queue.

    with Exim() as relay:
        ...                     # relay.host, relay.port
    relay.messages()            # contents, without headers

`refused@…` is refused at RCPT, `grey@…` deferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from servers.borrowed import Borrowed, find, reason_against

if TYPE_CHECKING:
    from typing import Self

_USER = "Debian-exim"
_CONFIGURATION = """\
primary_hostname = exim.example.test
spool_directory = {spool}
log_file_path = {spool}/%slog
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
keep_environment =
queue_only = true
host_lookup =
rfc1413_hosts =
tls_advertise_hosts =
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
begin acl
rcpt:
  deny    local_parts = refused
          message = no such user here
  defer   local_parts = grey
          message = come back later
  accept
"""


def available() -> str:
    """ "" or why it cannot run here."""
    return reason_against("exim4", "POLLER_TEST_EXIM")


class Exim(Borrowed):
    """A context manager."""

    def __init__(self) -> None:
        super().__init__([_USER], [])
        self._spool = self.directory / "spool"
        self._spool.mkdir()

    def __enter__(self) -> Self:
        configuration = self.directory / "exim.conf"
        configuration.write_text(_CONFIGURATION.format(spool=self._spool, port=self.port))
        self._spool.chmod(0o777)  # Exim makes its directories there as a user that only its world knows
        self.start(
            find("exim4", "POLLER_TEST_EXIM"), "-C", str(configuration), "-bdf", "-oP", str(self.directory / "pid")
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log_text(self) -> str:
        """Its main log, and what it wrote to its terminal."""
        log = self._spool / "mainlog"
        return (log.read_text(errors="replace") if log.exists() else "") + super().log_text()

    def messages(self) -> list[bytes]:
        """The content of each message in the queue, without its headers, in order of arrival."""
        files = sorted(self._spool.glob("input/*-D"), key=lambda path: path.stat().st_mtime_ns)
        return [path.read_bytes().partition(b"\n")[2] for path in files]
