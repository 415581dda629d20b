"""Content stays what it was: what is tried again goes out as it was first made, and what was sent can be shown."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import keys
import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer, Heard
from service.bench import WHATEVER_THE_DATABASE
from service.test_dkim import tables

from poller.outbox.database import transaction
from poller.outbox.tables import content, outbox

if TYPE_CHECKING:
    from pathlib import Path

    from servers.fault import Taken
    from service.bench import Bench

ROW: dict[str, Any] = {"body_text": None, "subject": None, "template": "news", "context": {"name": "Anna"}}
HTML = "<h1>Edition {0}</h1><p>{{{{ name }}}}, ü €</p>"


def edition(directory: Path, number: int) -> str:
    """Write the template as it is now; returns the directory."""
    directory.mkdir(exist_ok=True)
    (directory / "news.subject.txt").write_text(f"Edition {number} for {{{{ name }}}}")
    (directory / "news.txt").write_text(f"Edition {number}\r\n\n.\n{{{{ name }}}} €\n")
    (directory / "news.html").write_text(HTML.format(number))
    return str(directory)


def kept(bench: Bench) -> list[Any]:
    return list(transaction(bench.engine, lambda c: c.execute(sa.select(content)).all(), reading=True))


def change(bench: Bench, **values: Any) -> None:
    transaction(bench.engine, lambda c: c.execute(sa.update(outbox).values(values)))


def shown(bench: Bench, config: Path, row_id: int) -> tuple[bytes, str]:
    """What `show --raw` prints, and what it says of it. Line ends were made plain on the way."""
    done = bench.poller(config, "show", str(row_id), "--raw")
    assert done.returncode == 0, done.stderr
    return done.stdout.encode(), done.stderr.strip()


def test_a_row_tried_three_times_over_a_changed_template_makes_three_identical_signed_copies(
    bench: Bench, tmp_path: Path
) -> None:
    directory = tmp_path / "templates"
    bench.insert(recipients="good@example.com, slow@example.com", **ROW)
    # The first copy is taken and not answered: it goes again. The last one is for another recipient.
    with FaultServer(Faults(defer_first={"slow@example.com": 2}, drop_unanswered=frozenset({1}))) as relay:

        def next_edition(_: Taken) -> None:
            edition(directory, len(relay.messages) + 1)

        relay.on_taken = next_edition
        config = bench.configure(relay.host, relay.port, templates={"directory": edition(directory, 1)})
        tables(config, **{"example.com": keys.table(tmp_path, "rsa", "ed25519")})
        assert bench.run(config, "--drain", "--for", "30s") == 0
        copies = relay.messages
    assert [copy.recipients for copy in copies] == [("good@example.com",), ("good@example.com",), ("slow@example.com",)]
    assert len({copy.content for copy in copies}) == 1
    assert b"Edition 1 for Anna" in copies[0].content
    assert (directory / "news.html").read_text() == HTML.format(4)
    assert (bench.rows()[0].status, kept(bench)) == ("sent", [])


@WHATEVER_THE_DATABASE
@pytest.mark.parametrize("corrected", ["the row", "the template, and a person starts it afresh"])
def test_what_a_person_has_corrected_is_rendered_anew(bench: Bench, tmp_path: Path, corrected: str) -> None:
    directory = tmp_path / "templates"
    (row_id,) = bench.insert(recipients="a@example.com", **ROW)
    with FaultServer(Faults(defer_first={"a@example.com": 1})) as relay:
        retry = {"first": "1h", "longest": "1h"}
        config = bench.configure(relay.host, relay.port, templates={"directory": edition(directory, 1)}, retry=retry)
        assert bench.run(config, "--once") == 0
        raw, said = shown(bench, config, row_id)
        assert b"Edition 1 for Anna" in raw
        assert said.startswith("what the row was rendered to when it was tried")
        edition(directory, 2)
        if corrected == "the row":
            change(bench, context={"name": "Hanna"}, due_at=datetime.now(UTC) - timedelta(minutes=1))
        else:
            assert bench.poller(config, "cancel", str(row_id), "--yes").returncode == 0
            assert bench.poller(config, "retry", str(row_id), "--yes").returncode == 0
        assert bench.run(config, "--once") == 0
        (copy,) = relay.messages
    assert (b"Edition 2 for Hanna" if corrected == "the row" else b"Edition 2 for Anna") in copy.content


@pytest.mark.parametrize("keep_sent", ["none", "hash", "full"])
def test_what_is_shown_is_what_was_sent_or_it_says_that_it_is_not(bench: Bench, tmp_path: Path, keep_sent: str) -> None:
    directory = tmp_path / "templates"
    (row_id,) = bench.insert(recipients="a@example.com", **ROW)
    with FaultServer() as relay:
        templates = {"directory": edition(directory, 1)}
        config = bench.configure(relay.host, relay.port, templates=templates, message={"keep_sent": keep_sent})
        assert bench.run(config, "--once") == 0
        (copy,) = relay.messages
    sent = copy.content.replace(b"\r\n", b"\n")
    unchanged = shown(bench, config, row_id)
    edition(directory, 2)
    changed = shown(bench, config, row_id)
    assert unchanged[0] == sent
    assert (changed[0] == sent) is (keep_sent == "full")
    now_other = "what the row would become now"
    words = {
        "none": (f"which is not kept: {now_other}", f"which is not kept: {now_other}"),
        "hash": ("it has the hash that was kept", f"of which only the hash is kept: {now_other}"),
        "full": ("byte for byte", "byte for byte"),
    }
    assert (words[keep_sent][0] in unchanged[1], words[keep_sent][1] in changed[1]) == (True, True), (
        unchanged,
        changed,
    )
    hashes = [] if keep_sent == "none" else [hashlib.sha256(copy.content).hexdigest()]
    assert [line.sha256 for line in kept(bench)] == hashes


@WHATEVER_THE_DATABASE
def test_a_row_without_a_template_leaves_nothing_behind_when_it_is_tried_again(bench: Bench) -> None:
    bench.insert(recipients="a@example.com")

    seen: list[Any] = []

    def answer(_: Heard) -> bytes | None:
        seen.extend(kept(bench))
        return None

    with FaultServer(Faults(defer_first={"a@example.com": 2}, answer=answer)) as relay:
        assert bench.run(bench.configure(relay.host, relay.port), "--drain", "--for", "30s") == 0
        assert len(relay.messages) == 1
    assert (seen, kept(bench)) == ([], [])
