"""The journal itself: what this worker put on the wire and what came back, on local disk, in the order it happened.

Rule 1. Nothing is begun that there is no room for: `begin` and `compose` take room for all that can still be said of
        the message, and raise JournalTrouble while it costs nothing. So an intent always has room for its answer.
Rule 2. Positions count up by one, over all segments and lives. `applied` is the position up to which everything is
        written down in the database; it is kept there, and what lies beyond it is applied again.
Rule 3. That a message is not in the journal is evidence only where the tail can't have been lost (`Past.is_whole`),
        and nothing is missing between what was applied and the end (`has_gap`).
Rule 4. A process that is killed loses nothing that was written; what a power cut leaves is the sync policy's to say:
        "batch" syncs each group of outcomes, "message" each intent as well, before the end of data leaves; "none"
        nothing.
Rule 5. Segments are kept after they are applied, by age and by size: a database that comes back older than it was is
        brought up to date from them.

One thread uses it. It knows positions and records, and decides nothing.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from poller.journal import entries as records
from poller.journal.entries import Entry, Key, Stage
from poller.journal.segments import (
    FRAME_BYTES,
    SIZE,
    Header,
    Segment,
    Witness,
    first_of,
    header_of,
    read,
    segments,
    sync_file,
    trim,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from poller.exchange import Exchange, Message, Reply

Sync = Literal["none", "batch", "message"]

Position = Callable[[Collection[Key]], int]
"""Says how far everything is written down, once certain messages are as well."""
HEAD_MOST = 1000
"""Bytes that the header of a segment takes."""
BEGUN_MOST = 3 * (FRAME_BYTES + 64)
"""Bytes: the records of a beginning, of its end, and of a position written down."""


class JournalTrouble(Exception):  # noqa: N818 - named by what is to blame
    """The journal can't be written. The text names the place, and the remedy. `is_gone`: somebody took it away."""

    def __init__(self, words: str, *, is_gone: bool = False) -> None:
        super().__init__(words)
        self.is_gone = is_gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """The journal as it was found, in outline. Positions are 0 where there is nothing.

    `first` is the oldest position that is kept, `last` the newest; `boot` and `sync` are of the last life. `torn` says
    that its end is damaged, `cut` that something stands behind its last record, `witnessed` how far it reached by
    another file, `known` that it had judged what the lives before it left, or knew it completely.
    """

    first: int = 0
    last: int = 0
    applied: int = 0
    boot: str = ""
    sync: str = ""
    torn: bool = False
    cut: bool = False
    witnessed: int = 0
    known: bool = False

    def is_whole(self, *, boot: str, applied: int) -> bool:
        """Whether it holds all that was written beyond `applied` (Rule 3)."""
        running_on = bool(boot) and self.boot == boot
        # A process that is killed tears nothing, but very seldom a record that crosses a page: damage looks the same. A
        # power cut may tear what was not synced, which holds no intent then.
        untouched = not (self.torn or self.cut) and self.witnessed <= self.last
        kept = untouched if running_on else self.sync == "message"
        reaches = self.first <= applied + 1 and applied <= self.last
        return reaches and self.known and kept


class Journal:
    """One worker's journal, within its `state` directory; each outbox has one of its own.

    `boot` is the kernel's name of its present life, "" if unknown; `keep` in seconds and `keep_size` in bytes bound
    what is kept of segments that are applied; `clock` counts seconds as file times do. A segment takes `segment_size`
    bytes, or more where what is under way needs more.
    """

    def __init__(
        self,
        state: Path,
        *,
        boot: str,
        sync: Sync = "none",
        keep: float = 0.0,
        keep_size: int = 0,
        clock: Callable[[], float] = time.time,
        segment_size: int = SIZE,
    ) -> None:
        self.directory = state
        self.boot = boot
        self._state = state
        self.applied = 0
        """The last position that the database is known to have."""
        self.has_gap = False
        """Records were missing when `entries` was read to its end."""
        self._sync = sync
        self._keep = keep
        self._keep_size = keep_size
        self._clock = clock
        self._header: Header | None = None
        self._segment: Segment | None = None
        self._prepared: Segment | None = None
        self._witness: Witness | None = None
        self._segment_size = segment_size
        self._broken = ""
        """Why the present segment takes no more records."""
        self._wanted: int | None = None
        """Room that could not be had. The present segment still takes what was promised room in it."""
        self._last = 0
        self._synced = 0
        self._unread_from: int | None = None
        """While the past is read: nothing from here on is known to be written down."""
        self._open: dict[Key, int] = {}
        self._room: dict[Key, int] = {}
        self._reserved = 0

    # --- what was written before ---

    def outline(self, outbox: str) -> Past:
        """What is on disk of the outbox known as `outbox`, in outline; and room for what is to come.

        Raises JournalTrouble.
        """
        self.directory = self._state / f"journal-{outbox[:12]}"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._prepared = self._prepared or Segment(self.directory / "next", self._segment_size)
            paths = segments(self.directory)
            readable = ((path, reading) for path in reversed(paths) if (reading := read(path)))
            last, reading = next(readable, (None, None))
            if last is None or reading is None:
                return Past(torn=bool(paths))
            trim(last, reading)
            oldest = header_of(paths[0])
        except OSError as error:
            raise self._trouble(error) from error
        header = reading.header
        found = [records.read(frame.payload) for frame in reading.frames]
        positions = [position for record in found if (position := records.position_in(record)) is not None]
        return Past(
            first=(oldest or header).first,
            last=reading.frames[-1].position if reading.frames else header.first - 1,
            applied=max([header.applied, *positions]),
            boot=header.boot,
            sync=header.sync,
            torn=reading.damaged or last != paths[-1],
            cut=reading.cut,
            witnessed=Witness.told(self.directory),
            known=header.whole or any(records.is_taken_up(record) for record in found),
        )

    def entries(self, after: int) -> Iterator[Entry]:
        """What is known of every message begun beyond `after`: the answered ones in order, then the others.

        Raises JournalTrouble. Sets `has_gap`.
        """
        unfinished: dict[Key, Entry] = {}
        tails: dict[int, tuple[str, Key]] = {}
        expected = after + 1
        self.has_gap = False
        for header, position, payload in self._records(after):
            if position > expected:
                self.has_gap = True
            expected = max(expected, position + 1)
            record = records.read(payload)
            if records.position_in(record) is not None or records.is_taken_up(record):
                continue
            key = records.key_of(record)
            tails[header.incarnation] = (record[0] if header.boot == self.boot else "", key)
            if position <= after:
                continue
            entry = records.follow(unfinished.pop(key, None), position, record)
            if entry.stage is Stage.ANSWERED:
                yield entry
            else:
                unfinished[key] = entry
        died = {key for kind, key in tails.values() if kind == "b" and self.boot}
        yield from (replace(entry, died=key in died) for key, entry in unfinished.items())

    def _records(self, after: int) -> Iterator[tuple[Header, int, bytes]]:
        try:
            paths = segments(self.directory)
            begin = max((n for n, path in enumerate(paths) if first_of(path) <= after + 1), default=0)
            for path in paths[begin:]:
                reading = read(path)
                if reading is None:
                    continue
                for frame in reading.frames:
                    yield reading.header, frame.position, frame.payload
        except OSError as error:
            raise self._trouble(error) from error

    # --- a life ---

    def start(self, *, outbox: str, identity: str, incarnation: int, last: int, applied: int, is_whole: bool) -> None:
        """Begin to write, behind position `last`. `is_whole` is what was made of the past. Raises JournalTrouble."""
        self._last = self._synced = last
        self.applied = applied
        self._header = Header(
            outbox=outbox,
            identity=identity,
            incarnation=incarnation,
            boot=self.boot,
            sync=self._sync,
            first=last + 1,
            applied=applied,
            whole=is_whole,
        )
        self._call_the_witness()
        self._unread_from = None
        self._open.clear()
        self._room.clear()
        self._reserved = 0
        self._set_aside()
        if self._sync != "none":
            self._sync_the_past()
        self._turn(0)

    @contextlib.contextmanager
    def reading_on(self, after: int) -> Iterator[None]:
        """Within this what lies beyond `after` is being applied, bit by bit: no position passes it before the end."""
        self._unread_from = after + 1
        yield
        self._unread_from = None

    def reopen(self, unwritten: Iterable[Entry]) -> None:
        """Messages of an earlier life that are yet to be written down: `applied` stays behind them."""
        self._open |= {entry.key: entry.position for entry in unwritten}
        self._open = dict(sorted(self._open.items(), key=lambda item: item[1]))

    def taken_up(self) -> None:
        """What earlier lives left behind has been judged. Raises JournalTrouble."""
        assert self._header is not None  # noqa: S101 - started
        self._header = replace(self._header, whole=True)
        self._make_room(0)
        self._say(records.TAKEN_UP)
        if self._sync == "message":
            self.sync()  # else a power cut before the first intent would leave everything unknown again

    def require(self) -> None:
        """Make sure that the journal can be written. Raises JournalTrouble."""
        if self._segment is not None and not self._broken and self._is_gone(self._segment):
            words = f"{self._segment.path} was removed while it was in use; start this worker again"
            raise JournalTrouble(words, is_gone=True)
        if self._segment is None or self._broken or self._wanted is not None:
            self._turn(self._wanted or 0)

    def begin(self, row_id: int, claim_seq: int) -> None:
        """A row is about to be composed. Raises JournalTrouble."""
        self._make_room(BEGUN_MOST)
        self._say(records.begun(row_id, claim_seq))
        self._open.setdefault((row_id, claim_seq), self._last)

    def end(self, row_id: int, claim_seq: int) -> None:
        """No message was made of it, and composing it has not killed us. Never raises."""
        with contextlib.suppress(JournalTrouble):
            self._say(records.ended(row_id, claim_seq))

    def compose(self, message: Message) -> None:
        """Its message is ready. Raises JournalTrouble; then the message must not go out."""
        need = records.room_for(message.recipients)
        self._make_room(need)
        self._say(records.composed(message))
        key = (message.row_id, message.claim_seq)
        self._reserved += need - self._room.get(key, 0)
        self._room[key] = need

    def commit(self, message: Message, relay: str, rcpt: Sequence[Reply | None]) -> None:
        """The end of its data is about to leave. Raises JournalTrouble; then it must not."""
        self._say(records.committed(message, relay, rcpt))
        if self._sync == "message":
            self.sync()

    def answer(self, exchange: Exchange, at: datetime) -> None:
        """What came of it, at this time. Never raises: the outcome is on its way into the database all the same."""
        key = (exchange.message.row_id, exchange.message.claim_seq)
        try:  # noqa: SIM105 - once for each message, and a context manager costs more
            self._say(records.answered(exchange, at))
        except JournalTrouble:
            pass
        self._reserved -= self._room.pop(key, 0)

    def position(self) -> Position:
        """As of now: the position up to which everything is written down, once certain messages are as well.

        The answer may be asked for in another thread.
        """
        unwritten, last = tuple(self._open.items()), self._last
        if self._unread_from is not None:
            last = self._unread_from - 1
            unwritten = ()

        def once(written: Collection[Key]) -> int:
            return next((position - 1 for key, position in unwritten if key not in written), last)

        return once

    def settled(self, keys: Iterable[Key]) -> None:
        """Nothing more is to be written down about these."""
        for key in keys:
            self._open.pop(key, None)
            self._reserved -= self._room.pop(key, 0)

    def confirm(self, position: int) -> None:
        """The database has everything up to `position`. Never raises."""
        self.applied = position
        with contextlib.suppress(JournalTrouble):
            self._make_room(0)
            self._say(records.applied(position))

    def sync_group(self) -> None:
        """Outcomes are about to be written down. Never raises: they are in the database then.

        The position that goes with them must not lie beyond what a power cut leaves.
        """
        if self._sync != "none" and self._segment is not None and self._synced < self._last:
            with contextlib.suppress(JournalTrouble):
                self.sync()

    def sync(self) -> None:
        """Everything written so far survives a power cut. Raises JournalTrouble."""
        assert self._segment is not None  # noqa: S101 - started
        try:
            self._segment.sync()
        except OSError as error:
            self._broken = str(error)
            raise self._trouble(error) from error
        self._synced = self._last

    def close(self) -> None:
        """Nothing more will be written. Never raises."""
        segment, self._segment = self._segment, None
        if segment is not None:
            with contextlib.suppress(OSError):
                segment.sync()
            segment.close()
        for other in (self._prepared, self._witness):
            if other is not None:
                other.close()
        self._prepared = self._witness = None

    # --- inside ---

    def _call_the_witness(self) -> None:
        try:
            self._witness = self._witness or Witness(self.directory)
            self._witness.tell(self._last)
        except OSError as error:
            raise self._trouble(error) from error

    def _is_gone(self, segment: Segment) -> bool:
        try:
            return segment.is_gone
        except OSError as error:
            raise self._trouble(error) from error

    def _say(self, payload: bytes) -> None:
        segment = self._segment
        if segment is None or self._broken:
            raise JournalTrouble(f"{self.directory} can't be written: {self._broken or 'not open'}")
        position = self._last + 1
        try:
            segment.append(position, self._synced, payload)
            if self._witness is not None:
                self._witness.tell(position)
        except OSError as error:
            self._broken = str(error)
            raise self._trouble(error) from error
        self._last = position

    def _make_room(self, need: int) -> None:
        if self._segment is None or self._broken or self._segment.room < self._reserved + need + BEGUN_MOST:
            self._turn(need)

    def _turn(self, need: int) -> None:
        """Go on in a new segment, with room for what is under way and `need` more."""
        assert self._header is not None  # noqa: S101 - started
        size = max(self._segment_size, self._reserved + need + HEAD_MOST + 2 * BEGUN_MOST)
        try:
            segment = self._prepared or Segment(self.directory / "next", size)
            self._prepared = None
            segment.head(replace(self._header, first=self._last + 1, applied=self.applied))
        except OSError as error:
            self._wanted = need
            raise self._trouble(error) from error
        old, self._segment = self._segment, segment
        if old is not None:
            if self._sync != "none":
                with contextlib.suppress(OSError):
                    old.sync()
            old.close()
        self._broken = ""
        self._wanted = None
        self._prune()

    def _sync_the_past(self) -> None:
        """What a killed process has written may be in memory only."""
        try:
            for path in segments(self.directory)[-1:]:
                sync_file(path)
        except OSError as error:
            raise self._trouble(error) from error

    def _set_aside(self) -> None:
        """What lies beyond the last position could not be read, and must not be met again among what follows."""
        try:
            for path in segments(self.directory):
                if first_of(path) > self._last + 1:
                    path.replace(path.with_suffix(".unreadable"))
        except OSError as error:
            raise self._trouble(error) from error

    def _prune(self) -> None:
        """Rule 5: the oldest go first, and none that holds something to be applied."""
        with contextlib.suppress(OSError):
            paths = segments(self.directory)
            sizes = {path: path.stat() for path in paths}
            total = sum(found.st_size for found in sizes.values())
            for path, following in itertools.pairwise(paths):
                is_old = self._clock() - sizes[path].st_mtime > self._keep
                if first_of(following) > self.applied + 1 or not (is_old or total > self._keep_size):
                    return
                path.unlink()
                total -= sizes[path].st_size

    def _trouble(self, error: OSError) -> JournalTrouble:
        return trouble_of(error, self.directory)


def trouble_of(error: OSError, directory: Path) -> JournalTrouble:
    """What an error in the state directory means."""
    where = error.filename or directory
    why = (error.strerror or str(error)).lower()
    words = f"the journal can't be used: {where}: {why}; nothing is sent until it can be written"
    return JournalTrouble(words, is_gone=error.errno == errno.ENOENT)
