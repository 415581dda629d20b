"""Charts as SVG, by hand: lines over a logarithmic axis. Readable on a light and on a dark page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 40, 50
COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#777777")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series: points (x, y), both above zero."""

    name: str
    points: Sequence[tuple[float, float]]


def lines(title: str, x_name: str, y_name: str, series: Sequence[Line]) -> str:
    """A chart with both axes logarithmic; what has no points is left out."""
    drawn = [line for line in series if line.points]
    x_of = _axis([x for line in drawn for x, _ in line.points], LEFT, WIDTH - RIGHT)
    ys = [y for line in drawn for _, y in line.points]
    low, high = 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)))
    y_of = _axis([low, high], HEIGHT - BOTTOM, TOP)
    parts = [_text(LEFT, 22, title, "font-weight='bold'")]
    parts += _y_grid(low, high, y_of)
    for x in sorted({x for line in drawn for x, _ in line.points}):
        parts.append(_text(x_of(x), HEIGHT - BOTTOM + 18, short(x), "text-anchor='middle'"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_name, "text-anchor='middle'"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_text(16, middle, y_name, f"text-anchor='middle' transform='rotate(-90 16 {middle})'"))
    for number, line in enumerate(drawn):
        parts += _line(line, COLOURS[number % len(COLOURS)], TOP + 14 + 22 * number, x_of, y_of)
    return _svg(parts)


def bars(title: str, unit: str, values: Sequence[tuple[str, float]]) -> str:
    """A chart of horizontal bars."""
    most = max(value for _, value in values)
    parts = [_text(10, 22, title, "font-weight='bold'")]
    for number, (name, value) in enumerate(values):
        y, width = TOP + 34 * number, 400 * value / most
        parts.append(_text(150, y + 16, name, "text-anchor='end'"))
        parts.append(f"<rect x='160' y='{y}' width='{width:.1f}' height='22' fill='{COLOURS[number % len(COLOURS)]}'/>")
        parts.append(_text(168 + width, y + 16, f"{short(value)}{unit}"))
    return _svg(parts, height=TOP + 34 * len(values) + 10)


def _axis(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    span = (high - low) or 1.0
    return lambda value: start + (math.log10(value) - low) / span * (end - start)


def _y_grid(low: float, high: float, y_of: Callable[[float], float]) -> list[str]:
    parts = []
    value = low
    while value <= high:
        y = y_of(value)
        parts.append(
            f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}' stroke='#888' stroke-opacity='.35'/>"
        )
        parts.append(_text(LEFT - 8, y + 4, short(value), "text-anchor='end'"))
        value *= 10
    return parts


def _line(
    line: Line, colour: str, legend_y: float, x_of: Callable[[float], float], y_of: Callable[[float], float]
) -> list[str]:
    places = [(x_of(x), y_of(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in places]
    legend = WIDTH - RIGHT + 16
    return [
        f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>",
        *dots,
        f"<rect x='{legend}' y='{legend_y - 9}' width='12' height='12' fill='{colour}'/>",
        _text(legend + 18, legend_y + 2, line.name),
    ]


def short(value: float) -> str:
    """In three digits, or whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {more}>{escape(words)}</text>"


def _svg(parts: Sequence[str], height: int = HEIGHT) -> str:
    style = "text{font:12px sans-serif;fill:#222}@media(prefers-color-scheme:dark){text{fill:#ddd}}"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'>"
    return "\n".join([head, f"<style>{style}</style>", *parts, "</svg>", ""])
