"""A real PgBouncer before a PostgreSQL server.

with PgBouncer(url, mode="transaction") as pooler: ...    # pooler.url
"""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING

import sqlalchemy as sa
from servers.program import Program

if TYPE_CHECKING:
    from typing import Literal

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]  # it refuses to run as root


def reason_against() -> str:
    """ "" or why it cannot run here."""
    return "" if _program() else "no pgbouncer on this machine"


def _program() -> str:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""


class PgBouncer(Program):
    """One database behind it: the one at `url`. As Debian configures it, with few connections to the server."""

    def __init__(self, url: str, *, mode: Literal["transaction", "session"], most: int = 3) -> None:
        super().__init__()
        self._server = sa.make_url(url)
        self._mode = mode
        self._most = most

    @property
    def url(self) -> str:
        """Of the same database, by the pooler."""
        return self._server.set(host=self.host, port=self.port).render_as_string(hide_password=False)

    def configure(self) -> list[str]:
        """Trusted by the server and trusting all."""
        server = self._server
        users = self.directory / "users"
        users.write_text(f'"{server.username}" "{server.password or ""}"\n')
        file = self.directory / "pgbouncer.ini"
        file.write_text(
            f"""[databases]
{server.database} = host={server.host} port={server.port or 5432}
[pgbouncer]
listen_addr = {self.host}
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {self._mode}
default_pool_size = {self._most}
ignore_startup_parameters = extra_float_digits
"""
        )
        return [*(NOBODY if os.geteuid() == 0 else []), _program(), str(file)]

    def _greets(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(self.log_text())
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0
