"""The recorder: outcomes wait for a database that is away, and keep nobody else waiting."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from typing import Any

import pytest

from poller.delivery.recorder import GROUP, Recorder
from poller.judgement.retry import Step
from poller.outbox.database import DatabaseUnavailable
from poller.outbox.rows import Recorded


class Database:
    """A store that can be away."""

    worker = "w1"

    def __init__(self) -> None:
        self.is_away = False
        self.written: list[int] = []

    def record(self, steps: list[Step], **_: Any) -> Recorded:
        if self.is_away:
            raise DatabaseUnavailable("it is away")
        self.written += [step.row_id for step in steps]
        return Recorded(written=frozenset(step.row_id for step in steps))


class Bookkeeper(Executor):
    """Does what it is asked at once, or when it is told to."""

    def __init__(self) -> None:
        self.is_slow = False
        self.asked: list[tuple[Future[Any], Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()
        self.asked.append((future, lambda: fn(*args, **kwargs)))
        if not self.is_slow:
            self.work()
        return future

    def work(self) -> None:
        for future, call in self.asked:
            try:
                future.set_result(call())
            except DatabaseUnavailable as why:
                future.set_exception(why)
        self.asked.clear()


class Anything:
    """A journal and a log that nobody reads."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


class Books:
    """A recorder and what stands around it."""

    def __init__(self) -> None:
        self.database: Any = Database()
        self.bookkeeper = Bookkeeper()
        self.abandon = threading.Event()
        anything: Any = Anything()
        self.recorder = Recorder(
            self.database,
            bookkeeper=self.bookkeeper,
            clock=lambda: 0.0,
            journal=anything,
            abandon=self.abandon,
            unsure=threading.Event(),
            progressed=lambda: None,
            log=anything,
        )

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.recorder.add(sent(number))


def sent(number: int) -> Step:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return Step(row_id=number, claim_seq=1, message_id=f"<{number}@example.com>", status="sent", at=at, sent_at=at)


@pytest.fixture
def books() -> Books:
    return Books()


def test_to_add_an_outcome_never_waits_for_a_database_that_is_away(books: Books) -> None:
    books.database.is_away = True
    books.add(*range(3 * GROUP))
    assert books.recorder.in_hand == {*range(3 * GROUP)}


def test_before_another_row_is_begun_it_is_waited_for(books: Books) -> None:
    books.database.is_away = True
    books.add(*range(GROUP + 1))
    books.add(GROUP + 1)
    books.abandon.set()  # else the wait would last as long as the database is away
    assert not books.recorder.flush_if_due()
    books.database.is_away = False
    assert books.recorder.flush_if_due()
    assert sorted(books.database.written) == [*range(GROUP + 2)]


def test_it_is_prompt_unless_a_group_is_being_written(books: Books) -> None:
    books.bookkeeper.is_slow = True
    assert books.recorder.is_prompt
    books.add(*range(GROUP + 1))
    assert not books.recorder.is_prompt
    books.bookkeeper.work()
    assert books.recorder.is_prompt
