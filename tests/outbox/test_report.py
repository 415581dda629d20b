"""What people ask of an outbox: the numbers add up, times are UTC, and one row's story is whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa
from outbox.ground import STATUSES, by_hand, claimed, deferred, insert, row_of, row_with, sent

from poller.outbox.doubts import doubts
from poller.outbox.enqueue import enqueue_alone
from poller.outbox.facts import about
from poller.outbox.guard import stranger
from poller.outbox.operate import pause_all
from poller.outbox.report import glance, knows_its_home, open_rows, overview, silent, story
from poller.outbox.tables import outbox, throttle
from poller.outbox.waiting import (
    MOST_GROUPS,
    Sides,
    WaitingRows,
    domains_waiting,
    has_batch,
    rows_before,
    speed,
    throttles,
    waiting_rows,
)
from poller.pacing import Scope, as_row, paused
from poller.pacing.gate import ScopeKey

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poller.outbox.store import Store

BOTH = "a@example.com, b@example.com"
AT_TEN = "2020-01-01 10:00:00"


def view(engine: Engine, name: str) -> list[dict[str, object]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}")).mappings()]


def fill(store: Store) -> dict[str, int]:
    """A row in each status, of one batch."""
    order = ("sending", *(s for s in STATUSES if s not in {"queued", "sending"}), "queued")
    return {status: row_with(store, status, recipients=BOTH, batch="all") for status in order}


def test_an_empty_outbox_is_all_done(engine: Engine) -> None:
    found = overview(engine)
    assert (found.by_status, found.due, found.next_due_at, found.paused) == ({}, 0, None, None)
    assert found.percent_done() == 100.0


def test_the_overview_counts_every_status_and_tells_times_in_utc(store: Store) -> None:
    fill(store)
    pause_all(store.engine, "why")
    store.register(identity="d", host="h", pid=1, version="0", lease=60)
    found = overview(store.engine)
    assert found.by_status == dict.fromkeys(STATUSES, 1)
    assert (found.due, found.retrying, found.paused) == (1, 0, "why")
    assert (found.sent_last_minute, found.sent_last_hour) == (2, 2)
    assert found.percent_done() == 60.0
    assert abs((found.at - datetime.now(UTC)).total_seconds()) < 60
    assert [w["name"] for w in found.workers] == ["w1"]
    (batch,) = found.batches
    assert (batch["messages"], batch["open"], batch["sent"], batch["not_sent"], batch["held"]) == (10, 2, 1, 5, 2)
    assert float(batch["percent_done"]) == 60.0
    moments = [found.next_due_at, batch["first_attempt_at"], batch["last_finished_at"], found.workers[0]["lease_until"]]
    moments += [failure["finished_at"] for failure in found.failures]
    assert {moment.utcoffset() for moment in moments} == {timedelta(0)}


def test_failures_of_today_name_each_recipient_that_did_not_get_it(store: Store) -> None:
    ids = fill(store)
    found = {f["id"]: (f["status"], f["address"], f["reply_code"]) for f in overview(store.engine).failures}
    assert found == {
        ids["failed"]: ("failed", None, 550),
        ids["partial"]: ("partial", "b@example.com", 550),
        ids["expired"]: ("expired", None, None),
        ids["suppressed"]: ("suppressed", None, None),
    }


def test_failures_of_yesterday_are_not_of_today(store: Store) -> None:
    row_with(store, "failed")
    by_hand(store.engine, f"UPDATE outbox SET finished_at = '{AT_TEN}'")
    assert overview(store.engine).failures == ()


def test_open_rows_are_those_due_and_if_asked_those_in_hand_or_waiting_for_a_retry(store: Store) -> None:
    insert(store.engine)
    store.record([deferred(store, claimed(store))])
    insert(store.engine, due_at=store.now() + timedelta(days=1))
    row_with(store, "sending")
    insert(store.engine)
    assert (open_rows(store.engine, retries=False), open_rows(store.engine, retries=True)) == (1, 3)


def test_what_does_not_move_stands_in_outbox_stuck(store: Store) -> None:
    ids = fill(store)
    late = insert(store.engine, due_at=datetime(2020, 1, 1, tzinfo=UTC), batch="of its own")
    stuck = {line["id"]: str(line["why"]) for line in view(store.engine, "outbox_stuck")}
    assert set(stuck) == {ids["sending"], ids["in_doubt"], ids["paused"], late}
    assert "poller resolve" in stuck[ids["in_doubt"]]
    store.register(identity="d", host="h", pid=1, version="0", lease=60)
    assert ids["sending"] not in {line["id"] for line in view(store.engine, "outbox_stuck")}


def test_a_campaign_that_is_paced_is_not_stuck_while_some_of_it_goes(store: Store) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    insert(store.engine, batch="news", due_at=long_ago)
    store.record([sent(store, claimed(store))])
    first = insert(store.engine, batch="news", due_at=long_ago)
    insert(store.engine, batch="news", due_at=long_ago)
    assert view(store.engine, "outbox_stuck") == []
    hour = {"postgresql": "interval '1 hour'", "mysql": "INTERVAL 1 HOUR"}.get(store.engine.dialect.name)
    an_hour_ago = f"finished_at - {hour}" if hour else "strftime('%Y-%m-%d %H:%M:%f000', finished_at, '-1 hour')"
    by_hand(store.engine, f"UPDATE outbox SET finished_at = {an_hour_ago} WHERE finished_at IS NOT NULL")
    said = f"due for more than 15 minutes: 2; none was sent since then; poller explain {first}"
    assert [(line["id"], line["why"]) for line in view(store.engine, "outbox_stuck")] == [
        (first, f"rows of this batch, template and sender {said}")
    ]


def test_a_worker_that_misses_three_heartbeats_is_silent_to_everybody_and_keeps_its_rows(store: Store) -> None:
    store.register(identity="d", host="h", pid=1, version="0", lease=900, beat=10)
    (alive,) = glance(store.engine).workers
    assert alive["state"] == "alive"
    assert 29 < (alive["silent_from"] - alive["heartbeat_at"]).total_seconds() < 31
    held = row_with(store, "sending")
    assert view(store.engine, "outbox_stuck") == []
    store.heartbeat(identity="d", incarnation=1, lease=900, beat=-1)
    (gone,) = glance(store.engine).workers
    said = f"w1 is silent since {gone['heartbeat_at']:%Y-%m-%d %H:%M:%S} UTC"
    assert (gone["state"], silent([gone])) == ("silent", said)
    assert glance(store.engine).nobody == f"no worker is alive ({said}); start one with: poller run"
    assert [(line["id"], line["why"]) for line in view(store.engine, "outbox_stuck")] == [
        (held, "its worker is silent; taken over when its lease ends")
    ]
    store.sign_off(incarnation=1)
    assert [worker["state"] for worker in glance(store.engine).workers] == ["stopped"]


def test_outbox_now_and_outbox_domains_count(store: Store) -> None:
    fill(store)
    now = {line["status"]: (line["messages"], line["due"]) for line in view(store.engine, "outbox_now")}
    assert now == {status: (1, int(status == "queued")) for status in STATUSES}
    (domain,) = view(store.engine, "outbox_domains")
    assert domain == {
        "domain": "example.com",
        "queued": 1,
        "retrying": 0,
        "sending": 1,
        "sent": 1,
        "failed": 2,
        "in_doubt": 1,
    }


def test_an_application_reads_the_state_of_its_rows_without_bodies(store: Store) -> None:
    ids = fill(store)
    states = {line["id"]: line["status"] for line in view(store.engine, "outbox_state")}
    assert states == {row_id: status for status, row_id in ids.items()}


def test_a_rows_story_is_whole(store: Store) -> None:
    row_id = row_with(store, "partial", recipients=BOTH)
    files = [{"name": "b.pdf", "content": b"12345"}, {"name": "a.png", "content": b"1", "content_id": "logo"}]
    other = enqueue_alone(store.engine, recipients="a@b.c", body_text="x", attachments=files)
    found = story(store.engine, row_id)
    assert found is not None
    assert found.row == row_of(store.engine, row_id)._asdict()
    assert [(r["address"], r["status"]) for r in found.recipients] == [
        ("a@example.com", "sent"),
        ("b@example.com", "failed"),
    ]
    assert [(a["outcome"], a["recipient"]) for a in found.attempts] == [("failed", "b@example.com")]
    beside = story(store.engine, other)
    assert beside is not None
    assert [(a["name"], a["content_id"], a["size"]) for a in beside.attachments] == [
        ("b.pdf", None, 5),
        ("a.png", "logo", 1),
    ]
    assert story(store.engine, 0) is None


def test_a_doubt_names_its_worker_its_message_id_and_when(store: Store) -> None:
    row_id = row_with(store, "in_doubt")
    row = row_of(store.engine, row_id)
    (doubt,) = doubts(store.engine)
    assert (doubt.id, doubt.recipients, doubt.doubts, doubt.error) == (row_id, "a@example.com", 1, "line lost")
    assert (doubt.worker, doubt.message_id, doubt.at) == ("w1", row.message_id, row.updated_at)


def test_the_facts_of_a_database_say_what_it_is(store: Store, kind: str) -> None:
    found = about(store.engine)
    assert found.server.lower().startswith(kind)
    assert (found.trouble, found.pending, found.paused) == ("", (), None)


# ---- pacing


def groups_of(found: list[WaitingRows]) -> dict[tuple[str | None, str | None], list[int]]:
    by: dict[tuple[str | None, str | None], list[int]] = {}
    for group in found:
        by.setdefault((group.domain, group.relay), []).append(group.messages)
    return by


def test_what_waits_is_counted_by_domain_relay_and_hour(store: Store) -> None:
    now = store.now()
    for domain, relay, minutes in (
        ("a.example", None, -60),
        ("a.example", None, -1),
        ("a.example", "fast", -1),
        ("b.example", None, 90),
        ("b.example", None, 100),
        ("b.example", None, 200),
        ("b.example", None, 60 * 24 * 30),
        ("b.example", None, 60 * 24 * 60),
    ):
        insert(store.engine, recipients=f"x@{domain}", relay=relay, due_at=now + timedelta(minutes=minutes))
    row_with(store, "paused")
    assert sorted(domains_waiting(store.engine)) == ["a.example", "b.example"]
    found = waiting_rows(store.engine, Sides(domains=True, lanes=True))
    assert {key: sorted(counts) for key, counts in groups_of(found).items()} == {
        ("a.example", None): [2],
        ("a.example", "fast"): [1],
        ("b.example", None): [1, 2, 2],
    }
    (pair,) = [group for group in found if group.last_due and group.last_due == now + timedelta(minutes=100)]
    assert pair.first_due == now + timedelta(minutes=90)
    assert {group.sender for group in found} == {None}


def test_senders_recipients_and_a_batch_are_looked_at_when_asked_for(store: Store) -> None:
    insert(store.engine, recipients="a@x.example, b@x.example", cc="c@y.example", sender="S <s@z.example>", batch="one")
    insert(store.engine, recipients="a@x.example", batch="two")
    (group,) = waiting_rows(store.engine, Sides(domains=True, lanes=True, recipients=True), "one")
    assert (group.domain, group.sender, group.messages, group.recipients) == ("x.example", "s@z.example", 1, 3)
    assert [has_batch(store.engine, name) for name in ("one", "three")] == [True, False]
    assert waiting_rows(store.engine, Sides(), "three") == []


def test_what_is_written_down_about_scopes_is_read_as_it_stands(engine: Engine) -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    row = {"kind": "provider", "name": "google", "session_limit": 50, "limits": "30/m"}
    with engine.begin() as connection:
        connection.execute(sa.insert(throttle).values({**row, **as_row(paused(Scope(), until, "busy"))}))
    ((key, record),) = throttles(engine).items()
    assert (key, record.limits, record.session_limit) == (ScopeKey("provider", "google"), "30/m", 50)
    assert (record.values["paused_until"], record.values["reason"], record.values["pace"]) == (until, "busy", 1.0)


def test_the_speed_is_that_of_the_fastest_run_and_unknown_without_one(store: Store) -> None:
    assert speed(store.engine) is None
    for _ in range(25):
        row_with(store, "sent")
    assert speed(store.engine) is not None
    start = store.now() - timedelta(hours=1)
    for number, row_id in enumerate(sorted(row["id"] for row in view(store.engine, "outbox_state"))):
        at = start + timedelta(seconds=2 * number + (600 if number > 22 else 0))
        with store.engine.begin() as connection:
            connection.execute(sa.update(outbox).where(outbox.c.id == row_id).values(sent_at=at))
    assert speed(store.engine) == 0.5


def test_who_goes_before_a_row_is_by_priority_then_due_time_then_id(store: Store) -> None:
    now = store.now()
    early = insert(store.engine, due_at=now - timedelta(minutes=2))
    insert(store.engine, recipients="x@b.example", due_at=now - timedelta(minutes=2))
    row = insert(store.engine, due_at=now - timedelta(minutes=1))
    insert(store.engine, due_at=now - timedelta(minutes=9), priority=9)
    insert(store.engine, priority=0, due_at=now + timedelta(hours=1))
    insert(store.engine, priority=0)
    told = row_of(store.engine, row)._mapping
    assert (rows_before(store.engine, told), rows_before(store.engine, told, ["example.com"])) == (3, 2)
    assert rows_before(store.engine, row_of(store.engine, early)._mapping, ["b.example"]) == 0


def test_asking_whether_an_outbox_knows_its_home_does_not_give_it_one(engine: Engine) -> None:
    assert not knows_its_home(engine)
    assert not knows_its_home(engine)
    stranger(engine, "here")
    assert knows_its_home(engine)


def test_more_destinations_than_are_listed_are_counted_all_the_same(store: Store) -> None:
    rows = [
        {"recipients": f"x@d{number}.example", "subject": "Hi", "body_text": "x"} for number in range(MOST_GROUPS + 5)
    ]
    with store.engine.begin() as connection:
        connection.execute(sa.insert(outbox), rows)
    found = waiting_rows(store.engine, Sides(domains=True))
    assert (len(found), sum(group.messages for group in found)) == (MOST_GROUPS + 1, MOST_GROUPS + 5)
    assert (found[-1].domain, found[-1].messages) == (None, 5)
