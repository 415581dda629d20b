"""Where bounces go, and where they are read: the `[bounces]` section. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from poller.sealed import UnusableKey, keys_of
from poller.units import SETTINGS, Checked, Misfit, Seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE: Final = "{token}"
LOCAL_PART_MOST: Final = 64  # octets, RFC 5321 section 4.5.3.1.1
TOKEN_LETTERS: Final = 53  # of a token for a row, in base32
_PATTERN = re.compile(r"[A-Za-z0-9._=+-]*\{token\}[A-Za-z0-9._=+-]*@[A-Za-z0-9.-]+")


_MAILBOX = re.compile(r"(?:maildir|mbox):/.+|imaps://[^\s/@]+(?:@[^\s/@]+)?@[^\s/:@]+(?::\d{1,5})?(?:/[^\s]*)?")


def check_mailbox(text: str) -> str:
    """A mailbox by its address. Raises ValueError with the remedy."""
    if not _MAILBOX.fullmatch(text):
        raise ValueError('write "maildir:/path", "mbox:/path" or "imaps://user@host/folder", without a password')
    return text


@dataclass(frozen=True, kw_only=True)
class BounceSettings:
    """The `[bounces]` section."""

    __pydantic_config__: ClassVar = SETTINGS

    address: str | None = None
    """The return path, with {token}: every message has one of its own."""
    key: str | None = field(default=None, repr=False)
    """Signs the tokens. One a line: the first signs, all verify."""
    dsn: bool = True
    """Ask relays that offer DSN to tell of failures and delays, with an envelope id."""
    suppress: tuple[Literal["bounce", "complaint"], ...] = ()
    """What puts a recipient on the suppression list."""
    suppress_for: Seconds | None = None
    """How long; None: for good."""
    mailbox: Annotated[str, Checked(check_mailbox)] | None = None
    """maildir:PATH, mbox:PATH, or imaps://USER@HOST[:PORT][/FOLDER]."""
    password: str | None = field(default=None, repr=False)
    """Of the IMAP server."""
    every: Seconds = 60.0
    """Between two looks at the mailbox."""

    def __post_init__(self) -> None:
        """Raise Misfit for what can't work."""
        if self.address is not None:
            _require_pattern(self.address)
        if self.mailbox and self.mailbox.startswith("imaps:") and not self.password:
            raise Misfit("mailbox", "an IMAP server wants a password too")


def contradictions(settings: BounceSettings) -> Iterator[tuple[tuple[tuple[str, ...], ...], str]]:
    """What is wrong with the key, and what to do."""
    if settings.key is None and settings.address is not None:
        reason = "the tokens in the return path need a key; make one, openssl rand -base64 32 > FILE, and name it"
        yield (("bounces", "address"), ("bounces", "key")), f"{reason} in [bounces] key_file"
    elif settings.key is not None:
        try:
            keys_of(settings.key)
        except UnusableKey as error:
            yield (("bounces", "key"),), str(error)


def _require_pattern(address: str) -> None:
    if not _PATTERN.fullmatch(address):
        raise Misfit("address", f'write it like "bounces+{PLACE}@example.com", with {PLACE} once')
    if len(address.partition("@")[0]) - len(PLACE) + TOKEN_LETTERS > LOCAL_PART_MOST:
        most = LOCAL_PART_MOST - TOKEN_LETTERS
        raise Misfit("address", f"with a token it is too long; {most} characters may stand beside it before the @")
