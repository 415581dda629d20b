"""A MariaDB server of our own, whose defaults and global settings are ours to change.

with MariaDB("--sql-mode=ANSI") as server: ...    # server.url; raises Unavailable where it can't be had
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from servers.processes import free_port, wait_until

if TYPE_CHECKING:
    from typing import Self


class Unavailable(Exception):  # noqa: N818 - a fact about this machine
    """The text says why."""


class MariaDB:
    """A context manager. Its database is `shop`, its user root."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._directory = Path(tempfile.mkdtemp(prefix="poller-maria-"))
        self._port = free_port()

    @property
    def url(self) -> str:
        """Of its root."""
        return f"mysql://root@127.0.0.1:{self._port}/shop"

    def __enter__(self) -> Self:
        if not (shutil.which("mariadbd") and shutil.which("mariadb-install-db")):
            raise Unavailable("no mariadbd on this machine to start with other defaults")
        user = [f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', 'nobody')}"]
        data = f"--datadir={self._directory / 'data'}"
        install = ["mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal", *user]
        made = subprocess.run(install, check=False, capture_output=True, text=True, timeout=60)
        if made.returncode:
            self._remove()
            raise Unavailable(f"mariadb-install-db can make no private server here: {made.stderr[-200:]}")
        # A server that starts clears its directory of temporary tables: it must not be that of another one.
        temporary = self._directory / "tmp"
        temporary.mkdir()
        where = [
            f"--tmpdir={temporary}",
            f"--port={self._port}",
            "--bind-address=127.0.0.1",
            f"--socket={self._directory}/s",
        ]
        self._process = subprocess.Popen(
            ["mariadbd", "--no-defaults", data, *where, "--innodb-buffer-pool-size=16M", *self._options, *user],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        server = sa.create_engine(f"mysql+pymysql://root@127.0.0.1:{self._port}/")
        try:
            wait_until(lambda: _answers(server), "MariaDB answers", 30)
            with server.begin() as connection:
                connection.exec_driver_sql("CREATE DATABASE shop")
                # Else nobody but root is let in from this machine.
                connection.exec_driver_sql("DELETE FROM mysql.global_priv WHERE User = ''")
                connection.exec_driver_sql("FLUSH PRIVILEGES")
        except BaseException:
            self.__exit__()
            raise
        finally:
            server.dispose()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _answers(server: sa.Engine) -> bool:
    try:
        with server.connect() as connection:
            return connection.exec_driver_sql("SELECT 1").scalar() == 1
    except sa.exc.OperationalError:
        return False
