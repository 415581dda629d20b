"""A bench for each kind of database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from service import zygote
from service.bench import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from poller.outbox.settings import DatabaseSettings


def pytest_sessionfinish() -> None:
    zygote.stop()


@pytest.fixture
def bench(database: DatabaseSettings, tmp_path: Path) -> Iterator[Bench]:
    """A fresh installation."""
    bench = Bench(database=database, directory=tmp_path)
    yield bench
    bench.close()
