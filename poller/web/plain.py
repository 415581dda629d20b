"""What machines ask: `/healthz`, `/readyz`, `/metrics`. The same answers whichever server gives them.

They show how much mail there is, and nobody's address. Without a worker (`poller serve`) only the outbox is spoken of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from poller.log import without_addresses
from poller.web.health import health_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from poller.outbox import Engine
    from poller.worker.service import Service

TEXT = "text/plain; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
NEEDS = 'the numbers want a library: pip install "poller[metrics]"\n'


class Answer(NamedTuple):
    """Of HTTP."""

    code: int
    kind: str
    body: bytes


def answers(service: Service | None, engine: Engine) -> Mapping[str, Callable[[], Answer]]:
    """By path."""
    metrics = _metrics_if_there(service, engine)
    return {
        "/healthz": lambda: _said(health_of(service, engine).dead),
        "/readyz": lambda: _said(health_of(service, engine).unready),
        "/metrics": lambda: Answer(200, PROMETHEUS, metrics.text()) if metrics else Answer(501, TEXT, NEEDS.encode()),
    }


def _metrics_if_there(service: Service | None, engine: Engine) -> Any:
    try:
        from poller.web.metrics import Metrics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return Metrics(service, engine)


def _said(why_not: str) -> Answer:
    if why_not:
        return Answer(503, TEXT, f"{without_addresses(why_not)}\n".encode())
    return Answer(200, TEXT, b"ok\n")
