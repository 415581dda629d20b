"""A real Dovecot submission server, which passes each message on to an smtp-sink behind it.

    with Submission() as relay: ...     # relay.host, relay.port; any username, with PASSWORD
    relay.messages()                    # what came out behind it

With `introspection`, the address of a server that says whose a token is (RFC 7662), it takes tokens and no passwords.

Release 2.3 crashes on an envelope behind the end of data, after it has passed the message on. Needs root.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from servers import sink
from servers.program import Program
from servers.sink import Sink

if TYPE_CHECKING:
    from typing import Self

PASSWORD = "secret"
_SERVICE = Path("/usr/lib/dovecot/submission")
_CONFIGURATION = """\
protocols = submission
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
ssl = no
listen = 127.0.0.1
disable_plaintext_auth = no
{logins}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={directory}/home
}}
mail_location = maildir:{directory}/home/mail
hostname = submission.example.test
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
service submission-login {{
  inet_listener submission {{
    port = {port}
  }}
}}
"""

_PASSWORDS = f"""\
auth_mechanisms = plain login
passdb {{
  driver = static
  args = password={PASSWORD}
}}
"""
_TOKENS = """\
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
auth_mechanisms = xoauth2 oauthbearer
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {directory}/oauth2
}}
"""
_OAUTH2 = """\
introspection_mode = post
introspection_url = {introspection}
active_attribute = active
active_value = true
username_attribute = username
"""


def available() -> str:
    """ "" or why it cannot run here."""
    if os.geteuid():
        return "Dovecot must be started by root"
    if shutil.which("dovecot") is None or not _SERVICE.exists():
        return "dovecot-submissiond is not installed"
    return sink.available()


class Submission(Program):
    """A context manager."""

    def __init__(self, introspection: str = "") -> None:
        super().__init__()
        self._introspection = introspection
        self._behind = Sink(dump=True)

    def configure(self) -> list[str]:
        home = self.directory / "home"
        home.mkdir()
        shutil.chown(home, "nobody", "nogroup")
        configuration = self.directory / "dovecot.conf"
        (self.directory / "oauth2").write_text(_OAUTH2.format(introspection=self._introspection))
        logins = _TOKENS.format(directory=self.directory) if self._introspection else _PASSWORDS
        configuration.write_text(
            _CONFIGURATION.format(directory=self.directory, relay=self._behind.port, port=self.port, logins=logins)
        )
        return [shutil.which("dovecot") or "", "-F", "-c", str(configuration)]

    def __enter__(self) -> Self:
        self._behind.__enter__()
        try:
            return super().__enter__()
        except BaseException:
            self._behind.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._behind.__exit__()

    def log_text(self) -> str:
        """Its own log."""
        log = self.directory / "log"
        return log.read_text(errors="replace") if log.exists() else super().log_text()

    def messages(self) -> list[bytes]:
        """Each transaction that the sink kept."""
        return self._behind.messages()
