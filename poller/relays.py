"""The relays: the first, `[smtp]`, and further ones, `[relays.NAME]`: how to reach each, when, and how much it takes.

Rule 1. Of the relays that a message may take, those of the lowest `order` come first; among them chance decides by
        `weight`. The others are for when these rest.
Rule 2. A relay with `senders` or `domains` takes the messages that they name and no others; one without takes all.

Standard library only. Chooses nothing: it says what was chosen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from poller.smtp.settings import SmtpSettings
from poller.throttle.limits import Limit
from poller.throttle.settings import Domain, Sender  # noqa: TC001 - pydantic reads them
from poller.units import SETTINGS, Count

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class RelaySettings(SmtpSettings, Limit):
    """One relay: every key of `[smtp]`, what it takes, and what it is for."""

    __pydantic_config__: ClassVar = SETTINGS

    order: Count = 1
    """Lower comes first."""
    weight: Count = 1
    """Its share among those of the same order."""
    max_connections: Count | None = None
    """At the same time, over all workers; None: one for each worker."""
    senders: tuple[Sender, ...] = ()
    domains: tuple[Domain, ...] = ()
    """Of recipients."""


@dataclass(frozen=True, kw_only=True)
class FirstRelaySettings(RelaySettings):
    """The relay in `[smtp]`, which has no table that names it."""

    __pydantic_config__: ClassVar = SETTINGS

    name: str = "smtp"


def name_trouble(name: str, others: Iterable[str]) -> str:
    """What is wrong with a relay's name, beside those of the `others`; "" if nothing."""
    if not _NAME.fullmatch(name):
        return "a relay's name has letters, digits, dots, hyphens and underscores, at most 64"
    if name.lower() in {other.lower() for other in others}:
        return "another relay has this name; rows could not tell them apart"
    return ""
