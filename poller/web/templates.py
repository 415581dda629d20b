"""The templates of the page and its few files, read once.

Rule 1. Words from outside are shown as they are, with nothing in them hidden or obeyed: escaped for HTML, and by
        `poller.visible`. Only `lines` keeps line ends, for what has them.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from poller import __version__
from poller.units import format_duration
from poller.visible import moment, visible
from poller.web.acts import WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FOLDER = Path(__file__).parent / "pages"
FILES: Final = {
    name: (kind, (_FOLDER / name).read_bytes())
    for name, kind in {
        "style.css": "text/css; charset=utf-8",
        "live.js": "text/javascript; charset=utf-8",
        "icon.svg": "image/svg+xml",
    }.items()
}

STATUS_TONES: Final = {
    "queued": "wait",
    "sending": "go",
    "sent": "good",
    "partial": "warn",
    "failed": "bad",
    "in_doubt": "warn",
    "paused": "warn",
    "cancelled": "idle",
    "expired": "bad",
    "suppressed": "idle",
}
_BAR_HEIGHT = 40


def render(name: str, values: Mapping[str, Any], *, only: str | None = None) -> str:
    """The whole page, or of its blocks `only` one."""
    template = _environment().get_template(f"{name}.html")
    if only is None:
        return template.render(values)
    return "".join(template.blocks[only](template.new_context(dict(values)))) if only in template.blocks else ""


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": moment,
        "duration": lambda seconds: format_duration(max(0.0, seconds)),
        "number": lambda number: f"{number:,}",
        "lines": _lines,
        "tone": lambda status: STATUS_TONES.get(status, "idle"),
        "words": lambda status: str(status).replace("_", " "),
        "bars": _bars,
        "size": _size,
    }
    environment.globals |= {"version": __version__, "WORDS": WORDS}
    return environment


def _shown(value: Any) -> Any:
    """Rule 1."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, datetime):
        return moment(value)
    return visible(value) if isinstance(value, str) else "" if value is None else value


_ODD = re.compile(r"[^\n\t]+")


def _lines(text: str) -> Markup:
    """Several lines, each visible."""
    ends = text.replace("\r\n", "\n")
    return Markup(escape(_ODD.sub(lambda found: visible(found[0]), ends)))  # noqa: S704 - it is escaped


def _bars(numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """Of a chart: each bar's number, top and height."""
    most = max(numbers, default=0) or 1
    heights = [round(number / most * _BAR_HEIGHT) or int(number > 0) for number in numbers]
    return [(number, _BAR_HEIGHT - height, height) for number, height in zip(numbers, heights, strict=True)]


def _size(count: int) -> str:
    """Of a file."""
    for unit, limit in (("MB", 1_000_000), ("KB", 1000)):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return f"{count} bytes"
