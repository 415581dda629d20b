"""A real Postfix of our own: Debian's programs, a private instance in a temporary directory.

    with Postfix({"message_size_limit": "10000"}) as relay:
        ...                         # relay.host, relay.port
    relay.messages()                # what reached the mailbox of user@example.test

It touches no file of the system's own instance. Needs root, as Postfix does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from servers.processes import free_port, greets, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

DOMAIN = "example.test"
NOBODY = 65534

_SERVICES = """\
{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def available() -> str:
    """ "" or why it cannot run here."""
    if os.geteuid():
        return "Postfix must be started by root"
    return "" if shutil.which("postfix") else "postfix is not installed"


class Postfix:
    """A context manager; `parameters` go into main.cf over the ones below."""

    host = "127.0.0.1"

    def __init__(self, parameters: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        # Not below pytest's directory, which only root may enter.
        self._directory = Path(tempfile.mkdtemp(prefix="poller-postfix-"))
        self._directory.chmod(0o755)
        self._config = self._directory / "etc"
        self._log = self._directory / "log"
        self._mail = self._directory / "mail"
        self._write(parameters or {})

    def _write(self, parameters: Mapping[str, str]) -> None:
        for name in ("etc", "mail", "spool", "lib"):
            (self._directory / name).mkdir()
        shutil.chown(self._mail, NOBODY, NOBODY)
        shutil.chown(self._directory / "lib", "postfix", "postfix")
        (self._config / "master.cf").write_text(_SERVICES.format(port=f"{self.host}:{self.port}"))
        main = "".join(f"{name} = {value}\n" for name, value in (self._defaults() | dict(parameters)).items())
        (self._config / "main.cf").write_text(main)

    def _defaults(self) -> dict[str, str]:
        return {
            "compatibility_level": "3.6",
            "queue_directory": str(self._directory / "spool"),
            "data_directory": str(self._directory / "lib"),
            "maillog_file": str(self._log),
            "maillog_file_prefixes": str(self._directory),
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "myhostname": "mx.example.test",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "alias_maps": "",
            "alias_database": "",
            "smtputf8_enable": "yes",
            "virtual_mailbox_domains": DOMAIN,
            "virtual_mailbox_base": str(self._mail),
            "virtual_mailbox_maps": "static:all/",
            "virtual_uid_maps": f"static:{NOBODY}",
            "virtual_gid_maps": f"static:{NOBODY}",
            "default_transport": "discard",
            "relay_transport": "discard",
        }

    def __enter__(self) -> Self:
        try:
            self._run("start")
            wait_until(lambda: greets(self.port), "Postfix's greeting")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run("stop")
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, command: str) -> None:
        done = subprocess.run(
            ["postfix", "-c", str(self._config), command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would be kept open by the daemon
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"postfix {command}: {done.returncode}\n{self.log_text()}")

    def log_text(self) -> str:
        """Its mail log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def messages(self) -> list[bytes]:
        """What was delivered to anybody in the test domain, oldest first."""
        files = sorted(self._mail.glob("all/new/*"), key=lambda path: path.stat().st_mtime_ns)
        return [path.read_bytes() for path in files]

    def wait_for(self, fragment: bytes) -> bytes:
        """The message that contains `fragment`, once it has been delivered."""
        wait_until(lambda: any(fragment in message for message in self.messages()), f"delivery of {fragment!r}")
        return next(message for message in self.messages() if fragment in message)
