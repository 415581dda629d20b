"""Rows become messages, and the next one may be made while the last is being answered."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from poller.columns import DRAFT_COLUMNS
from poller.delivery.compose import SMALL, Compose
from poller.delivery.files import Files
from poller.journal import JournalTrouble
from poller.message.composer import Composer
from poller.message.draft import Unsendable
from poller.message.settings import MessageSettings, TemplateSettings
from poller.outbox.rows import ClaimedRow

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AT_ONCE = 100


class Store:
    """Nobody is on the list, unless `blocked` says so; it must not be asked for files ahead."""

    def __init__(self) -> None:
        self.blocked: dict[str, str] = {}

    def suppresses_anyone(self) -> bool:
        return bool(self.blocked)

    def suppressed(self, addresses: set[str]) -> dict[tuple[str, str], str]:
        return {("", address): why for address, why in self.blocked.items() if address in addresses}

    def attachments(self, _: int) -> list[dict[str, Any]]:
        return [{"name": "a.txt", "content_type": "text/plain", "content": b"A", "content_id": None}]

    def raw(self, _: int) -> tuple[bytes, None]:
        return b"X: 1\r\n\r\nHello\r\n", None


class Journal:
    """What it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.is_full = False

    def begin(self, row_id: int, _: int) -> None:
        if self.is_full:
            raise JournalTrouble("full")
        self.told.append(f"begin {row_id}")

    def compose(self, message: Any) -> None:
        self.told.append(f"compose {message.row_id}")

    def end(self, row_id: int, _: int) -> None:
        self.told.append(f"end {row_id}")


class Room:
    """One `Compose` and what stands around it."""

    def __init__(self) -> None:
        self.store: Any = Store()
        self.journal: Any = Journal()
        self.seconds = 0.0
        self.composing = Compose(
            store=self.store,
            journal=self.journal,
            composer=Composer(MessageSettings(sender="shop@example.com"), TemplateSettings()),
            relays=("smtp",),
            clock=lambda: self.seconds,
            files=Files(fetch=lambda _: None),
        )

    def ahead(self, row: ClaimedRow) -> None:
        self.composing.ahead(row, AT_ONCE, NOW)

    def prepared(self, row: ClaimedRow, now: datetime = NOW, **more: Any) -> Any:
        return self.composing.prepared(row, AT_ONCE, now, **more)


@pytest.fixture
def room() -> Room:
    return Room()


def row(number: int = 1, **content: Any) -> ClaimedRow:
    given = {"recipients": f"a{number}@example.com", "subject": "Hi", "body_text": "Hello"}
    nothing: dict[str, Any] = dict.fromkeys(("expires_at", "max_attempts", "on_doubt", "relay", "batch", "domain"))
    return ClaimedRow(
        id=number,
        claim_seq=1,
        message_id=f"<{number}@example.com>",
        holder="w1",
        status="sending",
        attempts=0,
        doubts=0,
        setbacks=0,
        first_attempt_at=NOW,
        claimed_at=NOW,
        content=dict.fromkeys(DRAFT_COLUMNS) | given | content,
        **nothing,
    )


def test_what_was_made_ahead_is_what_is_sent_and_is_made_once(room: Room) -> None:
    first = row(1)
    room.ahead(first)
    room.ahead(first)
    assert room.prepared(first).message.recipients == ("a1@example.com",)
    assert room.journal.told == ["begin 1", "compose 1"]


def test_another_row_than_expected_is_made_at_its_turn_and_so_is_the_expected_one(room: Room) -> None:
    room.ahead(row(1))
    assert room.prepared(row(2)).message.row_id == 2
    assert room.prepared(row(1)).message.row_id == 1
    assert room.journal.told == ["begin 1", "compose 1", "begin 2", "compose 2", "begin 1", "compose 1"]


def test_a_row_claimed_again_is_not_the_row_that_was_made(room: Room) -> None:
    room.ahead(row(1))
    again = replace(row(1), claim_seq=2)
    assert room.prepared(again).message.claim_seq == 2


@pytest.mark.parametrize(
    "content",
    [
        {"body_text": None, "template": "welcome"},
        {"body_text": "x" * (SMALL + 1)},
        {"cc": ", ".join(f"c{n}@example.com" for n in range(SMALL // 10))},
        {"headers": {"X-Long": "x" * (SMALL + 1)}},
    ],
    ids=["template", "text", "cc", "headers"],
)
def test_what_a_person_wrote_or_is_large_is_made_at_its_turn(room: Room, content: dict[str, Any]) -> None:
    room.ahead(row(1, **content))
    assert room.journal.told == []


def test_attachments_are_fetched_at_its_turn(room: Room) -> None:
    with_file = replace(row(1), has_attachments=True)
    room.ahead(with_file)
    assert room.journal.told == []
    assert b"a.txt" in room.prepared(with_file).message.content


def test_a_raw_message_is_fetched_at_its_turn(room: Room) -> None:
    whole = replace(row(1, subject=None, body_text=None), is_raw=True)
    room.ahead(whole)
    assert room.journal.told == []
    assert room.prepared(whole).message.content.endswith(b"X: 1\r\n\r\nHello\r\n")


def test_what_is_wrong_with_a_row_is_said_at_its_turn(room: Room) -> None:
    broken = row(1, recipients="nobody")
    room.ahead(broken)
    assert room.journal.told == ["begin 1", "end 1"]
    with pytest.raises(Unsendable, match="nobody"):
        room.prepared(broken)


def test_a_journal_that_is_full_is_met_at_its_turn(room: Room) -> None:
    room.journal.is_full = True
    room.ahead(row(1))
    with pytest.raises(JournalTrouble):
        room.prepared(row(1))


def test_who_was_suppressed_since_gets_nothing(room: Room) -> None:
    first = row(1)
    room.composing.look_up([first])
    room.ahead(first)
    room.store.blocked = {"a1@example.com": "asked us to stop"}
    room.seconds += 1
    room.composing.look_up([first])
    prepared = room.prepared(first)
    assert prepared.message is None
    assert "asked us to stop" in prepared.settled["a1@example.com"].reason


def test_long_lists_are_read_only_when_the_journal_counts(room: Room) -> None:
    many = [f"a{n}@example.com" for n in range(SMALL // 10)]
    first = replace(row(1), content={**row(1).content, "recipients": ", ".join(many)})
    room.store.blocked = {many[0]: "asked us to stop"}
    suppressed = room.store.suppressed

    def after_the_journal(addresses: set[str]) -> dict[tuple[str, str], str]:
        assert not addresses or room.journal.told == ["begin 1"]
        return suppressed(addresses)

    room.store.suppressed = after_the_journal
    room.composing.look_up([first])
    assert list(room.prepared(first).settled) == [many[0]]


def test_a_row_that_has_expired_since_gets_nothing(room: Room) -> None:
    first = replace(row(1), expires_at=NOW + timedelta(seconds=1))
    room.ahead(first)
    assert room.prepared(first, now=NOW + timedelta(seconds=2)).message is None


def test_those_who_must_wait_are_left_out_of_what_was_made(room: Room) -> None:
    first = row(1, recipients="a@example.com, b@example.com")
    room.ahead(first)
    assert room.prepared(first, not_now={"a@example.com"}).message.recipients == ("b@example.com",)
