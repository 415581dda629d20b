"""Which variables a template asks for that a row does not give: all of them, for who looks before anything is sent.

A template that is rendered for sending stops at the first. Here each is taken for an empty text and noted, so that the
others on the way that this row takes are found too. Pure, and slower than rendering.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2

from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.message.templates import Templates

_MOST = 20  # names, of one row


def missing_variables(templates: Templates, name: str, context: object, locale: str | None, *, subject: bool) -> str:
    """Their names with commas between; "" where none is found, or where something else is wrong too."""
    noted: dict[str, None] = {}
    try:
        templates.with_undefined(_noting(noted)).render(name, context, locale, subject=subject)
    except Unsendable:
        if not noted:
            return ""
    names = [*noted]
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _noting(noted: dict[str, None]) -> type[jinja2.Undefined]:
    """What stands for a variable that is not there, and notes its name once it is used."""

    class Noting(jinja2.ChainableUndefined):
        def _note(self) -> None:
            noted[str(self._undefined_name)] = None

        def __str__(self) -> str:
            self._note()
            return ""

        def __html__(self) -> str:
            return str(self)

        def __iter__(self) -> Iterator[Any]:
            self._note()
            return iter(())

        def __len__(self) -> int:
            self._note()
            return 0

        def __bool__(self) -> bool:
            self._note()
            return False

        def __eq__(self, _: object) -> bool:
            self._note()
            return False

        def __hash__(self) -> int:
            self._note()
            return 0

    return Noting
