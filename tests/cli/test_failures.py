"""`poller failures`: who did not get it, counted by what they have in common."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from poller.cli import main
from poller.outbox.database import connect
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import outbox, recipient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "config.toml").write_text(
        f'[database]\nurl = "sqlite:///{tmp_path}/outbox.db"\n[smtp]\nhost = "localhost"\n'
    )
    assert typed(tmp_path, "migrate")[0] == 0
    engine = connect(DatabaseSettings(url=f"sqlite:///{tmp_path}/outbox.db"))
    fill(engine)
    yield engine
    engine.dispose()


def typed(directory: Path, *words: str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(main, ["--config", f"{directory}/config.toml", *words])
    return result.exit_code, result.stdout.splitlines() or result.output.splitlines()


def insert(connection: sa.Connection, address: str, *, hours: float = 1, **columns: Any) -> int:
    at = datetime.now(UTC) - timedelta(hours=hours)
    row = {"recipients": address, "body_text": "x", "finished_at": at, "status": "failed", **columns}
    if row["status"] in {"sent", "partial"}:
        row["sent_at"] = at
    connection.execute(sa.insert(outbox).values(row))
    return int(connection.execute(sa.select(sa.func.max(outbox.c.id))).scalar_one())


def fill(engine: Engine) -> None:
    with engine.begin() as connection:
        for name in ("anna", "bob", "eve"):
            words = f"550 5.1.1 <{name}@a.example>: user unknown"
            insert(connection, f"{name}@a.example", error=words, reply_code=550, batch="news")
        insert(
            connection,
            "x@b.example",
            error="the relay's queue is full",
            reply_code=452,
            template="hello",
            body_text=None,
        )
        insert(connection, "old@b.example", error="long ago", hours=48)
        insert(connection, "good@b.example", status="sent")
        some = insert(connection, "bad@D.example, good@c.example", status="partial", batch="news")
        at = datetime.now(UTC)
        for address, status, error in (("good@c.example", "sent", None), ("bad@D.example", "failed", "552 too big")):
            values = {"outbox_id": some, "address": address, "status": status, "error": error, "updated_at": at}
            connection.execute(sa.insert(recipient).values(values | ({"sent_at": at} if status == "sent" else {})))


@pytest.mark.usefixtures("engine")
def test_reasons_are_counted_without_what_is_one_messages_own(tmp_path: Path) -> None:
    assert typed(tmp_path, "failures") == (
        0,
        [
            "5 did not get it in the last 1d",
            "recipients\tfor example row\treason",
            "3\t3\t550 5.1.1 ADDRESS: user unknown",
            "1\t7\t552 too big",
            "1\t4\tthe relay's queue is full",
        ],
    )


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("by", "counts"),
    [
        ("domain", {"a.example": 3, "b.example": 1, "d.example": 1}),
        ("code", {"550": 3, "452": 1, "failed": 1}),
        ("template", {"(none)": 4, "hello": 1}),
        ("batch", {"news": 4, "(none)": 1}),
        ("status", {"failed": 5}),
    ],
)
def test_each_side_can_be_counted(tmp_path: Path, by: str, counts: dict[str, int]) -> None:
    code, lines = typed(tmp_path, "failures", "--by", by, "--json")
    assert (code, {line[by]: line["recipients"] for line in json.loads("\n".join(lines))}) == (0, counts)


@pytest.mark.usefixtures("engine")
def test_a_batch_and_a_time_can_be_chosen(tmp_path: Path) -> None:
    assert typed(tmp_path, "failures", "--batch", "news")[1][0].startswith("4 did not get it")
    assert typed(tmp_path, "failures", "--since", "3d")[1][0] == "6 did not get it in the last 3d"
    assert typed(tmp_path, "failures", "--since", "1s")[1] == ["0 did not get it in the last 1s"]
    assert typed(tmp_path, "failures", "--batch", "none") == (2, ["Error: there is no batch 'none'"])
