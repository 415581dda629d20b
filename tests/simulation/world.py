"""A world without sockets, threads or a clock: rows in a dict, a relay that keeps a book, and a crash at any step.

The arrow in it is the real one: conversation, judgement, next step, recorder, journal and recovery. Only what lies
outside of the process is simulated: the relay; the database, as a dict with the fence of the real one; and the disk, of
which a crash leaves what was written, a power cut what was synced and a part of the rest. One seed gives all chance.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections import Counter, deque
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from poller.delivery.arrow import Bounds, Delivery
from poller.delivery.claim_plan import Pacing
from poller.delivery.clock import DatabaseTime
from poller.delivery.compose import Compose
from poller.delivery.files import Files
from poller.delivery.outcomes import Outcomes
from poller.delivery.prefetch import Prefetch
from poller.delivery.recorder import Recorder
from poller.delivery.returns import Returns
from poller.delivery.session import Line
from poller.delivery.weigh import Weigh
from poller.exchange import Loss, Message, Phase, RelayTrouble
from poller.journal import Journal
from poller.journal.segments import FRAME_BYTES, MAGIC, read, segments
from poller.judgement.outcome import DEFAULT
from poller.judgement.refusals import Refusals
from poller.judgement.rest import Rest
from poller.judgement.retry import RetrySettings
from poller.message.composer import Composer
from poller.message.settings import MessageSettings, TemplateSettings
from poller.outbox.rows import DRAFT_COLUMNS, ClaimedRow, Found, Late, Recorded
from poller.pacing.settings import ThrottleSettings
from poller.smtp.actions import Await, Committing, LineLost, Send, Unasked
from poller.smtp.conversation import next_exchange
from poller.smtp.gears import Gear
from poller.smtp.relays import RelaySettings
from poller.smtp.replies import Features, RawReply, ReplyReader
from poller.smtp.transaction import Session
from poller.worker.recovery import Recovery

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from poller.exchange import Exchange
    from poller.judgement.retry import RecipientState, Step
    from poller.smtp.connection import Hook

OUTBOX = "simulated outbox"
BEGAN = datetime(2026, 11, 22, tzinfo=UTC)
HELD = ("sending",)
GROUP_AT_ONCE = 6  # rows to a claim


class Crash(BaseException):
    """The process ends here and now."""


class AtOnce(Executor):
    """What is asked for happens before anything else."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Silent:
    """Nobody listens to the log."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


@dataclass(kw_only=True)
class Row:
    """A row of the outbox."""

    id: int
    recipients: str
    status: str = "queued"
    claim_seq: int = 0
    held: bool = False
    attempts: int = 0
    doubts: int = 0
    setbacks: int = 0
    error: str | None = None
    known: dict[str, RecipientState] = field(default_factory=dict)
    deaths: int = 0

    @property
    def message_id(self) -> str:
        return f"<{self.id}@example.com>"

    def claimed(self) -> ClaimedRow:
        content = dict.fromkeys(DRAFT_COLUMNS) | {"recipients": self.recipients, "subject": "Hi", "body_text": "Hello"}
        nothing: dict[str, Any] = dict.fromkeys(("expires_at", "max_attempts", "on_doubt", "relay", "batch", "domain"))
        return ClaimedRow(
            id=self.id,
            claim_seq=self.claim_seq,
            message_id=self.message_id,
            holder="w1",
            status=self.status,
            attempts=self.attempts,
            doubts=self.doubts,
            setbacks=self.setbacks,
            first_attempt_at=BEGAN,
            claimed_at=BEGAN,
            content=content,
            known=dict(self.known),
            **nothing,
        )


class Rows:
    """The database, as this worker meets it: every call happens wholly or, when the process crashes, not at all."""

    worker = "w1"

    def __init__(self, world: World, rows: dict[int, Row], applied: int) -> None:
        self.world = world
        self.rows = rows
        self.applied = applied

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.world.time())

    def suppresses_anyone(self) -> bool:
        return False

    def suppressed(self, _: Collection[str]) -> dict[tuple[str, str], str]:
        return {}

    def still_sending(self, ids: Collection[int]) -> set[int]:
        return {row_id for row_id in ids if self.rows[row_id].held}

    def claim(self, limit: int) -> list[ClaimedRow]:
        self.world.step()
        due = [row for row in self.rows.values() if row.status == "queued"][:limit]
        for row in due:
            row.status, row.held, row.claim_seq = "sending", True, row.claim_seq + 1
        self.world.step()
        return [row.claimed() for row in due]

    def hand_back(self, rows: Sequence[ClaimedRow]) -> None:
        self.world.step()
        for claimed in rows:
            row = self.rows[claimed.id]
            if row.held and row.claim_seq == claimed.claim_seq:
                row.status, row.held = "queued", False

    def own_orphans(self, *, beside: Collection[int]) -> list[ClaimedRow]:
        return [row.claimed() for row in self.rows.values() if row.held and row.id not in beside]

    def look_up(self, ids: Collection[int]) -> dict[int, Found]:
        return {row_id: Found(row=self.rows[row_id].claimed(), is_held=self.rows[row_id].held) for row_id in ids}

    def deaths(self, row_id: int) -> int:
        return self.rows[row_id].deaths

    def note_position(self, position: int) -> bool:
        self.world.step()
        self.applied = position
        return True

    def record(self, steps: Sequence[Step], *, position: Any, holder: str | None = None) -> Recorded:
        assert holder in {None, "w1"}
        self.world.step()
        late = {step.row_id: found for step in steps if (found := self._write(step)) is not None}
        written = frozenset(step.row_id for step in steps) - set(late)
        self.applied = position({step.key for step in steps if step.row_id in written})
        self.world.step()
        return Recorded(written=written, late=late, applied=self.applied)

    def _write(self, step: Step) -> Late | None:
        row = self.rows[step.row_id]
        if row.held and row.claim_seq == step.claim_seq:
            self._set(row, step)
            return None
        if row.claim_seq < step.claim_seq and row.status in {"queued", "sending", "in_doubt"}:
            row.claim_seq = step.claim_seq
            self._set(row, step)
            return Late.REPAIRED
        return Late.OVERTAKEN

    def _set(self, row: Row, step: Step) -> None:
        row.status, row.held, row.error = step.status, False, step.error
        row.attempts += step.attempts
        row.doubts += step.doubts
        row.setbacks += step.setbacks
        row.known |= {state.address: state for state in step.recipients}
        row.deaths += sum(note.outcome == "died" for note in step.notes)
        self.world.doubts[row.id] += step.doubts
        self.world.sent_by_the_book(row, step)


class Relay:
    """The other side of the line: reads what is sent, answers, and writes all that it took into the book."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.replies: deque[bytes] = deque()
        self.text = b""
        self.in_content = False
        self.recipients: list[str] = []

    def feed(self, data: bytes) -> None:
        self.text += data
        while self._one():
            pass

    def _one(self) -> bool:
        end = b"\r\n.\r\n" if self.in_content else b"\r\n"
        said, found, rest = self.text.partition(end)
        if not found:
            return False
        self.text = rest
        if self.in_content:
            self.in_content = False
            self.replies.append(self._take(said))
        else:
            self.replies.append(self._command(said))
        return True

    def _command(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self.recipients = []
        if verb == b"RCPT":
            address = line.partition(b"<")[2].partition(b">")[0].decode()
            chance = self.world.chance.random() if self.world.is_bad else 1.0
            if chance < 0.04:
                return b"450 4.2.0 greylisted\r\n"
            if chance < 0.1:
                return b"550 5.1.1 <%s> unknown\r\n" % address.encode()
            self.recipients.append(address)
        if verb == b"DATA":
            if not self.recipients:
                return b"554 5.5.1 no valid recipients\r\n"
            self.in_content = True
            return b"354 go on\r\n"
        return b"250 2.0.0 Ok\r\n"

    def _take(self, content: bytes) -> bytes:
        if self.world.is_bad and self.world.chance.random() < 0.03:
            return b"451 4.3.0 not now\r\n"
        (message_id,) = (
            line.partition(b": ")[2] for line in content.split(b"\r\n") if line.lower().startswith(b"message-id:")
        )
        self.world.book.update((message_id.decode(), recipient) for recipient in self.recipients)
        return b"250 2.0.0 Ok: queued as 4ABC\r\n"


class Claims:
    """How the next rows are claimed, of an outbox where nothing is limited."""

    batch = asked = GROUP_AT_ONCE

    def __init__(self, store: Any) -> None:
        self._store = store

    def claim(self) -> Callable[[], list[ClaimedRow]]:
        return functools.partial(self._store.claim, self.batch)


class Wire:
    """A courier whose line is a function call. Drives the real conversation; each action is a step of the world."""

    relay = "relay:25"
    idle_seconds = 0.0
    session_limit = None
    bears = Gear.WINDOW
    messages = 0

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_open = False

    def open(self) -> None:
        if self.is_open:
            return
        if self.world.goes_wrong(0.03):
            raise RelayTrouble(Phase.CONNECT, "nobody answers")
        self.is_open = True
        self._relay = Relay(self.world)
        features = Features(pipelining=self.world.chance.random() < 0.5)
        self._session = Session(features=features, relay=self.relay, gear=min(self.bears, Gear.OVERLAP))

    def close(self) -> None:
        self.is_open = False

    close_if_idle = close

    def carry(
        self, messages: Iterator[Message], *, committing: Hook, meanwhile: Callable[[], None]
    ) -> Iterator[Exchange]:
        self._committing, self._meanwhile = committing, meanwhile
        while self._session.flight or self._begun(messages):
            exchange = self._drive(lambda: next(messages, None))
            if self._session.over or self._session.sign:
                self.bears = min(self.bears, self._session.bears)
                self.close()
            yield exchange

    def _begun(self, messages: Iterator[Message]) -> bool:
        message = next(messages, None) if self.is_open else None
        if message is not None:
            self._session.begin(message, self.world.time())
        return message is not None

    def _drive(self, take: Callable[[], Message | None]) -> Exchange:
        talk: Any = next_exchange(self._session, take, self.world.time, self._meanwhile)
        answer: Any = None
        lost: LineLost | None = None
        while True:
            try:
                action = talk.throw(lost) if lost else talk.send(answer)
            except StopIteration as end:
                return end.value
            answer, lost = None, None
            self.world.step()
            match action:
                case Unasked():
                    pass
                case Committing():
                    self._committing(action.message, action.rcpt)
                    self.world.committed(action.message)
                    self.world.step()
                case Send() if self.world.goes_wrong(0.01):
                    taken = self.world.chance.randint(0, len(action.data))
                    self._relay.feed(bytes(action.data[:taken]))
                    self.world.unanswered += action.phase is Phase.CONTENT
                    lost = LineLost(Loss(phase=action.phase, reason="the line broke while writing"), taken=taken)
                case Send():
                    self._relay.feed(bytes(action.data))
                case Await() if self.world.goes_wrong(0.02):
                    lost = LineLost(Loss(phase=action.phase, reason="the relay closed the connection"))
                    self.world.unanswered += action.phase is Phase.END
                    self._relay.replies.clear()
                case Await() if not self._relay.replies:
                    lost = LineLost(Loss(phase=action.phase, reason="the line is broken"))
                case Await():
                    answer = raw(self._relay.replies.popleft())


def raw(reply: bytes) -> RawReply:
    reader = ReplyReader()
    reader.feed(reply)
    found = reader.take()
    assert found is not None
    return found


class AtEase:
    """Nothing is paced here."""

    pacing = Pacing(settings=ThrottleSettings(), relays={"smtp": RelaySettings()})
    is_open = True

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now

    def look(self) -> None:
        return None

    def is_paused(self, *_: Any) -> bool:
        return False

    def weigh(self, *_: Any) -> tuple[()]:
        return ()

    def take_also(self, *_: Any) -> None:
        return None

    def complains(self, _: str) -> bool:
        return False


class Careful(Composer):
    """The real one; composing is a step at which a process may end."""

    world: World

    def compose(self, draft: Any, reader: str | None = None) -> Any:
        self.world.step()
        return super().compose(draft, reader)


class World:
    """Everything that outlives a process: rows, the book, the disk."""

    def __init__(self, chance: random.Random, state: Path, *, rows: int, sync: str) -> None:
        self.chance = chance
        self.state = state
        self.sync = sync
        self.boot = 1
        self.lives = 0
        self.is_bad = True
        self.book: Counter[tuple[str, str]] = Counter()
        self.doubts: Counter[int] = Counter()
        """Doubts that were ever written down, by row: a restored database does not forget them here."""
        self.unanswered = 0
        """Final replies that the line lost."""
        self.lost: list[int] = []
        self.left_behind = 0
        """Rows that were in the hands of a process when it ended."""
        self._seconds = 0.0
        self._steps_left: int | None = None
        both = "a{n}@example.com, b{n}@example.com"
        made = (
            Row(id=n, recipients=(both if n % 3 == 0 else "a{n}@example.com").format(n=n)) for n in range(1, rows + 1)
        )
        self.rows: dict[int, Row] = {row.id: row for row in made}
        self.applied = 0
        self.backups = [(copy.deepcopy(self.rows), 0)]

    def time(self) -> float:
        self._seconds += 0.01
        return self._seconds

    def step(self) -> None:
        """One more step of the process; its last, if the driver says so."""
        if self._steps_left is None:
            return
        self._steps_left -= 1
        if self._steps_left < 0:
            if self._disk is None:
                self._disk = {path: path.read_bytes() for path in self.state.rglob("*") if path.is_file()}
                self._kept = copy.deepcopy(self._database.rows), self._database.applied
            raise Crash

    def goes_wrong(self, share: float) -> bool:
        return self.is_bad and self.chance.random() < share

    def committed(self, message: Message) -> None:
        assert self._database.rows[message.row_id].held, "sent what it did not hold"

    def sent_by_the_book(self, row: Row, step: Step) -> None:
        """What is written down as accepted was accepted."""
        states = {state.address: state.status for state in step.recipients} or {row.recipients: step.status}
        for address, status in states.items():
            if status == "sent" and not self.book[row.message_id, address]:
                self.lost.append(row.id)

    # --- lives ---

    def live(self, steps: int | None) -> bool:
        """One life of the worker, ended by a crash after so many steps. False: it came to its own end."""
        self._steps_left = steps
        self._disk: dict[Path, bytes] | None = None
        self._database = Rows(self, self.rows, self.applied)
        self.lives += 1
        try:
            self._work()
        except Crash:
            self._bury()
            return True
        self.applied = self._database.applied
        self._journal.close()
        return False

    def _work(self) -> None:
        journal = self._journal = Journal(
            self.state,
            boot=f"boot {self.boot}",
            sync=self.sync,  # type: ignore[arg-type]
            keep=1e9,
            keep_size=10**9,
            segment_size=24_000,
        )
        delivery, recovery = self._wired(journal)
        past = journal.outline(OUTBOX)
        applied = self._database.applied
        is_whole = past.is_whole(boot=journal.boot, applied=applied)
        last = max(past.last, applied)
        journal.start(outbox=OUTBOX, identity="", incarnation=self.lives, last=last, applied=applied, is_whole=is_whole)
        self.step()
        recovery.replay(applied, is_whole=is_whole)
        recovery.own(is_whole=is_whole and not journal.has_gap)
        journal.taken_up()
        while rows := self._database.claim(GROUP_AT_ONCE) or self._last_ones(delivery):
            delivery.deliver(rows)
            if self.goes_wrong(0.3):
                self.backups.append((copy.deepcopy(self._database.rows), self._database.applied))

    def _last_ones(self, delivery: Delivery) -> list[ClaimedRow]:
        """What was not written down yet may be due at once."""
        delivery.settle_withheld()
        return self._database.claim(GROUP_AT_ONCE)

    def _wired(self, journal: Journal) -> tuple[Delivery, Recovery]:
        store: Any = self._database
        wire: Any = Wire(self)
        log: Any = Silent()
        none: Any = None
        composer = Careful(MessageSettings(sender="shop@example.com"), TemplateSettings(), host_name="here.example.com")
        composer.world = self
        at_once = AtOnce()
        recorder = Recorder(
            store,
            bookkeeper=at_once,
            clock=self.time,
            journal=journal,
            abandon=threading.Event(),
            unsure=threading.Event(),
            progressed=lambda: None,
            log=log,
        )
        retry = RetrySettings(max_attempts=6)
        line = Line(
            name="smtp",
            courier_of=lambda _: wire,
            idle_close=0.0,
            rest=Rest(first=0.0, longest=0.0),
            retry=retry,
            most_recipients=100,
            refusals=Refusals(limit=retry.cohort, patience=retry.cohort_patience),
            connections=none,
            max_connections=None,
            clock=self.time,
            log=log,
        )
        lines = {"smtp": line}
        limits = AtEase(store.now)
        clock = DatabaseTime(self.time)
        claiming: Any = Claims(store)
        delivery = Delivery(
            weigh=Weigh(
                lines=lines,
                shared_limits=limits,
                rulebook=DEFAULT,
                refusals=Refusals(limit=retry.cohort, patience=retry.cohort_patience),
                clock=self.time,
            ),
            outcomes=Outcomes(recorder=recorder, composer=composer, retry=retry, log=log, chance=self.chance.random),
            composing=Compose(
                store=store,
                journal=journal,
                composer=composer,
                relays=("smtp",),
                clock=self.time,
                files=Files(fetch=lambda _: None),
            ),
            ahead=Prefetch(bookkeeper=at_once, claiming=claiming, may_claim=lambda: True, unavailable=lambda _: None),
            returns=Returns(store=store, journal=journal, bookkeeper=at_once, log=log),
            journal=journal,
            bounds=Bounds(
                stop=threading.Event(),
                may_begin=lambda: True,
                may_finish=lambda: True,
                progressed=lambda: None,
                called=lambda: False,
            ),
            log=log,
            time=clock,
        )
        recovery = Recovery(
            store=store,
            journal=journal,
            recorder=recorder,
            delivery=delivery,
            watch=none,
            chunk=self.chance.choice([1, 3, 200]),
            takeover=900.0,
            progressed=lambda: None,
            log=log,
        )
        return delivery, recovery

    # --- ends ---

    def _bury(self) -> None:
        """The process is gone: what it did while it was unwinding never happened."""
        self._journal.close()
        assert self._disk is not None
        for path in self.state.rglob("*"):
            if path.is_file():
                path.unlink()
        for path, data in self._disk.items():
            path.write_bytes(data)
        self.rows, self.applied = self._kept
        self.left_behind += sum(row.held for row in self.rows.values())

    def cut_power(self) -> None:
        """Of what was not synced the disk has a part, then rubbish."""
        self.boot += 1
        (directory,) = self.state.glob("journal-*")
        path = segments(directory)[-1]
        reading = read(path)
        if reading is None:
            return
        synced = self._journal._synced
        data = path.read_bytes()
        kept = reading.used - sum(FRAME_BYTES + len(f.payload) for f in reading.frames if f.position > synced)
        at = self.chance.randint(max(kept, len(MAGIC)), reading.used)
        path.write_bytes((data[:at] + self.chance.randbytes(self.chance.choice([0, 60]))).ljust(len(data), b"\0"))

    def set_back(self) -> None:
        """The database is restored from a backup."""
        rows, applied = self.chance.choice(self.backups)
        self.rows, self.applied = copy.deepcopy(rows), applied
