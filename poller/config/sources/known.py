"""The names that may be written, read off the settings of each section.

A section is a table of keys. A field whose type is a mapping to settings is a table of tables that the operator names
(`[relays.backup]`), a tuple of settings is a list of tables (`[[throttle.replies]]`); every other field is a key.
A field with `repr=False` is a secret: it may also be written as `KEY_file` or `KEY_command`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Iterator

Key = tuple[str | int, ...]
"""A section, and on down to the key; the items of a list by number."""

FORMS: Final = ("", "_file", "_command")
"""How a secret may be written."""


@dataclass(frozen=True)
class Leaf:
    """A key; `kinds` are the types that its value may have."""

    kinds: frozenset[Any]


@dataclass(frozen=True)
class Table:
    """Keys, and tables below."""

    keys: Mapping[str, Node]
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """Tables of one kind, each under a name that the operator gives."""

    table: Table


@dataclass(frozen=True)
class Listed:
    """Tables of one kind, in order."""

    table: Table


Node = Leaf | Table | Named | Listed


class Known:
    """The names that may be written: `root` is the table of the sections."""

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self.root = Table({name: _node(hint) for name, hint in sections.items()})

    def at(self, key: Key) -> Node | None:
        """What is known at a key; None if nothing."""
        node: Node | None = self.root
        for part in key:
            match node:
                case Table(keys=keys):
                    node = keys.get(str(part))
                case Named(table=table) | Listed(table=table):
                    node = table
                case _:
                    return None
        return node

    def secret_of(self, key: Key) -> Key | None:
        """The secret that a key is a form of; None for any other key."""
        table = self.at(key[:-1])
        if not isinstance(table, Table):
            return None
        bases = (base for base in table.secrets for form in FORMS if key[-1] == base + form)
        return next(((*key[:-1], base) for base in bases), None)

    def homes(self, name: str) -> list[str]:
        """The sections that have such a key, in the order of the alphabet."""
        return sorted(
            section for section, node in self.root.keys.items() if isinstance(node, Table) and name in node.keys
        )


def is_below(key: Key, table: Key) -> bool:
    """Whether a key is a table or lies within it."""
    return key[: len(table)] == table


def is_settings(hint: Any) -> bool:
    """Whether a type is a table of its own, and not a value that is written in one piece."""
    return hasattr(hint, "__pydantic_config__")


def _node(hint: Any) -> Node:
    origin, parts = get_origin(hint), get_args(hint)
    if is_settings(hint):
        return _table(hint)
    if origin is Mapping and is_settings(parts[1]):
        return Named(_table(parts[1]))
    if origin is tuple and is_settings(parts[0]):
        return Listed(_table(parts[0]))
    return Leaf(frozenset(_kinds(hint)))


def _table(settings: Any) -> Table:
    hints = get_type_hints(settings)
    keys: dict[str, Node] = {item.name: _node(hints[item.name]) for item in fields(settings)}
    secrets = tuple(item.name for item in fields(settings) if not item.repr)
    for base in secrets:
        keys |= {base + form: Leaf(frozenset({str})) for form in FORMS[1:]}
    return Table(keys, secrets)


def _kinds(hint: Any) -> Iterator[Any]:
    origin = get_origin(hint)
    if origin in {Union, UnionType}:
        for choice in get_args(hint):
            yield from _kinds(choice)
    else:
        yield origin or hint
