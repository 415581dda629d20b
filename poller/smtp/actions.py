"""What a conversation asks of the line, and how it hears that the line is lost.

A conversation is a generator. It yields these actions and is sent the answers: a `RawReply` for `Await`, one or None
for `Unasked`, the name of the TLS version and cipher for `StartTls`, nothing for the rest. A lost line is thrown in as
`LineLost`; what a caller's hook raises at `Committing` is thrown in too.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from poller.exchange import Loss, Message, Phase, Reply

T = TypeVar("T")


class Send(NamedTuple):
    """Write these bytes; `phase` is what a failure would interrupt.

    With `leaves` it is done only when the last byte has left this machine: what the kernel took may lie in its buffer.
    """

    phase: Phase
    data: bytes | memoryview
    leaves: bool = False


class Await(NamedTuple):
    """Wait for one reply, as long as `phase` allows.

    When the line was lost while writing: the next reply that had come before, then `LineLost`.
    """

    phase: Phase


class Unasked(NamedTuple):
    """What the relay has said that it was not asked for: the next reply that is there, or None. Does not wait."""


class StartTls(NamedTuple):
    """Begin TLS now; refuse if plain text waits behind the go-ahead. The answer names version and cipher."""


class Committing(NamedTuple):
    """The next `Send` holds the end of this message's data; `rcpt` is what each recipient was told so far."""

    message: Message
    rcpt: tuple[Reply | None, ...]


Action = Send | Await | Unasked | StartTls | Committing
Talk = Generator[Action, Any, T]


class LineLost(Exception):  # noqa: N818 - a fact thrown into a conversation, named as one
    """The line is gone. `taken` is how many bytes of the `Send` in hand may have left this machine."""

    def __init__(self, loss: Loss, taken: int = 0) -> None:
        super().__init__(loss.reason)
        self.loss = loss
        self.taken = taken


def nothing_meanwhile() -> None:
    """The wait is waited out."""
