"""What the composing of messages may be told: `[message]`, `[templates]`, `[attachments]`, `[dkim."DOMAIN"]`.

Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from poller.domains import in_ascii
from poller.units import SETTINGS, Bytes, Checked, Misfit, Seconds

_SELECTOR: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_SELECTOR_MOST: Final = 100  # characters: with ._domainkey and the domain it is a name in the DNS


@dataclass(frozen=True, kw_only=True)
class MessageSettings:
    """Defaults for a row that leaves them out, and the two switches for staging."""

    __pydantic_config__: ClassVar = SETTINGS

    sender: str | None = None
    """From of a row without its own, as in `Shop <shop@example.com>`."""
    message_id_domain: str | None = None
    """What stands after the @ of a Message-ID; default the domain of `sender`, else this machine's name."""
    max_size: Bytes = 25_000_000
    """Of a composed message, in bytes."""
    redirect_to: str | None = None
    """For staging: every message goes to this address instead."""
    keep_sent: Literal["none", "hash", "full"] = "none"
    """What of a sent message is kept beside its row: nothing, the hash of its bytes, or the bytes, compressed."""
    only_to: tuple[str, ...] = ()
    """For staging: addresses or `@domain`; any other recipient is suppressed."""


@dataclass(frozen=True, kw_only=True)
class TemplateSettings:
    """Where templates lie."""

    __pydantic_config__: ClassVar = SETTINGS

    directory: str | None = None
    inline_css: bool = False
    """Whether the rules of `<style>` go into `style` attributes."""
    max_seconds: Seconds = 5.0
    """Of work for one row: so long a stop may have to wait."""
    max_size: Bytes = 5_000_000
    """Of each part, in characters."""


@dataclass(frozen=True, kw_only=True)
class AttachmentSettings:
    """Where files lie that rows name by path, and what a file may be."""

    __pydantic_config__: ClassVar = SETTINGS

    directory: str | None = None
    """Rows name files below it; no other file can be reached. Without it, rows can't name one."""
    max_size: Bytes = 25_000_000
    """Of one file, in bytes."""
    types: tuple[str, ...] = ()
    """Content types that may be sent, such as "application/pdf" or "image/*"; none: any."""


def check_selector(text: str) -> str:
    """A selector: one or more labels (RFC 6376 section 3.1). Raises ValueError with the remedy."""
    if len(text) > _SELECTOR_MOST or not _SELECTOR.fullmatch(text):
        raise ValueError('not a selector; write it in lower case, like "s2026", as it is published in the DNS')
    return text


def check_signing_domain(name: str) -> str:
    """A domain that may sign. Raises ValueError with the remedy."""
    if name.startswith("[") or not name.isascii() or _written(name) != name:
        raise ValueError('not a domain; write it in lower case like "example.com", and xn--... if it is not ASCII')
    if "." not in name:
        raise ValueError('a whole top-level domain signs for nobody; write the domain you own, like "example.com"')
    return name


def _written(name: str) -> str:
    try:
        return in_ascii(name)
    except ValueError:
        return ""


Selector = Annotated[str, Checked(check_selector)]
SigningDomain = Annotated[str, Checked(check_signing_domain)]


@dataclass(frozen=True, kw_only=True)
class DkimKeySettings:
    """One key, and where the DNS has its other half: `SELECTOR._domainkey.DOMAIN`."""

    __pydantic_config__: ClassVar = SETTINGS

    selector: Selector
    key_file: str
    """A private key in PEM."""


@dataclass(frozen=True, kw_only=True)
class DkimSettings:
    """How mail from one domain, and from those below it without a table of their own, is signed.

    One key is written in the table itself, several in `keys`: each makes a signature.
    """

    __pydantic_config__: ClassVar = SETTINGS

    selector: Selector | None = None
    key_file: str | None = None
    keys: tuple[DkimKeySettings, ...] = ()

    def __post_init__(self) -> None:
        if (self.selector is None) != (self.key_file is None):
            missing, other = ("selector", "key_file") if self.selector is None else ("key_file", "selector")
            raise Misfit(missing, f"{other} is given without {missing}; give both")
        if not self.all_keys:
            raise Misfit("selector", "no key; give selector and key_file, or a list of them in keys")
        selectors = [key.selector for key in self.all_keys]
        if len({*selectors}) < len(selectors):
            raise Misfit("keys", "two keys with one selector; the DNS has one key at each, so name them apart")

    @property
    def all_keys(self) -> tuple[DkimKeySettings, ...]:
        """The one in the table first."""
        if self.selector is None or self.key_file is None:
            return self.keys
        return (DkimKeySettings(selector=self.selector, key_file=self.key_file), *self.keys)
