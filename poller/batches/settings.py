"""When a batch is done, whom to tell, and when to stop it: the `[batches]` section. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar

from poller.alerts.settings import SECRET_LEAST, check_share
from poller.units import SETTINGS, Checked, Count, Misfit, Seconds


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """Anyone who has a batch of `least` messages hears of its end in the log; others as they are named here."""

    __pydantic_config__: ClassVar = SETTINGS

    watch: bool = True
    """Look after batches: their progress, their end."""
    every: Seconds = 5.0
    """Between two looks."""
    only: tuple[str, ...] = ("*",)
    """Names of batches whose end is told, with `*` and `?`."""
    least: Count = 2
    """Messages: smaller batches are not looked after."""
    quiet: Seconds = 30.0
    """A batch is done when nothing of it has been open, and nothing has ended, for so long."""
    failed: Annotated[float, Checked(check_share)] | None = None
    """This share of the first `of` messages failed: the batch is paused, and that is told. None: never."""
    of: Count = 100
    email: tuple[str, ...] = ()
    relay: str = "smtp"
    command: tuple[str, ...] = ()
    webhook: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise Misfit for what can't work."""
        if not self.watch and (self.email or self.command or self.webhook or self.failed is not None):
            raise Misfit(
                "watch", "somebody is to be told, or a batch to be stopped, and nobody looks; write watch = true"
            )
        if self.webhook and not self.webhook.startswith(("https://", "http://127.0.0.1", "http://localhost")):
            raise Misfit("webhook", "write an address that begins with https://")
        if self.webhook and len(self.webhook_secret or "") < SECRET_LEAST:
            raise Misfit(
                "webhook_secret", f"a webhook needs one of at least {SECRET_LEAST} characters to be signed with"
            )

    def concerns(self, batch: str) -> bool:
        """Whether its end is told."""
        return any(fnmatchcase(batch, pattern) for pattern in self.only)
