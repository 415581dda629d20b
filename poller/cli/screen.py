"""What a person sees. Words from outside (a row's, a relay's, a server's) are shown as they are, and never obeyed.

Rule 1. All goes through `poller.visible`. Nothing is read as markup; styles stand beside the words.
Rule 2. What a terminal's encoding lacks is written as its escape too: no command ends half-way.
"""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.text import Text

from poller.visible import visible

Part = str | tuple[str, str]
"""Words, or words and the style that they have on a terminal, as in ("FAIL", "red")."""

out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def styled(*parts: Part) -> Text:
    """One line of a screen."""
    line = Text()
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        line.append(visible(words), style or None)
    return line


def say(*parts: Part, err: bool = False) -> None:
    """Print one line: a result to stdout, what is said on the way (`err`) to stderr."""
    if err or all(isinstance(part, str) for part in parts):
        click.echo(styled(*parts).plain, err=err)
    else:
        out.print(styled(*parts))


def bear_any_text() -> None:
    """What the encoding of a stream lacks is escaped from now on (Rule 2)."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
