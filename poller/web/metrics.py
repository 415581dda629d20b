"""Numbers for Prometheus: the outbox as its views have it, and what this process has done.

What comes from the database is asked for once in `FRESH_S`, however often it is scraped, and every worker of an outbox
says the same of it: take `max`, not `sum`. No address, no subject and no domain is a label.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from poller import __version__
from poller.outbox.database import DatabaseUnavailable
from poller.outbox.report import glance, now_by_status, pulse
from poller.outbox.waiting import throttles
from poller.web.health import health_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.outbox import Engine
    from poller.worker.service import Service

FRESH_S = 10.0
KINDS = ("outbox", "relay", "provider")
"""Scopes that are few. Domains and senders are people's, and many."""


class Metrics:
    """A registry of its own. `text` may be called from several threads."""

    def __init__(self, service: Service | None, engine: Engine) -> None:
        self._service = service
        self._engine = engine
        self._lock = threading.Lock()
        self._seen: list[Any] = []
        self._seen_at = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus."""
        with self._lock:
            return generate_latest(self._registry)

    def describe(self) -> list[Any]:
        """Nothing is collected to learn the names."""
        return []

    def collect(self) -> Iterator[Any]:
        """What `generate_latest` asks for."""
        if self._service is not None:
            yield from self._of_this_process(self._service)
        if not self._seen or time.monotonic() - self._seen_at > FRESH_S:
            try:
                self._seen = list(_of_the_outbox(self._engine))
                self._seen_at = time.monotonic()
            except DatabaseUnavailable:
                self._seen = []
        yield GaugeMetricFamily("poller_database_up", "1: the last look at the database succeeded.", bool(self._seen))
        yield from self._seen

    def _of_this_process(self, service: Service) -> Iterator[Any]:
        health = health_of(service, self._engine)
        info = GaugeMetricFamily("poller_info", "Always 1.", labels=["worker", "version"])
        info.add_metric([service.name, __version__], 1)
        yield info
        yield GaugeMetricFamily("poller_ready", "1: this worker can claim and send.", not health.unready)
        words = "Rows whose outcome this process has written down, by what they became."
        written = CounterMetricFamily("poller_rows_recorded", words, labels=["status"])
        for status, number in sorted(dict(service.tick.recorder.written).items()):
            written.add_metric([status], number)
        yield written
        yield self._tokens(service)

    def _tokens(self, service: Service) -> CounterMetricFamily:
        words = "Tokens for logins: fetched, failed (the endpoint gave none), refused (by the relay)."
        tokens = CounterMetricFamily("poller_login_tokens", words, labels=["relay", "result"])
        for name, line in sorted(service.tick.delivery.lines.items()):
            counts = line.courier.tokens.counts if line.courier.tokens else {}
            for result, number in sorted(dict(counts).items()):
                tokens.add_metric([name, result], number)
        return tokens


def _of_the_outbox(engine: Engine) -> Iterator[Any]:
    seen, beat = glance(engine), pulse(engine)
    rows = GaugeMetricFamily("poller_rows", "Rows of the outbox, by status.", labels=["status"])
    for status, number in now_by_status(engine).items():
        rows.add_metric([status], number)
    yield rows
    yield GaugeMetricFamily("poller_due_rows", "Rows that are due now.", beat.due)
    yield GaugeMetricFamily("poller_oldest_due_seconds", "Age of the longest due row.", beat.oldest_due_seconds)
    if beat.last_sent_seconds is not None:
        yield GaugeMetricFamily("poller_last_sent_seconds", "Since a message was accepted.", beat.last_sent_seconds)
    yield GaugeMetricFamily("poller_outbox_off", "1: the outbox is switched off.", seen.paused is not None)
    workers = GaugeMetricFamily("poller_workers", "Workers: alive, silent or stopped.", labels=["state"])
    for state in ("alive", "silent", "stopped"):
        workers.add_metric([state], sum(worker["state"] == state for worker in seen.workers))
    yield workers
    pace = GaugeMetricFamily("poller_pace", "Share of its limit that a scope gets; 1 is all.", labels=["kind", "name"])
    pause = GaugeMetricFamily("poller_pause_seconds", "Until the pause of a scope ends.", labels=["kind", "name"])
    for key, record in throttles(engine).items():
        if key.kind in KINDS:
            values: dict[str, Any] = dict(record.values)
            until = values["paused_until"]
            pace.add_metric([key.kind, key.name], values["pace"])
            pause.add_metric([key.kind, key.name], max(0.0, (until - seen.at).total_seconds()) if until else 0.0)
    yield from (pace, pause)
