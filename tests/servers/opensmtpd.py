"""A real OpenSMTPD of our own; it takes mail and keeps it in its queue.

    with OpenSmtpd() as relay:
        ...                     # relay.host, relay.port
    relay.messages()            # whole messages, with its Received field

`refused@…` is refused at RCPT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from servers.borrowed import Borrowed, find, reason_against

if TYPE_CHECKING:
    from typing import Self

_CONFIGURATION = """\
table refused {{ "refused@example.test" }}
listen on 127.0.0.1 port {port} hostname smtpd.example.test
action "keep" relay host smtp://127.0.0.1:1
match from any for rcpt-to <refused> reject
match from any for any action "keep"
"""


def available() -> str:
    """ "" or why it cannot run here."""
    return reason_against("smtpd", "POLLER_TEST_SMTPD")


class OpenSmtpd(Borrowed):
    """A context manager."""

    def __init__(self) -> None:
        super().__init__(["opensmtpd", "opensmtpq"], ["/var/spool", "/var/lib", "/run"])

    def __enter__(self) -> Self:
        configuration = self.directory / "smtpd.conf"
        configuration.write_text(_CONFIGURATION.format(port=self.port))
        configuration.chmod(0o600)
        (self.covering("/var/lib") / "opensmtpd" / "empty").mkdir(parents=True)
        (self.covering("/var/spool") / "smtpd").mkdir(mode=0o711)
        self.start(find("smtpd", "POLLER_TEST_SMTPD"), "-d", "-f", str(configuration))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def messages(self) -> list[bytes]:
        """Every message in the queue, in order of arrival."""
        files = self.covering("/var/spool").glob("smtpd/queue/*/*/message")
        return [path.read_bytes() for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]
