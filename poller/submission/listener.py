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
import hmac
import logging
import socket
import ssl
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from poller.message import addresses
from poller.message.delivery_status import MAIL, RCPT, parameters
from poller.message.draft import Unsendable
from poller.outbox.database import DatabaseUnavailable, connect
from poller.outbox.enqueue import RowRefused, enqueue_once
from poller.submission.entry import Envelope, columns_of, completed
from poller.submission.settings import is_loopback
from poller.visible import visible

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope as Said
    from aiosmtpd.smtp import Session

    from poller.log import Logger
    from poller.message.settings import MessageSettings
    from poller.outbox.settings import DatabaseSettings
    from poller.submission.settings import SubmissionSettings

LONGEST_LINE: Final = 1024 * 1024
"""Octets: RFC 5321 has 1,000, and programs write longer ones. It is the relay's to refuse them."""
COMMAND_LIMIT: Final = 2048  # octets: 512 and what DSN, SIZE and AUTH may add (RFC 5321 section 4.5.3.1.4, RFC 3461)
MOST_RECIPIENTS: Final = 1000  # RFC 5321 section 4.5.3.1.8 wants 100 at least
IDLE_TIMEOUT_S: Final = 300.0  # RFC 5321 section 4.5.3.2.7
FAILED_LOGINS: Final = 3
COMMITS_AT_ONCE: Final = 4
STOP_WITHIN_S: Final = 20.0
"""For what is being committed."""
GOING: Final = b"421 4.3.2 the service is stopping; try again later\r\n"
FULL: Final = b"421 4.3.2 too many connections; try again later\r\n"
_OF_DSN = {MAIL: ("RET=", "ENVID="), RCPT: ("NOTIFY=", "ORCPT=")}


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
        self.lines: set[_Line] = set()
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
        serving = self._loop.create_server(lambda: _Line(self, self._loop), sock=self._socket)
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

    async def enqueue(self, columns: dict[str, Any]) -> int:
        """The row's id, committed. Raises RowRefused, DatabaseUnavailable."""
        work = self._commits.submit(enqueue_once, self._engine, **columns)
        return await asyncio.shield(asyncio.wrap_future(work))

    def authenticate(self, line: SMTP, _session: Session, _envelope: Said, _mechanism: str, data: Any) -> AuthResult:
        """Rule 3. As long for a wrong name as for a wrong password."""
        assert isinstance(line, _Line)  # noqa: S101 - we make them
        login = data.login if isinstance(data, LoginPassword) else b""
        password = data.password if isinstance(data, LoginPassword) else b""
        user = self.settings.users.get(login.decode(errors="replace"))
        is_right = hmac.compare_digest((user.password if user else "").encode(), password) and user is not None
        if is_right:
            return AuthResult(success=True, auth_data=data)
        line.failed_logins += 1
        self.log.warning("submission.refused", peer=line.peer, reason="login failed")
        if line.failed_logins >= FAILED_LOGINS:
            self._loop.call_soon(line.leave, b"")
            return AuthResult(success=False, handled=False, message="421 4.7.0 too many failed logins")
        return AuthResult(success=False, handled=False)


class _Line(SMTP):
    """One connection: aiosmtpd's, with DSN parameters and long lines."""

    line_length_limit = LONGEST_LINE

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self.listener = listener
        self.failed_logins = 0
        self.is_committing = False
        self.dsn_of_mail = ""
        self.dsn_of_rcpt: dict[str, str] = {}
        super().__init__(
            _Hooks(listener),
            data_size_limit=listener.message.max_size,
            enable_SMTPUTF8=True,
            hostname=listener.domain,
            ident="poller",
            tls_context=listener.tls,
            timeout=IDLE_TIMEOUT_S,
            auth_require_tls=listener.needs_tls,
            authenticator=listener.authenticate,
            loop=loop,
        )
        self.command_size_limit = COMMAND_LIMIT
        self.command_size_limits = defaultdict(lambda: COMMAND_LIMIT)

    @property
    def peer(self) -> str:
        """Host and port of the client."""
        return ":".join(map(str, (self.session.peer or ())[:2])) if self.session else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more, if there is room."""
        settings = self.listener.settings
        if self.transport is None and (
            self.listener.is_closing or len(self.listener.lines) >= settings.max_connections
        ):
            assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server has no other
            transport.write(GOING if self.listener.is_closing else FULL)
            transport.close()
            return
        self.listener.lines.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """One less."""
        self.listener.lines.discard(self)
        if self.transport is not None:
            super().connection_lost(error)

    def leave(self, words: bytes) -> None:
        """Say so, and close."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.write(words)
            self.transport.close()

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """MAIL, without its DSN parameters, which are kept."""
        rest, said = _parted(MAIL, arg)
        if said is None:
            await self.push("501 5.5.4 a DSN parameter is not as RFC 3461 has it")
            return
        if self.envelope is not None and self.envelope.mail_from is None:
            self.dsn_of_mail, self.dsn_of_rcpt = said, {}
        await super().smtp_MAIL(rest)

    async def smtp_RCPT(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        """RCPT, without its DSN parameters, which are kept."""
        rest, said = _parted(RCPT, arg)
        if said is None:
            await self.push("501 5.5.4 a DSN parameter is not as RFC 3461 has it")
            return
        before = len(self.envelope.rcpt_tos) if self.envelope else 0
        await super().smtp_RCPT(rest)
        if said and self.envelope and len(self.envelope.rcpt_tos) > before:
            self.dsn_of_rcpt[self.envelope.rcpt_tos[-1]] = said


class _Hooks:
    """What aiosmtpd asks: each answer is a reply."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, _envelope: Said, hostname: str, offers: list[str]
    ) -> list[str]:
        """What is offered: AUTH only where somebody could log in."""
        session.host_name = hostname
        if not self._listener.settings.users:
            offers = [offer for offer in offers if not offer.startswith("250-AUTH")]
        return [*offers[:-1], "250-DSN", offers[-1]]

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, envelope: Said, address: str, options: list[str]
    ) -> str:
        """Rule 3."""
        if self._listener.settings.users and not session.authenticated:
            return "530 5.7.0 log in first"
        if problem := self._problem(address) if address != "<>" else "":
            return f"553 5.1.7 {problem}"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Said, address: str, _options: list[str]
    ) -> str:
        """An address that can be one."""
        if problem := self._problem(address):
            return f"553 5.1.3 {problem}"
        if len(envelope.rcpt_tos) >= MOST_RECIPIENTS:
            return "452 4.5.3 too many recipients; send the message again for the others"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    def _problem(self, address: str) -> str:
        try:
            addresses.parse_one(completed(address, self._listener.domain))
        except ValueError as error:
            return visible(str(error))
        return ""

    async def handle_DATA(self, server: SMTP, _session: Session, said: Said) -> str:  # noqa: N802 - aiosmtpd's name
        """Rule 1, Rule 2."""
        assert isinstance(server, _Line)  # noqa: S101 - we make them
        content = said.original_content or b""
        try:
            columns = columns_of(
                content,
                _envelope(server, said),
                domain=self._listener.domain,
                max_size=self._listener.message.max_size,
                dedupe=self._listener.settings.dedupe,
            )
        except (Unsendable, ValueError) as error:
            self._listener.log.warning("submission.refused", peer=server.peer, reason=str(error))
            return f"554 5.6.0 {visible(str(error))}"
        return await self._committed(server, columns)

    async def _committed(self, line: _Line, columns: dict[str, Any]) -> str:
        line.is_committing = True
        try:
            row_id = await self._listener.enqueue(columns)
        except (RowRefused, DatabaseUnavailable) as error:
            self._listener.log.warning("submission.refused", peer=line.peer, reason=str(error))
            return "451 4.3.0 the outbox can't be written now; try again later"
        finally:
            line.is_committing = False
        self._listener.log.info("submission.taken", peer=line.peer, id=row_id)
        return f"250 2.0.0 Ok: queued as {row_id}"

    async def handle_exception(self, error: Exception) -> str:
        """What nobody foresaw is no reason to lose a message: the client keeps it."""
        self._listener.log.error("submission.refused", reason=repr(error))
        return "451 4.3.0 an error of this service; try again later"


def _envelope(line: _Line, said: Said) -> Envelope:
    return Envelope(
        mail_from=said.mail_from,
        recipients=[to for to in said.rcpt_tos if to],
        mail_parameters=line.dsn_of_mail,
        rcpt_parameters=line.dsn_of_rcpt,
    )


def _parted(command: str, arg: str | None) -> tuple[str | None, str | None]:
    """What aiosmtpd reads, and the DSN parameters; None where they are none."""
    path, end, options = (arg or "").rpartition(">")
    words = options.split()
    of_dsn = [word for word in words if word.upper().startswith(_OF_DSN[command])]
    try:
        said = parameters(command, " ".join(of_dsn))
    except ValueError:
        return arg, None
    if not of_dsn:
        return arg, ""
    return " ".join((path + end, *(word for word in words if word not in of_dsn))), said


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def _tls_of(settings: SubmissionSettings) -> ssl.SSLContext | None:
    if settings.certificate_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.certificate_file, settings.key_file)
    return context
