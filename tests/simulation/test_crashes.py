"""Thousands of lives that end at any step: nothing is lost, and nothing goes twice but what is named as a doubt.

`POLLER_TEST_WORLDS=20000` looks for longer; a failure names the seed of its world.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

WORLDS = int(os.environ.get("POLLER_TEST_WORLDS", "60"))
CRASHES = 6  # in each world


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory whose syncs cost nothing, where there is one."""
    near = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=near) as directory:
        yield Path(directory)


def lived(seed: int, disk: Path, *, sync: str, ends: tuple[str, ...]) -> World:
    """A world in which the worker was ended some times, and then could finish its work in peace."""
    chance = random.Random(seed)
    world = World(chance, disk / str(seed), rows=chance.randint(1, 12), sync=sync)
    for _ in range(chance.randint(1, CRASHES)):
        crashed = world.live(chance.randint(1, 150))
        end = chance.choice(ends)
        if end == "power" and crashed:
            world.cut_power()
        if end == "restore":
            world.set_back()
    world.is_bad = False
    assert not world.live(None)
    return world


def assert_books_balance(world: World, seed: int) -> None:
    """Nothing lost, each row at its end, and each copy beyond the first named as a doubt of its row."""
    assert world.lost == [], seed
    assert {row.status for row in world.rows.values()} <= {"sent", "partial", "failed", "in_doubt"}, seed
    for row in world.rows.values():
        taken = [count for (message_id, _), count in world.book.items() if message_id == row.message_id]
        assert max(taken, default=0) <= 1 + world.doubts[row.id], (seed, row)
        if row.status == "in_doubt":
            assert row.error, seed
        if row.status == "failed":
            assert not taken or world.doubts[row.id], (seed, row)


@pytest.mark.parametrize("sync", ["none", "message"])
def test_after_kills_only_what_was_on_the_wire_is_in_doubt(disk: Path, sync: str) -> None:
    for seed in range(WORLDS):
        world = lived(seed, disk, sync=sync, ends=("kill",))
        assert_books_balance(world, seed)
        assert sum(world.doubts.values()) <= world.unanswered + world.lives - 1, seed


def test_after_power_cuts_with_synced_intents_only_what_was_on_the_wire_is_in_doubt(disk: Path) -> None:
    for seed in range(WORLDS):
        world = lived(seed, disk, sync="message", ends=("kill", "power"))
        assert_books_balance(world, seed)
        assert sum(world.doubts.values()) <= world.unanswered + world.lives - 1, seed


@pytest.mark.parametrize("sync", ["none", "batch"])
def test_after_power_cuts_without_them_what_was_claimed_is_in_doubt(disk: Path, sync: str) -> None:
    for seed in range(WORLDS):
        world = lived(seed, disk, sync=sync, ends=("kill", "power"))
        assert_books_balance(world, seed)
        assert sum(world.doubts.values()) <= world.unanswered + world.left_behind, seed


def test_a_database_set_back_to_any_earlier_state_is_brought_up_to_date(disk: Path) -> None:
    for seed in range(WORLDS):
        assert_books_balance(lived(seed, disk, sync="none", ends=("kill", "restore")), seed)


def test_the_worlds_are_as_bad_as_they_claim(disk: Path) -> None:
    seen: Counter[str] = Counter()
    for seed in range(WORLDS):
        world = lived(seed, disk, sync="none", ends=("kill", "power", "restore"))
        seen.update(row.status for row in world.rows.values())
        seen["twice"] += sum(count > 1 for count in world.book.values())
        seen["doubts"] += sum(world.doubts.values())
        seen["lost replies"] += world.unanswered
    assert {"sent", "failed", "partial", "doubts", "twice", "lost replies"} <= {name for name in seen if seen[name]}
