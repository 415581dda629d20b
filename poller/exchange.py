"""What passes between us and a relay, as facts.

A `Message` is what the courier is asked to carry; an `Exchange` is what happened on the wire when it tried. Neither
says what anything *means*: judgement lives in `poller.judgement.outcome`.

Rule 1. An exchange records replies and losses exactly as seen, one reply slot per recipient, and never interprets them.
Rule 2. `end_of_data_sent` is true from the moment the last byte of the content *may* have left this machine. It is the
        only thing that separates "not delivered" from "in doubt" (RFC 1047).
"""

from __future__ import annotations

import enum
from dataclasses import field
from typing import TYPE_CHECKING

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

_DONE = 2


class Phase(enum.StrEnum):
    """How far a session or a transaction has come (RFC 5321 section 3), in order."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    """DATA was sent and 354 awaited."""
    CONTENT = "content"
    """The content is being written; its end has not left."""
    END = "end"
    """The end of data may have left; the final reply is awaited."""
    RSET = "rset"
    QUIT = "quit"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    r"""One SMTP reply (RFC 5321 section 4.2).

    `code` is 200..599, `status` the enhanced status code such as "5.1.1" (RFC 3463) or "", `text` the lines without
    codes joined by one space, printable, at most 1,000 characters, other bytes as `\xNN`.
    """

    code: int
    status: str = ""
    text: str = ""

    @property
    def kind(self) -> int:
        """The first digit: 2 done, 3 go on, 4 not now, 5 no."""
        return self.code // 100

    def __str__(self) -> str:
        """As a mail log writes it: `550 5.1.1 no such user`."""
        if self.status and self.text:
            return f"{self.code} {self.status} {self.text}"
        return " ".join(part for part in (str(self.code), self.status, self.text) if part)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """The line was lost, timed out, or answered with something that is no SMTP reply.

    `phase` is what was awaited or being written then, `reason` words for a person.
    """

    phase: Phase
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What the courier carries: an envelope and finished bytes.

    `row_id`, `claim_seq` and `message_id` are the fence by which the outcome finds its row. `recipients` are wire
    addresses (domain in ASCII form), at least one, without repetition. `content` is a complete RFC 5322 message with
    CRLF line ends and no bare CR or LF; it is not dot-stuffed. `smtputf8` says that it or the envelope needs RFC 6531.
    """

    row_id: int
    claim_seq: int
    message_id: str
    mail_from: str
    """Reverse-path without angle brackets; "" is the null reverse-path."""
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)
    smtputf8: bool = False
    dsn: Mapping[str, str] | None = None
    """DSN parameters (RFC 3461), for a relay that offers them: of MAIL under "", of a recipient under its address."""
    envelope_id: str = ""
    """By which a delivery status notification is to name it (RFC 3461); "" where none is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One attempt to hand one message to a relay: the furthest phase, every reply, or how the line was lost.

    `rcpt` has one entry per `message.recipients`, in order; None where no reply was read. `lacking` names what the
    relay does not offer and the message needs ("SMTPUTF8", or SIZE in words): then nothing was sent at all.
    `unanswered`: the session ended before it was this message's turn, and had another one in hand: none of its commands
    was answered, and its data is not out. `seconds` is the time the transaction took, from the moment the relay had
    answered the one before; `relay` names the relay it was with, as `host:port`.
    """

    message: Message
    phase: Phase
    mail: Reply | None = None
    rcpt: tuple[Reply | None, ...] = ()
    data: Reply | None = None
    end: Reply | None = None
    loss: Loss | None = None
    lacking: str = ""
    end_of_data_sent: bool = False
    unanswered: bool = False
    seconds: float = 0.0
    relay: str = ""

    @property
    def is_accepted(self) -> bool:
        """For all recipients, and nothing was odd: every reply says 2xx, but for the 354."""
        if self.loss is not None or self.end is None or self.mail is None or self.lacking:
            return False
        return all(reply is not None and reply.kind == _DONE for reply in (self.mail, *self.rcpt, self.end))


def answer_lost(message: Message, relay: str, reason: str, rcpt: tuple[Reply | None, ...] = ()) -> Exchange:
    """The exchange of a message whose end of data may have left, and whose answer was never read.

    Who was refused at RCPT stays refused; for all others it is as if the line had been lost.
    """
    return Exchange(
        message=message,
        phase=Phase.END,
        mail=Reply(code=250),
        rcpt=(*rcpt, *[None] * (len(message.recipients) - len(rcpt))),
        data=Reply(code=354),
        loss=Loss(phase=Phase.END, reason=reason),
        end_of_data_sent=True,
        relay=relay,
    )


class RelayTrouble(Exception):  # noqa: N818 - named by who is to blame
    """The relay could not be used at all: no connection, no greeting, no TLS, no login. No row is to blame.

    `phase` is one of CONNECT..AUTH; `reply` what it said, if it spoke; `reason` words for a person, with the remedy.
    """

    def __init__(self, phase: Phase, reason: str, reply: Reply | None = None) -> None:
        super().__init__(reason)
        self.phase = phase
        self.reason = reason
        self.reply = reply
