"""Facts: `dataclass` for what is made anew for each message.

What is declared frozen is frozen for whoever checks types, as in `dataclasses`. At run time it is not guarded: with the
guard it takes four times as long to make an object, and there are some twenty of them for each message.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414 - so that the type checker knows it by its name
else:

    def dataclass(*, frozen: bool = False, **options: Any) -> Any:
        """As `dataclasses.dataclass`; a frozen one is hashable and is not guarded."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)
