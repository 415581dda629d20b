"""Pure: how a reply is recognised, and what follows from it: an ordered table, the first line that matches decides.

Rule 1. Every criterion that a line gives must match; codes match by their beginning (4 is any 4xx), the enhanced status
        as a whole, the text anywhere, both whatever the case.
Rule 2. Addresses are taken out of the text first: who chose an address must not choose what follows.
Rule 3. A reply that no line knows but that names a time to wait is deferred for that long; the rest follow their class.
Rule 4. A time that the reply itself names comes before the line's.
Rule 5. A line that would match everything is refused when it is made, and so is one that does not compile.

The four answers: "defer" this recipient's mail; "slow_down" for what the reply is about, after a pause; "pause" it for
a time; "refuse" for good. What a reply is about is the relay as a whole, the destination, or the recipient alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from poller.judgement.advice.asked import retry_after
from poller.units import SETTINGS, Checked, Seconds, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poller.exchange import Phase, Reply

Action = Literal["defer", "slow_down", "pause", "refuse"]
About = Literal["relay", "destination", "recipient"]
PhaseName = Literal["connect", "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "end"]
Category = Literal["rate", "quota", "reputation", "block", "greylist", "capacity", "policy", "other"]

_UNRELATED: Final = ("a", "7", "-")
"""Texts that have nothing in common: what matches each of them matches everything."""
_LAST_CODE: Final = 599


def check_expression(text: str) -> str:
    """The expression, if it compiles. Raises ValueError."""
    try:
        re.compile(text, re.IGNORECASE)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def check_code(code: int) -> int:
    """A refusal's code, or the beginning of one. Raises ValueError."""
    if not (0 < code <= _LAST_CODE and str(code)[0] in "45"):
        raise ValueError("not the code of a refusal, such as 421, or its beginning, such as 45")
    return code


Expression = Annotated[str, Checked(check_expression)]
Code = Annotated[int, Checked(check_code)]


@dataclass(frozen=True, kw_only=True)
class ReplyPattern:
    """One line of the table; `[[throttle.replies]]` in the configuration."""

    __pydantic_config__: ClassVar[Any] = SETTINGS

    action: Action
    about: About = "destination"
    codes: tuple[Code, ...] = ()
    status: Expression | None = None
    text: Expression | None = None
    provider: str | None = None
    """Only for replies about mail to this provider; without it, to all."""
    phases: tuple[PhaseName, ...] = ()
    wait: Seconds | None = None
    category: Category = "other"
    reason: str = ""
    """In words, continuing "the destination …" or "the relay …"."""
    source: str = ""
    """Where it is known from."""

    def __post_init__(self) -> None:
        """Raise ValueError for a line that can't be meant."""
        if not self.codes and _fits_all(self.status) and _fits_all(self.text):
            raise ValueError("would match every reply; give codes, a status or a text that only some have")
        if self.action == "pause" and self.wait is None:
            raise ValueError('a pause needs its time, as in wait = "1h"')

    def matches(self, reply: Reply, phase: Phase, provider: str | None, words: str) -> bool:
        """Whether it knows this reply; `words` is the text without addresses."""
        return (
            (not self.codes or any(str(reply.code).startswith(str(code)) for code in self.codes))
            and (self.provider is None or self.provider == provider)
            and (not self.phases or phase.value in self.phases)
            and (self.status is None or bool(_compiled(self.status).fullmatch(reply.status)))
            and (self.text is None or bool(_compiled(self.text).search(words)))
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What a reply asks for. `wait` is in seconds; None: the one who follows it decides."""

    action: Action
    about: About
    category: Category
    reason: str
    wait: float | None = None
    source: str = ""
    listed: bool = True
    """A line of the table knows the reply; it does not merely name a time."""


def advise(
    reply: Reply, phase: Phase, provider: str | None, table: Iterable[ReplyPattern], words: str
) -> Advice | None:
    """What follows from a refusal beyond its class; None: nothing.

    `provider` is the destination's, if known; `words` the text without addresses (`without_addresses`).
    """
    if reply.kind not in {4, 5}:
        return None
    asked = retry_after(reply, words)
    pattern = next((line for line in table if line.matches(reply, phase, provider, words)), None)
    if pattern is not None:
        return Advice(
            action=pattern.action,
            about=pattern.about,
            category=pattern.category,
            reason=pattern.reason or "is known for this reply",
            wait=asked or pattern.wait,
            source=pattern.source,
        )
    if asked is None:
        return None
    reason = f"asks to be tried again in {format_duration(asked)}"
    return Advice(action="defer", about="recipient", category="other", reason=reason, wait=asked, listed=False)


@lru_cache(maxsize=1024)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE)


def _fits_all(expression: str | None) -> bool:
    return expression is None or all(_compiled(expression).search(text) for text in _UNRELATED)
