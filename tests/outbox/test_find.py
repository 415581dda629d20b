"""`poller find`: by whatever somebody has in hand, on every database, and by index."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from outbox.ground import insert

from poller.cli import main
from poller.outbox.database import connect
from poller.outbox.find import Found, find
from poller.outbox.tables import outbox, recipient

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

AT = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
MAIL = {"message_id": "<a.b@shop.example>", "queue_id": "4dF1xk3nRZz9v"}
SENT = {"status": "sent", "sent_at": AT, "finished_at": AT, "claim_seq": 1, **MAIL}
SENDING = {"status": "sending", "claimed_by": "w1", "claimed_at": AT, "claim_seq": 1, **MAIL}


def ids(found: list[Found]) -> list[int]:
    return [one.id for one in found]


def by(found: list[Found]) -> list[tuple[int, str]]:
    return [(one.id, one.by) for one in found]


ADDRESSES = {
    "A@Example.COM": "a@example.com",
    " Ann <Ann.Bell+x@example.com> ": "ann.bell+x@EXAMPLE.com",
    "a@müller.example": "a@xn--mller-kva.example",
    "Dora <d@x.example> (Dora)": "d@x.example",
}
LISTS = {
    "a@one.example, b@two.example": "b@two.example",
    'a@one.example,"Bell, Ann"<b@two.example>': "b@two.example",
    "a@one.example,\r\n\tb@two.example": "b@two.example",
    "Team: a@x.example, B@x.example;": "b@x.example",
    "c@x.example, ": "<c@x.example>",
}


@pytest.mark.parametrize(("written", "asked"), ADDRESSES.items(), ids=range(len(ADDRESSES)))
def test_a_row_is_found_by_its_address_however_it_is_written(engine: Engine, written: str, asked: str) -> None:
    insert(engine, recipients="somebody.else@example.com")
    row = insert(engine, recipients=written)
    blind = insert(engine, recipients="", cc="", bcc=written)
    assert by(find(engine, asked)) == [(blind, "address"), (row, "address")]


@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize(("written", "asked"), LISTS.items(), ids=range(len(LISTS)))
def test_on_postgresql_each_address_of_a_list_finds_it_at_once(engine: Engine, written: str, asked: str) -> None:
    row = insert(engine, recipients=written, cc="c@three.example", bcc=" ")
    assert [ids(find(engine, address)) for address in (asked, "C@three.example")] == [[row], [row]]


@pytest.mark.parametrize("state", [{}, SENDING, SENT], ids=["queued", "sending", "sent"])
def test_each_word_finds_its_row_and_no_other(engine: Engine, state: dict[str, Any]) -> None:
    row = insert(engine, recipients="a@example.com", dedupe_key="order-7", batch="news", **state)
    insert(engine, recipients="joann@example.com", dedupe_key="order-77", batch="newsletter")
    words = {"a@example.com": "address", "order-7": "dedupe_key", "news": "batch", str(row): "id"}
    if state:
        words |= {"<a.b@shop.example>": "message_id", "a.b@shop.example": "message_id", "4dF1xk3nRZz9v": "queue_id"}
    assert {word: by(find(engine, word)) for word in words} == {word: [(row, column)] for word, column in words.items()}


def test_what_is_nobodys_finds_nothing(engine: Engine) -> None:
    insert(engine, recipients="nobody", **SENT | {"queue_id": None})
    odd = (
        "",
        " ",
        "\0",
        "%",
        "_",
        "@",
        "a@",
        "@b",
        "nobody@",
        "9" * 30,
        "²",
        "🚀",
        "a" * 5000,
        "'; DROP TABLE outbox; --",
    )
    assert [word for word in odd if find(engine, word)] == []


def test_of_several_recipients_each_finds_the_row_once_it_was_tried(engine: Engine) -> None:
    row = insert(engine, recipients="a@one.example, B.Bell@two.example", cc="c@three.example")
    lines = [
        {"outbox_id": row, "address": address, "status": "queued", "updated_at": sa.text("created_at")}
        for address in ("a@one.example", "B.Bell@two.example", "c@three.example")
    ]
    with engine.begin() as connection:
        now = connection.execute(sa.select(outbox.c.created_at)).scalar_one()
        connection.execute(sa.insert(recipient), [line | {"updated_at": now} for line in lines])
    asked = ("a@one.example", "B.Bell@TWO.example", "c@three.example")
    assert [ids(find(engine, address)) for address in asked] == [[row]] * 3


def test_the_latest_come_first_and_no_more_than_asked_for(engine: Engine) -> None:
    rows = [insert(engine, recipients="a@example.com", batch="b") for _ in range(5)]
    assert ids(find(engine, "a@example.com", most=3)) == rows[:1:-1]
    assert len(find(engine, "b", most=3)) == 3


def test_the_command_shows_what_was_found_and_ends_with_1_for_nothing(
    database: DatabaseSettings, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(f'[database]\nurl = "{database.url}"\n')
    engine = connect(database)
    row = insert(engine, recipients="Ann <a@example.com>", subject="Hello")
    engine.dispose()
    ask = ["--config", f"{tmp_path}/config.toml", "find"]
    shown = CliRunner().invoke(main, [*ask, "a@example.com"])
    assert (shown.exit_code, shown.stdout.splitlines()[1].split("\t")[0::3]) == (0, [str(row), "address"])
    nothing = CliRunner().invoke(main, [*ask, "b@example.com"])
    assert (nothing.exit_code, "no row is known by 'b@example.com'" in nothing.output) == (1, True)
