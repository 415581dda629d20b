"""Pure: how many messages by when.

A curve is a list of points (seconds from now, messages so far), neither of which ever falls; between two points it is
a straight line, and two points of one time are a jump. It begins with (a time, 0). Messages are reckoned in fractions:
the n-th is there when the curve reaches n.

A curve that is longer than MOST_POINTS is made coarser where that shows least; its end stays exact. Raises nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Point = tuple[float, float]
Curve = list[Point]

MOST_POINTS = 400
LEAST = 1e-7
"""Messages; less is an error of rounding."""


def arriving(start: float, end: float, messages: float) -> Curve:
    """So many, evenly from `start` to `end`; all at once if that is the same."""
    return [(start, 0.0), (end, messages)]


def total(curve: Curve) -> float:
    """How many in all."""
    return curve[-1][1]


def level_at(curve: Curve, time: float) -> float:
    """How many by `time`, what comes at that very time included."""
    place = bisect_right(curve, time, key=_time)
    if place == 0:
        return 0.0
    if place == len(curve):
        return total(curve)
    return _between(curve[place - 1], curve[place], time)


def time_of(curve: Curve, level: float) -> float:
    """When it reaches `level`, or all it ever will."""
    place = bisect_left(curve, min(level, total(curve)) - LEAST, key=_level)
    if place == 0:
        return curve[0][0]
    (t0, n0), (t1, n1) = curve[place - 1], curve[place]
    return t0 + (t1 - t0) * min(1.0, max(0.0, (level - n0) / (n1 - n0)))


def end_of(curve: Curve) -> float:
    """When the last is there."""
    return time_of(curve, total(curve))


def added(curves: Sequence[Curve]) -> Curve:
    """All of them together."""
    if len(curves) == 1:
        return curves[0]
    changes: dict[float, list[float]] = {}
    for curve in curves:
        for (t0, n0), (t1, n1) in pairwise(curve):
            if t1 - t0 <= 0:
                changes.setdefault(t0, [0.0, 0.0])[0] += n1 - n0
            elif n1 > n0:
                slope = (n1 - n0) / (t1 - t0)
                changes.setdefault(t0, [0.0, 0.0])[1] += slope
                changes.setdefault(t1, [0.0, 0.0])[1] -= slope
    whole = sum(map(total, curves))
    points = list(_walked(changes, whole)) or [(curves[0][0][0], 0.0)]
    return coarser([*points[:-1], (points[-1][0], whole)])


def _walked(changes: dict[float, list[float]], whole: float) -> Iterable[Point]:
    level = slope = before = 0.0
    for time in sorted(changes):
        level = min(whole, level + max(0.0, slope) * (time - before))
        yield time, level
        jump, bend = changes[time]
        if jump:
            level += jump
            yield time, level
        slope, before = slope + bend, time


def coarser(curve: Curve) -> Curve:
    """The same with at most about MOST_POINTS points."""
    if len(curve) <= MOST_POINTS:
        return curve
    wide, high = (curve[-1][0] - curve[0][0]) / MOST_POINTS * 2, total(curve) / MOST_POINTS * 2
    kept = [curve[0]]
    for before, point in pairwise(curve):
        if point[0] - kept[-1][0] > wide or point[1] - kept[-1][1] > high:
            if before != kept[-1]:  # so that neither a rest nor a jump becomes a slope
                kept.append(before)
            kept.append(point)
    return [*kept, curve[-1]]


def divided(parts: Sequence[Curve], pooled: Curve, gone: Curve) -> list[Curve]:
    """How each of the `parts`, which went in together as `pooled`, comes out, if first in is first out."""
    levels = sorted({level for _, level in pooled} | {level for _, level in gone})
    times = [time for time, _ in pooled]
    known = [level for _, level in pooled]
    jumps = [(t0 == t1 and n0 < n1) for (t0, n0), (t1, n1) in pairwise([*pooled, pooled[-1]])]
    return [_part(part, gone, levels, known, _own_levels(part, times, jumps)) for part in parts]


def _part(part: Curve, gone: Curve, levels: Sequence[float], known: Sequence[float], own: Sequence[float]) -> Curve:
    shares = {level: _share(known, own, level) for level in levels}
    points = [(time, shares[level]) for time, level in gone]
    points += [(time_of(gone, level), share) for level, share in shares.items()]
    return [*sorted(points), (gone[-1][0], total(part))]


def _own_levels(part: Curve, times: Sequence[float], jumps: Sequence[bool]) -> list[float]:
    """What of the pooled curve's points is this part's; at the foot of a jump what was there before."""
    return [(_level_before if at_foot else level_at)(part, time) for time, at_foot in zip(times, jumps, strict=True)]


def _level_before(curve: Curve, time: float) -> float:
    place = bisect_left(curve, time, key=_time)
    if place == 0:
        return 0.0
    if place == len(curve):
        return total(curve)
    return _between(curve[place - 1], curve[place], time)


def _share(known: Sequence[float], own: Sequence[float], level: float) -> float:
    place = bisect_left(known, level)
    if place >= len(known):
        return own[-1]
    if place == 0 or known[place] == level:
        return own[place]
    low, high = known[place - 1], known[place]
    return own[place - 1] + (own[place] - own[place - 1]) * (level - low) / (high - low)


def _between(first: Point, second: Point, time: float) -> float:
    (t0, n0), (t1, n1) = first, second
    return n1 if t1 <= t0 else n0 + (n1 - n0) * (time - t0) / (t1 - t0)


def _time(point: Point) -> float:
    return point[0]


def _level(point: Point) -> float:
    return point[1]
