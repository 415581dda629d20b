"""kill -9 of the listener when its row is committed and its 250 has not left."""

from __future__ import annotations

import os
import signal
import smtplib
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from chaos.proxy import CommitCutter
from databases import free_port
from servers.processes import greets, wait_until
from service import zygote

if TYPE_CHECKING:
    from pathlib import Path

    from chaos.proxy import When
    from service.bench import Bench
    from service.zygote import Process

KILLS = int(os.environ.get("POLLER_TEST_KILLS", "4"))
FIRST = 1000
RAW = b"From: jo@x.test\r\nMessage-ID: <%d@x.test>\r\n\r\nHello\r\n"


class Scene:
    """A listener behind a proxy to the database that kills it at its COMMIT, if told to."""

    def __init__(self, bench: Bench, *, dedupe: bool) -> None:
        url = sa.make_url(bench.database.url)
        self.port = free_port()
        self.doomed = False
        self.process: Process | None = None
        self.cutter = CommitCutter(host=url.host or "", port=url.port or 0, decide=self._decide)
        bench.through = url.set(port=self.cutter.listens).render_as_string(hide_password=False)
        submission = {"listen": f"127.0.0.1:{self.port}", "dedupe": dedupe}
        self.config = bench.configure("127.0.0.1", 25, submission=submission)
        self.log: Path = bench.directory / "listen.log"

    def start(self) -> None:
        self.process = zygote.start(["--config", str(self.config), "listen"], self.log)
        wait_until(lambda: greets(self.port), "the greeting", seconds=30)

    def _decide(self) -> When | None:
        if not self.doomed or self.process is None:
            return None
        self.doomed = False
        self.process.send_signal(signal.SIGKILL)
        return "before its reply"

    def submit(self, number: int) -> bool:
        """Whether there was a 250."""
        try:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as client:
                client.sendmail("jo@x.test", ["a@b.test"], RAW % number)
        except (OSError, smtplib.SMTPException):
            return False
        return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("dedupe", [False, True])
def test_nothing_is_lost_and_who_repeats_has_one_row_if_that_was_asked_for(bench: Bench, *, dedupe: bool) -> None:
    scene = Scene(bench, dedupe=dedupe)
    with scene.cutter:
        scene.start()
        for number in range(KILLS):
            assert scene.submit(FIRST + number)  # the connection is there: the next COMMIT is that of the row
            scene.doomed = True
            assert not scene.submit(number)
            assert scene.process is not None
            scene.process.wait(30)
            scene.start()
            assert scene.submit(number)
        assert scene.process is not None
        scene.process.kill()
        scene.process.wait(30)
    found = Counter(row.message_id for row in bench.rows())
    repeated, others = ([f"<{first + number}@x.test>" for number in range(KILLS)] for first in (0, FIRST))
    assert found == dict.fromkeys(repeated, 1 if dedupe else 2) | dict.fromkeys(others, 1)
    assert scene.cutter.cuts == KILLS
