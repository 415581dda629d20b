"""The demo's directory: what lies in it, and how the service there is configured.

Rule 1. A directory is used if it is new, empty, or carries MARK from an earlier demo; any other one is left alone.
Rule 2. Of an earlier demo only what a demo makes is removed; a file that somebody put beside it stays.
Rule 3. A demo that still runs there is not disturbed.

`config.toml` says what `Place.config` says, so that every other command can be tried on the outbox afterwards.
Raises NotOurs, and OSError for a directory that can't be used.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from poller.config.load import Config
from poller.judgement.retry import RetrySettings
from poller.message.settings import MessageSettings, TemplateSettings
from poller.outbox.settings import DatabaseSettings
from poller.settings import LogSettings, PollSettings, WorkerSettings
from poller.smtp.relays import FirstRelaySettings
from poller.worker.state import StateDirectory, StateTaken

MARK = ".poller-demo"
BATCH = 20
PAUSE_S = 0.45  # after each batch: a person can follow, and 300 messages take some seven seconds
RETRY_S = 2.0
INTERVAL_S = 0.5
SENDER = "Example Books <books@example.com>"
WORKER = "demo"

_CONFIG = f"""\
# Written by `poller demo`.

[database]
url = "sqlite:///outbox.db"

[smtp]
# The demo's mail catcher. It ended with the demo.
host = "{{host}}"
port = {{port}}
security = "none"

[message]
sender = "{SENDER}"

[templates]
directory = "templates"

[poll]
interval = "{INTERVAL_S * 1000:.0f}ms"
batch_size = {BATCH}
batch_pause = "{PAUSE_S * 1000:.0f}ms"

[retry]
first = "{RETRY_S:.0f}s"
jitter = 0.0

[worker]
name = "{WORKER}"
state_dir = "state"

[log]
format = "console"
"""


class NotOurs(Exception):  # noqa: N818 - named by who is to blame
    """The directory holds something else, or another demo runs there. The text names the remedy."""


@dataclass(frozen=True)
class Place:
    """A directory of the demo's; `root` is as the user wrote it."""

    root: Path

    @property
    def database(self) -> Path:
        """The outbox, an SQLite file."""
        return self.root / "outbox.db"

    @property
    def mail(self) -> Path:
        """Where the catcher puts messages."""
        return self.root / "mail"

    @property
    def log(self) -> Path:
        """The service's own log."""
        return self.root / "poller.log"

    @property
    def config_file(self) -> Path:
        """For `poller --config`."""
        return self.root / "config.toml"

    @property
    def _state(self) -> Path:
        return self.root / "state"

    def config(self, host: str, port: int) -> Config:
        """The settings of the demo's service, which sends to `host` and `port`."""
        here = self.root.absolute()
        return Config(
            database=DatabaseSettings(url=f"sqlite:///{here / self.database.name}"),
            smtp=FirstRelaySettings(host=host, port=port, security="none"),
            message=MessageSettings(sender=SENDER),
            templates=TemplateSettings(directory=str(here / "templates")),
            poll=PollSettings(interval=INTERVAL_S, batch_size=BATCH, batch_pause=PAUSE_S),
            retry=RetrySettings(first=RETRY_S, jitter=0.0),
            worker=WorkerSettings(name=WORKER, state_dir=str(here / self._state.name)),
            log=LogSettings(format="console"),
        )

    def write_config(self, host: str, port: int) -> None:
        """The same as a file."""
        self.config_file.write_text(_CONFIG.format(host=host, port=port), "utf-8")

    def prepare(self) -> None:
        """Make it, or empty it (Rules 1 to 3), and lay out the templates."""
        if "?" in str(self.root.absolute()):
            raise NotOurs(f"{self.root} has a question mark, which ends the path in a URL; choose another --directory")
        self.root.mkdir(parents=True, exist_ok=True)
        if (self.root / MARK).exists():
            self._empty()
        elif any(self.root.iterdir()):
            raise NotOurs(f"{self.root} holds something that poller demo did not make; choose another --directory")
        (self.root / MARK).write_text("poller demo made this directory, and clears it when it runs again.\n", "utf-8")
        shutil.copytree(Path(__file__).parent / "templates", self.root / "templates")

    def _empty(self) -> None:
        try:
            StateDirectory(self._state).release()
        except StateTaken:
            raise NotOurs(f"another demo runs in {self.root}; let it end, or choose another --directory") from None
        for file in (*self.root.glob(f"{self.database.name}*"), self.log, self.config_file):
            file.unlink(missing_ok=True)
        for folder in (self.mail, self.root / "templates", self._state):
            shutil.rmtree(folder, ignore_errors=not folder.exists())
