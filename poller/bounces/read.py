"""Pure: what a message that came back says. Standard reports first, then the odd ones, then everything else.

Rule 1. RFC 3464 (delivery status) and RFC 5965 (complaints) are read by the book. What is neither is looked at by
        flufl.bounce, which knows the ways of many systems. An automatic reply of a person's mailbox is no bounce.
Rule 2. Whatever comes, this ends: MOST_BYTES are read, and what can't be taken apart is `unknown`, with the reason.
Rule 3. Nothing here says whose message it was. That is for who holds the keys (`poller.bounces.match`).
"""

from __future__ import annotations

import logging
import re
from email import message_from_bytes
from email.policy import compat32
from typing import TYPE_CHECKING, Any, Final, Literal

from flufl.bounce import all_failures

from poller.frozen import dataclass
from poller.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import Message

MOST_BYTES: Final = 256 * 1024
"""Of a message: reports stand in front, and what is sent back behind them may be as large as it likes."""
MOST_REPORTS: Final = 1000
"""Recipients of one report."""
MOST_DEPTH: Final = 20
"""Parts within parts."""
TEXT_MOST: Final = 1000
"""Characters of what a system says, as everywhere."""

# It logs a traceback for each of its readers that a message is too odd for. What comes from outside is no fault.
logging.getLogger("flufl.bounce").setLevel(logging.CRITICAL)

Kind = Literal["bounce", "complaint", "auto_reply", "unknown"]
Action = Literal["failed", "delayed", "delivered"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of one recipient. `status` is an enhanced status code (RFC 3463), "" where none is told."""

    address: str
    action: Action
    status: str = ""
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Returned:
    """What a message says. `sent_to` are the addresses it came to, `message_ids` those that it may be about."""

    kind: Kind
    reports: tuple[Report, ...] = ()
    envelope_id: str = ""
    message_ids: tuple[str, ...] = ()
    sent_to: tuple[str, ...] = ()
    reason: str = ""
    """Why it is unknown."""


_SENT_TO = ("Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "To")
_ADDRESS = re.compile(r"[^\s<>,;:\"()\[\]]+@[^\s<>,;:\"()\[\]]+")
_MESSAGE_ID = re.compile(r"^[ \t>]{0,20}Message-ID:[ \t]{0,20}(<[^<>\s]{3,250}>)", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")
_ACTIONS: dict[str, Action] = {"failed": "failed", "delayed": "delayed", "delivered": "delivered"}
"""RFC 3464 section 2.3.3; "relayed" and "expanded" say that it went on, which is no news."""


def returned(raw: bytes) -> Returned:
    """Read one message."""
    try:
        message = message_from_bytes(raw[:MOST_BYTES], policy=compat32)
        parts = list(_parts(message, 0))
        return _read(message, parts)
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Returned(kind="unknown", reason=f"it can't be taken apart: {type(error).__name__}")


def _read(message: Message, parts: list[Message]) -> Returned:
    about: dict[str, Any] = {"sent_to": _sent_to(message), "message_ids": _message_ids(parts)}
    for part in parts:
        match part.get_content_type():
            case "message/delivery-status":
                blocks = _blocks(part)
                if reports := tuple(_status_reports(blocks)):
                    envelope_id = _field(blocks[0], "Original-Envelope-Id")
                    return Returned(kind="bounce", reports=reports, envelope_id=envelope_id, **about)
            case "message/feedback-report":
                return Returned(kind="complaint", reports=tuple(_complaints(_blocks(part))), **about)
            case _:
                pass
    if reports := tuple(_odd(message, parts)):
        return Returned(kind="bounce", reports=reports, **about)
    if _is_automatic(message):
        return Returned(kind="auto_reply", **about)
    return Returned(kind="unknown", reason="it is no report that anybody knows", **about)


def _parts(message: Message, depth: int) -> Iterator[Message]:
    yield message
    payload: Any = message.get_payload()
    if depth < MOST_DEPTH and isinstance(payload, list):
        for part in payload[:MOST_REPORTS]:
            yield from _parts(part, depth + 1)


def _blocks(part: Message) -> list[Message]:
    """Of message/delivery-status: the parser makes a message of each block of fields."""
    payload: Any = part.get_payload()
    if isinstance(payload, list):
        return list(payload) or [part]
    decoded: Any = part.get_payload(decode=True)
    raw = decoded if isinstance(decoded, bytes) else str(payload).encode()
    return [message_from_bytes(block, policy=compat32) for block in re.split(rb"\r?\n\r?\n", raw.strip()) if block]


def _status_reports(blocks: list[Message]) -> Iterator[Report]:
    """RFC 3464 section 2.3: one block for each recipient, behind the one for the message."""
    for block in blocks[: MOST_REPORTS + 1]:
        action = _ACTIONS.get(_field(block, "Action").lower())
        address = _typed_address(_field(block, "Original-Recipient")) or _typed_address(
            _field(block, "Final-Recipient")
        )
        if action is None or not address:
            continue
        said = _field(block, "Diagnostic-Code").partition(";")[2].strip() or _field(block, "Diagnostic-Code")
        status = _STATUS.search(_field(block, "Status")) or _STATUS.search(said)
        yield Report(address=address, action=action, status=status[1] if status else "", text=_shown(said))


def _complaints(blocks: list[Message]) -> Iterator[Report]:
    """RFC 5965 section 3: to whom the message was sent, as far as that was not taken out."""
    for block in blocks:
        kind = _field(block, "Feedback-Type").lower()
        for value in block.get_all("Original-Rcpt-To", []):
            if found := _ADDRESS.search(str(value)):
                yield Report(address=found[0], action="failed", text=_shown(f"complaint: {kind or 'abuse'}"))


def _odd(message: Message, parts: list[Message]) -> Iterator[Report]:
    """Rule 1: the ways of many systems."""
    temporary, permanent = all_failures(message)
    text = _shown(next((line for line in _lines(parts) if _STATUS.search(line) or "550" in line), ""))
    status = _STATUS.search(text)
    for found, action in ((permanent, "failed"), (temporary, "delayed")):
        for raw in sorted(found)[:MOST_REPORTS]:
            address = raw.decode("ascii", "replace")
            is_same = status is not None and (status[1][0] == "4") == (action == "delayed")
            yield Report(
                address=address,
                action=_ACTIONS[action],
                status=status[1] if status and is_same else "",
                text=text,
            )


def _is_automatic(message: Message) -> bool:
    """RFC 3834, and what came before it."""
    submitted = _field(message, "Auto-Submitted").lower()
    return (
        (submitted not in {"", "no"})
        or any(name in message for name in ("X-Autoreply", "X-Autorespond", "X-Auto-Response-Suppress"))
        or _field(message, "Precedence").lower() in {"auto_reply", "auto-reply", "junk"}
    )


def _sent_to(message: Message) -> tuple[str, ...]:
    values = (str(value) for name in _SENT_TO for value in message.get_all(name, []))
    return tuple(dict.fromkeys(found for value in values for found in _ADDRESS.findall(value)))[:MOST_REPORTS]


def _message_ids(parts: list[Message]) -> tuple[str, ...]:
    """Of what came back: its own field where it is a part, else a line of the text."""
    found = [_field(part, "Message-ID") for part in parts[1:] if "Message-ID" in part]
    found += [match for line in [*_texts(parts)] for match in _MESSAGE_ID.findall(line)]
    return tuple(dict.fromkeys(name.strip() for name in found if name))[:MOST_DEPTH]


def _texts(parts: list[Message]) -> Iterator[str]:
    for part in parts:
        if not part.is_multipart() and part.get_content_maintype() in {"text", "message"}:
            payload = part.get_payload(decode=True)
            if isinstance(payload, bytes):
                yield payload.decode("utf-8", "replace")


def _lines(parts: list[Message]) -> Iterator[str]:
    for text in _texts(parts):
        yield from (line.strip() for line in text.splitlines())


def _field(message: Message, name: str) -> str:
    return re.sub(r"\s+", " ", str(message.get(name, ""))).strip()


def _typed_address(value: str) -> str:
    """RFC 3464 section 2.1.2: "rfc822; user@example.com". Angle brackets are not foreseen, and come all the same."""
    kind, _, address = value.partition(";")
    found = _ADDRESS.search(address if kind.strip().lower() in {"rfc822", "utf-8", "smtp"} else value)
    return found[0] if found else ""


def _shown(text: str) -> str:
    return visible(text)[:TEXT_MOST]
