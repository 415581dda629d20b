"""What the file says and what the environment says: every value that was written, at its key.

A table that the operator named, or that is an item of a list, is a value too, MARK: it counts though nothing is in it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poller.config.sources.known import Key, Leaf, Listed, Named, Table
from poller.config.sources.problems import Problem, dotted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from poller.config.sources.file import File
    from poller.config.sources.known import Known, Node

MARK: Final = object()
"""The value of a table that is there."""

_PREFIX = "POLLER__"
_NO_COMMAND = "not run: a command is honoured only from the configuration file"


class Given(NamedTuple):
    """A value as it was written, and what its place implies."""

    value: object
    where: str
    base: Path
    """Where a relative path starts."""
    no_command: str
    """Why a command from here is refused; empty when it is not."""


Layer = dict[Key, Given]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Somewhere values are written."""

    known: Known
    where: Callable[[Key], str]
    base: Path
    no_command: str
    layer: Layer
    problems: list[Problem]

    def say(self, key: Key, message: str) -> None:
        self.problems.append(Problem(self.where(key), dotted(key), message))

    def put(self, key: Key, value: object) -> None:
        self.layer[key] = Given(value, self.where(key), self.base, self.no_command)

    def read(self, key: Key, value: Any, node: Node) -> None:
        """Put what `value` holds into the layer, and say what no room knows."""
        trouble = _shape_trouble(key, value, node)
        if trouble:
            self.say(key, trouble)
        elif isinstance(node, Leaf):
            self.put(key, value)
        elif isinstance(node, Table):
            self._read_table(key, value, node)
        else:
            for name, item in value.items() if isinstance(node, Named) else enumerate(value):
                self.read((*key, name), item, node.table)

    def _read_table(self, key: Key, value: dict[str, Any], table: Table) -> None:
        if len(key) > 1:
            self.put(key, MARK)
        for name, item in value.items():
            node = table.keys.get(name)
            if node is None:
                self.say((*key, name), unknown((*key, name), table, self.known))
            else:
                self.read((*key, name), item, node)


def _shape_trouble(key: Key, value: Any, node: Node) -> str:
    match node:
        case Table() if not isinstance(value, dict) and isinstance(key[-1], int):
            return f"a list of tables; write [[{dotted(key)}]] and its keys below, for each"
        case Table() if not isinstance(value, dict):
            kind = "section" if len(key) == 1 else "table"
            return f"a {kind}; write [{dotted(key)}] and its keys below"
        case Named() if not isinstance(value, dict):
            return f"tables that you name; write [{dotted(key)}.NAME] and its keys below"
        case Listed() if not isinstance(value, list):
            return f"a list of tables; write [[{dotted(key)}]] and its keys below, for each"
    return ""


def file_layer(file: File, known: Known, problems: list[Problem]) -> Layer:
    """What the file says."""
    place = _Place(known=known, where=file.where, base=file.base, no_command=file.distrust, layer={}, problems=problems)
    place.read((), file.tables, known.root)
    return place.layer


def environment_layer(
    environ: Mapping[str, str], known: Known, tables: dict[str, Any], problems: list[Problem]
) -> tuple[Layer, list[Key]]:
    """What the environment says, and the keys whose tables it gives as a whole. `tables` is the file, for its names."""
    layer: Layer = {}
    whole: list[Key] = []
    problems += [
        Problem(f"${name}", meant.lower().replace("__", "."), f"is read as nothing; write {_PREFIX}{meant}")
        for name in sorted(environ)
        if (meant := _meant_by(name, known))
    ]
    for variable in sorted(name for name in environ if name.startswith(_PREFIX)):
        place = _Place(
            known=known,
            where=lambda _key, variable=variable: f"${variable}",  # type: ignore[misc]
            base=Path(),
            no_command=_NO_COMMAND,
            layer=layer,
            problems=problems,
        )
        key, node = _key_of(variable.removeprefix(_PREFIX).lower().split("__"), known, tables)
        text = environ[variable]
        if node is None:
            table = known.at(key[:-1])
            place.say(key, unknown(key, table if isinstance(table, Table) else known.root, known))
        elif not text.isascii() and re.search("[\ud800-\udfff]", text):
            place.say(key, "not UTF-8 text")
        elif isinstance(node, Leaf):
            _mark_tables(place, key)
            place.read(key, _typed(node.kinds, text), node)
        else:
            whole.append(key)
            place.read(key, _typed(frozenset({dict}), text), node)
    return layer, whole


def _meant_by(variable: str, known: Known) -> str:
    """What follows the prefix, if single underscores were written for double ones: POLLER_SMTP_HOST; else ""."""
    if variable.startswith(_PREFIX) or not variable.startswith(_PREFIX.replace("__", "_")):
        return ""
    section, _, name = variable.removeprefix(_PREFIX.replace("__", "_")).partition("_")
    found = known.at((section.lower(), name.lower()))
    return f"{section}__{name}" if isinstance(found, Leaf) else ""


def _key_of(parts: list[str], known: Known, tables: dict[str, Any]) -> tuple[Key, Node | None]:
    """The key that a variable means, and what is known there; names are those of the file, as far as it has them."""
    node: Node | None = known.root
    key: Key = ()
    written: Any = tables
    for number, part in enumerate(parts):
        name = _name(part, written) if isinstance(node, Named) else part
        node = known.at((*key, name))
        key = (*key, name)
        written = written.get(name) if isinstance(written, dict) else None
        if node is None or (isinstance(node, Listed) and parts[number + 1 :]):
            return key, None
    return ((*key, ""), None) if isinstance(node, Table) and len(key) == 1 else (key, node)


def _name(part: str, written: Any) -> str:
    """The name that the operator gave in the file; a variable has capital letters, and no dots or hyphens."""
    names = written if isinstance(written, dict) else {}
    return next((name for name in names if re.sub(r"[^a-z0-9]", "_", name.lower()) == part), part)


def _mark_tables(place: _Place, key: Key) -> None:
    for length in range(2, len(key)):
        if isinstance(place.known.at(key[:length]), Table):
            place.put(key[:length], MARK)


def unknown(key: Key, table: Table, known: Known) -> str:
    """What is wrong with a name that nobody knows, and what may have been meant."""
    what = "section" if len(key) == 1 else "key"
    homes = known.homes(str(key[-1])) if len(key) > 1 else []
    if isinstance(known.at(key), Listed):
        return "an item of a list has no variable of its own; give the list as a whole"
    if homes:
        return f"unknown {what}; it belongs in [{homes[0]}]"
    near: Iterable[str] = difflib.get_close_matches(str(key[-1]), sorted(table.keys), n=1)
    return next((f'unknown {what}; did you mean "{name}"?' for name in near), f"unknown {what}")


def _typed(kinds: frozenset[Any], text: str) -> object:
    """What an environment variable's text means for a field of this type; text that doesn't fit is left to pydantic."""
    if not text and NoneType in kinds:
        return None
    if kinds & {tuple, list, dict}:
        with suppress(ValueError):
            parsed = tomllib.loads(f"value = {text}")
            return parsed["value"] if len(parsed) == 1 else text
    if bool in kinds:
        return {"true": True, "false": False}.get(text.lower(), text)
    for number in (int, float):
        if number in kinds:
            with suppress(ValueError):
                return number(text)
    return text
