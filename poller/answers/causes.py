"""What those who did not get it have in common: their failures counted by reason, code, destination and the like."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from poller.judgement.alike import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from poller.outbox.report import Failure

SIDES: dict[str, Callable[[Failure], str]] = {
    "reason": lambda one: reason_of(one.error) or one.status,
    "code": lambda one: str(one.code or one.status),
    "domain": lambda one: (one.address or "").rpartition("@")[2].lower() or one.domain or "(none)",
    "relay": lambda one: one.relay or "(any)",
    "template": lambda one: one.template or "(none)",
    "batch": lambda one: one.batch or "(none)",
    "status": lambda one: one.status,
}


def counted(found: Iterable[Failure], side: Callable[[Failure], str]) -> list[tuple[str, int, int]]:
    """Each name with how many there are and the latest row, the most frequent first."""
    rows: dict[str, list[int]] = defaultdict(list)
    for one in found:
        rows[side(one)].append(one.row_id)
    return sorted(((name, len(ids), ids[0]) for name, ids in rows.items()), key=lambda line: (-line[1], line[0]))
