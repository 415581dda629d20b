"""Gears: how far we speak ahead of a relay's answers.

    off          each command waits for its answer
    transaction  MAIL, RCPT and DATA in one write, then the content; the end of data goes alone (RFC 2920)
    overlap      the end of one message in one write with the envelope of the next (RFC 2920 section 3.1)
    window       several messages by BDAT, whose final replies are still to come (RFC 3030)

Every client speaks `transaction`. The two gears above it put commands behind the end of data. The standard allows that,
and not every relay bears it: Dovecot's submission server crashes after it has passed the message on, Haraka closes the
session.

Rule 1. A gear is earned. `auto` is `transaction`, and `overlap` only for a family in PROVEN. The tests hold each of
        these against the real server.
Rule 2. The first sign that a relay does not bear its gear lowers it: `Session.lower` in `poller.smtp.transaction`.
        What was learnt is an upper bound on every later session, until a person removes it.
Rule 3. Behind the end of data a relay that did not bear that is given `transaction`. A relay that confuses the commands
        of one transaction is given `off`.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from poller.exchange import Reply
    from poller.smtp.replies import Features
    from poller.smtp.settings import SmtpSettings


class Gear(enum.IntEnum):
    """From the most careful to the fastest."""

    OFF = 0
    TRANSACTION = 1
    OVERLAP = 2
    WINDOW = 3

    @property
    def word(self) -> str:
        """As it is written in the configuration, in outbox_throttle and in the log."""
        return self.name.lower()


class Family(NamedTuple):
    """Servers that say the same of themselves in their greeting."""

    name: str
    greeting: re.Pattern[str]


PROVEN = (
    Family("Postfix", re.compile(r"\S+ ESMTP Postfix\b")),
    Family("Exim", re.compile(r"\S+ ESMTP Exim 4\.\d")),
)
"""Bear `overlap`. Each has its test with the real server in tests/smtp/test_gears_of_real_relays.py."""

OUT_OF_TURN = frozenset({500, 502, 503})
"""Command unrecognized, not implemented, bad sequence (RFC 5321 section 4.2.2): no answer to a command that is fine."""
_BLAMES_THE_ORDER = re.compile(r"pipelin|synchroni[sz]ation", re.IGNORECASE)
"""Exim: "554 SMTP synchronization error"; Postfix: "improper use of SMTP command pipelining"."""


def first_gear(settings: SmtpSettings, features: Features, greeting: str, known: Gear = Gear.WINDOW) -> Gear:
    """The gear of a new session, at most `known`: what the relay is known to bear. `greeting` is without its code."""
    if not features.pipelining:
        return Gear.OFF
    if settings.window > 1 and features.chunking:
        asked = Gear.WINDOW
    elif settings.pipelining == "auto":
        asked = Gear.OVERLAP if family_of(greeting) else Gear.TRANSACTION
    else:
        asked = Gear[settings.pipelining.upper()]
    return min(asked, known)


def family_of(greeting: str) -> str:
    """The name of the proven family that a relay says it belongs to; "" for none."""
    return next((family.name for family in PROVEN if family.greeting.match(greeting)), "")


def gear_of(word: str | None) -> Gear:
    """The gear that outbox_throttle names. Nothing, and nonsense, lower nothing."""
    return Gear[word.upper()] if word and word.upper() in Gear.__members__ else Gear.WINDOW


def is_out_of_turn(reply: Reply | None) -> bool:
    """The relay does not answer the command but finds fault with its place."""
    if reply is None or reply.kind not in {4, 5}:
        return False
    return reply.code in OUT_OF_TURN or blames_the_order(reply)


def blames_the_order(reply: Reply | None) -> bool:
    """It says so in words, whatever its code."""
    return reply is not None and reply.kind in {4, 5} and bool(_BLAMES_THE_ORDER.search(reply.text))
