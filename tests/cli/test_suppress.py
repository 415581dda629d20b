"""`poller suppress`, `suppressions` and `unsuppress`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

import poller
from poller.cli import main
from poller.outbox.database import connect, transaction
from poller.outbox.settings import DatabaseSettings

if TYPE_CHECKING:
    from pathlib import Path

LISTS = '[lists.news]\nid = "news.example.com"\n'


@pytest.fixture(autouse=True)
def _outbox(tmp_path: Path) -> None:
    assert typed(tmp_path, "migrate").exit_code == 0


def typed(directory: Path, *words: str) -> Result:
    path = directory / "config.toml"
    path.write_text(f'[database]\nurl = "sqlite:///{directory}/outbox.db"\n[smtp]\nhost = "localhost"\n{LISTS}')
    return CliRunner().invoke(main, ["--config", str(path), *words])


def told(directory: Path, *words: str) -> list[dict[str, object]]:
    found = json.loads(typed(directory, "suppressions", "--json", *words).stdout)
    assert isinstance(found, list)
    return found


def test_what_is_entered_is_listed_and_taken_off(tmp_path: Path) -> None:
    assert typed(tmp_path, "suppressions").stdout == "nobody is on the suppression list\n"
    assert typed(tmp_path, "suppress", "Bob@example.com", "@example.net").stdout == (
        "Bob@example.com gets no mail\n@example.net gets no mail\n"
    )
    typed(tmp_path, "suppress", "bob@example.com", "--list", "news", "--reason", "asked to", "--until", "2099-01-31")
    table = [line.split("\t") for line in typed(tmp_path, "suppressions").stdout.splitlines()]
    assert [(line[0], line[1], line[2], line[4], line[5]) for line in table] == [
        ("address", "list", "source", "until", "reason"),
        ("@example.net", "(all mail)", "operator", "for good", ""),
        ("bob@example.com", "(all mail)", "operator", "for good", ""),
        ("bob@example.com", "news", "operator", "2099-01-31 00:00:00", "asked to"),
    ]
    assert [line["list"] for line in told(tmp_path, "BOB@example.com")] == ["", "news"]
    assert typed(tmp_path, "unsuppress", "bob@example.com", "--list", "news").stdout.endswith("1 taken off\n")
    assert [(line["address"], line["list"]) for line in told(tmp_path)] == [
        ("@example.net", ""),
        ("bob@example.com", ""),
    ]


def test_for_counts_from_now(tmp_path: Path) -> None:
    said = typed(tmp_path, "suppress", "bob@example.com", "--for", "90d").stdout
    (line,) = told(tmp_path)
    assert str(line["expires_at"])[:16].replace("T", " ") in said


def test_anyone_who_has_unsubscribed_is_not_taken_off_unasked(tmp_path: Path) -> None:
    engine = connect(DatabaseSettings(url=f"sqlite:///{tmp_path}/outbox.db"))
    transaction(engine, lambda c: poller.suppress(c, "bob@example.com", list_name="news"))
    refused = typed(tmp_path, "unsuppress", "bob@example.com")
    assert (refused.exit_code, "add --yes" in refused.output, len(told(tmp_path))) == (2, True, 1)
    assert typed(tmp_path, "unsuppress", "bob@example.com", "--yes").exit_code == 0
    assert transaction(engine, lambda c: c.execute(sa.text("SELECT count(*) FROM outbox_suppression")).scalar()) == 0
    engine.dispose()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("suppress", "bob"), 2, "bob: not an address; write one, or @ and a domain"),
        (("suppress", "Bob <bob@example.com>"), 2, "not an address"),
        (("suppress", "b@example.com", "--list", "nwes"), 2, "there is no list 'nwes'; lists: news"),
        (("suppress", "b@example.com", "--until", "2020-01-01"), 2, "2020-01-01 00:00:00 UTC is past; name a time"),
        (("suppress", "b@example.com", "--until", "2099-01-01", "--for", "1d"), 2, "say --for or --until, not both"),
        (("unsuppress", "b@example.com"), 1, "nothing is said about that; look with: poller suppressions ADDRESS"),
    ],
)
def test_what_a_person_got_wrong_is_said(tmp_path: Path, words: tuple[str, ...], code: int, said: str) -> None:
    answer = typed(tmp_path, *words)
    assert answer.exit_code == code
    assert said in answer.output
    assert "Traceback" not in answer.output
