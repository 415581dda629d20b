"""A thousand relays that nobody designed: legal and illegal replies, cut into pieces, lost, early, late, or nonsense.

Each relay draws its habits, and then each of its replies, from chance, and keeps true books: what it has taken, whole
and for whom. Whatever it does: a message counts as sent only if it was taken, as failed or deferred only if it was not,
and nobody gets an empty message or another one's.
"""

from __future__ import annotations

import os
import random
import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pytest
from smtp.letters import letter, settings

from poller.exchange import RelayTrouble
from poller.judgement.outcome import Deferred, Failed, InDoubt, Sent, judge
from poller.smtp.courier import Courier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.exchange import Message

RELAYS, AT_ONCE = int(os.environ.get("POLLER_TEST_RELAYS", "1000")), 100
LETTERS = 5
SHORT_S = 0.4
"""For whatever is waited for: a few of the relays say nothing at all."""
GOOD = {"MAIL": 250, "RCPT": 250, "DATA": 354, ".": 250, "BDAT": 250, "RSET": 250, "NOOP": 250, "QUIT": 221}
ODD_CODES = (200, 250, 251, 252, 299, 354, 300, 421, 450, 451, 452, 454, 500, 501, 503, 550, 552, 554, 571)
NONSENSE = (b"what?\r\n", b"25 Ok\r\n", b"\r\n", b"999 no\r\n", b"\xff\xfe\r\n")
SWALLOWING = (b"250-never ends\r\n", b"250")
"""What makes one reply of two. Nobody can tell who has said several messages ahead, so it does not come there: such a
window is used only where a person has asked for it."""
TEXTS = (
    "Ok",
    "2.0.0 Ok: queued as 4F1A",
    "try again later",
    "5.1.1 no such user",
    "4.7.1 slow down",
    "",
    "Relay denied",
)
NUMBER = re.compile(rb"Subject: letter (\d+)\r\n")


class Cut(Exception):  # noqa: N818 - what is done, no error
    """Hang up now."""


@dataclass(kw_only=True)
class Taken:
    """A message that the relay answers for."""

    number: int
    recipients: list[str]
    whole: bool


@dataclass(kw_only=True)
class Habits:
    """What one relay is like."""

    chance: random.Random
    nonsense: tuple[bytes, ...]
    offers: list[str] = field(init=False)
    oddness: float = field(init=False)
    cuts: float = field(init=False)
    forgets: bool = field(init=False)
    """MAIL begins anew, refused or not, as RFC 5321 has it."""
    hasty: bool = field(init=False)
    """Says its 250 together with the 354, to what it takes for an empty message."""

    def __post_init__(self) -> None:
        chance = self.chance
        all_of_them = ("PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "SIZE 100000", "ENHANCEDSTATUSCODES")
        self.offers = [offer for offer in all_of_them if chance.random() < 0.7]
        self.oddness = chance.choice((0.0, 0.02, 0.1, 0.3))
        self.cuts = chance.choice((0.0, 0.0, 0.02, 0.1))
        self.forgets = chance.random() < 0.8
        self.hasty = chance.random() < 0.03


class RandomRelay:
    """Serves one session after another; a context manager."""

    def __init__(self, seed: int, nonsense: tuple[bytes, ...]) -> None:
        self.habits = Habits(chance=random.Random(seed), nonsense=nonsense)
        self.taken: list[Taken] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._line: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                self._line, _ = self._listener.accept()
            except OSError:
                return
            with self._line as line, suppress(OSError, EOFError, Cut, ValueError):
                _Session(self, line).run()


class _Session:
    def __init__(self, relay: RandomRelay, line: socket.socket) -> None:
        self.habits, self.taken, self.line = relay.habits, relay.taken, line
        self.chance = relay.habits.chance
        self.input = b""
        self.recipients: list[str] = []
        self.chunks = b""

    def run(self) -> None:
        self.say(220)
        while True:
            command = self.read_line()
            verb = command.split(b" ")[0].split(b":")[0].decode("latin-1").upper()
            if self.chance.random() < self.habits.cuts:
                raise Cut
            self.heed(verb, command)

    def heed(self, verb: str, command: bytes) -> None:
        if verb == "EHLO":
            lines = ["relay.test", *self.habits.offers]
            self.write("".join(f"250{'-' if n < len(lines) - 1 else ' '}{x}\r\n" for n, x in enumerate(lines)).encode())
        elif verb == "DATA":
            self.data()
        elif verb == "BDAT":
            _, size, *last = command.split()
            self.chunks += self.read(int(size))
            self.end("BDAT", self.chunks) if last else self.answer("BDAT")
        elif verb == "MAIL":
            if self.answer("MAIL") == 2 or self.habits.forgets:
                self.recipients = []
            self.chunks = b""
        elif verb == "RCPT":
            address = command.partition(b"<")[2].partition(b">")[0].decode()
            if self.answer("RCPT") == 2:
                self.recipients.append(address)
        else:
            if verb == "RSET":
                self.recipients, self.chunks = [], b""
            self.answer(verb)
            if verb == "QUIT":
                raise Cut

    def data(self) -> None:
        if not self.recipients and self.chance.random() < 0.9:
            self.say(503)
            return
        if self.habits.hasty:
            self.line.sendall(b"354 go\r\n250 done\r\n")  # at once: later it would be an answer to the content
        elif self.answer("DATA") != 3:
            return
        content = b""
        while (line := self.read_line()) != b".":
            content += line.removeprefix(b".") + b"\r\n"
            if self.chance.random() < self.habits.cuts / 10:
                raise Cut
        if not self.habits.hasty:
            self.end(".", content)

    def end(self, verb: str, content: bytes) -> None:
        """The message is here: it is taken if the answer says so, whether that arrives or not."""
        number = NUMBER.search(content)
        mine, self.recipients, self.chunks = self.recipients, [], b""
        code = self.chance.choice(ODD_CODES) if self.chance.random() < self.habits.oddness else GOOD[verb]
        if code // 100 == 2 and mine:
            self.taken.append(Taken(number=int(number[1]) if number else 0, recipients=mine, whole=bool(number)))
            if self.chance.random() < self.habits.cuts:
                raise Cut
        self.say(code)

    def answer(self, verb: str) -> int:
        """Say something, and return its class; 0 for nonsense."""
        odd = self.chance.random() < self.habits.oddness
        if odd and self.chance.random() < 0.2:
            self.write(self.chance.choice(self.habits.nonsense))
            return 0
        if odd and self.chance.random() < 0.05:
            raise Cut
        code = self.chance.choice(ODD_CODES) if odd else GOOD.get(verb, 250)
        self.say(code)
        return code // 100

    def say(self, code: int) -> None:
        lines = [self.chance.choice(TEXTS) for _ in range(self.chance.choice((1, 1, 1, 1, 2, 4)))]
        end = b"\n" if self.chance.random() < self.habits.oddness / 10 else b"\r\n"
        said = (f"{code}{'-' if n < len(lines) - 1 else ' '}{text}".encode() for n, text in enumerate(lines))
        self.write(b"".join(line + end for line in said))
        if code == 421:  # one that says so and goes on all the same can't be told from one that does not
            raise Cut

    def write(self, data: bytes) -> None:
        while data:
            size = self.chance.choice((1, 3, 20, 1000))
            self.line.sendall(data[:size])
            data = data[size:]

    def read(self, size: int) -> bytes:
        while len(self.input) < size:
            more = self.line.recv(65536)
            if not more:
                raise EOFError
            self.input += more
        found, self.input = self.input[:size], self.input[size:]
        return found

    def read_line(self) -> bytes:
        while b"\r\n" not in self.input:
            more = self.line.recv(65536)
            if not more:
                raise EOFError
            self.input += more
        line, _, self.input = self.input.partition(b"\r\n")
        return line


def faults(took: list[Taken], told: dict[tuple[int, str], list[object]]) -> Iterator[str]:
    """Where the relay's books and ours differ."""
    taken = {(each.number, to) for each in took for to in each.recipients}
    yield from (f"{each} empty or cut" for each in took if not each.whole)
    yield from (f"{key} to a stranger" for key in taken if key[0] and not key[1].startswith(f"r{key[0]}"))
    for key, outcomes in told.items():
        if key in taken:
            yield from (f"{key} taken: {outcome}" for outcome in outcomes if isinstance(outcome, Failed | Deferred))
        else:
            yield from (f"{key} not taken: {outcome}" for outcome in outcomes if isinstance(outcome, Sent))


def judged(seed: int) -> tuple[Counter[str], list[str]]:
    """What became of some letters at one relay, and what was wrong in it."""
    chance = random.Random(-seed)
    gear = chance.choice(("auto", "overlap", "transaction", "off"))
    window = chance.choice((1, 4))
    told: dict[tuple[int, str], list[object]] = {}

    def letters() -> Iterator[Message]:
        for number in range(1, LETTERS + 1):
            yield letter(number, *(f"r{number}{which}@b.test" for which in "ab"[: chance.choice((1, 2))]))

    waits = dict.fromkeys(("reply_timeout", "data_timeout", "block_timeout", "end_timeout"), SHORT_S)
    with RandomRelay(seed, NONSENSE if window > 1 else NONSENSE + SWALLOWING) as relay:
        courier = Courier(settings(relay.port, pipelining=gear, window=window, **waits))
        source = letters()
        for _ in range(2 * LETTERS):
            try:
                courier.open()
            except RelayTrouble:
                continue
            for exchange in courier.carry(source):
                verdict = judge(exchange)
                for to, outcome in zip(verdict.message.recipients, verdict.outcomes, strict=True):
                    told.setdefault((exchange.message.row_id, to), []).append(outcome)
        courier.close()
    wrong = list(faults(relay.taken, told))
    kinds = Counter(type(outcome).__name__ for outcomes in told.values() for outcome in outcomes)
    return kinds, [f"seed {seed}, {gear}: {what}" for what in wrong]


@pytest.mark.parametrize("first", range(0, RELAYS, AT_ONCE))
def test_whatever_a_relay_does_its_books_and_ours_agree(first: int) -> None:
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    for seed in range(first, first + AT_ONCE):
        found, what = judged(seed)
        kinds += found
        wrong += what
    assert wrong == []
    assert {Sent.__name__, Failed.__name__, Deferred.__name__, InDoubt.__name__} == set(kinds), kinds
