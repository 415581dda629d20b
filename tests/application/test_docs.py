"""The Python of docs/python.md runs in the order of the page; the examples for Flask and FastAPI do what they say."""

from __future__ import annotations

import asyncio
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import poller
from poller.outbox.database import connect
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ORDER = {"name": "Anna", "email": "anna@example.com"}


@pytest.fixture
def kind() -> str:
    return "postgresql"


@pytest.fixture
def engine(database: DatabaseSettings) -> Iterator[Engine]:
    made = connect(database)
    with made.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE purchase (name text)")
        connection.exec_driver_sql("CREATE TABLE customer (email text)")
        connection.exec_driver_sql("INSERT INTO customer VALUES ('a@example.com'), ('b@example.com')")
    yield made
    made.dispose()


def blocks(heading: str, database: DatabaseSettings) -> str:
    """The Python below a heading, at the test's database."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    url = sa.make_url(database.url)
    for scheme in ("postgresql+psycopg", "postgresql"):
        there = url.set(drivername=scheme).render_as_string(hide_password=False)
        text = text.replace(f'"{scheme}://shop@db.example.com/shop"', repr(there))
    found = "\n".join(_BLOCK.findall(text))
    assert found, heading
    return found


def count(engine: Engine) -> tuple[int, int]:
    with engine.connect() as connection:
        bought = connection.exec_driver_sql("SELECT COUNT(*) FROM purchase").scalar_one()
        return int(bought), int(connection.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one())


def test_the_page_runs_from_top_to_bottom(database: DatabaseSettings, engine: Engine) -> None:
    page: dict[str, Any] = {}
    for heading, bought, mails in (
        ("One mail", 1, 1),
        ("Which connection", 2, 2),
        ("An `email.message.EmailMessage`", 2, 3),
        ("A million", 2, 5),
        ("Not twice", 2, 6),
        ("Follow, cancel, replace", 2, 7),
    ):
        exec(compile(blocks(heading, database), heading, "exec"), page)
        assert count(engine) == (bought, mails), heading
    assert (page["count"], page["first"] == page["again"], page["state"].status) == (2, True, "queued")

    async def order() -> None:
        async_engine = create_async_engine(sa.make_url(database.url).set(drivername="postgresql+psycopg"))
        async with AsyncSession(async_engine) as session:
            await page["order"](session)
        await async_engine.dispose()

    asyncio.run(order())
    assert count(engine) == (3, 8)
    page["engine"].dispose()


def test_flask_sends_with_the_order_and_not_without_it(database: DatabaseSettings, engine: Engine) -> None:
    page: dict[str, Any] = {"sa": sa, "poller": poller, "outbox": poller.Outbox(), "__name__": "shop"}
    exec(compile(blocks("Flask", database), "Flask", "exec"), page)
    client = page["app"].test_client()
    answers = [
        client.post("/orders", json=order).status_code
        for order in ({**ORDER, "fail": True}, {**ORDER, "email": "a@example.com, eve@example.com"}, ORDER)
    ]
    page["engine"].dispose()
    assert (answers, count(engine)) == ([500, 422, 200], (1, 1))


def test_fastapi_sends_with_the_order_and_not_without_it(database: DatabaseSettings, engine: Engine) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, among themselves
        from fastapi.testclient import TestClient  # noqa: PLC0415
    page: dict[str, Any] = {"sa": sa, "poller": poller, "outbox": poller.Outbox(), "__name__": "shop"}
    exec(compile(blocks("FastAPI", database), "FastAPI", "exec", dont_inherit=True), page)
    with TestClient(page["app"], raise_server_exceptions=False) as client:
        answers = [
            client.post("/orders", params=order).status_code
            for order in ({**ORDER, "fail": "true"}, {**ORDER, "email": "a@example.com, eve@example.com"}, ORDER)
        ]
        assert client.portal is not None
        client.portal.call(page["async_engine"].dispose)
    assert (answers, count(engine)) == ([500, 422, 200], (1, 1))
