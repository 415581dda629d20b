"""The demo, as somebody sees it: stopped by Ctrl-C at first, then run to its end in the same directory."""

from __future__ import annotations

import email
import email.policy
import io
import logging
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

import click
import pytest
import structlog
from click.testing import CliRunner
from rich.console import Console

from poller.cli.demo import demo, demo_command
from poller.cli.samples.files import pdf, png
from poller.cli.samples.place import MARK, Place
from poller.cli.samples.rows import GREYLISTED, UNREADABLE, UNSUBSCRIBED
from poller.config.load import load
from poller.worker.state import StateDirectory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MESSAGES = 40


@dataclass(frozen=True, kw_only=True)
class Ended:
    directory: Path
    code: int
    screen: str


@pytest.fixture(scope="module", autouse=True)
def _log_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    yield
    for added in [outlet for outlet in root.handlers if outlet not in before]:
        root.removeHandler(added)
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """With 200 messages, by Ctrl-C at the first batch."""
    directory = tmp_path_factory.mktemp("demos") / "a demo #1, 100% schön"
    command = [
        sys.executable,
        "-c",
        "from poller.cli.demo import demo_command as d; d()",
        "--messages",
        "200",
        "--directory",
        str(directory),
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8") as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            if line.startswith("messages ") and not any(told.startswith("messages ") for told in lines):
                process.send_signal(signal.SIGINT)
            lines.append(line)
    return Ended(directory=directory, code=process.returncode, screen="".join(lines))


@pytest.fixture(scope="module")
def ended(stopped: Ended) -> Ended:
    """Where the stopped one was, beside somebody's own file."""
    (stopped.directory / "notes.txt").write_text("mine")
    screen = io.StringIO()
    code = demo(stopped.directory, Console(file=screen, width=80), MESSAGES)
    return Ended(directory=stopped.directory, code=code, screen=screen.getvalue())


@pytest.fixture(scope="module")
def mail(ended: Ended) -> list[EmailMessage]:
    def parsed(path: Path) -> EmailMessage:
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message

    return [parsed(path) for path in sorted((ended.directory / "mail").glob("*.eml"))]


def asked(ended: Ended, question: str, *values: object) -> list[Any]:
    with closing(sqlite3.connect(ended.directory / "outbox.db")) as connection:
        return connection.execute(question, values).fetchall()


def envelope(message: EmailMessage) -> list[str]:
    return [str(address) for address in message.get_all("X-Envelope-To", [])]


def text(message: EmailMessage, kind: str = "plain") -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content())


# ---- stopped


def test_ctrl_c_stops_in_order_and_says_what_is_left(stopped: Ended) -> None:
    assert stopped.code == 1
    assert "Stopping: the message in hand is finished first." in stopped.screen
    assert "messages left: they wait in the outbox." in stopped.screen


# ---- on a terminal


def test_on_a_terminal_the_page_stays_until_ctrl_c(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    command = [sys.executable, "-c", "from poller.cli.demo import demo_command as d; d()"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        [*command, "--messages", "40", "--directory", str(tmp_path / "demo")],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        screen = read_until(master, "until Ctrl-C.")
        address = re.findall(r"http://127\.0\.0\.1:\d+/", screen)[0]
        with urllib.request.urlopen(address, timeout=10) as answer:
            page = answer.read().decode()
        with closing(sqlite3.connect(tmp_path / "demo" / "outbox.db")) as connection, connection:
            connection.execute("INSERT INTO outbox (recipients, body_text) VALUES ('late@example.com', 'Still here?')")
        deadline = time.monotonic() + 30
        while not list((tmp_path / "demo" / "mail").glob("*late*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    os.close(master)
    assert "· poller</title>" in page
    assert len(list((tmp_path / "demo" / "mail").glob("*late*"))) == 1


def read_until(terminal: int, words: str) -> str:
    """What a person sees, up to these words."""
    seen, deadline = "", time.monotonic() + 60
    while words not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536).decode("utf-8", "replace")
    return seen


# ---- run to its end


def test_it_ends_by_itself_and_as_planned(ended: Ended) -> None:
    assert ended.code == 0, ended.screen
    counts = Counter(dict(asked(ended, "SELECT status, count(*) FROM outbox GROUP BY status")))
    assert counts == {"sent": MESSAGES - 2, "failed": 1, "suppressed": 1}


def test_the_screen_says_where_the_page_is(ended: Ended) -> None:
    assert re.search(r"Watch it, and read the mail, on a page: http://127\.0\.0\.1:\d+/", ended.screen)


def test_each_sent_row_is_one_file_without_defects(ended: Ended, mail: list[EmailMessage]) -> None:
    ids = [row[0] for row in asked(ended, "SELECT message_id FROM outbox WHERE status = 'sent'")]
    assert sorted(message["Message-ID"] for message in mail) == sorted(ids)
    assert [defect for message in mail for part in message.walk() for defect in part.defects] == []
    assert {message["Return-Path"] for message in mail} == {"<books@example.com>"}


def test_the_recipient_who_was_refused_for_now_got_it_at_the_second_attempt(ended: Ended) -> None:
    [(status, attempts)] = asked(ended, "SELECT status, attempts FROM outbox WHERE recipients = ?", GREYLISTED)
    assert (status, attempts) == ("sent", 2)
    assert "451 4.7.1 greylisted" in ended.screen
    assert "sent at attempt 2" in ended.screen


def test_the_unreadable_address_failed_with_a_reason_that_names_the_column(ended: Ended) -> None:
    [(status, error)] = asked(ended, "SELECT status, error FROM outbox WHERE recipients = ?", UNREADABLE)
    assert status == "failed"
    assert error.startswith("recipients: ")


def test_nobody_writes_to_the_suppression_list(ended: Ended, mail: list[EmailMessage]) -> None:
    [(status,)] = asked(ended, "SELECT status FROM outbox WHERE recipients = ?", UNSUBSCRIBED)
    assert status == "suppressed"
    assert [message for message in mail if UNSUBSCRIBED in envelope(message)] == []


def test_the_locale_chooses_the_language(ended: Ended, mail: list[EmailMessage]) -> None:
    rows = asked(ended, "SELECT message_id, locale FROM outbox WHERE template = 'welcome'")
    locales = dict(rows)
    assert set(locales.values()) == {"en", "de", "de_AT"}
    for message in mail:
        locale = locales.get(message["Message-ID"])
        if locale == "en":
            assert message["Subject"].startswith("Welcome, ")
            assert "Your customer number is" in text(message)
        elif locale is not None:
            assert message["Subject"].startswith("Schön, dass Sie da sind, ")
            assert "Herzliche Grüße" in text(message)
            assert 'lang="de"' in text(message, "html")


def test_an_invoice_carries_its_paper_and_shows_its_picture(mail: list[EmailMessage]) -> None:
    invoice = next(message for message in mail if str(message["Subject"]).startswith("Invoice "))
    number = str(invoice["Subject"]).removeprefix("Invoice ")
    picture = next(part for part in invoice.walk() if part["Content-ID"] == "<logo>")
    paper = next(part for part in invoice.walk() if part.get_filename() == f"invoice-{number}.pdf")
    assert isinstance(picture, EmailMessage)
    assert isinstance(paper, EmailMessage)
    assert picture.get_content() == png()
    assert paper.get_content() == pdf(
        f"Invoice {number}", invoice["To"].addresses[0].display_name, "2 books: 31.80 EUR"
    )
    assert 'src="cid:logo"' in text(invoice, "html")


def test_a_blind_copy_is_sent_and_not_named(mail: list[EmailMessage]) -> None:
    meeting = next(message for message in mail if message["Subject"] == "Tuesday at ten")
    named = [address.addr_spec for field in ("To", "Cc") for address in meeting[field].addresses]
    assert len(named) == 3
    assert len(envelope(meeting)) == 4
    assert meeting["Bcc"] is None


def test_japanese_and_emoji_arrive(mail: list[EmailMessage]) -> None:
    order = next(message for message in mail if "📚" in message["Subject"])
    assert order["Subject"] == "📚 ご注文ありがとうございます"
    assert order["To"].addresses[0].display_name == "山田 太郎"
    assert text(order).startswith("山田様")


def test_a_line_that_is_a_dot_arrives(mail: list[EmailMessage]) -> None:
    reset = next(message for message in mail if message["Subject"] == "Your new password")
    assert "\n.\n" in text(reset).replace("\r\n", "\n")


def test_the_screen_says_what_is_done_and_what_to_try(ended: Ended) -> None:
    screen = ended.screen
    # Which batches a glance catches depends on the machine; the last one stays on the screen.
    assert re.search(r"messages (1|21) to 40 of 40", screen)
    assert "VALUES ('Anna <anna@example.com>', 'Hello', 'One INSERT is enough.')" in screen
    assert f"sqlite3 '{ended.directory}/outbox.db'" in screen
    (typed,) = re.findall(
        rf"^  (.+) --config '{re.escape(str(ended.directory))}/config.toml' status$", screen, re.MULTILINE
    )
    assert typed in {"poller", "uv run poller", f"{sys.executable} -m poller"}
    assert "\x1b" not in screen


def test_the_log_is_the_real_one_and_names_nobody(ended: Ended) -> None:
    lines = (ended.directory / "poller.log").read_text("utf-8")
    assert lines.count(" attempt.sent ") == MESSAGES - 2
    assert GREYLISTED not in lines


def test_the_file_says_how_the_service_was_configured(ended: Ended) -> None:
    written = load(ended.directory / "config.toml", {})
    assert Place(ended.directory).config(written.smtp.host, written.smtp.port) == written


def test_a_file_of_ones_own_stays(ended: Ended) -> None:
    assert (ended.directory / "notes.txt").read_text() == "mine"


# ---- directories


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_text("precious")
    refusal = CliRunner().invoke(demo_command, ["--directory", str(tmp_path)])
    assert refusal.exit_code == 2
    assert "poller demo did not make" in refusal.output
    assert [path.name for path in tmp_path.iterdir()] == ["outbox.db"]
    assert (tmp_path / "outbox.db").read_text() == "precious"


def test_a_demo_that_still_runs_is_not_disturbed(tmp_path: Path) -> None:
    (tmp_path / MARK).touch()
    (tmp_path / "outbox.db").write_text("in use")
    other = StateDirectory(tmp_path / "state")
    try:
        with pytest.raises(click.ClickException, match="another demo runs in"):
            demo(tmp_path, Console(file=io.StringIO()))
    finally:
        other.release()
    assert (tmp_path / "outbox.db").read_text() == "in use"


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(click.ClickException, match=r"file/demo can't be used: Not a directory"):
        demo(tmp_path / "file" / "demo", Console(file=io.StringIO()))
