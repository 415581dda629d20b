"""A relay without a socket: a state machine that answers bytes, does to each message what its policy says, and keeps a
ledger. And a line to it, on which a conversation can be driven.

Messages are told apart by the number in `MAIL FROM:<number@…>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from poller.exchange import Loss, Phase
from poller.smtp.actions import Await, Committing, LineLost, Send
from poller.smtp.conversation import next_exchange
from poller.smtp.gears import Gear
from poller.smtp.replies import Features, ReplyReader
from poller.smtp.transaction import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poller.exchange import Exchange, Message
    from poller.smtp.actions import Talk

T = TypeVar("T")

FINE, NOT_NOW, NO, BYE, ODD, DROP = "fine", "not now", "no", "bye", "odd", "drop"
"""What a relay does at a step: as it should; 451; 550; 421 and closes; a reply of a wrong class; closes."""
ANSWERS = (FINE, NOT_NOW, NO, BYE, ODD, DROP)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What becomes of one message at each step; `rcpt` in turn, the last one for the rest."""

    mail: str = FINE
    rcpt: tuple[str, ...] = (FINE,)
    data: str = FINE
    end: str = FINE


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How the relay behaves towards everybody."""

    forgets: bool = True
    """A refused DATA, BDAT or end of data ends the transaction, as with Postfix; else only RSET does, as with Exim."""
    forgets_recipients: bool = False
    """A refused end of data leaves MAIL in force, and no recipient."""
    odd_is_yes: bool = False
    """What it answered oddly, it took."""


class Delivery(NamedTuple):
    """A line of the ledger."""

    number: int
    recipients: tuple[str, ...]
    content: bytes


class Closed(Exception):  # noqa: N818 - a fact
    """The relay has closed the line."""


@dataclass(kw_only=True)
class Relay:
    """One session of it. `feed` takes bytes and adds the replies to `said`."""

    policies: dict[int, Policy]
    ledger: list[Delivery]
    habits: Habits = Habits()
    said: bytes = b""
    closed: bool = False
    commands: list[bytes] = field(default_factory=list)
    _input: bytes = b""
    _number: int | None = None
    _tried: int = 0
    _recipients: list[str] = field(default_factory=list)
    _forgot: bool = False
    _reading: Callable[[], bool] | None = None
    _octets: int = 0

    def feed(self, data: bytes) -> None:
        """Whatever comes behind the end of the line is lost."""
        self._input += data
        try:
            while not self.closed and self._step():
                pass
        except Closed:
            self.closed = True

    def _step(self) -> bool:
        if self._reading is not None:
            return self._reading()
        line, end, rest = self._input.partition(b"\r\n")
        if not end:
            return False
        self._input = rest
        self.commands.append(line)
        verb = line[:4].decode()
        getattr(self, f"_{verb.lower()}")(line.decode())
        return True

    @property
    def _policy(self) -> Policy:
        return self.policies.get(self._number or 0, Policy())

    def _say(self, answer: str, fine: bytes, odd: bytes = b"354 odd\r\n") -> bool:
        """Whether it counts as a yes."""
        if answer == DROP:
            raise Closed
        words = {FINE: fine, ODD: odd, NOT_NOW: b"451 4.3.0 not now\r\n", NO: b"550 5.7.9 no\r\n"}
        self.said += words.get(answer, b"421 4.7.0 bye\r\n")
        if answer == BYE:
            raise Closed
        return answer == FINE or (answer == ODD and self.habits.odd_is_yes)

    def _rset(self, _: str) -> None:
        self._forget()
        self.said += b"250 2.0.0 flushed\r\n"

    def _mail(self, line: str) -> None:
        if self._number is not None:
            self.said += b"503 5.5.1 nested MAIL\r\n"
            return
        self._number = int(re.findall(r"<(\d+)@", line)[0])
        if not self._say(self._policy.mail, b"250 2.1.0 ok\r\n"):
            self._number = None

    def _rcpt(self, line: str) -> None:
        if self._number is None:
            self.said += b"503 5.5.1 MAIL first\r\n"
            return
        if self._forgot:
            self.said += b"503 5.5.1 RSET first\r\n"
            return
        answers = self._policy.rcpt
        answer = answers[min(self._tried, len(answers) - 1)]
        self._tried += 1
        if self._say(answer, b"250 2.1.5 ok\r\n"):
            self._recipients.append(line.partition("<")[2].partition(">")[0])

    def _data(self, _: str) -> None:
        if not self._recipients:
            self.said += b"554 5.5.1 no valid recipients\r\n"
            return self._forget_if_so_minded()
        if self._say(self._policy.data, b"354 go\r\n", odd=b"250 odd\r\n"):
            self._reading = self._read_content
            return None
        return self._forget_if_so_minded()

    def _read_content(self) -> bool:
        content, end, rest = (b"\r\n" + self._input).partition(b"\r\n.\r\n")
        if not end:
            return False
        self._input, self._reading = rest, None
        self._end((content + b"\r\n").replace(b"\r\n.", b"\r\n")[2:])
        return True

    def _bdat(self, line: str) -> None:
        self._octets = int(line.split()[1])
        self._reading = self._read_octets

    def _read_octets(self) -> bool:
        if len(self._input) < self._octets:
            return False
        content, self._input = self._input[: self._octets], self._input[self._octets :]
        self._reading = None
        if not self._recipients:
            self.said += b"503 5.5.1 no valid recipients\r\n"
            self._forget_if_so_minded()
        elif self._policy.data == FINE or self._say(self._policy.data, b"", odd=b"354 odd\r\n"):
            self._end(content)
        else:
            self._forget_if_so_minded()
        return True

    def _end(self, content: bytes) -> None:
        assert self._number is not None
        delivery = Delivery(self._number, tuple(self._recipients), content)
        taken = self._policy.end == FINE or (self._policy.end == ODD and self.habits.odd_is_yes)
        if taken:
            self.ledger.append(delivery)
        if self._say(self._policy.end, b"250 2.0.0 queued as %d\r\n" % self._number):
            self._forget()
        else:
            self._forget_if_so_minded()

    def _forget(self) -> None:
        self._number, self._tried, self._recipients, self._forgot = None, 0, [], False

    def _forget_if_so_minded(self) -> None:
        if self.habits.forgets:
            self._forget()
        elif self.habits.forgets_recipients:
            self._recipients, self._forgot = [], True


@dataclass(kw_only=True)
class Cut:
    """The line breaks at the write number `at`: so many of its bytes are taken, so many of the replies are readable."""

    at: int
    taken: float = 0.0
    readable: float = 1.0


@dataclass(kw_only=True)
class Line:
    """A conversation's line to a relay."""

    relay: Relay
    cut: Cut | None = None
    pieces: Iterator[int] = field(default_factory=lambda: iter(()))
    """How the network cuts what the relay says."""
    writes: list[bytes] = field(default_factory=list)
    waits: int = 0
    """How often nothing had come when a reply was wanted, had every reply to take a round trip."""
    lost: bool = False
    committed: list[int] = field(default_factory=list)
    refuse_to_commit: int = 0
    """The hook raises at this row."""
    _reader: ReplyReader = field(default_factory=ReplyReader)

    def drive(self, talk: Talk[T]) -> T:
        """To its end."""
        try:
            action = next(talk)
            while True:
                try:
                    answer = self._answer(action)
                except (LineLost, OSError) as error:
                    action = talk.throw(error)
                else:
                    action = talk.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _answer(self, action: object) -> Any:
        match action:
            case Send():
                self._send(bytes(action.data), action.phase)
            case Await():
                return self._await(action.phase)
            case Committing():
                if action.message.row_id == self.refuse_to_commit:
                    raise OSError("disk full")
                self.committed.append(action.message.row_id)
        return None

    def _send(self, data: bytes, phase: Phase) -> None:
        if self.lost:
            raise LineLost(Loss(phase=phase, reason="lost"))
        self.writes.append(data)
        if self.cut is not None and len(self.writes) == self.cut.at:
            taken = int(len(data) * self.cut.taken)
            self.relay.feed(data[:taken])
            self.relay.said = self.relay.said[: int(len(self.relay.said) * self.cut.readable)]
            self.lost = True
            raise LineLost(Loss(phase=phase, reason="lost"), taken)
        self.relay.feed(data)

    def _await(self, phase: Phase) -> Any:
        reply = self._reader.take()
        if reply is None:
            self.waits += 1
        while reply is None:
            if not self.relay.said:
                assert self.lost or self.relay.closed, "both sides wait"
                self.lost = True
                raise LineLost(Loss(phase=phase, reason="lost"))
            size = next(self.pieces, len(self.relay.said))
            self._reader.feed(self.relay.said[:size])
            self.relay.said = self.relay.said[size:]
            reply = self._reader.take()
        return reply


class Mode(NamedTuple):
    """How messages are carried."""

    features: Features
    window: int = 1
    gear: Gear = Gear.OVERLAP


LOCKSTEP = Mode(Features())
TRANSACTION = Mode(Features(pipelining=True), gear=Gear.TRANSACTION)
OVERLAP = Mode(Features(pipelining=True))


def window(size: int) -> Mode:
    """BDAT, with so many in flight."""
    return Mode(Features(pipelining=True, chunking=True), size, Gear.WINDOW)


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What neither side decides, each in turn, and nothing of it when it is used up."""

    cuts: tuple[Cut | None, ...] = ()
    """One for each session."""
    pieces: tuple[int, ...] = ()
    """How the network cuts what the relay says, in bytes."""
    none_now: tuple[bool, ...] = ()
    """Whether the caller has no message just now."""


@dataclass(kw_only=True)
class Carried:
    """What became of all messages, over as many sessions as it took."""

    exchanges: dict[int, Exchange] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    relays: list[Relay] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    ledger: list[Delivery] = field(default_factory=list)


def carry(
    messages: list[Message],
    mode: Mode,
    policies: dict[int, Policy] | None = None,
    *,
    habits: Habits = Habits(),
    chance: Chance = Chance(),
) -> Carried:
    """Carry all of them as a courier and its caller would.

    What was taken in vain goes first in the next session, and a relay is spoken to as it was found to bear.
    """
    result, pending, gear = Carried(), list(messages), mode.gear
    cuts, pieces, none_now = iter(chance.cuts), iter(chance.pieces), iter(chance.none_now)
    while pending:
        assert len(result.relays) <= 2 * len(messages) + 5, "more sessions than messages explain"
        session = Session(features=mode.features, window=mode.window, gear=gear, relay="model:25")
        relay = Relay(policies=policies or {}, ledger=result.ledger, habits=habits)
        line = Line(relay=relay, cut=next(cuts, None), pieces=pieces)
        result.relays.append(relay)
        result.lines.append(line)
        pending = _one_session(result, session, line, pending, none_now)
        gear = min(gear, session.bears)
    return result


def _one_session(
    result: Carried, session: Session, line: Line, pending: list[Message], none_now: Iterator[bool]
) -> list[Message]:
    def take() -> Message | None:
        return pending.pop(0) if pending and not next(none_now, False) else None

    in_vain: list[Message] = []
    while session.flight or (pending and not session.over and not session.sign):
        if not session.flight:
            session.begin(pending.pop(0), 0.0)
        exchange = line.drive(next_exchange(session, take, lambda: 0.0))
        assert exchange is not None
        if exchange.unanswered:
            in_vain.append(exchange.message)
        else:
            assert exchange.message.row_id not in result.exchanges
            result.exchanges[exchange.message.row_id] = exchange
            result.order.append(exchange.message.row_id)
    return in_vain + pending
