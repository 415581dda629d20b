"""Pure: what a row's columns of addresses and its Message-ID say, read strictly.

The composer reads a row with these, and so does an application's side at once: what one accepts, the other does.

Raises `Unsendable`, naming the column and the remedy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from poller.message import addresses, characters
from poller.message.draft import Unsendable
from poller.message.message_id import MESSAGE_ID_MOST, valid_message_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.message.addresses import Mailbox

    Lists = Mapping[Literal["to", "cc", "bcc"], tuple[Mailbox, ...]]

MOST_RECIPIENTS = 10_000


def require_message_id(text: str) -> str:
    """The text, or Unsendable."""
    if not valid_message_id(text):
        reason = f"{characters.shown(text)} is not <left@right> in ASCII, {MESSAGE_ID_MOST} at most"
        raise Unsendable("message_id", f"{reason}; correct it, or leave it out and one is made")
    return text


@lru_cache(maxsize=256)
def read_lists(recipients: str | None, cc: str | None, bcc: str | None) -> Lists:
    """Kept for a while: a row's lists are asked for when it is looked at, and when composed."""
    _require_a_few(recipients, cc, bcc)
    seen: set[str] = set()
    to = _unseen("recipients", recipients, seen)
    lists: Lists = {"to": to, "cc": _unseen("cc", cc, seen), "bcc": _unseen("bcc", bcc, seen)}
    if not seen:
        raise Unsendable("recipients", "no address in recipients, cc or bcc; write at least one")
    return lists


def _require_a_few(*lists: str | None) -> None:
    """Looked at before anything is parsed: each turn of a row reads all of its recipients."""
    count = sum(text.count("@") for text in lists if text)
    if count > MOST_RECIPIENTS:
        reason = f"about {count:,} addresses, more than the {MOST_RECIPIENTS:,} that one message may have"
        raise Unsendable("recipients", f"{reason}; write a row for each, or for some of them")


def _unseen(column: str, text: str | None, seen: set[str]) -> tuple[Mailbox, ...]:
    """The mailboxes of one list that are not `seen` yet; then they are."""
    if not text:
        return ()
    found: list[Mailbox] = []
    for mailbox in address_list(column, text):
        if mailbox.wire not in seen:
            seen.add(mailbox.wire)
            found.append(mailbox)
    return tuple(found)


def address_list(column: str, text: str | None) -> list[Mailbox]:
    """Every address of the column's list, or Unsendable."""
    if not text:
        return []
    try:
        found = addresses.parse_list(characters.header_text(column, text))
    except ValueError as error:
        raise Unsendable(column, str(error)) from None
    for mailbox in found:
        if "=?" in mailbox.name:  # an encoded word inside an encoded word
            characters.header_text(column, mailbox.name)
    return found


@lru_cache(maxsize=256)
def one_address(column: str, text: str) -> Mailbox:
    """The one address that the column holds, or Unsendable."""
    if not text.strip():
        remedy = "fill the column, or set [message] sender" if column == "sender" else "write one address"
        raise Unsendable(column, f"there is none; {remedy}")
    found = address_list(column, text)
    if len(found) != 1:
        raise Unsendable(column, f"{characters.shown(text)} holds {len(found)} addresses; write exactly one")
    return found[0]
