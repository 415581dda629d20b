"""`poller sendmail`, as the programs that call it see it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from databases import free_port
from service import zygote

if TYPE_CHECKING:
    from pathlib import Path

    from service.bench import Bench

RAW = b"From: jo@x.test\r\nTo: a@b.test\r\nMessage-ID: <1@x.test>\r\nSubject: Hi\r\n\r\nHello\r\n"
ON_SQLITE = pytest.mark.parametrize("kind", ["sqlite"])
FORBIDDEN = {"sqlalchemy", "pydantic", "jinja2", "rich", "structlog", "apscheduler"}
LOADED = """
import sys
from poller.cli.sendmail import run
code = run(sys.argv[2:], sys.argv[1])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


def sendmail(config: Path, *arguments: str, stdin: bytes = RAW, **named: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "poller", "--config", str(config), "sendmail", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, check=False, timeout=60, **{"env": zygote.environment(), **named}
    )


@pytest.fixture
def config(bench: Bench) -> Path:
    return bench.configure("127.0.0.1", 25, submission={"default_domain": "here.test"})


def test_a_message_becomes_a_row_as_it_came_and_0_is_said_after_commit(bench: Bench, config: Path) -> None:
    done = sendmail(config, "-t", "-oi", "-f", "bounce@x.test", "-N", "delay,failure", "-R", "hdrs", "c@d.test")
    (row,) = bench.rows()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (row.raw, row.recipients, row.envelope_from) == (RAW, "c@d.test, a@b.test", "bounce@x.test")
    said = dict.fromkeys(("c@d.test", "a@b.test"), "NOTIFY=DELAY,FAILURE")
    assert (row.dsn, row.sender, row.status) == ({"mail": "RET=HDRS", "rcpt": said}, "jo@x.test", "queued")


def test_a_message_id_that_is_there_is_no_second_row_if_that_was_asked_for(bench: Bench) -> None:
    config = bench.configure("127.0.0.1", 25, submission={"dedupe": True})
    assert [sendmail(config, "-t").returncode for _ in range(2)] == [0, 0]
    assert len(bench.rows()) == 1


def test_it_starts_without_what_takes_long_to_import(bench: Bench, config: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(config), "-t"],
        input=RAW,
        capture_output=True,
        check=True,
        timeout=60,
        env=zygote.environment(),
    )
    assert set(done.stderr.decode().split()) & FORBIDDEN == set()
    assert len(bench.rows()) == 1


@ON_SQLITE
@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        (["-Y"], RAW, 64, "-Y is no flag of sendmail"),
        (["-bs"], RAW, 64, "-bs is not offered"),
        ([], RAW, 64, "no recipient; name one, or use -t and write To, Cc or Bcc"),
        (["-t"], b"X: 1\n\n\0", 65, "raw: a NUL byte at position 6"),
        (["-t"], b"To: a b c\n\n", 65, "no @ where one belongs"),
        (["a@b@c"], RAW, 67, "a second @"),
        (["-bp"], b"", 0, "the queue is the outbox; see: poller status"),
        (["-bi"], b"", 0, ""),
        (["-q"], b"", 0, ""),
    ],
)
def test_who_calls_it_learns_what_is_wrong_by_code_and_words(
    bench: Bench, config: Path, *, arguments: list[str], stdin: bytes, code: int, words: str
) -> None:
    done = sendmail(config, *arguments, stdin=stdin)
    assert (done.returncode, words in done.stderr.decode(), bench.rows()) == (code, True, [])


@ON_SQLITE
def test_what_is_wrong_with_the_installation_has_codes_of_its_own(bench: Bench, config: Path, tmp_path: Path) -> None:
    away = tmp_path / "away.toml"
    away.write_text(f'[database]\nurl = "postgresql://nobody@127.0.0.1:{free_port()}/none"\n')
    broken = tmp_path / "broken.toml"
    broken.write_text(config.read_text() + "\n[message]\n")
    said = [sendmail(path, "-t") for path in (away, broken, tmp_path / "none.toml")]
    assert [done.returncode for done in said] == [75, 78, 78]
    assert b"the database is not available" in said[0].stderr
    config.write_text(config.read_text() + '\n[alerts]\nevery = "never"\n')  # nothing of its
    assert sendmail(config, "-t").returncode == 0
    assert len(bench.rows()) == 1


@ON_SQLITE
def test_show_tells_its_size_and_prints_it_as_it_would_go_out(bench: Bench, config: Path) -> None:
    sendmail(config, "-t", stdin=RAW.replace(b"Subject", b"Bcc: x@y.test\r\nDate: D\r\nSubject"))
    assert f"raw              {len(RAW) + 24} bytes" in bench.poller(config, "show", "1").stdout
    expected = RAW.replace(b"Subject", b"Date: D\r\nSubject").replace(b"\r\n", b"\n").decode()
    assert bench.poller(config, "show", "1", "--raw").stdout == expected


@ON_SQLITE
def test_a_program_that_gives_no_header_at_all_is_understood(bench: Bench, config: Path) -> None:
    assert sendmail(config, "-F", "Night job", "root", stdin=b"all well\n.\nnot read\n").returncode == 0
    (row,) = bench.rows()
    assert (row.raw, row.recipients, row.sender) == (b"all well\n", "root@here.test", '"Night job" <shop@example.com>')
