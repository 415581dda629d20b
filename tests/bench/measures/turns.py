"""How long a single mail waits behind a million of one batch, with a few and with many other senders.

A worker drains the million; while it does, each of the other senders writes a mail now and then. The relay writes down
in which order they come. Beside it, how long a claim takes in tables of other shapes.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa
from bench.book import percentile
from bench.measures.claims import BATCH, MILLION, WARM_UP, claims_of, probe
from bench.outboxes import number
from bench.processes import worker
from chaos.recorder import Recorder

from poller.outbox.tables import outbox as table

if TYPE_CHECKING:
    from bench.outboxes import Outbox
    from bench.scene import Scene

SENDERS = (1, 10, 100)
SINGLES = 200
EVERY_S = 0.05
"""Between two single mails, no matter who writes them."""
BEHIND = "newsletter"
SHAPES = ("one batch", "100,000 batches", "scheduled")


def turns(scene: Scene) -> None:
    """On every database."""
    million = scene.scale(MILLION, MILLION // 20)
    scene.book.say("turns.million", f"{million:,}")
    for kind in scene.kinds():
        for senders in SENDERS:
            _singles(scene, kind, million, senders)
        for shape in SHAPES:
            _shape(scene, kind, million, shape)


def _singles(scene: Scene, kind: str, million: int, senders: int) -> None:
    singles = scene.scale(SINGLES, SINGLES // 4)
    with scene.outbox(kind) as outbox, Recorder() as relay:
        outbox.fill(million, batch=BEHIND, body_html=None, body_text="Hello")
        outbox.settle()
        producer = _Producer(outbox, relay, senders=senders, count=singles)
        thread = threading.Thread(target=producer.run)
        thread.start()
        worker(outbox.configure(relay.port), until=producer.all_are_there)
        thread.join()
        messages, seconds = producer.waits()
    name = f"turns.{kind}.{senders}"
    for what, waits in (("messages", [float(n) for n in messages]), ("ms", [s * 1000 for s in seconds])):
        for share in (50, 99):
            scene.book.add(f"{name}.{what}.p{share}", percentile(waits, share / 100))
    scene.tell(
        f"{kind}, {senders} others: {percentile([float(n) for n in messages], 0.99):.0f} messages at most of 99 %"
    )


class _Producer:
    """Writes single mails, and knows how many messages and seconds each of them waited."""

    def __init__(self, outbox: Outbox, relay: Recorder, *, senders: int, count: int) -> None:
        self._outbox = outbox
        self._relay = relay
        self._senders = senders
        self._count = count
        self._written: dict[str, tuple[int, float]] = {}

    def run(self) -> None:
        """From the hundredth message on."""
        while len(self._relay.entries) < BATCH:
            time.sleep(EVERY_S)
        for n in range(self._count):
            values = {"recipients": f"single{n}@example.com", "body_text": "Hello"}
            values["sender"] = f"shop{n % self._senders}@example.com"
            with self._outbox.engine.begin() as connection:
                connection.execute(sa.insert(table).values(values))
            self._written[values["recipients"]] = len(self._relay.entries), time.monotonic()
            time.sleep(EVERY_S)

    def all_are_there(self) -> bool:
        """Every single one was accepted."""
        return len(self._written) == self._count and len(self._accepted()) == self._count

    def _accepted(self) -> dict[str, tuple[int, float]]:
        found = {}
        for entry in list(self._relay.entries):
            if entry.recipients[0] in self._written:
                found[entry.recipients[0]] = (entry.number, entry.at)
        return found

    def waits(self) -> tuple[list[int], list[float]]:
        """Messages accepted between the commit and the acceptance, and seconds."""
        pairs = [(self._written[address], arrived) for address, arrived in self._accepted().items()]
        return [b[0] - a[0] for a, b in pairs], [b[1] - a[1] for a, b in pairs]


def _shape(scene: Scene, kind: str, million: int, shape: str) -> None:
    tries = scene.scale(300, 60)
    due = (tries + WARM_UP) * BATCH
    with scene.outbox(kind) as outbox:
        if shape == "scheduled":
            outbox.fill_scheduled(million)
            outbox.fill(due, priority=0, body_html=None, body_text="Hello")
        elif shape == "one batch":
            outbox.fill(max(million, due), batch=BEHIND, body_html=None, body_text="Hello")
        else:
            for n in range(10):
                outbox.fill(
                    max(million, due) // 10, batch=_numbered(), priority=5, body_html=None, body_text=f"Hello {n}"
                )
        outbox.settle()
        taken = claims_of(probe(outbox, "probe"), tries)
    for share in (50, 95):
        scene.book.add(f"turns.{kind}.claim.{shape}.p{share}", percentile(taken, share / 100) * 1000)
    scene.tell(f"{kind}, {shape}: claim p95 {percentile(taken, 0.95) * 1000:.1f} ms")


def _numbered() -> sa.ColumnElement[str]:
    """A batch of its own for each row of one statement."""
    return sa.literal("b") + sa.cast(number(), sa.String(20))
