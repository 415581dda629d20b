"""Pure: an alarm's life. Raised once, reminded of, called off; by one of many who judge alike.

Rule 1. Who wants to tell takes the alarm first, for TELLING_S. One that died meanwhile leaves it to the others then:
        an alarm is told at least once.
Rule 2. What is gone must stay gone for SETTLED_S before it is called off. What was never told goes without a word.

States are compared as a whole where they are kept: of two who change the same one, one wins.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

TELLING_S: Final = 120.0
SETTLED_S: Final = 60.0

Kind = Literal["raised", "still", "over"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """As it is kept; times are seconds since the epoch, by the keeper's clock."""

    since: float
    words: str
    told: float | None = None
    """When it was told last."""
    gone: float | None = None
    """Since when it is no longer seen."""
    taken: float | None = None
    """Until when somebody tells."""

    def text(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))


def alarm_of(text: str) -> Alarm | None:
    """What `Alarm.text` made; None for what it did not."""
    try:
        return Alarm(**json.loads(text))
    except (ValueError, TypeError):
        return None


def seen_again(alarm: Alarm | None, words: str, now: float) -> Alarm:
    """It is there, now in these words."""
    return Alarm(since=now, words=words) if alarm is None else replace(alarm, words=words, gone=None)


def seen_no_more(alarm: Alarm, now: float) -> Alarm | None:
    """It is not there. None: it need not be kept any longer."""
    if alarm.told is None:
        return None
    return alarm if alarm.gone is not None else replace(alarm, gone=now)


def wants(alarm: Alarm, now: float, *, after: float, remind: float) -> Kind | None:
    """What is to be told of it now, if nobody is just doing so."""
    if alarm.taken is not None and alarm.taken > now:
        return None
    if alarm.gone is not None:
        return "over" if now - alarm.gone >= SETTLED_S else None
    if alarm.told is None:
        return "raised" if now - alarm.since >= after else None
    return "still" if now - alarm.told >= remind else None


def taken(alarm: Alarm, now: float) -> Alarm:
    """Somebody begins to tell (Rule 1)."""
    return replace(alarm, taken=now + TELLING_S)


def told(alarm: Alarm, now: float) -> Alarm:
    """It was told."""
    return replace(alarm, told=now, taken=None)
