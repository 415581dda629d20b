"""The house holds: who imports what, read from the source with `ast`.

A rule is a function from the modules to the offences it finds, so that each can be shown a fabricated offender too.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from poller.log import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent / "poller"

LAYERS: tuple[dict[str, set[str]], ...] = (
    {
        "columns": set(),
        "frozen": set(),
        "visible": set(),
        "units": set(),
        "machine": set(),
        "domains": {"idna"},
        "statuses": set(),
        "sealed": set(),
    },
    {"exchange": set(), "settings": set(), "unsubscribe": set()},
    {"log": {"structlog"}},
    {"judgement": set()},
    {"pacing": {"dns"}},
    {
        "message": {"jinja2", "markupsafe", "cryptography", "css_inline"},
        "smtp": set(),
        "journal": set(),
        "outbox": {"sqlalchemy", "psycopg", "pymysql"},
    },
    {"forecast": set(), "published": {"dns"}, "application": set()},
    {"delivery": set(), "alerts": set(), "submission": {"aiosmtpd"}},
    {"batches": set()},
    {"config": {"pydantic"}},
    {"worker": {"apscheduler"}},
    {"answers": set(), "bounces": {"flufl", "imap_tools"}},
    {"web": {"prometheus_client", "starlette", "uvicorn", "jinja2", "markupsafe"}},
    {"cli": {"click", "rich"}},
    {"contrib": {"django"}},
)
"""The rooms from the bottom up, with the libraries that each may import. A room imports rooms of lower layers only."""

BESIDE = {"poller": {"poller.outbox", "poller.application", "poller.message"}, "poller.__main__": {"poller.cli"}}
"""What is no room: what applications import, and `python -m poller`."""

ONLY_IN = {
    "dns": {"poller.pacing.mx", "poller.published.records"},
    "pydantic": {"poller.config.load"},
    "cryptography": {"poller.message.keys"},
    "aiosmtpd": {"poller.submission.line"},
    "css_inline": {"poller.message.inlining"},
}
"""Libraries of one file in a room: the rest of it can do without."""

PURE = {"poller.judgement", "poller.pacing", "poller.message", "poller.forecast"}
"""Rooms that tell nobody what they do: they have no log."""

SETTINGS_ONLY = {"poller.config"}
"""Reads the settings of every room, and nothing else of them."""


ALONGSIDE_APPLICATIONS: dict[str, set[str]] = {
    "poller.application": {
        "poller.application",
        "poller.columns",
        "poller.frozen",
        "poller.statuses",
        "poller.message.characters",
        "poller.message.draft",
        "poller.message.reading",
        "poller.message.rules",
    },
    "poller.contrib": {
        "poller.application",
        "poller.columns",
        "poller.contrib",
        "poller.statuses",
        "poller.message.draft",
    },
}
"""What runs in an application's process brings nothing of the service: all that it may import of the house."""


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


@functools.cache
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


def floor_of(room: str) -> int | None:
    """The number of its layer, the lowest first."""
    found = (number for number, layer in enumerate(LAYERS) if room.removeprefix("poller.") in layer)
    return next(found, None)


def libraries_out_of_place(modules: list[Module]) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in module.imports
        for library in [name.split(".")[0]]
        if library not in {*sys.stdlib_module_names, "poller", ""}
        if library not in libraries_of(module.room) or not is_in(module.name, ONLY_IN.get(library, {module.room}))
    ]


def libraries_of(room: str) -> set[str]:
    return next((layer[name] for layer in LAYERS for name in layer if f"poller.{name}" == room), set())


def arrows_that_point_back(modules: list[Module]) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in modules
        for name in module.imports
        if is_in(name, ("poller",)) and name != "poller.__version__" and not may_import(module.room, name)
    ]


def may_import(room: str, name: str) -> bool:
    there = ".".join(name.split(".")[:2])
    if room in BESIDE:
        return there in BESIDE[room]
    here, below = floor_of(room), floor_of(there)
    return there == room or (here is not None and below is not None and below < here)


def rooms_without_a_rule(modules: list[Module]) -> list[str]:
    return [module.name for module in modules if module.room not in BESIDE and floor_of(module.room) is None]


def pure_rooms_with_a_log(modules: list[Module]) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in modules
        if module.room in PURE
        for name in module.imports
        if is_in(name, ("poller.log", "logging"))
    ]


def more_than_settings(modules: list[Module]) -> list[str]:
    rooms = ("outbox", "message", "smtp", "journal", "delivery", "forecast", "submission")
    return [
        f"{module.name} imports {name}"
        for module in modules
        if module.room in SETTINGS_ONLY
        for name in module.imports
        if is_in(name, {f"poller.{room}" for room in rooms}) and not re.search(r"\.(\w*settings|relays)\.", name)
    ]


def service_in_applications(modules: list[Module]) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in modules
        if module.room in ALONGSIDE_APPLICATIONS
        for name in module.imports
        if is_in(name, ("poller",)) and not is_in(name, ALONGSIDE_APPLICATIONS[module.room])
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
    "arrows between rooms point one way": arrows_that_point_back,
    "every room has its rule": rooms_without_a_rule,
    "pure rooms have no log": pure_rooms_with_a_log,
    "the configuration knows the rooms' settings only": more_than_settings,
    "an application's side brings nothing of the service": service_in_applications,
    "imports are absolute": relative_imports,
    "the log is set up in one place": second_log_set_ups,
    "every event is on the list": events_off_the_list,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_holds(rule: str) -> None:
    assert RULES[rule](house()) == []


def test_there_is_a_house_to_look_at() -> None:
    assert {"poller", "poller.config.load", "poller.units"} <= {module.name for module in house()}


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        ("a library is imported only in its room", "poller.worker.service", "import sqlalchemy"),
        ("a library is imported only in its room", "poller.outbox.claim", "def f():\n    from jinja2 import Template"),
        ("a library is imported only in its room", "poller.delivery.arrow", "import apscheduler.schedulers as s"),
        ("a library is imported only in its room", "poller.config.sources", "from pydantic import TypeAdapter"),
        ("a library is imported only in its room", "poller.worker.service", "import click"),
        ("a library is imported only in its room", "poller.delivery.claim_plan", "import dns.resolver"),
        ("a library is imported only in its room", "poller.worker.service", "from rich.live import Live"),
        ("a library is imported only in its room", "poller.judgement.retry", "import idna"),
        ("a library is imported only in its room", "poller.message.mime", "import requests"),
        ("a library is imported only in its room", "poller.message.dkim", "from cryptography.exceptions import X"),
        (
            "arrows between rooms point one way",
            "poller.judgement.retry",
            "from poller.smtp.settings import SmtpSettings",
        ),
        ("arrows between rooms point one way", "poller.outbox.claim", "from poller.smtp import settings"),
        ("arrows between rooms point one way", "poller.message.mime", "import poller.outbox"),
        ("pure rooms have no log", "poller.message.mime", "from poller.log import get_logger"),
        ("arrows between rooms point one way", "poller.smtp.wire", "from poller import delivery"),
        ("arrows between rooms point one way", "poller.smtp.wire", "import poller"),
        ("arrows between rooms point one way", "poller.delivery.arrow", "from poller.config.load import Config"),
        ("arrows between rooms point one way", "poller.worker.service", "import poller.cli.main"),
        ("every room has its rule", "poller.utils", ""),
        (
            "the configuration knows the rooms' settings only",
            "poller.config.load",
            "from poller.outbox.claim import claim",
        ),
        (
            "an application's side brings nothing of the service",
            "poller.contrib.django.admin",
            "from poller.outbox import Engine",
        ),
        (
            "an application's side brings nothing of the service",
            "poller.application.insert",
            "from poller.message.composer import Composer",
        ),
        ("imports are absolute", "poller.outbox.claim", "from . import tables"),
        ("the log is set up in one place", "poller.worker.service", "structlog.configure(processors=[])"),
        ("every event is on the list", "poller.worker.service", "log.info('worker.strated', row=1)"),
        ("every event is on the list", "poller.worker.service", "on_change.say('info', 'worker.strated', about=1)"),
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
            "poller.delivery.arrow",
            "from poller.log import get_logger\nfrom poller.judgement.outcome import Sent\nfrom poller import smtp",
        ),
        (
            "poller.cli.run",
            "import click\nimport rich\nfrom poller import __version__\nfrom poller.config.load import load",
        ),
    ],
)
def test_the_innocent_are_left_alone(name: str, text: str) -> None:
    assert [offence for rule in RULES.values() for offence in rule([source(name, text)])] == []
