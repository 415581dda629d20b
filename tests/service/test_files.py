"""Files without copies: shared ones and those on disk arrive as they are, and a disk that is away costs no row."""

from __future__ import annotations

import email
import hashlib
import random
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from servers.fault import FaultServer
from service.bench import WHATEVER_THE_DATABASE

from poller.outbox.blobs import share
from poller.outbox.database import transaction
from poller.outbox.tables import attachment

if TYPE_CHECKING:
    from pathlib import Path

    from service.bench import Bench

CONTENT = random.Random(1).randbytes(300_000)


def attach(bench: Bench, ids: list[int], **given: Any) -> None:
    rows = [{"outbox_id": row_id, "name": "terms.pdf", "content_type": "application/pdf", **given} for row_id in ids]
    transaction(bench.engine, lambda c: c.execute(sa.insert(attachment), rows))


def files_of(content: bytes) -> list[str]:
    """The hashes of what a message carries."""
    parts = email.message_from_bytes(content).walk()
    payloads = [part.get_payload(decode=True) for part in parts if part.get_filename()]
    return [hashlib.sha256(payload).hexdigest() for payload in payloads if isinstance(payload, bytes)]


def test_a_shared_file_arrives_with_each_message_and_is_stored_once(bench: Bench) -> None:
    ids = bench.insert(30)
    name = transaction(bench.engine, lambda c: share(c, CONTENT))
    attach(bench, ids, blob_sha256=name)
    with FaultServer() as relay:
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 0
        assert [files_of(message.content) for message in relay.messages] == [[name]] * 30
    assert bench.statuses() == {"sent": 30}


@WHATEVER_THE_DATABASE
def test_a_file_on_disk_arrives_and_one_that_is_not_there_fails_its_row_alone(bench: Bench, tmp_path: Path) -> None:
    good, bad = bench.insert(2)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.pdf").write_bytes(CONTENT)
    attach(bench, [good], path="a.pdf")
    attach(bench, [bad], path="../w1.toml")
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, attachments={"directory": "files"})
        assert bench.run(config, "--once") == 1
        (message,) = relay.messages
    assert files_of(message.content) == [hashlib.sha256(CONTENT).hexdigest()]
    assert [row.status for row in bench.rows()] == ["sent", "failed"]
    assert bench.row(bad).error.startswith("attachments: '../w1.toml' is no relative path")


@WHATEVER_THE_DATABASE
def test_a_directory_that_is_away_costs_no_attempt_and_the_row_goes_when_it_is_back(
    bench: Bench, tmp_path: Path
) -> None:
    row_id, plain = bench.insert(2)
    attach(bench, [row_id], path="a.pdf")
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, attachments={"directory": "files"})
        assert bench.run(config, "--once") == 0
        row = bench.row(row_id)
        assert (row.status, row.attempts, bench.row(plain).status) == ("queued", 0, "sent")
        assert "can't be reached" in row.error
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "a.pdf").write_bytes(CONTENT)
        assert bench.run(config, "--drain", "--for", "30s") == 0
    assert bench.statuses() == {"sent": 2}
