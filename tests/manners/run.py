"""Manners, measured, as a command: the real program, real databases, and providers that block.

    uv run python tests/manners/run.py --list
    uv run python tests/manners/run.py --only blocks --database postgresql
    uv run python tests/manners/run.py --long --write

Prints a table for each scenario; exit code 1 when a promise was broken. `--write` also puts them into docs/manners.md.
Every wait is bounded. The seed chooses the moments; the rest is the machine's.
"""

# ruff: noqa: E402, T201 - a command: it prints, and is run by its path
from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).parents[1])

import databases
from chaos import page
from chaos.ground import Ground, Line, Skipped
from manners.crew import ENDING
from manners.table import SCENARIOS
from service import zygote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.table import Scenario

PAGE = Path(__file__).parents[2] / "docs" / "manners.md"


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; returns the exit code."""
    options = _parse(arguments)
    if options.list:
        for one in SCENARIOS:
            print(f"{one.name}: {' '.join(one.does.split())}\n    short {dict(one.short)}, long {dict(one.long)}\n")
        return 0
    for sign in (signal.SIGTERM, signal.SIGINT):  # so that what was started is ended
        signal.signal(sign, _end)
    directory = Path(tempfile.mkdtemp(prefix="poller-manners-"))
    directory.chmod(0o755)
    ground = Ground(
        directory=directory,
        seed=options.seed,
        kinds=tuple(options.database or databases.KINDS),
        settings=_settings(options.set),
        say=_progress,
    )
    wanted = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    try:
        broken = [scenario.name for scenario in wanted if _run(scenario, ground, options)]
    finally:
        zygote.stop()
        databases.stop_embedded()
    print("broken:", ", ".join(broken)) if broken else print("every promise held")
    with contextlib.suppress(OSError):
        directory.rmdir()  # what is left of a run that raised stays, with its log
    return int(bool(broken))


def _end(*_: object) -> None:
    ENDING.set()
    sys.exit(1)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the scenarios and what they do")
    parser.add_argument("--long", action="store_true", help="as much as the published figures; some take minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[s.name for s in SCENARIOS])
    parser.add_argument("--database", nargs="+", choices=databases.KINDS)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/manners.md")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.KEY=VALUE", help="settings of poller, as TOML")
    return parser.parse_args(arguments)


def _settings(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {}
    for word in given:
        key, _, value = word.partition("=")
        section, _, name = key.partition(".")
        settings.setdefault(section, {})[name] = tomllib.loads(f"value = {value}")["value"]
    return settings


def _run(scenario: Scenario, ground: Ground, options: argparse.Namespace) -> bool:
    """One scenario; whether a promise was broken."""
    began = time.monotonic()
    lines: list[Line] = []
    skipped: list[str] = []
    ground.chance = random.Random(f"{options.seed} {scenario.name}")  # the same alone as among others
    try:
        for line in scenario.lines(ground, at_length=options.long):
            lines.append(line)
            print(dict(line.cells), line.broken or "", file=sys.stderr, flush=True)
    except Skipped as why:
        skipped.append(str(why))
    except AssertionError as why:
        lines.append(Line(cells={}, broken=(f"it did not come to its end: {why}",)))
    seconds = time.monotonic() - began
    print(f"## {scenario.name} ({seconds:.1f} s)\n\n{page.table(lines)}", flush=True)
    for why in skipped:
        print(f"skipped: {why}")
    print()
    if options.write:
        command = _command(scenario, options)
        text = page.section(scenario.does, lines, command=command, seconds=seconds, skipped=skipped)
        page.write(scenario.name, text, PAGE)
    return any(line.broken for line in lines)


def _command(scenario: Scenario, options: argparse.Namespace) -> str:
    words = ["uv run python tests/manners/run.py", *(["--long"] if options.long else []), f"--only {scenario.name}"]
    words += [f"--database {' '.join(options.database)}"] if options.database else []
    words += [f"--set {' '.join(options.set)}"] if options.set else []
    return " ".join([*words, f"--seed {options.seed}"])


def _progress(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
