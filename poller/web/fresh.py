"""Answers that many may ask for and that take a while: asked for once, however many look.

Rule 1. What took long to ask is asked again less often: all questions together take a tenth of one database connection
        at most. While nobody looks, nothing is asked.
Rule 2. Anyone who asks waits for PATIENCE_S at most. Then there is the last answer with its age, or none yet.
Rule 3. After an act the next one who looks gets an answer from after it, or none yet.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

PATIENCE_S = 0.4
LEAST_S = 1.0
SHARE = 10
"""An answer is good for this many times what it took."""
MOST = 64
"""Answers that are remembered."""


@dataclass(frozen=True, kw_only=True)
class Seen(Generic[T]):
    """An answer, and how old it is."""

    answer: T
    age: float


class _Slot:
    """One question; its fields are guarded by the lock of Fresh."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.is_there = False
        self.asked_at = 0.0
        self.took = 0.0
        self.running: Future[Any] | None = None


class Fresh:
    """Asks in threads of its own: two, so that a long question holds up no short one."""

    def __init__(self) -> None:
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="page")

    def get(self, key: Hashable, ask: Callable[[], T]) -> Seen[T] | None:
        """The answer; None: not yet (Rule 2). Raises what `ask` raises."""
        with self._lock:
            slot = self._slot(key)
            age = time.monotonic() - slot.asked_at
            if slot.running is None and (not slot.is_there or age > max(LEAST_S, SHARE * slot.took)):
                slot.running = self._threads.submit(self._ask, slot, ask)
            running = slot.running
        if running is not None and running in wait_for((running,), timeout=PATIENCE_S).done:
            running.result()
        with self._lock:
            return Seen(answer=slot.answer, age=time.monotonic() - slot.asked_at) if slot.is_there else None

    def forget(self) -> None:
        """Something was changed (Rule 3)."""
        with self._lock:
            self._slots.clear()

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _slot(self, key: Hashable) -> _Slot:
        slot = self._slots.setdefault(key, _Slot())
        self._slots.move_to_end(key)
        while len(self._slots) > MOST:
            self._slots.popitem(last=False)
        return slot

    def _ask(self, slot: _Slot, ask: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            answer = ask()
        except BaseException:
            with self._lock:
                slot.running, slot.is_there = None, False
            raise
        with self._lock:
            slot.answer, slot.is_there, slot.running = answer, True, None
            slot.asked_at, slot.took = began, time.monotonic() - began
