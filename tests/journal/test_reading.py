"""Whatever was written is read again, wherever a killed process was cut off; damage is not passed off as whole."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from journal.scribe import Scribe, accepted, broken_off, cut, expected, message, positions, read_back, told

from poller.exchange import Exchange, Reply
from poller.journal import Stage
from poller.journal.segments import FRAME_BYTES, segments

MOVES = ("begin", "on", "on", "on", "on", "settle", "confirm", "killed")
scripts = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 5)), max_size=60)
quick = settings(max_examples=60, deadline=None)


def play(scribe: Scribe, script: list[tuple[str, int]]) -> None:
    """Carry out a script: each move with one of the messages under way, chosen by the number."""
    for move, choice in script:
        under_way = list(scribe.stage)
        key = under_way[choice % len(under_way)] if under_way else None
        if move in {"confirm", "killed"}:
            getattr(scribe, move)()
        elif move == "begin" or key is None:
            scribe.begin(choice)
        elif move == "settle" or scribe.stage[key] == "a":
            scribe.settle(key)
        elif scribe.stage[key] == "b":
            scribe.compose(key)
        elif scribe.stage[key] == "c" and choice % 3:
            scribe.commit(key)
        else:
            sent = message(*key)
            scribe.answer(key, accepted(sent) if scribe.stage[key] == "i" else broken_off(sent))


def scribe_in(directory: str, **how: Any) -> Scribe:
    return Scribe(state=Path(directory), **how)


def as_read(exchange: Exchange) -> tuple[Any, ...]:
    """What an exchange tells after it has been through the journal: of a good reply only the code, no content."""
    codes = tuple(reply and reply.code for reply in (exchange.mail, *exchange.rcpt, exchange.data))
    facts = exchange.phase, exchange.end, exchange.loss, exchange.end_of_data_sent, exchange.relay
    return exchange.message.row_id, exchange.message.claim_seq, exchange.message.message_id, codes, facts


@quick
@given(scripts, st.integers(1, 9))
def test_entries_equal_what_the_records_say(script: list[tuple[str, int]], back: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        scribe = scribe_in(directory)
        play(scribe, script)
        scribe.journal.close()
        after = scribe.confirmed[-min(back, len(scribe.confirmed))]
        past, entries, has_gap = read_back(scribe, after)
    known = expected(scribe.said, after)
    assert told(entries) == {key: (first, stage) for key, (first, stage, _) in known.items()}
    for entry in entries:
        exchange = known[entry.key][2]
        if exchange is not None:
            assert as_read(entry.exchange) == as_read(exchange)
    answered = [record.key for record in scribe.said if record.kind == "a" and record.position > after]
    assert [entry.key for entry in entries if entry.stage is Stage.ANSWERED] == answered
    assert (past.last, past.torn, has_gap) == (scribe.last, False, False)


@quick
@given(scripts)
def test_positions_count_up_by_one_over_all_segments_and_lives(script: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        scribe = scribe_in(directory)
        play(scribe, script)
        scribe.journal.close()
        assert positions(scribe) == list(range(1, scribe.last + 1))


@quick
@given(scripts, st.sets(st.integers(0, 5)))
def test_the_applied_position_never_passes_a_message_that_is_not_settled(
    script: list[tuple[str, int]], written: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        scribe = scribe_in(directory)
        for length, move in enumerate(script):
            play(scribe, [move])
            keys = [key for key in scribe.stage if (key[0] + length) % 6 in written]
            unsettled = [position for key, position in scribe.open.items() if key not in keys]
            assert scribe.journal.position()(keys) == min(unsettled, default=scribe.last + 1) - 1
        scribe.journal.close()


@quick
@given(scripts, st.data())
def test_cut_off_at_any_byte_it_holds_every_complete_record_and_is_not_damaged(
    script: list[tuple[str, int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        scribe = scribe_in(directory)
        play(scribe, script)
        path = segments(scribe.journal.directory)[-1]
        end = scribe.journal._segment._used
        scribe.journal.close()
        here = [(ends, said) for (segment, ends), said in zip(scribe.ends, scribe.said, strict=True) if segment == path]
        head = here[0][0] - frame_of(path, 1) if here else end
        at = data.draw(st.integers(head, end))
        cut(scribe, at)
        past, entries, _ = read_back(scribe)
    lost = [said for ends, said in here if ends > at]
    kept = scribe.said[: len(scribe.said) - len(lost)]
    known = expected(kept, 0)
    assert told(entries) == {key: (first, stage) for key, (first, stage, _) in known.items()}
    assert (past.last, past.torn) == (len(kept), False)


def frame_of(path: Path, number: int) -> int:
    """Bytes of the `number`-th frame of a segment; the first, 0, is its header."""
    data, offset = path.read_bytes(), 8
    for _ in range(number):
        offset += FRAME_BYTES + int.from_bytes(data[offset : offset + 4], "little")
    return FRAME_BYTES + int.from_bytes(data[offset : offset + 4], "little")


@quick
@given(scripts, st.data())
def test_damage_in_the_middle_is_found_and_nothing_behind_it_is_believed(
    script: list[tuple[str, int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        scribe = scribe_in(directory)
        play(scribe, [*script, ("begin", 1), ("begin", 2), ("begin", 3)])
        path = segments(scribe.journal.directory)[-1]
        scribe.journal.close()
        here = [(ends, said) for (segment, ends), said in zip(scribe.ends, scribe.said, strict=True) if segment == path]
        start = here[0][0] - frame_of(path, 1)
        before_last = here[-2][0] if len(here) > 1 else start
        at = data.draw(st.integers(start, max(start, before_last - 1)))
        whole = path.read_bytes()
        flipped = whole[at] ^ data.draw(st.sampled_from([1 << bit for bit in range(8)]))
        path.write_bytes((whole[:at] + bytes([flipped]) + whole[at + 1 :]).ljust(scribe.size, b"\0"))
        past, entries, _ = read_back(scribe)
    kept = [said for said in scribe.said if said not in [said for ends, said in here if ends > at]]
    assert told(entries) == {key: (first, stage) for key, (first, stage, _) in expected(kept, 0).items()}
    assert past.last == len(kept)
    assert past.torn or len(here) == 1  # the last record alone, damaged, is as good as never finished
    assert not past.torn or not past.is_whole(boot=scribe.boot, applied=0)


def test_damage_in_an_older_segment_is_a_gap(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    for row_id in range(60):
        scribe.send(row_id)
    scribe.journal.close()
    _, *rest = segments(scribe.journal.directory)
    assert len(rest) >= 2
    data = bytearray(rest[0].read_bytes())
    data[600] ^= 1
    rest[0].write_bytes(data)
    past, entries, has_gap = read_back(scribe)
    assert (past.torn, has_gap) == (False, True)
    assert (59, 1) in {entry.key for entry in entries}


def test_of_a_message_that_was_only_committed_its_refused_recipients_are_known(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    key = scribe.begin(1)
    both = scribe.compose(key, ("a@example.com", "b@example.com"))
    no = Reply(code=550, status="5.1.1", text="no such user")
    scribe.journal.commit(both, "127.0.0.1:25", (Reply(code=250), no))
    scribe.journal.close()
    _, (entry,), _ = read_back(scribe)
    assert entry.recipients == ("a@example.com", "b@example.com")
    assert entry.exchange.rcpt == (Reply(code=250), no)
    assert entry.exchange.end_of_data_sent


def test_who_was_being_composed_when_the_process_was_killed_is_known(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    scribe.send(1)
    scribe.begin(2)
    scribe.killed()
    scribe.begin(3)
    scribe.compose((3, 1))
    scribe.journal.close()
    _, entries, _ = read_back(scribe)
    assert [entry.key for entry in entries if entry.died] == [(2, 1)]


def test_a_power_cut_is_nobodys_death(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    scribe.begin(2)
    scribe.journal.close()
    scribe.boot = "boot-2"
    _, (entry,), _ = read_back(scribe)
    assert (entry.stage, entry.died) == (Stage.BEGUN, False)


def test_while_the_past_is_applied_bit_by_bit_no_position_passes_it(tmp_path: Path) -> None:
    scribe = Scribe(state=tmp_path)
    for row_id in (1, 2, 3):
        scribe.send(row_id)
    scribe.journal.close()
    _, entries, _ = read_back(scribe)
    journal = scribe.journal
    with journal.reading_on(0):
        for entry in entries:
            journal.reopen([entry])
            assert journal.position()({entry.key}) == 0
            journal.settled([entry.key])
    assert journal.position()(()) == scribe.last
