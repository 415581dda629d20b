"""The benchmark's own parts work; what they measure is no test's business."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest
from bench import report
from bench.book import Book
from bench.delay import Delay
from bench.outboxes import fresh
from bench.processes import worker
from servers import sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT_S = 10


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of somebody who says everything back, to one caller."""

    def serve() -> None:
        caller, _ = listener.accept()
        with caller:
            while data := caller.recv(65536):
                caller.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(TIMEOUT_S)


def test_the_delay_proxy_passes_every_byte_in_order_and_counts_each_round_trip(echo: int) -> None:
    said = [f"message {n}".encode() for n in range(5)]
    with Delay(echo, rtt=0.01) as wire, socket.create_connection(("127.0.0.1", wire.port), timeout=TIMEOUT_S) as caller:
        heard = []
        for words in said:
            caller.sendall(words)
            heard.append(caller.recv(100))
    assert heard == said
    sent = sum(map(len, said))
    passed = wire.passed
    counted = (passed.connections, passed.round_trips, passed.bytes_out, passed.bytes_back)
    assert counted == (1, len(said), sent, sent)


def test_the_delay_proxy_passes_more_than_fits_in_a_socket_and_then_the_end(echo: int) -> None:
    much = bytes(range(256)) * 8192
    with Delay(echo, rtt=0.01) as wire, socket.create_connection(("127.0.0.1", wire.port), timeout=TIMEOUT_S) as caller:
        writer = threading.Thread(target=lambda: (caller.sendall(much), caller.shutdown(socket.SHUT_WR)))
        writer.start()
        heard = b"".join(iter(lambda: caller.recv(1 << 20), b""))
        writer.join(TIMEOUT_S)
    assert heard == much


@pytest.mark.skipif(bool(sink.available()), reason=sink.available())
def test_a_worker_drains_an_outbox_that_the_database_has_filled(tmp_path: Path) -> None:
    with fresh("sqlite", tmp_path) as outbox, sink.Sink() as relay:
        outbox.fill(30)
        outbox.fill_sent(20)
        outbox.fill_scheduled(10)
        outbox.fill_paused(5)
        cost = worker(outbox.configure(relay.port), "--once")
        count, seconds = outbox.drained()
    assert count == 30 + 20
    assert min(seconds, cost.seconds, cost.cpu_seconds, cost.peak_mb) > 0


def test_the_page_shows_the_median_of_the_rounds_between_its_markers_and_keeps_its_other_words(tmp_path: Path) -> None:
    book = Book()
    for rate in (3400, 3100, 9999):
        book.add("drain.postgresql.rate", rate)
    for ms in (5, 20, 50):
        book.add(f"rtt.overlap.{ms}", 900 / ms)
    page = tmp_path / "performance.md"
    backlog = "### Rate and memory against the backlog\n\nOf one run, last week."
    page.write_text(f"Before.\n{report.BEGIN}\nyesterday\n\n{backlog}\n\n{report.END}\nAfter.\n")
    report.write(book, tmp_path)
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("\nAfter.\n")
    assert "yesterday" not in text
    assert "| drain, PostgreSQL | at least 3,000/s | 3,400/s | 3,100 … 9,999 (3) | yes |" in text
    assert "| 20 ms round trip, overlapped | at least 43/s | 45/s |  | yes |" in text
    assert backlog in text
    assert "| composing from a template | at most 200 µs | not measured |  |  |" in text
    assert {drawing.name for drawing in (tmp_path / "performance").iterdir()} == {"drain.svg", "rtt.svg"}
