"""The crash ledger in its short form; the long one is `tests/chaos/run.py --long`, its results docs/reliability.md."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from chaos import clones, crashes, cuts, damage, operators, page
from chaos.ground import Skipped
from chaos.ledger import RowSays, compare
from chaos.recorder import Entry, Recorder
from chaos.table import SCENARIOS
from conftest import REQUIRED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos.ground import Ground, Line

BATCH = 40  # what a crash leaves behind is judged row by row: fewer rows, shorter tests


def broken(lines: Iterator[Line], kind: str) -> list[str]:
    """The broken promises; a skip where the database can't be had."""
    try:
        return [promise for line in lines for promise in line.broken]
    except Skipped as why:
        if kind in REQUIRED:
            raise
        pytest.skip(str(why))


def test_three_crashes_lose_nothing_and_every_duplicate_is_owned_up_to(ground: Ground, kind: str) -> None:
    on = replace(ground, kinds=(kind,))
    assert broken(crashes.kill9(on, crashes=3, policies=("resend",), batch=BATCH), kind) == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_crashes_send_nothing_twice_when_told_to_hold(ground: Ground, kind: str) -> None:
    on = replace(ground, kinds=(kind,))
    assert broken(crashes.kill9(on, crashes=2, policies=("hold",), batch=BATCH), kind) == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_crash_that_takes_the_state_directory_along_loses_nothing(ground: Ground, kind: str) -> None:
    on = replace(ground, kinds=(kind,))
    assert broken(crashes.no_state(on, crashes=1, waited=0, batch=BATCH), kind) == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_line_cut_at_the_final_reply_is_a_doubt_and_at_any_other_leaves_no_trace(ground: Ground, kind: str) -> None:
    on = replace(ground, kinds=(kind,))
    lines = list(cuts.smtp_cut(on, phases=("DATA", "end"), hows=("half a reply",), content=False))
    assert broken(iter(lines), kind) == []
    assert [line.cells["half a reply"] for line in lines] == ["3: no trace", "3: 3 in doubt, 3 sent twice"]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_commit_whose_reply_is_lost_loses_nothing_and_sends_nothing_twice(ground: Ground, kind: str) -> None:
    on = replace(ground, kinds=(kind,))
    assert broken(cuts.db_cut(on, cuts=2, each=6, most=3, whens=("before its reply",)), kind) == []


@pytest.mark.long
def test_a_clone_sends_nothing_unasked_and_a_copied_journal_nothing_twice(ground: Ground, kind: str) -> None:
    assert broken(clones.clone(replace(ground, kinds=(kind,))), kind) == []


def test_every_scenario_has_its_place_on_the_page() -> None:
    text = page.PAGE.read_text()
    assert [s.name for s in SCENARIOS if f"<!-- {s.name} -->\n" not in text or f"<!-- /{s.name} -->" not in text] == []


# The recorder


def test_the_recorder_enters_what_reached_its_end_by_data_and_by_chunks_and_nothing_else() -> None:
    with Recorder() as relay:
        with socket.create_connection((relay.host, relay.port)) as line:
            line.sendall(
                b"EHLO x\r\nMAIL FROM:<s@x>\r\nRCPT TO:<a@x>\r\nDATA\r\n"
                b"Message-ID: <1@x>\r\n\r\n..\r\n.\r\n"
                b"MAIL FROM:<s@x>\r\nRCPT TO:<b@x>\r\nBDAT 19\r\nMessage-ID: <2@x>\r\nBDAT 6 LAST\r\n\r\n.\r\n."
                b"MAIL FROM:<s@x>\r\nRCPT TO:<c@x>\r\nDATA\r\nMessage-ID: <3@x>\r\n\r\nhalf"
            )
            line.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: line.recv(4096), b""))
        relay.wait_until_quiet()
    assert [(e.message_id, e.recipients, e.answered) for e in relay.entries] == [
        ("<1@x>", ("a@x",), True),
        ("<2@x>", ("b@x",), True),
    ]
    assert said.count(b"queued as") == 2


# The comparison itself


def entry(number: int, recipient: str, *, life: int = 0, message_id: str = "<1@x>") -> Entry:
    return Entry(number=number, message_id=message_id, recipients=(recipient,), at=0.0, life=life)


def test_a_row_that_ended_and_was_never_accepted_is_lost() -> None:
    rows = {"a": RowSays(status="sent"), "b": RowSays(status="failed"), "c": RowSays(status="queued")}
    found = compare(["a", "b", "c", "d"], [], rows)
    assert (found.lost, found.stuck, found.wrongly_marked) == (("a", "b", "d"), ("c",), ("a",))


def test_a_row_that_failed_and_was_accepted_is_wrongly_marked() -> None:
    found = compare(["a"], [entry(1, "a")], {"a": RowSays(status="failed")})
    assert (found.lost, found.wrongly_marked) == ((), ("a",))


def test_a_duplicate_belongs_to_the_crash_before_which_the_message_was_accepted() -> None:
    taken = [entry(1, "a"), entry(2, "b", life=1), entry(3, "a", life=2), entry(4, "b", life=2, message_id="<2@x>")]
    rows = {"a": RowSays(status="sent", doubts=1), "b": RowSays(status="sent", doubts=0)}
    found = compare(["a", "b"], taken, rows, crashes=3)
    assert [(d.recipient, d.crash) for d in found.duplicates] == [("a", 0), ("b", 1)]
    assert (found.per_crash, found.same_id, found.unowned) == ((0, 1, 1), 1, ("b",))


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_whatever_people_do_to_three_workers_no_row_is_lost_and_each_duplicate_is_owned_up_to(
    ground: Ground, kind: str
) -> None:
    on = replace(ground, kinds=(kind,))
    assert broken(operators.operators(on, seconds=4.0), kind) == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_damaged_journal_leads_to_doubts_and_to_no_silent_duplicate(ground: Ground, kind: str) -> None:
    on = replace(ground, kinds=(kind,))
    assert broken(damage.damage(on, places=2), kind) == []
