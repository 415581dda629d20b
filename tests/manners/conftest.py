"""A ground for the short forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from chaos.ground import Ground
from service import zygote

if TYPE_CHECKING:
    from pathlib import Path


def pytest_sessionfinish() -> None:
    zygote.stop()


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """Of all kinds of databases."""
    return Ground(directory=tmp_path)
