"""The statuses of a row: one table. Whatever lists statuses is derived from it, and a test holds the SQL against it."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Action = Literal["pause", "resume", "cancel", "retry", "retry-now", "resolve-sent", "resolve-resend", "resolve-failed"]
"""What an operator may do to rows."""


class Status(NamedTuple):
    """One status: what it means for everybody who asks."""

    name: str
    acts: frozenset[Action] = frozenset()
    """What an operator may do to such a row; others are left alone."""
    is_terminal: bool = False
    """Nothing more happens by itself."""
    may_be_in_hand: bool = False
    """With a `claimed_by` and no `finished_at` the row is in a worker's hands."""
    is_failure: bool = False
    """Somebody did not get it."""
    fails_a_run: bool = False
    """`run --once` and `--drain` exit with 1 where a row ended so."""


_QUEUED: Final[frozenset[Action]] = frozenset({"pause", "cancel", "retry-now"})
_WAITING: Final[frozenset[Action]] = frozenset({"pause", "cancel"})
_HELD: Final[frozenset[Action]] = frozenset({"resume", "cancel"})
_OVER: Final[frozenset[Action]] = frozenset({"retry"})
_DOUBT: Final[frozenset[Action]] = frozenset({"resolve-sent", "resolve-resend", "resolve-failed"})

TABLE: Final = (
    Status("queued", _QUEUED),
    Status("sending", _WAITING, may_be_in_hand=True),
    Status("in_doubt", _DOUBT, fails_a_run=True),
    Status("paused", _HELD, may_be_in_hand=True),
    Status("sent", is_terminal=True),
    Status("partial", _OVER, is_terminal=True, is_failure=True, fails_a_run=True),
    Status("failed", _OVER, is_terminal=True, is_failure=True, fails_a_run=True),
    Status("cancelled", _OVER, is_terminal=True, may_be_in_hand=True),
    Status("expired", _OVER, is_terminal=True, is_failure=True),
    Status("suppressed", _OVER, is_terminal=True, is_failure=True),
)

NAMES: Final = tuple(status.name for status in TABLE)
TERMINAL: Final = tuple(status.name for status in TABLE if status.is_terminal)
UNENDED: Final = tuple(status.name for status in TABLE if not status.is_terminal)
IN_HAND: Final = tuple(status.name for status in TABLE if status.may_be_in_hand)
FAILURES: Final = tuple(status.name for status in TABLE if status.is_failure)
FAILS_A_RUN: Final = frozenset(status.name for status in TABLE if status.fails_a_run)


def open_to(action: Action) -> tuple[str, ...]:
    """The statuses of the rows that an action changes."""
    return tuple(status.name for status in TABLE if action in status.acts)
