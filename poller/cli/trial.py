"""`poller check --deliver-to`: what a relay bears, found out with a few messages to one address.

Rule 1. Each gear (`poller.smtp.gears`) is tried in a session of its own, the most careful first. The first one that the
        relay does not bear ends the trial.
Rule 2. `only_to` and `redirect_to` hold here too.
Rule 3. Nothing is written to the outbox. What the service has learnt of the relay stays as it is.

Raises RelayTrouble where no session can be had, and Unsendable where no message can be made.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from poller.exchange import Message
from poller.message.draft import Draft, Unsendable
from poller.smtp.courier import Courier
from poller.smtp.gears import Gear, first_gear
from poller.smtp.remedies import after_sender_refusal
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.config.load import Config
    from poller.exchange import Exchange
    from poller.smtp.relays import RelaySettings
    from poller.smtp.replies import Features

MESSAGES: Final = 3
"""In each gear: two are ahead of an answer where the gear allows it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One gear: how many messages were accepted, and why it is not borne, "" if it is."""

    gear: Gear
    used: Gear
    """What the service begins with at this relay."""
    accepted: int
    trouble: str


def trials(config: Config, relay: RelaySettings, table: str, address: str) -> Iterator[Trial]:
    """Try the gears of one relay (Rule 1)."""
    for gear in Gear:
        settings = replace(relay, pipelining=_word(gear), window=MESSAGES if gear is Gear.WINDOW else 1)
        lowered: list[str] = []
        courier = Courier(settings, table=table, session_events=_hearing(lowered))
        courier.open()
        try:
            if gear > most_offered(courier.features):
                return
            used = gear_used(relay, courier)
            seen = list(courier.carry(_messages(config, address, gear)))
        finally:
            courier.close()
        accepted = sum(exchange.is_accepted for exchange in seen)
        trial = Trial(gear=gear, used=used, accepted=accepted, trouble=_trouble(seen, lowered))
        yield trial
        if trial.trouble:
            return


def most_offered(features: Features | None) -> Gear:
    """The highest gear that the relay's EHLO allows."""
    if features is None or not features.pipelining:
        return Gear.OFF
    return Gear.WINDOW if features.chunking else Gear.OVERLAP


def gear_used(relay: RelaySettings, courier: Courier) -> Gear:
    """The gear that the service begins with at a relay to which a session is open."""
    handshake = courier.handshake
    return first_gear(relay, handshake.features, handshake.banner) if handshake else Gear.OFF


def in_words(relay: RelaySettings, last: Trial, table: str) -> str:
    """What the relay bears, what is used of it, and how to use more. `last` is the highest gear that it bears."""
    borne, used = last.gear, last.used
    words = f'bears {borne.word}; used: {used.word} ([{table}] pipelining = "{relay.pipelining}")'
    if used > borne:
        return f'{words}; set [{table}] pipelining = "{_word(borne)}"'
    if borne > used:
        more = f"window = {MESSAGES}" if borne is Gear.WINDOW else f'pipelining = "{borne.word}"'
        return f"{words}; for a relay that you know, [{table}] {more} is faster"
    return words


def _word(gear: Gear) -> Any:
    return "overlap" if gear is Gear.WINDOW else gear.word


def _hearing(lowered: list[str]) -> Any:
    def hear(event: str, facts: dict[str, Any]) -> None:
        if event == "relay.lowered":
            lowered.append(facts["reason"])

    return hear


def _trouble(seen: list[Exchange], lowered: list[str]) -> str:
    """Why the gear is not borne, or why nobody can tell."""
    if lowered:
        return lowered[0]
    for exchange in seen:
        if not exchange.is_accepted:
            replies = (exchange.mail, *exchange.rcpt, exchange.data, exchange.end)
            refused = next((reply for reply in replies if reply is not None and reply.kind in {4, 5}), None)
            remedy = after_sender_refusal(refused) if refused is not None else ""
            said = str(refused or (exchange.loss and exchange.loss.reason) or exchange.lacking or "no answer")
            return f"{remedy}: {said}" if remedy else said
    return ""


def _messages(config: Config, address: str, gear: Gear) -> Iterator[Message]:
    composer = composer_of(config)
    for number in range(1, MESSAGES + 1):
        draft = Draft(
            id=number,
            message_id=f"<check-{secrets.token_hex(12)}@{composer.message_id_domain}>",
            date=datetime.now(UTC).replace(microsecond=0),
            recipients=address,
            subject=f"poller check: pipelining {gear.word}, {number} of {MESSAGES}",
            body_text="Somebody runs: poller check --deliver-to, to find out what a mail relay bears.\n",
        )
        (recipient,) = composer.recipients(draft)
        if recipient.withheld:
            raise Unsendable("recipients", f"{address}: {recipient.withheld}")
        composed = composer.compose(draft)
        yield Message(
            row_id=number,
            claim_seq=1,
            message_id=draft.message_id,
            mail_from=composed.mail_from,
            recipients=(recipient.wire,),
            content=composed.content,
            smtputf8=composed.smtputf8,
        )
