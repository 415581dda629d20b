"""The crash ledger as a command: real processes, real databases, a relay that writes down what it accepted.

    uv run python tests/chaos/run.py --list
    uv run python tests/chaos/run.py --only kill9 --database postgresql
    uv run python tests/chaos/run.py --long --write
    uv run python tests/chaos/run.py --only kill9 --set smtp.max_messages_per_connection=20 --twice duplicates.jsonl

Prints a table for each scenario; exit code 1 when a promise was broken. `--write` also puts them into
docs/reliability.md. The same `--seed` kills after the same numbers of messages; the rest is the machine's.
"""

# ruff: noqa: E402, T201 - a command: it prints, and is run by its path
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
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
from chaos.table import SCENARIOS, Scenario
from service import zygote

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; returns the exit code."""
    options = _parse(arguments)
    if options.list:
        return _list()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    kinds, missing = _to_be_had(options.database or databases.KINDS)
    directory = Path(tempfile.mkdtemp(prefix="poller-chaos-"))
    directory.chmod(0o755)
    ground = Ground(
        directory=directory,
        seed=options.seed,
        kinds=kinds,
        settings=_settings(options.set),
        say=_progress,
    )
    wanted = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    try:
        broken = [name for scenario in wanted for name in _run(scenario, ground, missing, options)]
    finally:
        zygote.stop()
        databases.stop_embedded()
    print("broken:", ", ".join(broken)) if broken else print("every promise held")
    with contextlib.suppress(OSError):
        directory.rmdir()  # what is left of a run that raised stays, with its log
    return int(bool(broken))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the scenarios and what they do")
    parser.add_argument("--long", action="store_true", help="as often as the published figures; some take minutes")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[s.name for s in SCENARIOS])
    parser.add_argument("--database", nargs="+", choices=databases.KINDS)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    parser.add_argument("--twice", type=Path, metavar="FILE", help="append a JSON line for each duplicate")
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


def _to_be_had(kinds: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The kinds of databases that this machine has, and why it has not the others."""
    found, missing = [], []
    for kind in kinds:
        try:
            if kind != "sqlite":
                databases.server_url(kind)
            found.append(kind)
        except databases.Missing as why:
            missing.append(str(why))
    return tuple(found), missing


def _run(scenario: Scenario, ground: Ground, missing: Sequence[str], options: argparse.Namespace) -> list[str]:
    """One scenario; returns its name if a promise was broken."""
    began = time.monotonic()
    lines: list[Line] = []
    skipped = list(missing)
    ground.chance = random.Random(f"{options.seed} {scenario.name}")  # the same alone as among others
    try:
        lines.extend(scenario.lines(ground, at_length=options.long))
    except Skipped as why:
        skipped.append(str(why))
    except AssertionError as why:
        lines.append(Line(cells={}, broken=(f"it did not come to its end: {why}",)))
    seconds = time.monotonic() - began
    _progress("")
    print(f"## {scenario.name} ({seconds:.1f} s)\n\n{page.table(lines)}", flush=True)
    for why in skipped:
        print(f"skipped: {why}")
    print()
    if options.twice:
        _append(options.twice, scenario, lines)
    if options.write:
        command = _command(scenario, options)
        text = page.section(scenario.does, lines, command=command, seconds=seconds, skipped=skipped)
        page.write(scenario.name, text)
    return [scenario.name] if any(line.broken for line in lines) else []


def _append(file: Path, scenario: Scenario, lines: Sequence[Line]) -> None:
    """Each duplicate: of which line, its recipient, both Message-IDs, the crash, and whether the first had its 250."""
    with file.open("a") as out:
        for line in lines:
            name = {"scenario": scenario.name, "line": ", ".join(str(cell) for cell in list(line.cells.values())[:2])}
            for duplicate in line.twice:
                out.write(json.dumps(name | dataclasses.asdict(duplicate)) + "\n")


def _command(scenario: Scenario, options: argparse.Namespace) -> str:
    words = ["uv run python tests/chaos/run.py", *(["--long"] if options.long else []), f"--only {scenario.name}"]
    words += [f"--database {' '.join(options.database)}"] if options.database else []
    words += [f"--set {' '.join(options.set)}"] if options.set else []
    return " ".join([*words, f"--seed {options.seed}"])


def _list() -> int:
    for scenario in SCENARIOS:
        print(f"{scenario.name}: {' '.join(scenario.does.split())}\n    short {scenario.short}, long {scenario.long}\n")
    return 0


def _progress(text: str) -> None:
    if os.isatty(2):
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
