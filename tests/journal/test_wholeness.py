"""When the absence of a message is evidence: only where the tail of the journal can't have been lost."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from journal.scribe import OUTBOX, Scribe, positions, read_back

from poller.journal import Past
from poller.journal.segments import segments

if TYPE_CHECKING:
    from pathlib import Path


def lived(tmp_path: Path, **how: Any) -> Scribe:
    """A worker that took up what there was, and sent two messages."""
    scribe = Scribe(state=tmp_path, **how)
    scribe.journal.taken_up()
    scribe._wrote("t", None)
    for row_id in (1, 2):
        scribe.settle(scribe.send(row_id))
    return scribe


def is_whole(scribe: Scribe, *, boot: str = "boot-1", applied: int = 0) -> bool:
    scribe.journal.close()
    reader = scribe.reader()
    try:
        return reader.outline(OUTBOX).is_whole(boot=boot, applied=applied)
    finally:
        reader.close()


def test_there_is_nothing_to_know_of_what_was_never_there() -> None:
    assert not Past().is_whole(boot="boot-1", applied=0)


def test_a_killed_process_leaves_it_whole(tmp_path: Path) -> None:
    assert is_whole(lived(tmp_path))


@pytest.mark.parametrize(("sync", "whole"), [("none", False), ("batch", False), ("message", True)])
def test_after_a_power_cut_it_is_whole_only_if_each_intent_was_synced(tmp_path: Path, sync: str, whole: bool) -> None:  # noqa: FBT001
    assert is_whole(lived(tmp_path, sync=sync), boot="boot-2") == whole


def test_where_the_system_does_not_name_its_boots_only_a_synced_one_is_whole(tmp_path: Path) -> None:
    assert not is_whole(lived(tmp_path / "a", boot=""), boot="")
    assert is_whole(lived(tmp_path / "b", boot="", sync="message"), boot="")


@pytest.mark.parametrize("sync", ["none", "message"])
def test_damage_without_a_power_cut_is_damage_even_if_each_intent_was_synced(tmp_path: Path, sync: str) -> None:
    scribe = lived(tmp_path, sync=sync)
    scribe.journal.close()
    path = segments(scribe.journal.directory)[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not is_whole(scribe)


EACH_BYTE = 1 if os.environ.get("POLLER_TEST_LONG") else 37


def two_hundred_records(tmp_path: Path) -> tuple[Scribe, Path, bytes]:
    """As `kill -9` leaves them: the room behind them is zeros."""
    scribe = lived(tmp_path, size=64 * 1024)
    while scribe.last < 200:
        scribe.send(scribe.last)
    path = segments(scribe.journal.directory)[-1]
    assert is_whole(scribe)
    return scribe, path, path.read_bytes().ljust(scribe.size, b"\0")


def test_one_flipped_bit_anywhere_and_it_is_not_whole(tmp_path: Path) -> None:
    scribe, path, data = two_hundred_records(tmp_path)
    used = len(data.rstrip(b"\0"))
    passed_off = []
    for at in range(0, used, EACH_BYTE):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        if is_whole(scribe):
            passed_off.append(at)
    path.write_bytes(data)
    assert passed_off == []
    assert is_whole(scribe)


@pytest.mark.parametrize("zeroed", [False, True])
def test_a_tail_that_is_gone_is_missed_wherever_it_was_cut(tmp_path: Path, zeroed: bool) -> None:  # noqa: FBT001
    scribe, path, data = two_hundred_records(tmp_path)
    ends = [end for segment, end in scribe.ends if segment == path]
    passed_off = []
    for at in {*range(ends[0], ends[-1], EACH_BYTE), *ends[:-1]}:
        path.write_bytes(data[:at].ljust(len(data) if zeroed else 0, b"\0"))
        if is_whole(scribe):
            passed_off.append(at)
    assert passed_off == []


def test_a_power_cut_that_tears_what_was_not_synced_takes_no_intent(tmp_path: Path) -> None:
    scribe = lived(tmp_path, sync="message")
    scribe.journal.close()
    path = segments(scribe.journal.directory)[-1]
    path.write_bytes(path.read_bytes() + b"\xa5" * 3000)
    assert is_whole(scribe, boot="boot-2")
    assert read_back(scribe)[0].torn


def test_a_segment_whose_header_a_power_cut_took_does_not_hide_the_one_before(tmp_path: Path) -> None:
    scribe = lived(tmp_path, sync="message")
    scribe.journal.close()
    lost = scribe.journal.directory / f"{scribe.last + 5:016x}.journal"
    lost.write_bytes(bytes(5000))
    past, entries, _ = read_back(scribe)
    assert (past.last, past.torn) == (scribe.last, True)
    assert [entry.key for entry in entries] == [(1, 1), (2, 1)]
    assert past.is_whole(boot="boot-2", applied=0)
    assert not past.is_whole(boot="boot-1", applied=0)
    scribe.begin_a_life()
    scribe.send(3)
    scribe.journal.close()
    assert not read_back(scribe)[0].torn
    assert positions(scribe) == list(range(1, scribe.last + 1))


def test_a_life_that_took_nothing_up_does_not_hide_the_one_before(tmp_path: Path) -> None:
    scribe = lived(tmp_path)
    scribe.is_whole = False  # what this life makes of the past, say after a power cut
    scribe.killed()
    assert not is_whole(scribe)
    scribe.is_whole = True
    scribe.killed()
    assert is_whole(scribe)


def test_a_life_that_took_everything_up_ends_the_matter(tmp_path: Path) -> None:
    scribe = lived(tmp_path)
    scribe.is_whole = False
    scribe.killed()
    scribe.journal.taken_up()
    assert is_whole(scribe)


def test_a_life_that_took_everything_up_says_so_in_each_later_segment(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path, is_whole=False)
    scribe.journal.taken_up()
    scribe._wrote("t", None)
    for row_id in range(40):
        scribe.send(row_id)
    assert len(segments(scribe.journal.directory)) > 2
    assert is_whole(scribe)


def test_an_older_copy_is_not_whole(tmp_path: Path) -> None:
    scribe = lived(tmp_path / "w1")
    scribe.journal.close()
    shutil.copytree(tmp_path / "w1", tmp_path / "copy")
    last = scribe.last
    scribe.begin_a_life()
    scribe.send(3)
    scribe.confirm()
    scribe.journal.close()
    scribe.state = tmp_path / "copy"
    past = read_back(scribe)[0]
    assert past.last == last
    assert not past.is_whole(boot="boot-1", applied=scribe.last)


def test_one_whose_beginning_was_pruned_is_whole_only_for_what_it_still_holds(tmp_path: Path) -> None:
    scribe = lived(tmp_path)
    for row_id in range(40):
        scribe.send(row_id)
    scribe.journal.close()
    segments(scribe.journal.directory)[0].unlink()
    past, _, has_gap = read_back(scribe)
    assert past.first > 1
    assert not past.is_whole(boot="boot-1", applied=0)
    assert past.is_whole(boot="boot-1", applied=past.first - 1)
    assert has_gap


def test_each_outbox_has_a_journal_of_its_own(tmp_path: Path) -> None:
    scribe = lived(tmp_path)
    other = scribe.reader()
    assert other.outline("another outbox") == Past()
    assert other.directory != scribe.journal.directory
    assert scribe.reader().outline(OUTBOX).last == scribe.last
