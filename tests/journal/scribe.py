"""Keeps a journal as a worker does, and beside it a plain list of what was written: what reading must find again."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from poller.exchange import Exchange, Loss, Message, Phase, Reply
from poller.journal import Entry, Journal, Past, Stage
from poller.journal.segments import read, segments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from poller.journal import Key

SMALL = 24_000  # bytes of a segment: a message to one recipient and a few records, so that segments turn often
AT = datetime(2026, 11, 22, 3, 4, 5, 678901, tzinfo=UTC)
OUTBOX = "0123456789abcdef"
ACCEPTED = Reply(code=250, status="2.0.0", text="Ok: queued as 4ABC")
BUSY = Reply(code=450, status="4.2.0", text="greylisted")
STAGES = {"b": Stage.BEGUN, "c": Stage.COMPOSED, "i": Stage.COMMITTED, "a": Stage.ANSWERED}


class Said(NamedTuple):
    """One record, in the model."""

    position: int
    kind: str
    key: Key | None
    exchange: Exchange | None = None


def message(row_id: int, claim_seq: int, recipients: Sequence[str] = ("a@example.com",)) -> Message:
    return Message(
        row_id=row_id,
        claim_seq=claim_seq,
        message_id=f"<{row_id}@mail.example.com>",
        mail_from="shop@example.com",
        recipients=tuple(recipients),
        content=b"Subject: Hi\r\n\r\nHello\r\n",
    )


def accepted(sent: Message, reply: Reply = ACCEPTED) -> Exchange:
    done = Reply(code=250)
    return Exchange(
        message=sent,
        phase=Phase.END,
        mail=done,
        rcpt=(done,) * len(sent.recipients),
        data=Reply(code=354),
        end=reply,
        end_of_data_sent=True,
        relay="127.0.0.1:25",
    )


def broken_off(sent: Message) -> Exchange:
    """The line was lost at RCPT."""
    loss = Loss(phase=Phase.RCPT, reason="the relay closed the connection")
    rcpt = (None,) * len(sent.recipients)
    return Exchange(message=sent, phase=Phase.RCPT, mail=Reply(code=250), rcpt=rcpt, loss=loss, relay="127.0.0.1:25")


@dataclass(kw_only=True)
class Scribe:
    """One worker's journal over its lives. A row is known by its id; each beginning is another claim."""

    state: Path
    boot: str = "boot-1"
    sync: str = "none"
    size: int = SMALL
    keep: float = 1e9
    keep_size: int = 10**9
    is_whole: bool = True
    said: list[Said] = field(default_factory=list)
    ends: list[tuple[Path, int]] = field(default_factory=list)
    """For each record the segment that holds it, and where it ends there."""
    stage: dict[Key, str] = field(default_factory=dict)
    """What was last said of each claim that is not settled."""
    claims: dict[int, int] = field(default_factory=dict)
    lives: int = 0
    confirmed: list[int] = field(default_factory=lambda: [0])
    """The positions that the database has been told, in order: one that comes back older has an earlier one."""

    def __post_init__(self) -> None:
        self.begin_a_life()

    # --- lives ---

    def begin_a_life(self) -> Past:
        """Start as the service does; what was under way before is judged at once."""
        self.lives += 1
        self.journal = self.reader()
        past = self.journal.outline(OUTBOX)
        self.journal.start(
            outbox=OUTBOX,
            identity="me",
            incarnation=self.lives,
            last=max(past.last, self.applied),
            applied=self.applied,
            is_whole=self.is_whole,
        )
        self.stage.clear()
        return past

    def reader(self) -> Journal:
        """A journal over the same files, as a next process would open them."""
        return Journal(
            self.state,
            boot=self.boot,
            sync=self.sync,  # type: ignore[arg-type]
            keep=self.keep,
            keep_size=self.keep_size,
            segment_size=self.size,
        )

    def killed(self) -> None:
        """`kill -9`, and a new life."""
        self.journal.close()
        self.begin_a_life()

    # --- what a worker does ---

    def begin(self, row_id: int) -> Key:
        key = row_id, self.claims.get(row_id, 0) + 1
        self.journal.begin(*key)
        self.claims[row_id] = key[1]
        self._wrote("b", key)
        self.stage[key] = "b"
        return key

    def compose(self, key: Key, recipients: Sequence[str] = ("a@example.com",)) -> Message:
        made = message(*key, recipients)
        self.journal.compose(made)
        self._wrote("c", key)
        self.stage[key] = "c"
        return made

    def commit(self, key: Key) -> None:
        self.journal.commit(message(*key), "127.0.0.1:25", (Reply(code=250),))
        self._wrote("i", key)
        self.stage[key] = "i"

    def answer(self, key: Key, exchange: Exchange) -> None:
        self.journal.answer(exchange, AT)
        self._wrote("a", key, exchange)
        self.stage[key] = "a"

    def settle(self, key: Key) -> None:
        self.journal.settled([key])
        del self.stage[key]

    def confirm(self) -> None:
        self.confirmed.append(self.journal.position()(()))
        self.journal.confirm(self.applied)
        self._wrote("p", None)

    def send(self, row_id: int) -> Key:
        """One message from its beginning to its answer."""
        key = self.begin(row_id)
        sent = self.compose(key)
        self.commit(key)
        self.answer(key, accepted(sent))
        return key

    def _wrote(self, kind: str, key: Key | None, exchange: Exchange | None = None) -> None:
        segment = self.journal._segment
        assert segment is not None
        self.said.append(Said(self.last + 1, kind, key, exchange))
        self.ends.append((segment.path, segment._used))

    # --- what the model knows ---

    @property
    def applied(self) -> int:
        """What the database has."""
        return self.confirmed[-1]

    @property
    def last(self) -> int:
        return self.said[-1].position if self.said else 0

    @property
    def open(self) -> dict[Key, int]:
        """Claims of this life that are not settled, with the position of their beginning."""
        return {said.key: said.position for said in self.said if said.kind == "b" and said.key in self.stage}


def expected(said: Sequence[Said], after: int) -> dict[Key, tuple[int, Stage, Exchange | None]]:
    """What `said` tells of each message of which something was said beyond `after`."""
    found: dict[Key, tuple[int, Stage, Exchange | None]] = {}
    for record in said:
        if record.key is None or record.position <= after:
            continue
        first = found[record.key][0] if record.key in found else record.position
        found[record.key] = (first, STAGES[record.kind], record.exchange)
    return found


def told(entries: Sequence[Entry]) -> dict[Key, tuple[int, Stage]]:
    """The same, as it was read."""
    return {entry.key: (entry.position, entry.stage) for entry in entries}


def read_back(scribe: Scribe, after: int = 0) -> tuple[Past, list[Entry], bool]:
    """What a next process finds: the outline, the entries beyond `after`, and whether something is missing."""
    journal = scribe.reader()
    past = journal.outline(OUTBOX)
    return past, list(journal.entries(after)), journal.has_gap


def positions(scribe: Scribe) -> list[int]:
    """The positions of all records in all segments, in the order of the files."""
    readings = [read(path) for path in segments(scribe.journal.directory)]
    return [frame.position for reading in readings if reading for frame in reading.frames]


def cut(scribe: Scribe, at: int) -> None:
    """As `kill -9` leaves the last segment when `at` bytes of it were written: the room behind them is still zeros."""
    path = segments(scribe.journal.directory)[-1]
    data = path.read_bytes()
    path.write_bytes(data[:at].ljust(max(len(data), scribe.size), b"\0"))


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The system refuses to make any file larger than that: what a full disk is to a new segment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
