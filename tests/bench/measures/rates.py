"""How fast: drains beside the peers, over longer wires, and into a real Postfix.

All in turn within each round, so that what else the machine does meets everyone alike; ratios are taken within a round.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from bench import rivals
from bench.delay import Delay
from bench.outboxes import HTML, SENDER, TEXT
from bench.processes import Processors, worker
from bench.scene import HAS_WINDOW, NOT_BUILT, WINDOW
from servers import postfix
from servers.postfix import Postfix
from servers.sink import Sink

from poller.message.composer import Composer
from poller.message.draft import Draft
from poller.message.settings import MessageSettings, TemplateSettings

if TYPE_CHECKING:
    from bench.outboxes import Outbox
    from bench.scene import Scene

RTTS_MS = (5, 20, 50)
ROUND_TRIPS_OF_PEERS = 4
TRANSACTION, OVERLAP = "transaction", "overlap"
"""Gears: what every relay gets that we do not know, and what those get that are known to bear it."""
OVERLAPPED = (OVERLAP, "postgresql", OVERLAP)
SECONDS_EACH = 2.5  # of one program at one round-trip time


def wire_size() -> int:
    """Bytes of the message that the worker makes of the usual row."""
    composer = Composer(MessageSettings(sender=SENDER), TemplateSettings())
    draft = Draft(
        id=1,
        message_id="<0123456789abcdef0123456789abcdef@example.com>",
        date=dt.datetime.now(dt.UTC).replace(microsecond=0),
        recipients="user1@example.com",
        subject="Your order 1",
        body_text=TEXT,
        body_html=HTML,
    )
    return len(composer.compose(draft).content)


def drain(scene: Scene) -> None:
    """Targets 1 and 2: rows to Postfix's smtp-sink, nothing between; the peers and smtp-source in the same round."""
    rows, peers_rows = scene.scale(10_000, 2_000), scene.scale(1_000, 300)
    scene.book.say("drain.rows", f"{rows:,} rows; the peers {peers_rows:,}; {wire_size():,} bytes on the wire")
    for number in range(scene.rounds):
        with Sink() as sink:
            source = rows / rivals.smtp_source(sink.port, rows, wire_size())
            scene.book.add("drain.smtp-source.rate", source)
            peers = [_drain_peer(scene, name, peers_rows, sink.port) for name in rivals.PEERS]
            as_it_comes, _ = _drain_peer(scene, rivals.AS_IT_COMES, peers_rows, sink.port)
            best, thriftiest = max(rate for rate, _ in peers), min(cpu for _, cpu in peers)
            for name, kind, gear in [*((kind, kind, TRANSACTION) for kind in scene.kinds()), OVERLAPPED]:
                rate, cpu = _drain_poller(scene, name, kind, rows, sink.port, gear)
                scene.tell(
                    f"round {number + 1}: {name} {rate:,.0f}/s, best peer {best:,.0f}, smtp-source {source:,.0f}"
                )
                scene.book.add(f"drain.{name}.to-peer", rate / best)
                scene.book.add(f"drain.{name}.to-default", rate / as_it_comes)
                scene.book.add(f"drain.{name}.to-source", rate / source)
                scene.book.add(f"drain.{name}.cpu-to-peer", cpu / thriftiest)


def _drain_peer(scene: Scene, name: str, rows: int, port: int) -> tuple[float, float]:
    """Messages per second, and CPU seconds for a thousand."""
    with rivals.peer(name, scene.directory, rows) as peer:
        timed = peer.send(port)
    scene.book.add(f"drain.{name}.rate", rows / timed.seconds)
    cpu = timed.cpu_seconds / rows * 1000
    scene.book.add(f"drain.{name}.cpu", cpu)
    scene.book.add(f"drain.{name}.peak", timed.peak_mb)
    return rows / timed.seconds, cpu


def _drain_poller(  # noqa: PLR0917 - a row of the loop above
    scene: Scene, name: str, kind: str, rows: int, port: int, gear: str
) -> tuple[float, float]:
    """Messages per second, and CPU seconds for a thousand."""
    with scene.outbox(kind) as outbox:
        config = outbox.configure(port, smtp={"pipelining": gear})
        start = worker(config, "--drain")  # on the empty queue: what a start and an end cost by themselves
        outbox.fill(rows)
        outbox.settle()
        cost = worker(config, "--drain")
        count, seconds = outbox.drained()
    if count != rows:
        raise RuntimeError(f"{count} of {rows} rows were sent")
    book = scene.book
    book.add(f"drain.{name}.rate", rows / seconds)
    book.add(f"drain.{name}.whole", rows / cost.seconds)
    cpu = (cost.cpu_seconds - start.cpu_seconds) / rows * 1000
    book.add(f"drain.{name}.cpu", cpu)
    book.add(f"drain.{name}.cpu-whole", cost.cpu_seconds / rows * 1000)
    book.add(f"drain.{name}.start", start.seconds)
    book.add(f"drain.{name}.start-cpu", start.cpu_seconds)
    book.add(f"drain.{name}.peak", cost.peak_mb)
    return rows / seconds, cpu


def rtt(scene: Scene) -> None:
    """Target 4: rate against the round-trip time, PIPELINING only, in two gears."""
    for number in range(scene.rounds):
        with Sink() as sink:
            for ms in RTTS_MS:
                rate, overlapped = (_over_a_wire(scene, gear, ms, sink.port) for gear in (TRANSACTION, OVERLAP))
                scene.tell(f"round {number + 1}, {ms} ms: transaction {rate:.1f}/s, overlap {overlapped:.1f}/s")
                for name in ("smtp-source", *rivals.PEERS):
                    _over_a_wire(scene, name, ms, sink.port)


def _over_a_wire(scene: Scene, name: str, ms: int, port: int) -> float:
    seconds = scene.scale(SECONDS_EACH, 1.0)
    count = max(10, int(seconds * 1000 / ms) // (1 if name == OVERLAP else ROUND_TRIPS_OF_PEERS))
    with Delay(port, rtt=ms / 1000) as wire:
        took = _timed(scene, name, count, wire.port)
    scene.book.add(f"rtt.{name}.{ms}", count / took)
    scene.book.add(f"rtt.{name}.round-trips", wire.passed.round_trips / count)
    return count / took


def _timed(scene: Scene, name: str, count: int, port: int) -> float:
    """Seconds to send so many messages; the peers' and smtp-source's include their greeting."""
    if name == "smtp-source":
        return rivals.smtp_source(port, count, wire_size())
    if name in rivals.PEERS:
        with rivals.peer(name, scene.directory, count) as peer:
            return peer.send(port).seconds
    with scene.outbox("postgresql") as outbox:
        return _sent_in(outbox, count, port, pipelining=name)


def _sent_in(outbox: Outbox, count: int, port: int, **smtp: int | str) -> float:
    """Seconds from the first claim to the last acceptance."""
    outbox.fill(count)
    outbox.settle()
    worker(outbox.configure(port, smtp=smtp), "--drain")
    sent, seconds = outbox.drained()
    if sent != count:
        raise RuntimeError(f"{sent} of {count} rows were sent")
    return seconds


def relay(scene: Scene) -> None:
    """Target 4: a real Postfix, which offers CHUNKING, beside smtp-source to the same; without delay and at 20 ms."""
    if why := postfix.available():
        scene.book.say("relay.missing", why)
        return
    if not HAS_WINDOW:
        scene.book.say("relay.window", f"[smtp] window: {NOT_BUILT}")
    rows = scene.scale(1_000, 300)
    for number in range(scene.rounds):
        with Postfix() as server:
            with Processors() as processors:
                took = rivals.smtp_source(server.port, rows, wire_size())
            source = rows / took
            scene.book.add("relay.smtp-source.busy", processors.busy(took))
            with Processors() as processors:
                rate = _into_postfix(scene, rows, server.port, "plain", pipelining=OVERLAP)
            scene.book.add("relay.poller.busy", processors.busy(rows / rate))
            _into_postfix(scene, rows, server.port, "transaction", pipelining=TRANSACTION)
            scene.tell(f"round {number + 1}: Postfix {rate:.0f}/s, smtp-source {source:.0f}")
            scene.book.add("relay.smtp-source.rate", source)
            scene.book.add("relay.poller.to-source", rate / source)
            with Delay(server.port, rtt=0.02) as wire:
                _into_postfix(scene, scene.scale(100, 40), wire.port, "plain-20ms", pipelining=OVERLAP)
                _into_postfix(scene, scene.scale(100, 40), wire.port, "transaction-20ms", pipelining=TRANSACTION)
            if HAS_WINDOW:
                _into_postfix(scene, rows, server.port, "window", window=WINDOW)
                with Delay(server.port, rtt=0.02) as wire:
                    _into_postfix(scene, rows, wire.port, "window-20ms", window=WINDOW)


def _into_postfix(scene: Scene, rows: int, port: int, name: str, **smtp: int | str) -> float:
    with scene.outbox("postgresql") as outbox:
        rate = rows / _sent_in(outbox, rows, port, **smtp)
    scene.book.add(f"relay.poller.{name}", rate)
    return rate


def proxy(scene: Scene) -> None:
    """The delay proxy's own ceiling, by smtp-source: one session, and a hundred at once over 20 ms."""
    count = scene.scale(10_000, 2_000)
    for _ in range(scene.rounds):
        with Sink() as sink:
            scene.book.add("proxy.direct", count / rivals.smtp_source(sink.port, count, wire_size()))
            with Delay(sink.port) as wire:
                scene.book.add("proxy.through", count / rivals.smtp_source(wire.port, count, wire_size()))
            scene.book.add("proxy.cpu", wire.passed.cpu_seconds / wire.passed.round_trips * 1e6)
            with Delay(sink.port, rtt=0.02) as wire:
                took = rivals.smtp_source(wire.port, count, wire_size(), sessions=100)
                scene.book.add("proxy.hundred-20ms", count / took)
