"""Whose name it is that a heartbeat could not renew."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poller.worker.life import Life


class Overtaken:
    """A store whose heartbeat finds no line of ours; by then we are in life `ours`, the database knows `entered`."""

    def __init__(self, ours: int | None, entered: int) -> None:
        self.ours, self.entered = ours, entered
        self.life_of: Life | None = None

    def heartbeat(self, **_: object) -> bool:
        assert self.life_of is not None
        self.life_of.incarnation = self.ours
        return False

    def life(self) -> tuple[int, int]:
        return self.entered, 0


@pytest.mark.parametrize(
    ("ours", "entered", "is_ours"),
    [
        pytest.param(7, 6, True, id="an older database knows a life before"),
        pytest.param(7, 0, True, id="an older database knows none"),
        pytest.param(7, 7, True, id="entered again under the same number"),
        pytest.param(8, 8, True, id="entered again since the question"),
        pytest.param(None, 8, True, id="being entered again"),
        pytest.param(7, 8, False, id="a copy of our state directory lives"),
    ],
)
def test_only_a_later_life_than_ours_has_taken_our_name(ours: int | None, entered: int, *, is_ours: bool) -> None:
    store = Overtaken(ours, entered)
    unsure = threading.Event()
    life = Life(
        store=cast("Any", store),
        state=cast("Any", SimpleNamespace(identity="me")),
        journal=cast("Any", None),
        lease=cast("Any", SimpleNamespace(now=lambda: 0.0, length=60.0)),
        beat_every=10.0,
        recovery=cast("Any", None),
        delivery=cast("Any", SimpleNamespace(trouble=None)),
        unsure=unsure,
        log=cast("Any", None),
        say=cast("Any", SimpleNamespace(said=lambda *_, **__: False)),
        incarnation=7,
    )
    store.life_of = life
    assert life.beat() is is_ours
    assert unsure.is_set() is is_ours
