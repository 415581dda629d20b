"""Manners in their short form; the long one is `tests/manners/run.py --long`, its results docs/manners.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos.ground import Skipped
from conftest import REQUIRED
from manners import blocks, front, relays, shares
from manners.crew import DEFAULTS, scaled
from manners.table import SCENARIOS

from poller.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.ground import Ground, Line
    from servers.provider import Manner

ROOT = Path(__file__).parents[2]


def lines_of(lines: Iterator[Line], kind: str) -> list[Line]:
    """All of them; a skip where the database can't be had."""
    try:
        return list(lines)
    except Skipped as why:
        if kind in REQUIRED:
            raise
        pytest.skip(str(why))


def broken(lines: Iterator[Line], kind: str) -> list[str]:
    """The broken promises."""
    return [promise for line in lines_of(lines, kind) for promise in line.broken]


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("manner", blocks.MANNERS)
def test_a_provider_that_blocks_costs_no_message_its_life_and_nobody_else_waits(
    ground: Ground, kind: str, manner: Manner
) -> None:
    # A block of a second, and 300 a second: what was counted by the minute then still is quick.
    lines = blocks.unasked(
        replace(ground, kinds=(kind,)),
        count=303,
        allowed=300,
        factor=600,
        bound=30,
        manners=(manner,),
        kinds=(kind,),
    )
    assert broken(lines, kind) == []


@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "sqlite"])
def test_with_the_providers_limit_configured_it_never_refuses(ground: Ground, kind: str) -> None:
    lines = blocks.configured(replace(ground, kinds=(kind,)), count=40, bound=30, manners=("421",), shares=(0.8,))
    assert broken(lines, kind) == []


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_two_workers_hold_one_limit_also_when_one_is_killed(ground: Ground, kind: str) -> None:
    runs = ((("5/s", "100/m"), 4.0),)
    lines = shares.shared(
        replace(ground, kinds=(kind,)), crews=(2,), runs=runs, scopes=("one destination",), kind=kind, least=0.0
    )
    assert broken(lines, kind) == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_crowd_in_front_of_a_limit_delays_nobody_else(ground: Ground, kind: str) -> None:
    a_while = 15.0  # on a busy machine; behind the crowd it would be a minute for each row
    lines = front.front(replace(ground, kinds=(kind,)), rows=2000, times=2, interval=0.5, grace=a_while)
    assert broken(lines, kind) == []


@pytest.mark.parametrize("kind", ["postgresql"])
def test_the_next_relay_takes_over_and_gives_back_at_no_rows_cost(ground: Ground, kind: str) -> None:
    assert broken(relays.taken_over(replace(ground, kinds=(kind,)), phase=1.5, rows=5), kind) == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_how_many_a_relay_takes_on_a_connection_is_learnt_once_and_shown(ground: Ground, kind: str) -> None:
    lines = relays.learnt(replace(ground, kinds=(kind,)), count=100, each=20, crews=(1,), kind=kind, bound=15)
    assert broken(lines, kind) == []


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_four_workers_never_hold_more_connections_than_they_may(ground: Ground, kind: str) -> None:
    lines = relays.few_connections(replace(ground, kinds=(kind,)), count=200, kinds=(kind,))
    assert broken(lines, kind) == []


def test_what_is_scaled_stays_what_it_was_in_proportion() -> None:
    for section, values in scaled(60).items():
        for name, value in values.items():
            assert parse_duration(value) == pytest.approx(parse_duration(DEFAULTS[section][name]) / 60, rel=0.05)


def test_what_is_scaled_are_the_defaults() -> None:
    example = (ROOT / "config.example.toml").read_text()
    missing = [
        f"{name} = {value}"
        for values in DEFAULTS.values()
        for name, value in values.items()
        if f'\n{name} = "{value}"\n' not in example
    ]
    assert missing == []


def test_every_scenario_has_its_place_on_the_page() -> None:
    page = (ROOT / "docs" / "manners.md").read_text()
    assert [one.name for one in SCENARIOS if f"<!-- {one.name} -->\n" not in page] == []
