"""What DKIM costs: the same drain without a signature, with Ed25519, with RSA and with both, in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keys
from bench.outboxes import SENDER
from bench.processes import worker
from servers.sink import Sink

if TYPE_CHECKING:
    from pathlib import Path

    from bench.scene import Scene
    from keys import Kind

WAYS: dict[str, tuple[Kind, ...]] = {
    "unsigned": (),
    "ed25519": ("ed25519",),
    "rsa": ("rsa",),
    "both": ("rsa", "ed25519"),
}
ON = "postgresql"


def signing(scene: Scene) -> None:
    """Rows to Postfix's smtp-sink; ratios are to the unsigned drain of the round."""
    rows = scene.scale(5_000, 1_000)
    scene.book.say("signing.rows", f"{rows:,}")
    for number in range(scene.rounds):
        rates: dict[str, float] = {}
        for way in WAYS:
            rates[way], cpu = _drain(scene, way, rows)
            scene.book.add(f"signing.{way}.rate", rates[way])
            scene.book.add(f"signing.{way}.to-unsigned", rates[way] / rates["unsigned"])
            scene.book.add(f"signing.{way}.cpu", cpu)
        told = ", ".join(f"{way} {rate:,.0f}/s" for way, rate in rates.items())
        scene.tell(f"round {number + 1}: {told}")


def _drain(scene: Scene, way: str, rows: int) -> tuple[float, float]:
    """Messages per second, and CPU seconds for a thousand."""
    with scene.outbox(ON) as outbox, Sink() as sink:
        config = outbox.configure(sink.port)
        _sign(config, outbox.directory, way)
        start = worker(config, "--drain")  # on the empty queue
        outbox.fill(rows)
        outbox.settle()
        cost = worker(config, "--drain")
        count, seconds = outbox.drained()
    if count != rows:
        raise RuntimeError(f"{count} of {rows} rows were sent")
    return rows / seconds, (cost.cpu_seconds - start.cpu_seconds) / rows * 1000


def _sign(config: Path, directory: Path, way: str) -> None:
    domain = SENDER.rpartition("@")[2].rstrip(">")
    with config.open("a") as file:
        for key in keys.table_keys(directory, *WAYS[way]):
            file.write(f'[[dkim."{domain}".keys]]\nselector = "{key.selector}"\nkey_file = "{key.key_file}"\n')
