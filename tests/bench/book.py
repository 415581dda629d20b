"""The book of one benchmark: every figure with one value for each round, and words beside them.

Kept as JSON between runs, so that a part can be measured again; `run.py` says what was measured when.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(kw_only=True)
class Book:
    """Figures by name, such as `drain.postgresql.rate`; names begin with that of the measurement."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """One more round's value."""
        self.figures.setdefault(name, []).append(value)

    def say(self, name: str, text: str) -> None:
        """What is said instead of a figure, or beside it."""
        self.words[name] = text

    def forget(self, measurement: str) -> None:
        """Everything of one measurement: it is made anew."""
        for kept in (self.figures, self.words):
            for name in [name for name in kept if name.startswith(f"{measurement}.")]:
                del kept[name]

    def median(self, name: str) -> float | None:
        """Over the rounds; None if it was not measured."""
        values = self.figures.get(name)
        return statistics.median(values) if values else None

    def worst(self, name: str, *, highest: bool) -> float | None:
        """The highest or the lowest round."""
        values = self.figures.get(name)
        if not values:
            return None
        return max(values) if highest else min(values)

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True))

    @classmethod
    def load(cls, path: Path) -> Book:
        """What was saved there; an empty one if nothing was."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of `values` lies, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
