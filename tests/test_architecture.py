"""The house holds: who imports what, read from the source with `ast`.

A rule is a function from the modules to the offences it finds, so that each can be shown a fabricated offender too.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from poller.log import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent / "poller"

ONLY_IN = {
    "sqlalchemy": ("poller.outbox",),
    "jinja2": ("poller.message",),
    "apscheduler": ("poller.service",),
    "pydantic": ("poller.config",),
    "click": ("poller.cli",),
    "rich": ("poller.cli", "poller.status"),
    "dns": ("poller.exchangers",),
}
"""Which rooms may import a library."""

UNITS = {"poller.units", "poller.facts", "poller.visible", "poller.domains"}
PACING = {"poller." + name for name in ("throttle", "advice", "hours", "providers")}
WEIGHING = {"poller." + name for name in ("outcome", "retry", "cohort", "suspicion", "chorus", "tally", "rest")}
JUDGES = PACING | WEIGHING | {"poller." + name for name in ("exchange", "facts", "units", "domains")}
PURE = JUDGES | {"poller.settings", "poller.visible"}
ROOMS = {"poller.outbox", "poller.message", "poller.smtp", "poller.journal"}
LOG = {"poller.log"}
EXCHANGERS = {"poller.exchangers"}
BOOKS = {"poller." + name for name in ("ahead", "ledger")}
RELAYS = {"poller.relays", "poller.pacing"}
ARROW = {"poller." + name for name in ("prepare", "composing", "pending", "lines", "manners", "delivery")}
DELIVERY = JUDGES | ROOMS | LOG | BOOKS | RELAYS | ARROW | {"poller.lease"}
RECOVERY = DELIVERY | {"poller.recovery"}
LIFE = RECOVERY | {"poller.life", "poller.state", "poller.machine"}
TICK = LIFE | EXCHANGERS | {"poller.wiring", "poller.tick", "poller.config", "poller.settings"}
SERVICE = TICK | {"poller", "poller.service"}
EVERYTHING = SERVICE | {
    "poller",
    "poller.cli",
    "poller.forecast",
    "poller.status",
    "poller.sources",
    "poller.visible",
    "poller.machine",
}

MAY_IMPORT = {
    **dict.fromkeys(PURE, PURE),
    "poller.log": UNITS | {"poller.settings"},
    "poller.sources": {"poller.sources"},
    "poller.message": UNITS | {"poller.message"},
    "poller.smtp": JUDGES | {"poller.smtp"},
    "poller.outbox": JUDGES | {"poller.outbox", "poller.machine"},
    "poller.journal": JUDGES | {"poller.journal"},
    "poller.prepare": JUDGES | {"poller.message", "poller.outbox", "poller.prepare"},
    "poller.ahead": {"poller.outbox"},
    "poller.composing": {"poller.message", "poller.outbox", "poller.journal", "poller.prepare"},
    "poller.ledger": DELIVERY - {"poller.delivery"},
    "poller.pacing": PURE | {"poller.relays"},
    "poller.pending": {"poller.outbox"},
    "poller.lines": DELIVERY - {"poller.delivery", "poller.manners"},
    "poller.manners": DELIVERY - {"poller.delivery", "poller.lines"},
    "poller.delivery": DELIVERY,
    "poller.wiring": TICK - {"poller.tick"},
    "poller.tick": TICK,
    "poller.recovery": RECOVERY,
    "poller.life": LIFE,
    "poller.relays": PURE | {"poller.smtp"},
    "poller.forecast": PURE | {"poller.relays", "poller.forecast"},
    "poller.state": {"poller.machine"},
    "poller.machine": set(),
    "poller.lease": set(),
    "poller.exchangers": set(),
    "poller.service": SERVICE,
    "poller.config": ROOMS | PURE | LOG | {"poller.sources", "poller.relays"},
    "poller.status": SERVICE - {"poller.config"} | {"poller.status", "poller"},
    "poller.cli": EVERYTHING,
    "poller": {"poller.outbox"},
    "poller.__main__": {"poller.cli"},
}
"""Which rooms of ours a room may import; the arrows point one way."""

SETTINGS_ONLY = {"poller.config"}
"""Reads the settings of every room, and nothing else of them."""

NOTHING: frozenset[str] = frozenset()
LIBRARIES = {
    **dict.fromkeys(PURE | {"poller.forecast", "poller.sources"}, NOTHING),
    "poller.message": {"jinja2"},
    "poller.domains": {"idna"},
}
"""Rooms that are pure or nearly so: what they import beside the standard library and ours."""


class Module(NamedTuple):
    """A source file, by its dotted name."""

    name: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return ".".join(self.name.split(".")[:2])

    @property
    def imports(self) -> Iterator[str]:
        """What is imported, at any depth and under TYPE_CHECKING too, as `package.module`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def source(name: str, text: str) -> Module:
    return Module(name, ast.parse(text))


def house() -> list[Module]:
    modules = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules.append(source(name, path.read_text("utf-8")))
    return modules


def is_in(name: str, places: tuple[str, ...] | set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


# ---- the rules


def libraries_out_of_place(modules: list[Module]) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in module.imports
        for library, places in ONLY_IN.items()
        if is_in(name, (library,)) and not is_in(module.name, places)
    ]


def impurities(modules: list[Module]) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in module.imports
        for top in [name.split(".")[0]]
        if module.room in LIBRARIES and top not in {*sys.stdlib_module_names, "poller", *LIBRARIES[module.room]}
    ]


def arrows_that_point_back(modules: list[Module]) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in module.imports
        if is_in(name, ("poller",))
        and not is_in(name, MAY_IMPORT.get(module.room, set()) - {"poller"})
        and name != "poller.__version__"
    ]


def rooms_without_a_rule(modules: list[Module]) -> list[str]:
    return [module.name for module in modules if module.room not in MAY_IMPORT]


def more_than_settings(modules: list[Module]) -> list[str]:
    rooms = tuple(ROOMS)
    return [
        f"{module.name} imports {name}"
        for module in modules
        if module.room in SETTINGS_ONLY
        for name in module.imports
        if is_in(name, rooms) and ".settings." not in name
    ]


def relative_imports(modules: list[Module]) -> list[str]:
    return [f"{module.name} imports {name}" for module in modules for name in module.imports if name.startswith(".")]


def second_log_set_ups(modules: list[Module]) -> list[str]:
    return [
        f"{module.name}:{node.lineno}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in {"structlog.configure", "structlog.configure_once", "logging.basicConfig"}
        and module.name != "poller.log"
    ]


def events_off_the_list(modules: list[Module]) -> list[str]:
    levels = {"debug", "info", "warning", "error", "exception", "critical", "say"}
    return [
        f"{module.name}:{node.lineno}: {word.value}"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in levels
        for word in node.args[1 if node.func.attr == "say" else 0 :][:1]
        if isinstance(word, ast.Constant) and isinstance(word.value, str) and "." in word.value
        if word.value not in EVENTS
    ]


RULES = {
    "a library is imported only in its room": libraries_out_of_place,
    "pure rooms import the standard library and each other": impurities,
    "arrows between rooms point one way": arrows_that_point_back,
    "every room has its rule": rooms_without_a_rule,
    "the configuration knows the rooms' settings only": more_than_settings,
    "imports are absolute": relative_imports,
    "the log is set up in one place": second_log_set_ups,
    "every event is on the list": events_off_the_list,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_holds(rule: str) -> None:
    assert RULES[rule](house()) == []


def test_there_is_a_house_to_look_at() -> None:
    assert {"poller", "poller.config", "poller.units"} <= {module.name for module in house()}


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        ("a library is imported only in its room", "poller.service", "import sqlalchemy"),
        ("a library is imported only in its room", "poller.outbox.claim", "def f():\n    from jinja2 import Template"),
        ("a library is imported only in its room", "poller.delivery", "import apscheduler.schedulers as s"),
        ("a library is imported only in its room", "poller.sources", "from pydantic import TypeAdapter"),
        ("a library is imported only in its room", "poller.service", "import click"),
        ("a library is imported only in its room", "poller.pacing", "import dns.resolver"),
        ("a library is imported only in its room", "poller.service", "from rich.live import Live"),
        ("pure rooms import the standard library and each other", "poller.retry", "import idna"),
        ("pure rooms import the standard library and each other", "poller.message.mime", "import requests"),
        ("arrows between rooms point one way", "poller.retry", "from poller.smtp.settings import SmtpSettings"),
        ("arrows between rooms point one way", "poller.outbox.claim", "from poller.smtp import settings"),
        ("arrows between rooms point one way", "poller.message.mime", "import poller.outbox"),
        ("arrows between rooms point one way", "poller.message.mime", "from poller.log import get_logger"),
        ("arrows between rooms point one way", "poller.smtp.wire", "from poller import delivery"),
        ("arrows between rooms point one way", "poller.smtp.wire", "import poller"),
        ("arrows between rooms point one way", "poller.delivery", "from poller.config import Config"),
        ("arrows between rooms point one way", "poller.service", "import poller.cli.main"),
        ("every room has its rule", "poller.utils", ""),
        ("the configuration knows the rooms' settings only", "poller.config", "from poller.outbox.claim import claim"),
        ("imports are absolute", "poller.outbox.claim", "from . import tables"),
        ("the log is set up in one place", "poller.service", "structlog.configure(processors=[])"),
        ("every event is on the list", "poller.service", "log.info('worker.strated', row=1)"),
        ("every event is on the list", "poller.service", "on_change.say('info', 'worker.strated', about=1)"),
    ],
)
def test_an_offender_is_caught(rule: str, name: str, text: str) -> None:
    assert len(RULES[rule]([source(name, text)])) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "poller.outbox.claim",
            "import sqlalchemy as sa\nfrom poller.outbox import tables\nfrom poller.units import Count",
        ),
        (
            "poller.delivery",
            "from poller.log import get_logger\nfrom poller.outcome import Sent\nfrom poller import smtp",
        ),
        ("poller.cli.run", "import click\nimport rich\nfrom poller import __version__\nfrom poller.config import load"),
    ],
)
def test_the_innocent_are_left_alone(name: str, text: str) -> None:
    assert [offence for rule in RULES.values() for offence in rule([source(name, text)])] == []
