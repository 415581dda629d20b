"""Room: what was promised is there, a full disk stops what was not begun, and what is not applied is kept."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal.scribe import AT, SMALL, Scribe, accepted, message, no_file_larger_than, positions, read_back

from poller.exchange import Exchange, Loss, Phase, Reply
from poller.journal import JournalTrouble, Stage, entries
from poller.journal.segments import FRAME_BYTES, segments

if TYPE_CHECKING:
    from pathlib import Path

MANY = tuple(f"user{n}@example.com" for n in range(30))  # more than a small segment has room for

ascii_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=1000)
replies = st.builds(
    Reply, code=st.integers(200, 599), status=st.sampled_from(["", "5.1.1", "4.7.500"]), text=ascii_text
)
addresses = st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=5, unique=True)


@settings(max_examples=60, deadline=None)
@given(addresses, st.data())
def test_all_that_can_be_said_of_a_message_fits_the_room_that_is_taken_for_it(
    recipients: list[str], data: st.DataObject
) -> None:
    sent = message(2**62, 2**62, recipients)
    rcpt = tuple(data.draw(st.none() | replies) for _ in recipients)
    last_words = Loss(phase=Phase.CONTENT, reason=data.draw(ascii_text))
    exchange = Exchange(
        message=sent,
        phase=Phase.CONTENT,
        mail=data.draw(replies),
        rcpt=rcpt,
        data=data.draw(replies),
        end=data.draw(replies),
        loss=last_words,
        end_of_data_sent=True,
        relay="relay.example.com:465",
    )
    records = [entries.composed(sent), entries.committed(sent, exchange.relay, rcpt), entries.answered(exchange, AT)]
    assert sum(len(record) + FRAME_BYTES for record in records) <= entries.room_for(sent.recipients)
    assert len(entries.begun(2**62, 2**62)) + FRAME_BYTES <= 64 + FRAME_BYTES


def test_an_intent_has_room_for_its_answer_on_a_full_disk(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    key = scribe.begin(1)
    sent = scribe.compose(key)
    scribe.commit(key)
    longest = Reply(code=550, status="5.7.1", text="\\" * 1000)
    with no_file_larger_than(SMALL - 1):
        with pytest.raises(JournalTrouble):
            scribe.journal.compose(message(2, 1, MANY))
        scribe.journal.confirm(0)
        scribe.answer(key, accepted(sent, longest))
    scribe.journal.close()
    _, (entry,), _ = read_back(scribe)
    assert (entry.stage, entry.exchange.end) == (Stage.ANSWERED, longest)


def test_what_was_promised_room_keeps_it_in_a_new_segment(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    under_way = [scribe.begin(row_id) for row_id in range(8)]
    sent = [scribe.compose(key, MANY) for key in under_way]
    assert len(segments(scribe.journal.directory)) > 4
    words = Reply(code=450, status="4.2.0", text='"' * 1000)
    size = max(path.stat().st_size for path in segments(scribe.journal.directory))
    with no_file_larger_than(size):
        for key, each in zip(under_way, sent, strict=True):
            scribe.journal.commit(each, "127.0.0.1:25", (words,) * len(MANY))
            scribe.journal.answer(accepted(each, words), AT)
            assert scribe.journal._segment.room >= scribe.journal._reserved, key
    scribe.journal.close()
    _, found, _ = read_back(scribe)
    assert {entry.stage for entry in found} == {Stage.ANSWERED}


def _fill(scribe: Scribe, act: str) -> None:
    if act == "compose":
        scribe.journal.compose(message(1, 1, MANY))
    for row_id in range(1000):
        scribe.begin(row_id)


@pytest.mark.parametrize("act", ["begin", "compose"])
def test_a_full_disk_stops_what_is_not_begun_and_names_the_place(tmp_path: Path, act: str) -> None:
    scribe = Scribe(state=tmp_path)
    with no_file_larger_than(SMALL - 1), pytest.raises(JournalTrouble) as trouble:
        _fill(scribe, act)
    assert str(scribe.journal.directory) in str(trouble.value)
    assert os.strerror(errno.EFBIG).lower() in str(trouble.value)
    assert "nothing is sent until it can be written" in str(trouble.value)
    assert not trouble.value.is_gone


def test_after_a_full_disk_it_goes_on_without_a_gap(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    scribe.send(1)
    with no_file_larger_than(SMALL - 1):
        with pytest.raises(JournalTrouble):
            scribe.journal.compose(message(2, 1, MANY))
        with pytest.raises(JournalTrouble):
            scribe.journal.require()
    scribe.journal.require()
    scribe.send(3)
    scribe.journal.close()
    assert positions(scribe) == list(range(1, scribe.last + 1))
    assert [entry.key for entry in read_back(scribe)[1]] == [(1, 1), (3, 1)]


def test_a_directory_that_was_removed_is_said_to_be_gone(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    key = scribe.begin(1)
    sent = scribe.compose(key)
    scribe.commit(key)
    shutil.rmtree(tmp_path)
    scribe.answer(key, accepted(sent))  # never raises
    with pytest.raises(JournalTrouble, match="was removed while it was in use") as gone:
        scribe.journal.require()
    assert gone.value.is_gone
    with pytest.raises(JournalTrouble) as gone:
        scribe.journal.compose(message(2, 1, MANY))
    assert gone.value.is_gone
    assert str(tmp_path) in str(gone.value)
    scribe.answer(key, accepted(sent))


def test_a_directory_that_cannot_be_looked_into_is_trouble_and_not_gone(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path / "state")
    directory = scribe.journal.directory
    aside = directory.rename(tmp_path / "aside")
    directory.write_text("")
    with pytest.raises(JournalTrouble, match="not a directory") as trouble:
        scribe.journal.require()
    assert not trouble.value.is_gone
    directory.unlink()
    aside.rename(directory)
    scribe.journal.require()


def test_a_place_that_is_no_directory_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "state"
    blocked.write_text("")
    with pytest.raises(JournalTrouble, match=str(blocked)):
        Scribe(state=blocked)


def test_a_read_only_directory_is_named(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    scribe.journal.close()
    scribe.journal.directory.chmod(0o500)
    try:
        if os.access(scribe.journal.directory, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(JournalTrouble, match="permission denied"):
            scribe.reader().outline("0123456789abcdef")
    finally:
        scribe.journal.directory.chmod(0o700)


# --- what is kept ---


def many_segments(tmp_path: Path, **how: object) -> Scribe:
    scribe = Scribe(state=tmp_path, **how)  # type: ignore[arg-type]
    for row_id in range(60):
        key = scribe.send(row_id)
        if row_id != 40:
            scribe.settle(key)
        scribe.confirm()
    return scribe


@pytest.mark.parametrize("how", [{"keep": 0.0}, {"keep_size": 0}, {"keep": -1.0, "keep_size": 0}])
def test_what_is_not_applied_is_never_pruned(tmp_path: Path, how: dict[str, object]) -> None:
    scribe = many_segments(tmp_path, **how)
    kept = positions(scribe)
    assert kept[0] > 1
    assert kept == list(range(kept[0], scribe.last + 1))
    assert kept[0] <= scribe.applied + 1
    assert (40, 1) in {entry.key for entry in scribe.journal.entries(scribe.applied)}


def test_what_is_neither_old_nor_large_is_kept_though_it_is_applied(tmp_path: Path) -> None:
    scribe = many_segments(tmp_path)
    assert positions(scribe) == list(range(1, scribe.last + 1))


def test_files_of_others_in_its_directory_are_left_alone(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    foreign = scribe.journal.directory / "copy of yesterday.journal"
    foreign.write_text("not ours")
    scribe.send(1)
    scribe.killed()
    scribe.send(2)
    assert [entry.key for entry in scribe.journal.entries(0)] == [(1, 1), (2, 1)]
    assert foreign.read_text() == "not ours"
