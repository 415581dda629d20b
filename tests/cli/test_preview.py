"""Reading before sending: `poller preview` shows what rows would become, `poller check --batch` what is wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from cli.test_failures import typed

from poller.outbox.database import connect
from poller.outbox.tables import attachment, metadata, outbox, suppression

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

PNG = b"\x89PNG\r\n\x1a\n"
NO_UNSUBSCRIBE = "no List-Unsubscribe field"
UNSUBSCRIBE = {"List-Unsubscribe": "<https://example.com/u>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


@pytest.fixture
def engine(database: DatabaseSettings, tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "templates").mkdir()
    write(tmp_path, "news.subject.txt", "News for {{ name }}")
    write(tmp_path, "news.html", '<p>{{ name }}, {{ plan.price }} {{ until }} <a href="www.example.com/x">y</a></p>')
    (tmp_path / "config.toml").write_text(
        f'[database]\nurl = "{database.url}"\n[smtp]\nhost = "localhost"\nusername = "u"\npassword_file = "/nowhere"\n'
        '[message]\nsender = "Shop <shop@example.com>"\nmax_size = "100KB"\n[templates]\ndirectory = "templates"\n'
    )
    engine = connect(database)
    yield engine
    engine.dispose()


def write(directory: Path, name: str, text: str) -> None:
    (directory / "templates" / name).write_text(text)


def insert(engine: Engine, file: bytes | None = None, **columns: Any) -> int:
    row = {"recipients": "a@example.com", "subject": "Hi", "body_text": "Hello", "batch": "b", "headers": UNSUBSCRIBE}
    with engine.begin() as connection:
        key = connection.execute(sa.insert(outbox).values(row | columns)).inserted_primary_key
        assert key is not None
        if file is not None:
            values = {"outbox_id": key[0], "name": "l.png", "content_type": "image/png", "content_id": "logo"}
            connection.execute(sa.insert(attachment).values(values | {"content": file}))
    return int(key[0])


def everything(engine: Engine) -> str:
    """All that stands in the database."""
    with engine.connect() as connection:
        found = {table.name: connection.execute(sa.select(table)).all() for table in metadata.sorted_tables}
    return json.dumps(found, default=str)


def test_a_batch_is_reported_by_kind_and_nothing_is_written(engine: Engine, tmp_path: Path) -> None:
    template: dict[str, Any] = {"template": "news", "subject": None, "body_text": None}
    good = insert(engine, recipients="good@example.com", file=PNG, body_html='<img src="cid:logo">')
    incomplete = insert(engine, recipients="b@example.com", context={"plan": {}}, **template)
    bad = insert(engine, recipients="bob@@example.com")
    large = insert(engine, recipients="c@example.com", file=bytes(80_000))
    twice = insert(engine, recipients="Good <good@EXAMPLE.com>")
    blocked = insert(engine, recipients="d@example.com, e@blocked.test")
    whole = {"name": "N", "until": "May", "plan": {"price": 1}}
    linked = insert(engine, recipients="f@example.com", context=whole, headers=None, **template)
    late = insert(engine, recipients="g@example.com", expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    lost = insert(engine, recipients="h@example.com", relay="nowhere")
    insert(engine, recipients="i@example.com", status="cancelled")
    insert(engine, recipients="j@example.com", batch="another")
    with engine.begin() as connection:
        connection.execute(sa.insert(suppression).values(address="@blocked.test", reason="they asked"))
    before = everything(engine)
    code, lines = typed(tmp_path, "check", "--batch", "b")
    assert everything(engine) == before
    said = "\n".join(line for line in lines if not line.startswith("       "))
    assert said.split("\n") == [
        "batch b: 9 rows that have not ended; 1 have ended, and are not looked at. Nothing was sent",
        "FAIL missing variables      1 rows",
        "FAIL bad addresses          1 rows",
        "FAIL oversized messages     1 rows",
        "FAIL other trouble          1 rows",
        "warn duplicate addresses    1 rows",
        "warn suppressed addresses   1 rows",
        "warn expired                1 rows",
        "warn links without scheme   1 rows",
        "warn no unsubscribe         1 rows",
    ]
    rows = {int(line.split()[1].rstrip(":")): line.split(": ", 1)[1] for line in lines if line.startswith("       ")}
    assert set(rows) == {incomplete, bad, large, twice, blocked, linked, late, lost}
    assert rows[incomplete].startswith("name, price, until; context: template news")
    assert rows[blocked] == "e@blocked.test: they asked"
    assert rows[twice] == f"good@example.com: also in row {good}"
    assert "www.example.com/x" in "\n".join(lines)
    assert code == 1


def test_the_first_ten_of_a_kind_are_shown_and_what_only_warns_is_no_failure(engine: Engine, tmp_path: Path) -> None:
    for n in range(12):
        insert(engine, recipients=f"u{n}@example.com", headers=None)
    code, lines = typed(tmp_path, "check", "--batch", "b")
    assert code == 0
    assert len([line for line in lines if NO_UNSUBSCRIBE in line]) == 10
    assert lines[-2:] == ["       and 2 rows more", "ok   no row would fail"]


def test_a_batch_that_is_not_there_is_misuse(engine: Engine, tmp_path: Path) -> None:
    assert typed(tmp_path, "check", "--batch", "x") == (2, ["Error: there is no batch 'x'"])
    assert typed(tmp_path, "preview", "--batch", "x")[0] == 2
    assert typed(tmp_path, "preview", "4711") == (2, ["Error: there is no row 4711"])
    assert typed(tmp_path, "preview")[0] == 2
    assert engine


def test_a_row_is_shown_on_the_terminal(engine: Engine, tmp_path: Path) -> None:
    row_id = insert(engine, recipients="Änne <a@example.com>", subject="Grüße", body_text="Hallo,\nÄnne\n")
    code, lines = typed(tmp_path, "preview", str(row_id))
    assert code == 0
    assert lines[:3] == ["From: Shop <shop@example.com>", "To: Änne <a@example.com>", "Subject: Grüße"]
    assert lines[-3:] == ["", "Hallo,", "Änne"]


def test_files_hold_the_bytes_for_a_mail_program_and_a_page_that_does_nothing(engine: Engine, tmp_path: Path) -> None:
    html = '<img src="cid:logo"><script>alert(1)</script><img src="https://example.com/pixel">'
    good = insert(engine, file=PNG, body_html=html)
    bad = insert(engine, recipients="bob@@example.com")
    code, lines = typed(tmp_path, "preview", "--batch", "b", "--to", str(tmp_path / "out"))
    assert (code, lines) == (1, [f"2 files in {tmp_path / 'out'}"])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {f"{good}.eml", f"{good}.html"}
    assert bad != good
    raw = typed(tmp_path, "show", str(good), "--raw")[1]
    assert (tmp_path / "out" / f"{good}.eml").read_text().splitlines() == raw
    page = (tmp_path / "out" / f"{good}.html").read_text()
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in page
    assert page.index("default-src 'none'") < page.index("<script>")


def test_a_limit_holds_for_a_batch(engine: Engine, tmp_path: Path) -> None:
    ids = [insert(engine, body_html="<p>x</p>") for _ in range(4)]
    assert typed(tmp_path, "preview", "--batch", "b", "--limit", "3", "--to", str(tmp_path / "out"))[0] == 0
    assert {file.stem for file in (tmp_path / "out").iterdir()} == {str(row_id) for row_id in ids[:3]}
