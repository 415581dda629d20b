"""What the store hands out: claimed rows, orphans, and what became of a record. Plain facts, no connection inside."""

from __future__ import annotations

import enum
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from poller.frozen import dataclass
from poller.pacing.gate import Grant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from poller.judgement.keeping import Kept
    from poller.judgement.retry import OnDoubt, RecipientState, Step

NOT_PACED = Grant()


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimedRow:
    """A row in a worker's hands. Times are aware UTC on the database's clock.

    `content` holds the application's columns that make the message; `known` the recipients of whom something is
    written down already, by address; `grant` when it may go, and by which relay.
    """

    id: int
    claim_seq: int
    message_id: str
    holder: str
    status: str
    attempts: int
    doubts: int
    setbacks: int
    first_attempt_at: datetime
    claimed_at: datetime
    expires_at: datetime | None
    max_attempts: int | None
    on_doubt: OnDoubt | None
    relay: str | None
    batch: str | None
    domain: str | None
    content: Mapping[str, Any] = field(repr=False)
    known: Mapping[str, RecipientState] = field(default_factory=dict)
    has_attachments: bool = False
    is_raw: bool = False
    kept: Kept | None = None
    """What is kept of its content from an earlier try, but for the message itself."""
    grant: Grant = NOT_PACED

    def at_claim(self, claim_seq: int) -> ClaimedRow:
        """The same row, as that claim had it in its hands."""
        return replace(self, claim_seq=claim_seq)


class Late(enum.StrEnum):
    """What was found where a row should have been waiting for its outcome."""

    RECORDED = "recorded"
    """It was written down before: only the reply to COMMIT had been lost."""
    SETTLED = "settled"
    """Somebody had judged it meanwhile; the accepted message settles it all the same."""
    OVERTAKEN = "overtaken"
    """Somebody had judged it meanwhile, and what we know adds nothing."""
    ACCEPTED_TWICE = "accepted_twice"
    """It was claimed again meanwhile, and our message was accepted too: kept as history."""
    REPAIRED = "repaired"
    """The database had lost our claim, because it came back older than it was: claim and outcome are in it again."""
    GONE = "gone"
    """The row was deleted while it was being sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What `Store.record` did: rows written, rows found in another state, and rows that could not be written now."""

    written: frozenset[int]
    late: Mapping[int, Late] = field(default_factory=dict)
    stubborn: tuple[Step, ...] = ()
    why: str = ""
    applied: int | None = None
    """The position of our journal that the database has now; None if it was not written."""
    is_older: bool = False
    """The position was refused: the database is older than it was, or has another worker by our name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A row as it was looked up. `is_held`: its claim is the present one, and is ours."""

    row: ClaimedRow
    is_held: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """We are entered in outbox_worker. `applied` is the journal position of our last life.

    It is 0 if the database knows of none, or only of another worker's with the same name.
    """

    incarnation: int
    applied: int


class NameTaken(Exception):  # noqa: N818 - named by who is to blame
    """Another living worker has our name. The text says who, and the remedy."""
