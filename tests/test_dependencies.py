"""What we depend on: each package by its licence in one table, held against what is installed."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_ROW = re.compile(r"^\| ([\w.-]+) \| ([^|]+?) \| ([^|]+?) \|$", re.MULTILINE)
_CLASSIFIERS = {"MIT License": "MIT", "BSD License": "BSD", "Apache Software License": "Apache-2.0"}


def needed() -> dict[str, str]:
    """The packages, each with the extra that brings it; "" for those that always come."""
    found = {_name(text): "" for text in PROJECT["dependencies"]}
    for extra, texts in PROJECT["optional-dependencies"].items():
        for text in texts:
            found.setdefault(_name(text), extra)
    return {name: extra for name, extra in found.items() if name != PROJECT["name"]}


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return match[0].lower()


def table() -> dict[str, tuple[str, str]]:
    """Of docs/security.md: the licence and the extra of each package."""
    text = (ROOT / "docs/security.md").read_text("utf-8").partition("## What it rests on")[2]
    return {name.lower(): (licence, extra) for name, licence, extra in _ROW.findall(text) if name != "package"}


def licence_of(name: str) -> str:
    facts = metadata(name)
    classified = [text.rpartition("::")[2].strip() for text in facts.get_all("Classifier", [])]
    known = [_CLASSIFIERS[text] for text in classified if text in _CLASSIFIERS]
    return str(facts.get("License-Expression") or facts.get("License") or next(iter(known), "")).splitlines()[0]


def test_the_table_names_each_package_and_its_extra() -> None:
    assert {name: extra for name, (_, extra) in table().items()} == {
        name: extra or "always" for name, extra in needed().items()
    }


@pytest.mark.parametrize("name", sorted(needed()))
def test_each_licence_is_the_one_that_is_installed(name: str) -> None:
    try:
        installed = licence_of(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert table()[name][0] == installed


def test_each_package_has_its_reason() -> None:
    reasons = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("## Dependencies")[2].lower()
    assert [name for name in needed() if name not in reasons.replace("psycopg 3", "psycopg")] == []
