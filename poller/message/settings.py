"""What the composing of messages may be told: the `[message]` and `[templates]` sections. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from poller.units import SETTINGS, Bytes, Seconds


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
    only_to: tuple[str, ...] = ()
    """For staging: addresses or `@domain`; any other recipient is suppressed."""


@dataclass(frozen=True, kw_only=True)
class TemplateSettings:
    """Where templates lie."""

    __pydantic_config__: ClassVar = SETTINGS

    directory: str | None = None
    max_seconds: Seconds = 5.0
    """Of work for one row: so long a stop may have to wait."""
    max_size: Bytes = 5_000_000
    """Of each part, in characters."""
