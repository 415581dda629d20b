"""Every piece of SQL in the documentation runs on the database that it is for, and under the rights that it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
import sqlalchemy as sa
from outbox.ground import insert

from poller.outbox.database import connect, transaction
from poller.outbox.migrate import statements
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection, Engine

    from poller.outbox.settings import DatabaseSettings

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
NAMES = {"PostgreSQL": "postgresql", "MariaDB": "mariadb", "SQLite": "sqlite"}
_SNIPPET = re.compile(r"^(?P<indent> *)```sql\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(rf"^-- ({'|'.join(NAMES)})\b.*$", re.MULTILINE)
_NEEDS = "CREATE TABLE customer (email VARCHAR(99), wants_news BOOLEAN)"
OF_APPLICATIONS = {"README.md", "using.md", "lists.md"}


class Snippet(NamedTuple):
    """`where` is the page and the line; `text` what stands there for one kind of database."""

    where: str
    text: str

    @property
    def page(self) -> str:
        return self.where.partition(":")[0]


def snippets(kind: str) -> list[Snippet]:
    """A line "-- PostgreSQL" begins what is for that one; a piece without such lines is for all."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _SNIPPET.finditer(text):
            parts = _HEADING.split(match["text"])
            mine = parts[0] + "".join(
                part for name, part in zip(parts[1::2], parts[2::2], strict=True) if NAMES[name] == kind
            )
            found.append(Snippet(f"{page.name}:{text[: match.start()].count(chr(10)) + 1}", mine))
    return found


def run(connection: Connection, text: str, kind: str) -> None:
    cut = statements(text, "mysql" if kind == "mariadb" else kind)
    for statement in (one for piece in cut for one in _single(piece, kind)):
        connection.exec_driver_sql(statement.replace("%", "%%") if kind != "sqlite" else statement)


def _single(text: str, kind: str) -> list[str]:
    """PostgreSQL takes several statements at once only where none returns rows."""
    if kind != "postgresql":
        return [text]
    return [piece for piece in re.split(r"(?<=;)\s*\n", text) if re.sub(r"--.*", "", piece).strip()]


def test_there_are_as_many_as_one_sees() -> None:
    assert len(snippets("sqlite")) > 10
    for kind in NAMES.values():
        assert [one.where for one in snippets(kind) if not re.sub(r"--.*", "", one.text).strip()] == []


def test_each_runs_for_who_owns_the_outbox(engine: Engine, kind: str) -> None:
    with engine.connect() as connection:
        for one in snippets(kind):
            run(connection, "DROP TABLE IF EXISTS customer", kind)
            run(connection, _NEEDS, kind)
            run(connection, one.text, kind)
            connection.rollback()
        run(connection, "DROP TABLE IF EXISTS customer", kind)
        connection.commit()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_what_applications_write_they_may_write(
    login: Callable[[str], Engine], database: DatabaseSettings, kind: str
) -> None:
    owner = connect(database)
    with owner.begin() as connection:
        run(connection, _NEEDS, kind)
        run(connection, "GRANT SELECT ON customer TO outbox_app", kind)
    application = login("outbox_app")
    for one in snippets(kind):
        if one.page in OF_APPLICATIONS:
            with application.connect() as connection:
                run(
                    connection,
                    one.text.replace("SELECT * FROM outbox_batch_progress", "SELECT 1 FROM customer --"),
                    kind,
                )
    owner.dispose()


def test_old_rows_go_with_all_that_is_theirs_and_others_stay(engine: Engine, kind: str) -> None:
    old, young = insert(engine, recipients="a@x.example, b@x.example"), insert(engine)
    purge = next(one.text for one in snippets(kind) if "90" in one.text)
    long_ago, now = "2020-01-01 00:00:00", "2099-01-01 00:00:00"
    with engine.begin() as connection:
        for row_id, at in ((old, long_ago), (young, now)):
            change = f"UPDATE outbox SET status = 'cancelled', finished_at = '{at}' WHERE id = {row_id}"
            connection.exec_driver_sql(change)
            connection.exec_driver_sql(
                "INSERT INTO outbox_recipient (outbox_id, address, status, updated_at)"
                f" VALUES ({row_id}, 'a@x.example', 'queued', '{at}')"
            )
            connection.exec_driver_sql(
                "INSERT INTO outbox_attempt (outbox_id, claim_seq, at, worker, outcome)"
                f" VALUES ({row_id}, 1, '{at}', 'w1', 'sent')"
            )
    transaction(engine, lambda c: run(c, purge, kind))
    with engine.connect() as connection:
        left = [
            connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalars().all()
            for table, column in (("outbox", "id"), ("outbox_recipient", "outbox_id"), ("outbox_attempt", "outbox_id"))
        ]
        assert connection.execute(sa.select(outbox.c.id)).scalars().all() == [young]
    assert left == [[young]] * 3
