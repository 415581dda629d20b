"""Claiming: which rows a worker gets, what it may give back, and who it must be."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.ground import (
    by_hand,
    claimed,
    deferred,
    doubtful,
    failed,
    history_of,
    insert,
    locking,
    row_of,
    sent,
    status_of,
    store_for,
)

from poller.outbox.operate import Selection, change, count, pause_all, resume_all
from poller.outbox.report import PIECE
from poller.outbox.rows import ClaimedRow, NameTaken
from poller.outbox.sqlite import keyed_message_id
from poller.outbox.store import Store
from poller.outbox.tables import SQLITE_TIME, attachment, meta, suppression, worker
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine


NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
LATER = timedelta(hours=1)


def test_rows_come_by_priority_then_by_due_time_then_by_id(store: Store) -> None:
    wanted = [(5, NOON), (9, NOON), (0, NOON + LATER), (5, NOON - LATER), (5, NOON), (0, NOON)]
    ids = [insert(store.engine, priority=priority, due_at=due) for priority, due in wanted]
    assert [row.id for row in store.claim(Gate(limit=10))] == [ids[n] for n in (5, 2, 3, 0, 4, 1)]


def test_a_claim_takes_no_more_than_its_limit_and_the_first_ones(store: Store) -> None:
    ids = [insert(store.engine, priority=p, due_at=NOON) for p in (9, 1, 5, 1, 0)]
    assert [row.id for row in store.claim(Gate(limit=3))] == [ids[4], ids[1], ids[3]]
    assert [row.id for row in store.claim(Gate(limit=3))] == [ids[2], ids[0]]
    assert store.claim(Gate(limit=3)) == []


def test_rows_that_are_not_due_or_not_queued_stay_untouched(store: Store) -> None:
    insert(store.engine, due_at=store.now() + LATER)
    held = insert(store.engine)
    change(store.engine, Selection(ids=(held,)), "pause")
    assert not store.anything_due()
    assert store.claim(Gate(limit=10)) == []
    assert row_of(store.engine, held).claim_seq == 0


def test_nothing_is_claimed_while_the_outbox_is_switched_off(store: Store) -> None:
    insert(store.engine)
    pause_all(store.engine, "the relay moves")
    assert (store.paused(), store.anything_due(), store.claim(Gate(limit=10))) == ("the relay moves", False, [])
    resume_all(store.engine)
    assert (store.paused(), store.anything_due(), len(store.claim(Gate(limit=10)))) == (None, True, 1)


def test_a_claimed_row_holds_what_the_application_wrote(store: Store) -> None:
    context = {"name": "Zoë", "list": [1, None]}
    row_id = insert(store.engine, template="hello", body_text=None, context=context, headers={"X-A": "b"}, batch="b1")
    row = claimed(store)
    assert isinstance(row, ClaimedRow)
    assert (row.id, row.holder, row.status, row.batch, row.domain) == (row_id, "w1", "sending", "b1", "example.com")
    assert (row.content["template"], row.content["context"], row.content["headers"]) == ("hello", context, {"X-A": "b"})
    assert (row.claimed_at.utcoffset(), row.has_attachments, row.known) == (timedelta(0), False, {})
    written = row_of(store.engine, row_id)
    assert (written.status, written.claimed_by, written.claim_seq) == ("sending", "w1", 1)


def test_the_attachments_of_a_claimed_row_are_read_in_order(store: Store) -> None:
    row_id = insert(store.engine)
    for name in ("z.pdf", "a.png"):
        with store.engine.begin() as connection:
            connection.execute(sa.insert(attachment).values(outbox_id=row_id, name=name, content=b"\0\xff"))
    assert claimed(store).has_attachments
    assert [(a["name"], a["content"]) for a in store.attachments(row_id)] == [
        ("z.pdf", b"\0\xff"),
        ("a.png", b"\0\xff"),
    ]


def test_a_claim_tells_of_a_raw_message_and_fetches_it_at_its_turn(store: Store) -> None:
    raw, dsn = bytes(range(1, 256)) * 20_000, {"mail": "RET=HDRS"}
    row_id = insert(store.engine, raw=raw, dsn=dsn, subject=None, body_text=None)
    row = claimed(store)
    assert (row.is_raw, "raw" in row.content, store.raw(row_id)) == (True, False, (raw, dsn))
    insert(store.engine)
    assert not claimed(store).is_raw
    assert store.raw(0) == (None, None)


def test_attachments_of_any_size_are_read_whole(store: Store) -> None:
    row_id = insert(store.engine)
    contents = [random.Random(size).randbytes(size) for size in (0, 2 * PIECE, 1, PIECE + 1, PIECE)]
    for content in contents:
        with store.engine.begin() as connection:
            connection.execute(sa.insert(attachment).values(outbox_id=row_id, name="f", content=content))
    assert [a["content"] for a in store.attachments(row_id)] == contents


def given(engine: Engine, row_id: int) -> str:
    """The Message-ID that a row's first claim gives it."""
    with engine.connect() as connection:
        key = connection.execute(sa.select(meta.c.value).where(meta.c.name == "message_id_key")).scalar_one()
    created_at = row_of(engine, row_id).created_at.strftime(SQLITE_TIME)
    return keyed_message_id(key, row_id, created_at, "mail.example.com")


def test_a_message_id_is_fixed_at_the_first_claim_and_alike_on_every_dialect(store: Store, other: Store) -> None:
    row_id = insert(store.engine)
    first = claimed(store)
    store.hand_back([first])
    again = claimed(other)
    assert first.message_id == again.message_id == given(store.engine, row_id)
    assert re.fullmatch(r"<[0-9a-f]{32}@mail\.example\.com>", first.message_id)


def test_a_message_id_that_the_application_gave_is_kept(store: Store) -> None:
    insert(store.engine, message_id="<mine@example.com>")
    assert claimed(store).message_id == "<mine@example.com>"


def test_claim_seq_grows_at_each_claim_and_at_nothing_else(store: Store) -> None:
    row_id = insert(store.engine)
    for expected in (1, 2, 3):
        row = claimed(store)
        assert row.claim_seq == expected
        store.record([deferred(store, row, seconds=-1)]) if expected > 1 else store.hand_back([row])
        assert row_of(store.engine, row_id).claim_seq == expected


def test_the_first_attempt_is_when_it_was_first_claimed_for_good(store: Store) -> None:
    row_id = insert(store.engine)
    store.hand_back([claimed(store)])
    assert row_of(store.engine, row_id).first_attempt_at is None
    first = claimed(store)
    store.record([deferred(store, first, seconds=-1)])
    second = claimed(store)
    assert second.first_attempt_at == first.first_attempt_at == row_of(store.engine, row_id).first_attempt_at
    store.hand_back([second])
    assert row_of(store.engine, row_id).first_attempt_at == first.first_attempt_at


def test_a_row_handed_back_is_as_it_was_but_for_its_claim(store: Store) -> None:
    row_id = insert(store.engine)
    before = row_of(store.engine, row_id)
    store.hand_back([claimed(store)])
    after = row_of(store.engine, row_id)
    changed = {name for name in before._fields if getattr(before, name) != getattr(after, name)}
    assert changed == {"claim_seq", "message_id", "updated_at"}
    assert history_of(store.engine, row_id) == []


def test_handing_back_needs_the_claim_it_was_made_with(store: Store) -> None:
    row_id = insert(store.engine)
    stale = claimed(store)
    store.hand_back([stale])
    fresh = claimed(store)
    store.hand_back([stale])
    assert status_of(store.engine, row_id) == "sending"
    store.hand_back([fresh])
    assert status_of(store.engine, row_id) == "queued"


def test_a_row_that_is_locked_is_handed_back_before_a_later_claim(store: Store) -> None:
    if store.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one lock for all rows")
    stuck, free = insert(store.engine), insert(store.engine)
    rows = store.claim(Gate(limit=10))
    with locking(store.engine, stuck):
        store.hand_back(rows)
        assert (status_of(store.engine, stuck), status_of(store.engine, free)) == ("sending", "queued")
        assert [row.id for row in store.claim(Gate(limit=10))] == [free]
    assert [row.id for row in store.claim(Gate(limit=10), in_hand=[free])] == [stuck]


class ReplyLost(Exception):  # noqa: N818 - what happened
    """The claim was committed, and we never heard of it."""


class Losing(Store):
    """A store that may lose the reply to COMMIT."""

    loses = False

    def _write(self, work: Callable) -> object:  # type: ignore[type-arg]
        result = super()._write(work)
        if self.loses:
            raise ReplyLost
        return result


def test_rows_of_a_claim_that_was_never_heard_of_go_back_first(engine: Engine) -> None:
    store = Losing(engine, worker="w1", message_id_domain="mail.example.com")
    in_hand = insert(engine)
    kept = claimed(store)
    lost = insert(engine)
    store.loses = True
    with pytest.raises(ReplyLost):
        store.claim(Gate(limit=10), in_hand=[kept.id])
    assert row_of(engine, lost).claim_seq == 1
    store.loses = False
    (again,) = store.claim(Gate(limit=10), in_hand=[kept.id])
    assert (again.id, again.claim_seq) == (lost, 2)
    assert row_of(engine, in_hand).claim_seq == 1


# ---- workers


def register(store: Store, identity: str = "dir-1", lease: float = 60) -> int:
    entered = store.register(identity=identity, host="h", pid=1, version="0", lease=lease, may_be_alive=False)
    return entered.incarnation


def test_each_start_is_another_incarnation(store: Store) -> None:
    assert [register(store), register(store), register(store)] == [1, 2, 3]


def test_a_name_is_taken_while_another_with_it_is_alive(store: Store) -> None:
    register(store, "dir-1")
    with pytest.raises(NameTaken, match="w1"):
        register(store, "dir-2")


def test_a_copied_state_directory_waits_until_the_lease_of_the_original_ends(store: Store) -> None:
    register(store, "dir-1")
    with pytest.raises(NameTaken, match="this state directory is a copy"):
        store.register(identity="dir-1", host="h", pid=2, version="0", lease=60, may_be_alive=True)


def test_a_worker_is_told_how_far_its_journal_was_written_down_and_a_stranger_nothing(store: Store) -> None:
    register(store, "dir-1")
    assert store.life() == (1, 0)
    assert store.note_position(41)
    assert store.life() == (1, 41)
    again = store.register(identity="dir-1", host="h", pid=1, version="0", lease=-1, may_be_alive=False)
    assert (again.incarnation, again.applied) == (2, 41)
    other = store.register(identity="dir-2", host="h", pid=1, version="0", lease=60)
    assert (other.incarnation, other.applied) == (3, 0)
    assert store.life() == (3, 0)


def test_who_holds_rows_is_known_by_what_changes_while_they_live(store: Store, other: Store) -> None:
    register(store)
    insert(store.engine)
    claimed(store)
    first = other.holders()["w1"]
    assert store.heartbeat(identity="dir-1", incarnation=1, lease=60)
    second = other.holders()["w1"]
    assert (first[1], second[1], first[0] == second[0]) == (False, False, False)
    store.sign_off(incarnation=1)
    assert other.holders()["w1"][1]
    assert store.holders() == {}


def test_a_name_is_free_when_its_lease_has_ended_or_its_owner_signed_off(store: Store) -> None:
    register(store, "dir-1", lease=-1)
    assert register(store, "dir-2") == 2
    store.sign_off(incarnation=2)
    assert register(store, "dir-3") == 3


def test_a_heartbeat_renews_the_lease_of_its_own_incarnation_only(store: Store) -> None:
    first = register(store)
    assert store.heartbeat(identity="dir-1", incarnation=first, lease=600)
    with store.engine.connect() as connection:
        line = connection.execute(sa.select(worker)).one()
    assert 590 < (line.lease_until - store.now()).total_seconds() < 601
    second = register(store)
    assert not store.heartbeat(identity="dir-1", incarnation=first, lease=60)
    assert not store.heartbeat(identity="dir-2", incarnation=second, lease=60)
    assert store.heartbeat(identity="dir-1", incarnation=second, lease=60)


def test_rows_of_a_worker_whose_lease_has_ended_are_orphans(store: Store, other: Store) -> None:
    register(store, lease=60)
    row_id = insert(store.engine)
    claimed(store)
    assert other.own_orphans() == other.orphans_of(["w1"], takeover=0) == []
    by_hand(store.engine, "UPDATE outbox_worker SET lease_until = '2020-01-01 00:00:00'")
    (orphan,) = other.orphans_of(["w1"], takeover=900)
    assert (orphan.id, orphan.holder, orphan.status) == (row_id, "w1", "sending")


@pytest.mark.parametrize("word", ["pause", "cancel"])
def test_an_orphan_stays_one_when_an_operator_pauses_or_cancels_it(store: Store, other: Store, word: str) -> None:
    row_id = insert(store.engine)
    claimed(store)
    change(store.engine, Selection(ids=(row_id,)), word)  # type: ignore[arg-type]
    assert [row.id for row in other.orphans_of(["w1"], takeover=-1)] == [row_id]


def test_rows_of_a_worker_that_nobody_knows_are_orphans_after_the_takeover_time(store: Store, other: Store) -> None:
    row_id = insert(store.engine)
    claimed(store)
    assert other.orphans_of(["w1"], takeover=900) == []
    assert [row.id for row in other.orphans_of(["w1"], takeover=-1)] == [row_id]


def test_a_worker_finds_what_it_held_before_its_restart(store: Store) -> None:
    register(store)
    row_id = insert(store.engine)
    claimed(store)
    assert [row.id for row in store.own_orphans()] == [row_id]
    assert store.own_orphans(beside=[row_id]) == []


def test_rows_that_ended_or_wait_are_nobodys_orphans(store: Store, other: Store) -> None:
    for make in (sent, deferred, failed, doubtful):
        insert(store.engine)
        store.record([make(store, claimed(store))])
    by_hand(store.engine, "UPDATE outbox SET status = 'cancelled' WHERE status IN ('failed', 'in_doubt')")
    assert other.orphans_of(["w1"], takeover=-1) == store.own_orphans() == []


# ---- suppression


IDN, IN_ASCII = "münchen.example", "xn--mnchen-3ya.example"


@pytest.mark.parametrize("listed", [f"anna@{IDN}", f"anna@{IN_ASCII}", f"@{IDN}", f"@{IN_ASCII}"])
@pytest.mark.parametrize("domain", [IDN, IN_ASCII, "MÜNCHEN.example", "XN--Mnchen-3ya.example"])
def test_a_suppression_holds_for_each_spelling_of_a_domain(store: Store, listed: str, domain: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.insert(suppression), {"address": listed, "reason": "asked"})
    assert store.suppressed({f"Anna@{domain}", f"anna@x{domain}"}) == {("", f"Anna@{domain}"): "asked"}


@pytest.mark.parametrize("asked", [IDN, IN_ASCII])
def test_rows_are_chosen_by_each_spelling_of_a_domain(store: Store, asked: str) -> None:
    for domain in (IDN, IN_ASCII, "other.example"):
        insert(store.engine, recipients=f"anna@{domain}")
    assert count(store.engine, Selection(domain=asked), "cancel") == {"queued": 2}


def test_an_address_is_suppressed_by_itself_or_by_its_domain(store: Store) -> None:
    lines = [("a@one.example", "bounced"), ("@two.example", "closed"), ("a@two.example", "asked to")]
    with store.engine.begin() as connection:
        connection.execute(sa.insert(suppression), [{"address": a, "reason": r} for a, r in lines])
    asked = ["A@One.example", "b@one.example", "b@TWO.example", "a@two.example", "x@sub.two.example"]
    assert store.suppressed(asked) == {
        ("", "A@One.example"): "bounced",
        ("", "b@TWO.example"): "closed",
        ("", "a@two.example"): "asked to",
    }
    assert store.suppressed([]) == {}


# ---- rows that are hard to read


def test_one_row_that_is_hard_to_read_does_not_stop_a_claim(store: Store, kind: str) -> None:
    deep = '{"a":' * 1500 + "1" + "}" * 1500
    statements = {
        "postgresql": f"""INSERT INTO outbox (recipients, template, context) VALUES ('a@b.c', 't', '{deep}')""",
        "sqlite": "INSERT INTO outbox (recipients, body_text) VALUES ('a@b.c', CAST(x'4772fcdf65' AS TEXT))",
        "mariadb": "INSERT INTO outbox (recipients, body_text, created_at) VALUES ('a@b.c', '', '1000-01-01')",
    }
    with store.engine.begin() as connection:
        connection.exec_driver_sql(statements[kind])
    good = insert(store.engine)
    assert [row.id for row in store.claim(Gate(limit=10))][1:] == [good]


def test_two_stores_of_one_outbox_share_the_secret_behind_message_ids(engine: Engine) -> None:
    rows = [insert(engine), insert(engine)]
    first, second = store_for(engine, "w1"), store_for(engine, "w2")
    ids = [first.claim(Gate(limit=1))[0].message_id, second.claim(Gate(limit=1))[0].message_id]
    assert ids == [given(engine, row_id) for row_id in rows]
