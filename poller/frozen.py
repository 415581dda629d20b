"""Facts: `dataclass` for what is made anew for each message, and `Unreadable` for what is no fact.

What is declared frozen is frozen for the type checker, as in `dataclasses`. At run time it is not guarded: with the
guard it takes four times as long to make an object, and there are some twenty of them for each message.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - so that the type checker knows it by its name
    from typing import Self
else:

    def dataclass(*, frozen: bool = False, **options: Any) -> Any:
        """As `dataclasses.dataclass`; a frozen one is hashable and is not guarded."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)


class Unreadable(str):
    """What stands in a row where a column promises something else: `reason` says what is wrong, in words.

    It is read as it is, so that one row breaks no claim, and refused when the message is composed.
    """

    __slots__ = ("reason",)

    def __new__(cls, text: str, reason: str) -> Self:
        """The text as it is, and why it is none."""
        made = super().__new__(cls, text)
        made.reason = reason
        return made

    reason: str

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Itself: it never changes."""
        return self
