"""SMTP in: a submission server (RFC 6409) for programs that know no other way.

Rule 1. 250 leaves only after COMMIT, with the row's id as queue id. Until then the client has its message still.
Rule 2. What could never be sent is refused with 5xx and the reason; whatever else goes wrong is 451: try again.
Rule 3. Who is not on this machine logs in, and only over TLS. On loopback without users nobody has to.
Rule 4. A stop says 421 to who is idle or in the midst of a message, and waits for those that are being committed.
Rule 5. DSN parameters (RFC 3461) are kept on the row.

It runs in a thread of its own, from `start` to `stop`. Raises OSError where it can't listen, and for a certificate that
can't be read; what it says of the latter names no password, for there is none.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from poller.outbox.database import connect
from poller.outbox.enqueue import enqueue_once
from poller.submission.entry import columns_of
from poller.submission.line import GOING, Line
from poller.submission.settings import is_loopback

if TYPE_CHECKING:
    from poller.log import Logger
    from poller.message.settings import MessageSettings
    from poller.outbox.settings import DatabaseSettings
    from poller.submission.entry import Envelope
    from poller.submission.settings import SubmissionSettings

COMMITS_AT_ONCE: Final = 4
STOP_WITHIN_S: Final = 20.0
"""For what is being committed."""


class Listener:
    """Takes mail from `start` to `stop`. `domain` completes addresses that have none."""

    def __init__(
        self,
        settings: SubmissionSettings,
        *,
        message: MessageSettings,
        database: DatabaseSettings,
        domain: str,
        log: Logger,
    ) -> None:
        self.settings, self.message, self.domain, self.log = settings, message, domain, log
        self.tls = _tls_of(settings)
        self.is_closing = False
        self.lines: set[Line] = set()
        host, port = settings.place
        self._socket = _listening(host, int(port))
        self.port: int = self._socket.getsockname()[1]
        self.needs_tls = not is_loopback(host)
        self._engine = connect(database)
        self._commits = ThreadPoolExecutor(COMMITS_AT_ONCE, thread_name_prefix="submission")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="submission", daemon=True)

    def start(self) -> None:
        """Take mail from now on."""
        logging.getLogger("mail.log").setLevel(logging.WARNING)  # each command, with addresses
        self._thread.start()
        self.log.info("submission.listening", at=f"{self.settings.place[0]}:{self.port}")

    def stop(self) -> None:
        """Take no more (Rule 4)."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._socket.close()
        self._commits.shutdown(wait=True)
        self._engine.dispose()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = self._loop.create_server(lambda: Line(self, self._loop), sock=self._socket)
        self._server = self._loop.run_until_complete(serving)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _close(self) -> None:
        self.is_closing = True
        self._server.close()
        for line in [line for line in self.lines if not line.is_committing]:
            line.leave(GOING)
        waited = 0.0
        while self.lines and waited < STOP_WITHIN_S:
            await asyncio.sleep(0.02)
            waited += 0.02
            for line in [line for line in self.lines if not line.is_committing]:
                line.leave(b"")

    async def enqueue(self, content: bytes, envelope: Envelope) -> int:
        """The row's id, committed. Raises Unsendable, ValueError, RowRefused, DatabaseUnavailable."""
        return await asyncio.shield(asyncio.wrap_future(self._commits.submit(self._row, content, envelope)))

    def _row(self, content: bytes, envelope: Envelope) -> int:
        """In a thread: a large message takes a moment to be read, and a COMMIT to come back."""
        columns = columns_of(
            content,
            envelope,
            domain=self.domain,
            max_size=self.message.max_size,
            dedupe=self.settings.dedupe,
        )
        return enqueue_once(self._engine, **columns)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def _tls_of(settings: SubmissionSettings) -> ssl.SSLContext | None:
    if settings.certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.certificate_file, settings.key_file)
    return context
