"""The bookkeeper: does what has to do with the database beside the sending, where that helps.

Rule 1. A database that answers within QUICK_S is asked by whoever wants to know: changing threads would cost more than
        the waiting. A slower one, far away say, is asked in a thread of the bookkeeper's own, one thing at a time.

It is an Executor, and its futures are like any other's.
"""

from __future__ import annotations

import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

QUICK_S = 0.02
"""Seconds that a group of outcomes, or a claim, takes at a database near by; several times that on a busy machine."""
TRUST = 0.2  # of the latest answer, in the mean of all


class Bookkeeper(Executor):
    """Belongs to one thread, which alone submits."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bookkeeper")
        self._mean_s = 0.0

    @property
    def is_quick(self) -> bool:
        """The database answers so soon that nothing is done beside the sending."""
        return self._mean_s < QUICK_S

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have it done, here and now or beside."""
        if not self.is_quick:
            return self._thread.submit(self._timed, fn, *args, **kwargs)
        done: Future[T] = Future()
        try:
            done.set_result(self._timed(fn, *args, **kwargs))
        except Exception as error:  # noqa: BLE001 - who asks for the result gets it, as from any future
            done.set_exception(error)
        return done

    def _timed(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        began = time.monotonic()
        try:
            return fn(*args, **kwargs)
        finally:
            self._mean_s += TRUST * (time.monotonic() - began - self._mean_s)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - Executor's
        """End the thread."""
        self._thread.shutdown(wait, cancel_futures=cancel_futures)
