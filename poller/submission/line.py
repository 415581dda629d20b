"""One connection of the listener: aiosmtpd's, with logins of ours, DSN parameters, and lines of any length.

What its client is told is decided here; the rules are the listener's.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from poller.message import addresses
from poller.message.delivery_status import MAIL, RCPT, parameters
from poller.message.draft import Unsendable
from poller.outbox.database import DatabaseUnavailable
from poller.outbox.enqueue import RowRefused
from poller.submission.entry import Envelope, completed
from poller.visible import visible

if TYPE_CHECKING:
    from aiosmtpd.smtp import Envelope as Said
    from aiosmtpd.smtp import Session

    from poller.submission.listener import Listener

LONGEST_LINE: Final = 1024 * 1024
"""Octets: RFC 5321 has 1,000, and programs write longer ones. It is the relay's to refuse them."""
COMMAND_LIMIT: Final = 2048  # octets: 512 and what DSN, SIZE and AUTH may add (RFC 5321 section 4.5.3.1.4, RFC 3461)
MOST_RECIPIENTS: Final = 1000  # RFC 5321 section 4.5.3.1.8 wants 100 at least
IDLE_TIMEOUT_S: Final = 300.0  # RFC 5321 section 4.5.3.2.7
FAILED_LOGINS: Final = 3
FULL: Final = b"421 4.3.2 too many connections; try again later\r\n"
GOING: Final = b"421 4.3.2 the service is stopping; try again later\r\n"
_OF_DSN = {MAIL: ("RET=", "ENVID="), RCPT: ("NOTIFY=", "ORCPT=")}


class Line(SMTP):
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
            authenticator=authenticate,
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
        assert isinstance(server, Line)  # noqa: S101 - we make them
        log = self._listener.log
        server.is_committing = True
        try:
            row_id = await self._listener.enqueue(said.original_content or b"", _envelope(server, said))
        except (Unsendable, ValueError) as error:
            log.warning("submission.refused", peer=server.peer, reason=str(error))
            return f"554 5.6.0 {visible(str(error))}"
        except (RowRefused, DatabaseUnavailable) as error:
            log.warning("submission.refused", peer=server.peer, reason=str(error))
            return "451 4.3.0 the outbox can't be written now; try again later"
        finally:
            server.is_committing = False
        log.info("submission.taken", peer=server.peer, id=row_id)
        return f"250 2.0.0 Ok: queued as {row_id}"

    async def handle_exception(self, error: Exception) -> str:
        """What nobody foresaw is no reason to lose a message: the client keeps it."""
        self._listener.log.error("submission.refused", reason=repr(error))
        return "451 4.3.0 an error of this service; try again later"


def _envelope(line: Line, said: Said) -> Envelope:
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


def authenticate(line: SMTP, _session: Session, _envelope: Said, _mechanism: str, data: Any) -> AuthResult:
    """By name and password; as long for a wrong name as for a wrong password."""
    assert isinstance(line, Line)  # noqa: S101 - we make them
    login = data.login if isinstance(data, LoginPassword) else b""
    password = data.password if isinstance(data, LoginPassword) else b""
    user = line.listener.settings.users.get(login.decode(errors="replace"))
    is_right = hmac.compare_digest((user.password if user else "").encode(), password) and user is not None
    if is_right:
        return AuthResult(success=True, auth_data=data)
    line.failed_logins += 1
    line.listener.log.warning("submission.refused", peer=line.peer, reason="login failed")
    if line.failed_logins >= FAILED_LOGINS:
        line.loop.call_soon(line.leave, b"")
        return AuthResult(success=False, handled=False, message="421 4.7.0 too many failed logins")
    return AuthResult(success=False, handled=False)
