"""The database's time between two looks at it: it goes on by our own monotonic clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


class DatabaseTime:
    """Set once before it is asked. `seconds` is a clock that only goes forward."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self.seconds = seconds
        self._at: datetime | None = None
        self._since = 0.0

    @property
    def is_set(self) -> bool:
        """Whether the database was asked yet."""
        return self._at is not None

    def set(self, at: datetime) -> None:
        """The database's clock shows `at` now."""
        self._at, self._since = at, self.seconds()

    def now(self) -> datetime:
        """What it shows now."""
        assert self._at is not None  # noqa: S101 - set at the start of a batch
        return self._at + timedelta(seconds=self.seconds() - self._since)
