"""The opening of a session, without I/O: greeting, EHLO, STARTTLS (RFC 5321 3.1, 3207), and then `poller.smtp.login`.

Rule 1. No login in clear text to another machine: with `security = "none"` only to the loopback.
Rule 2. What was offered before TLS is forgotten: anyone on the way could have said it.
Rule 3. TLS that was asked for is had, or there is no session: a relay that does not offer STARTTLS is refused.

Raises RelayTrouble, with the remedy, whenever a session cannot be had. It keeps no secret and names none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poller.exchange import Phase, RelayTrouble
from poller.smtp.actions import Await, LineLost, Send, StartTls
from poller.smtp.login import log_in
from poller.smtp.replies import DONE, Features
from poller.smtp.transaction import last_words

if TYPE_CHECKING:
    from poller.smtp.actions import Talk
    from poller.smtp.replies import RawReply
    from poller.smtp.settings import SmtpSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """What the connection knows of itself before a word is said."""

    relay: str
    """`host:port`."""
    our_name: str
    """For EHLO: a full host name, or an address literal."""
    is_loopback: bool
    tls: str = ""
    """Version and cipher, "" for plain text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """How a session came about: for `poller check` and the log."""

    banner: str
    features: Features
    tls: str
    authenticated: bool


def open_session(settings: SmtpSettings, line: Line, token: str | None = None) -> Talk[Handshake]:
    """From the greeting to the point where MAIL may be said; with a `token` for the login. Raises RelayTrouble."""
    _guard(settings, line, token)
    try:
        greeting: RawReply = yield Await(Phase.GREETING)
        _expect_done(Phase.GREETING, f"{line.relay} turned us away", greeting)
        features = yield from _introduce(line)
        tls = line.tls
        if settings.security == "starttls":
            tls = yield from _start_tls(line, features)
            features = yield from _introduce(line)
        if settings.username is not None:
            yield from log_in(settings, line.relay, features, token)
    except LineLost as lost:
        said = yield from last_words()
        words = f", after saying: {said.reply}" if said else ""
        reason = f"{line.relay}: {lost.loss.reason}{words}"
        raise RelayTrouble(lost.loss.phase, reason, said.reply if said else None) from lost
    return Handshake(
        banner=greeting.reply.text, features=features, tls=tls, authenticated=settings.username is not None
    )


def _guard(settings: SmtpSettings, line: Line, token: str | None) -> None:
    if not re.fullmatch(r"[\x21-\x7e]+", line.our_name):
        raise RelayTrouble(Phase.EHLO, "[smtp] ehlo_name is not a host name; write the full name of this machine")
    if settings.username is None:
        return
    secret = settings.password if token is None else token
    if secret is None:
        raise RelayTrouble(Phase.AUTH, f"{line.relay}: [smtp] has a username and no password; set password")
    if "\0" in settings.username + secret:
        raise RelayTrouble(Phase.AUTH, f"{line.relay}: [smtp] username or password contains a NUL character")
    if settings.security == "none" and not line.is_loopback:
        reason = (
            f'{line.relay}: no login in clear text to another machine; set [smtp] security = "starttls" or "tls", '
            "or leave out username and password"
        )
        raise RelayTrouble(Phase.AUTH, reason)


def _expect_done(phase: Phase, reason: str, raw: RawReply) -> None:
    if raw.code // 100 != DONE:
        raise RelayTrouble(phase, f"{reason}: {raw.reply}", raw.reply)


def _introduce(line: Line) -> Talk[Features]:
    """EHLO, or HELO to a relay that does not know EHLO (RFC 5321 section 3.2)."""
    yield Send(Phase.EHLO, f"EHLO {line.our_name}\r\n".encode("ascii"))
    answer: RawReply = yield Await(Phase.EHLO)
    if answer.code // 100 == DONE:
        return Features.read(answer)
    if answer.code // 100 == 5:  # noqa: PLR2004 - the class that says no
        yield Send(Phase.EHLO, f"HELO {line.our_name}\r\n".encode("ascii"))
        answer = yield Await(Phase.EHLO)
    _expect_done(Phase.EHLO, f"{line.relay} did not accept our EHLO; see [smtp] ehlo_name", answer)
    return Features(name=answer.reply.text.partition(" ")[0])


def _start_tls(line: Line, features: Features) -> Talk[str]:
    if not features.starttls:
        reason = (
            f'{line.relay} does not offer STARTTLS; set [smtp] security = "tls" if the port expects TLS from the first '
            'byte (465), or "none" for a relay on this machine'
        )
        raise RelayTrouble(Phase.STARTTLS, reason)
    yield Send(Phase.STARTTLS, b"STARTTLS\r\n")
    raw: RawReply = yield Await(Phase.STARTTLS)
    _expect_done(Phase.STARTTLS, f"{line.relay} offers STARTTLS and refuses it", raw)
    tls: str = yield StartTls()
    return tls
