"""When to raise an alarm, and whom to tell: the `[alerts]` section. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from poller.units import SETTINGS, Checked, Count, Misfit, Seconds

SECRET_LEAST = 16
"""Characters of a webhook's secret: what signs must not be guessed."""


def check_share(share: float) -> float:
    """`share`, if it is one. Raises ValueError."""
    if not 0 < share <= 1:
        raise ValueError("a share is above 0 and at most 1, such as 0.2 for a fifth")
    return share


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """What has no value is not watched. An alarm is told once, reminded of every `remind`, and called off."""

    __pydantic_config__: ClassVar = SETTINGS

    oldest_due: Seconds | None = None
    """A row has been due for so long, and the outbox is not switched off."""
    nothing_sent: Seconds | None = None
    """Something is due, and nothing was accepted for so long."""
    silent_worker: bool = False
    """A worker has missed three heartbeats, or none is alive."""
    trouble: Seconds | None = None
    """A worker could not use a relay, or its journal, for so long."""
    in_doubt: Count | None = None
    """So many rows wait for a person's word."""
    failures: Annotated[float, Checked(check_share)] | None = None
    """This share of what ended within the last hour failed, of FAILURES_OF messages at least."""
    database: Seconds | None = None
    """The database was away for so long. Each worker tells for itself: there is nobody to ask."""

    every: Seconds = 30.0
    """Between two looks."""
    remind: Seconds = 6 * 3600.0
    email: tuple[str, ...] = ()
    relay: str = "smtp"
    """By which relay: `smtp`, or one of `[relays]`. Better another one than the mail goes by."""
    command: tuple[str, ...] = ()
    """Words, no shell; it reads the alarm as JSON from its standard input."""
    webhook: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise Misfit for what can't work."""
        if self.is_set and not (self.email or self.command or self.webhook):
            raise Misfit("email", "there are alarms and nobody to tell; set email, command or webhook")
        if self.webhook and not self.webhook.startswith(("https://", "http://127.0.0.1", "http://localhost")):
            raise Misfit("webhook", "write an address that begins with https://")
        if self.webhook and len(self.webhook_secret or "") < SECRET_LEAST:
            raise Misfit(
                "webhook_secret", f"a webhook needs one of at least {SECRET_LEAST} characters to be signed with"
            )

    @property
    def is_set(self) -> bool:
        """Whether anything is watched."""
        watched = (self.oldest_due, self.nothing_sent, self.trouble, self.in_doubt, self.failures, self.database)
        return self.silent_worker or any(value is not None for value in watched)
