"""Tables within tables: what was written where, in the file and in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from poller.config.sources import MARK, Key, Known, dotted, read
from poller.config.sources.secrets import _secret_text


@dataclass(frozen=True, kw_only=True)
class Item:
    __pydantic_config__: ClassVar = {}
    text: str = ""
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Inner:
    __pydantic_config__: ClassVar = {}
    port: int = 0
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Outer:
    __pydantic_config__: ClassVar = {}
    burst: int = 1
    domains: Mapping[str, Inner] = field(default_factory=dict)
    replies: tuple[Item, ...] = ()


KNOWN = Known({"outer": Outer, "relays": Mapping[str, Inner]})


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def values(text: str, **environ: str) -> dict[Key, object]:
    Path("c.toml").write_text(text, encoding="utf-8")
    found = read(Path("c.toml"), environ, KNOWN)
    assert found.problems == []
    return {key: given.value for key, given in found.given.items() if given.value is not MARK}


def places(text: str) -> list[str]:
    Path("c.toml").write_text(text, encoding="utf-8")
    return [f"{given.where} {dotted(key)}" for key, given in read(Path("c.toml"), {}, KNOWN).given.items()]


def troubles(text: str, **environ: str) -> list[str]:
    Path("c.toml").write_text(text, encoding="utf-8")
    return [str(problem) for problem in read(Path("c.toml"), environ, KNOWN).problems]


NESTED = """\
[outer]
burst = 2

[relays.backup]
port = 1

[outer.domains."example.com"]
port = 2

[[outer.replies]]
text = "a"

[[outer.replies]]
codes = [
  421,
]
text = "b"

[relays."west coast"]
"""


def test_every_value_stands_at_its_key() -> None:
    assert values(NESTED) == {
        ("outer", "burst"): 2,
        ("relays", "backup", "port"): 1,
        ("outer", "domains", "example.com", "port"): 2,
        ("outer", "replies", 0, "text"): "a",
        ("outer", "replies", 1, "codes"): [421],
        ("outer", "replies", 1, "text"): "b",
    }


def test_every_value_and_every_table_has_its_line() -> None:
    assert sorted(places(NESTED), key=lambda place: int(place.split()[0].rpartition(":")[2])) == [
        "c.toml:2 outer.burst",
        "c.toml:4 relays.backup",
        "c.toml:5 relays.backup.port",
        'c.toml:7 outer.domains."example.com"',
        'c.toml:8 outer.domains."example.com".port',
        "c.toml:10 outer.replies",
        "c.toml:11 outer.replies.text",
        "c.toml:13 outer.replies",
        "c.toml:14 outer.replies.codes",
        "c.toml:17 outer.replies.text",
        'c.toml:19 relays."west coast"',
    ]


def test_inline_tables_are_the_same() -> None:
    text = 'relays = { backup = { port = 1 } }\n[outer]\nreplies = [\n  { text = "a" },\n  { text = "b" },\n]\n'
    assert values(text) == {
        ("relays", "backup", "port"): 1,
        ("outer", "replies", 0, "text"): "a",
        ("outer", "replies", 1, "text"): "b",
    }


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("[outer.doamins.x]\n", 'c.toml:1: outer.doamins: unknown key; did you mean "domains"?'),
        ("[outer.domains.x]\nprot = 1\n", 'c.toml:2: outer.domains.x.prot: unknown key; did you mean "port"?'),
        ("[outer.domains.x]\nburst = 1\n", "c.toml:2: outer.domains.x.burst: unknown key; it belongs in [outer]"),
        ("[relays]\nport = 1\n", "c.toml:2: relays.port: a table; write [relays.port] and its keys below"),
        ("relays = 1\n", "c.toml:1: relays: tables that you name; write [relays.NAME] and its keys below"),
        ("[outer.replies]\ntext = 'a'\n",
         "c.toml:1: outer.replies: a list of tables; write [[outer.replies]] and its keys below, for each"),
        ("[[outer.replies]]\n[[outer.replies]]\ntxt = 'a'\n",
         'c.toml:3: outer.replies.txt: unknown key; did you mean "text"?'),
        ("[outer]\nreplies = ['hunter2']\n",
         "c.toml:2: outer.replies: a list of tables; write [[outer.replies]] and its keys below, for each"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_its_key_and_line(text: str, trouble: str) -> None:
    assert troubles(text) == [trouble]


# ---- the environment


def test_the_environment_overrides_a_key_within_a_table() -> None:
    assert values(NESTED, POLLER__RELAYS__BACKUP__PORT="9")["relays", "backup", "port"] == 9


def test_a_name_is_found_though_a_variable_has_only_capitals() -> None:
    found = values(NESTED, POLLER__OUTER__DOMAINS__EXAMPLE_COM__PORT="9", POLLER__RELAYS__WEST_COAST__PORT="8")
    assert found["outer", "domains", "example.com", "port"] == 9
    assert found["relays", "west coast", "port"] == 8


def test_the_environment_may_name_a_table_that_the_file_lacks() -> None:
    Path("c.toml").write_text("", encoding="utf-8")
    given = read(Path("c.toml"), {"POLLER__RELAYS__BACKUP__PORT": "9"}, KNOWN).given
    assert {key: item.value for key, item in given.items()} == {
        ("relays", "backup"): MARK,
        ("relays", "backup", "port"): 9,
    }


def test_a_list_in_the_environment_replaces_the_whole_list() -> None:
    found = values(NESTED, POLLER__OUTER__REPLIES='[{text = "c"}]')
    assert {key: value for key, value in found.items() if key[1] == "replies"} == {("outer", "replies", 0, "text"): "c"}


@pytest.mark.parametrize(
    ("variable", "text", "trouble"),
    [
        ("POLLER__RELAYS__BACKUP__PROT", "1", 'relays.backup.prot: unknown key; did you mean "port"?'),
        ("POLLER__RELAYS", "1", "relays: tables that you name; write [relays.NAME] and its keys below"),
        ("POLLER__OUTER__REPLIES__TEXT", "a",
         "outer.replies: an item of a list has no variable of its own; give the list as a whole"),
        ("POLLER__OUTER__REPLIES", "a",
         "outer.replies: a list of tables; write [[outer.replies]] and its keys below, for each"),
        ("POLLER__OUTER__BURST__X", "1", "outer.burst.x: unknown key"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_told(variable: str, text: str, trouble: str) -> None:
    assert troubles("", **{variable: text}) == [f"${variable}: {trouble}"]


# ---- secrets


def test_a_secret_within_a_table_may_come_from_a_file() -> None:
    Path("secret").write_text("hunter2\n", encoding="utf-8")
    assert values("[relays.backup]\npassword_file = 'secret'\n") == {("relays", "backup", "password"): "hunter2"}


def test_a_secret_from_the_environment_replaces_the_form_that_the_file_uses_there_and_only_there() -> None:
    text = "[relays.a]\npassword_command = ['false']\n[relays.b]\npassword = 'b'\n"
    assert values(text, POLLER__RELAYS__A__PASSWORD="a") == {
        ("relays", "a", "password"): "a",
        ("relays", "b", "password"): "b",
    }


def test_two_forms_of_a_secret_are_told_by_table() -> None:
    text = "[relays.a]\npassword = 'x'\n[relays.b]\npassword = 'x'\npassword_file = 'y'\n"
    assert troubles(text) == ["c.toml:5: relays.b.password: give only one of password, password_file"]


def test_a_byte_order_mark_in_front_of_a_secret_is_no_part_of_it() -> None:
    assert _secret_text(b"\xef\xbb\xbfhunter2\r\n", "file") == "hunter2"
