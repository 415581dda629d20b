"""What a person sees. Words from outside (a row's, a relay's, a server's) are shown as they are, and never obeyed.

Rule 1. All goes through `poller.visible`. Nothing is read as markup; styles stand beside the words.
Rule 2. What a terminal's encoding lacks is written as its escape too: no command ends half-way.
Rule 3. A line is a line: nothing is wrapped. Where a program reads, nothing is padded or coloured either, and columns
        are parted by a tab.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from poller.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Part = str | tuple[str, str]
"""Words, or words and the style that they have on a terminal, as in ("FAIL", "red") or ("OFF", "bold red")."""
Line = tuple[Part, ...]

GAP = 2
"""Spaces between columns on a terminal."""


def styled(*parts: Part) -> str:
    """One line of a screen, with a terminal's codes for its styles."""
    return "".join(visible(part) if isinstance(part, str) else _in_style(*part) for part in parts)


def _in_style(words: str, style: str) -> str:
    colour = style.removeprefix("bold ")
    if not colour or os.environ.get("NO_COLOR"):
        return visible(words)
    return click.style(visible(words), fg=colour, bold=style.startswith("bold "))


def say(*parts: Part, err: bool = False) -> None:
    """Print one line: a result to stdout, what is said on the way (`err`) to stderr."""
    click.echo(styled(*parts), err=err)


def say_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns (Rule 3)."""
    shown = [[visible(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in shown:
            click.echo("\t".join(row))
        return
    widths = [max(map(len, column)) + GAP for column in zip(*shown, strict=True)]
    for row in shown:
        click.echo("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def bear_any_text() -> None:
    """What the encoding of a stream lacks is escaped from now on (Rule 2)."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
