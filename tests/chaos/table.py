"""The scenarios by name: what each does, and how often in the short and in the long form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos import crashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from chaos.ground import Ground, Line


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`run(ground, **short)` takes seconds, `run(ground, **long)` is bounded by minutes."""

    name: str
    does: str
    run: Callable[..., Iterator[Line]]
    short: Mapping[str, Any] = field(default_factory=dict)
    long: Mapping[str, Any] = field(default_factory=dict)

    def lines(self, ground: Ground, *, at_length: bool) -> Iterator[Line]:
        """Run it."""
        return self.run(ground, **(self.long if at_length else self.short))


SCENARIOS = (
    Scenario(
        name="kill9",
        does="""`kill -9` of the worker at full speed, after 1 to 60 accepted messages: half of the time while a message
        is complete and unanswered, else up to 30 ms after a reply. It is started again at once, over and over on one
        outbox; a drain ends it.""",
        run=crashes.kill9,
        short={"crashes": 3},
        long={"crashes": 100},
    ),
    Scenario(
        name="kill9-no-state",
        does="""The same, and the state directory is deleted before each start: the new process is a stranger under the
        old name, and has to wait for the lease of the dead one.""",
        run=crashes.no_state,
        short={"crashes": 3, "waited": 0},
        long={"crashes": 30, "waited": 3},
    ),
)
