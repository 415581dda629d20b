"""What waits under a key is cancelled or replaced by who wrote it; what is sent, in hand or another's stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import by_hand, insert, row_of, sent, store_for

import poller
from poller.outbox.database import connect
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

OUTBOX = poller.Outbox()


@pytest.fixture(params=["owner", "outbox_app"])
def engine(request: pytest.FixtureRequest, database: DatabaseSettings, kind: str) -> Iterator[Engine]:
    """An application's engine: with all rights, and with those of its role."""
    if request.param == "owner":
        made = connect(database)
    elif kind == "sqlite":
        pytest.skip("SQLite has no roles")
    else:
        made = request.getfixturevalue("login")("outbox_app")
    yield made
    made.dispose()


@pytest.fixture
def owner(database: DatabaseSettings) -> Iterator[Engine]:
    made = connect(database)
    yield made
    made.dispose()


def mail(subject: str, **columns: Any) -> poller.Mail:
    return poller.Mail(recipients="a@example.com", subject=subject, body_text="Hi", dedupe_key="order-1", **columns)


def add(engine: Engine, given: poller.Mail) -> int:
    with engine.begin() as connection:
        return OUTBOX.add(connection, given)


def test_a_mail_that_waits_is_cancelled_and_tells_so(engine: Engine, owner: Engine) -> None:
    row_id = add(engine, mail("Hi"))
    with engine.begin() as connection:
        assert OUTBOX.status(connection, "order-1") == OUTBOX.status_of(connection, row_id)
        assert OUTBOX.cancel(connection, "order-1")
        assert OUTBOX.cancel(connection, "order-1")
        told = OUTBOX.status(connection, "order-1")
    row = row_of(owner, row_id)
    assert told is not None
    assert (told.id, told.status, told.error, told.finished_at) == (row_id, row.status, row.error, row.finished_at)
    assert (told.has_ended, row.status, row.error) == (True, "cancelled", "cancelled by the application")
    assert row.finished_at is not None


def test_a_cancelled_transaction_cancels_nothing(engine: Engine, owner: Engine) -> None:
    row_id = add(engine, mail("Hi"))
    with engine.connect() as connection:
        assert OUTBOX.cancel(connection, "order-1")
        connection.rollback()
    assert row_of(owner, row_id).status == "queued"


def test_a_mail_that_waits_is_replaced_and_its_story_stays(engine: Engine, owner: Engine) -> None:
    first = add(engine, mail("old"))
    with engine.begin() as connection:
        second = OUTBOX.replace(connection, mail("new", priority=0))
    was, is_now = row_of(owner, first), row_of(owner, second)
    assert (was.status, was.dedupe_key, was.error) == ("cancelled", None, "replaced by the application")
    assert (is_now.status, is_now.dedupe_key, is_now.subject, is_now.priority) == ("queued", "order-1", "new", 0)


def test_what_replaces_nothing_is_added(engine: Engine, owner: Engine) -> None:
    with engine.begin() as connection:
        row_id = OUTBOX.replace(connection, mail("new"))
    assert row_of(owner, row_id).subject == "new"


def test_what_a_worker_has_or_had_stays_as_it_is(engine: Engine, owner: Engine) -> None:
    row_id = add(engine, mail("Hi"))
    store = store_for(owner, "w1")
    (claimed,) = store.claim(Gate(limit=1))
    for status in ("sending", "sent"):
        if status == "sent":
            store.record([sent(store, claimed)])
        with engine.begin() as connection:
            assert not OUTBOX.cancel(connection, "order-1")
            with pytest.raises(poller.TooLate, match=f"^dedupe_key 'order-1': row {row_id} is {status}, and can't"):
                OUTBOX.replace(connection, mail("new"))
        assert row_of(owner, row_id).status == status


def test_what_somebody_may_have_is_not_replaced(engine: Engine, owner: Engine) -> None:
    row_id = add(engine, mail("Hi"))
    by_hand(owner, "UPDATE outbox SET doubts = 1")
    with engine.begin() as connection, pytest.raises(poller.TooLate, match="may have been delivered to somebody"):
        OUTBOX.replace(connection, mail("new"))
    by_hand(owner, "UPDATE outbox SET doubts = 0")
    by_hand(
        owner,
        "INSERT INTO outbox_recipient (outbox_id, address, status, sent_at, updated_at)"
        f" VALUES ({row_id}, 'b@example.com', 'sent', '2026-11-22 12:00:00.000000', '2026-11-22 12:00:00.000000')",
    )
    with engine.begin() as connection, pytest.raises(poller.TooLate, match="may have been delivered to somebody"):
        OUTBOX.replace(connection, mail("new"))
    assert row_of(owner, row_id).status == "queued"


def test_of_no_key_nothing_is_told(engine: Engine) -> None:
    with engine.begin() as connection:
        assert OUTBOX.status(connection, "order-2") is None
        assert OUTBOX.status_of(connection, 99) is None
        assert not OUTBOX.cancel(connection, "order-2")
        with pytest.raises(poller.Unsendable, match="dedupe_key: there is none; what is to be replaced is found by it"):
            OUTBOX.replace(connection, poller.Mail(recipients="a@example.com", body_text="Hi"))


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_another_applications_row_is_neither_found_nor_changed(
    login: Callable[[str], Engine], owner: Engine, kind: str
) -> None:
    first, second = login("outbox_app"), login("outbox_app")
    row_id = add(first, mail("first"))
    mine = row_of(owner, row_id)
    for work in (
        lambda c: OUTBOX.status(c, "order-1") is None,
        lambda c: OUTBOX.status_of(c, row_id) is None,
        lambda c: OUTBOX.cancel(c, "order-1") is False,
    ):
        with second.begin() as connection:
            assert work(connection)
    for refused in (poller.Duplicate, poller.TooLate):
        call = OUTBOX.add if refused is poller.Duplicate else OUTBOX.replace
        with second.begin() as connection, pytest.raises(refused, match="another application") as caught:
            call(connection, mail("second"))
        assert caught.value.id is None  # type: ignore[attr-defined] # both have it
    for name in ("outbox_cancel", "outbox_replace"):
        run = "SELECT {}('order-1')" if kind == "postgresql" else "CALL {}('order-1')"
        with second.begin() as connection:
            connection.exec_driver_sql(run.format(name))
    assert row_of(owner, row_id) == mine


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_key_that_was_taken_since_our_snapshot_is_found_all_the_same(engine: Engine, owner: Engine) -> None:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        assert OUTBOX.status(connection, "order-1") is None  # the snapshot is taken
        other = connect_again(engine)
        row_id = add(other, mail("Hi"))
        other.dispose()
        assert OUTBOX.add(connection, mail("Hi"), on_duplicate="existing") == row_id
        connection.rollback()
    insert(owner)


def connect_again(engine: Engine) -> Engine:
    return sa.create_engine(engine.url)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
@pytest.mark.parametrize("role", ["outbox_reader"])
def test_a_reader_cancels_nothing(login: Callable[[str], Engine], owner: Engine, kind: str, role: str) -> None:
    row_id = add(owner, mail("Hi"))
    run = "SELECT outbox_cancel('order-1')" if kind == "postgresql" else "CALL outbox_cancel('order-1')"
    reader = login(role)
    with pytest.raises(sa.exc.DBAPIError, match="denied"), reader.begin() as connection:
        connection.exec_driver_sql(run)
    assert row_of(owner, row_id).status == "queued"


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_worker_passes_by_what_is_being_cancelled(engine: Engine, owner: Engine) -> None:
    row_id = add(engine, mail("Hi"))
    store = store_for(owner, "w1")
    with engine.begin() as connection:
        assert OUTBOX.cancel(connection, "order-1")
        assert store.claim(Gate(limit=1)) == []
    assert store.claim(Gate(limit=1)) == []
    assert row_of(owner, row_id).status == "cancelled"


def test_an_applications_rights_are_enough_for_every_call(engine: Engine, owner: Engine) -> None:
    files = (poller.Attachment(name="a.pdf", content=b"%PDF\0"),)
    with engine.begin() as connection:
        first = OUTBOX.add(connection, mail("1", attachments=files))
        assert OUTBOX.add(connection, mail("1"), on_duplicate="existing") == first
        others = [
            poller.Mail(recipients="a@example.com", body_text="Hi", attachments=files * (n % 2)) for n in range(4)
        ]
        ids = OUTBOX.add_many_ids(connection, others)
        assert OUTBOX.add_many(connection, others) == OUTBOX.add_many(connection, others[:1]) + 3
        assert OUTBOX.add_many(connection, [mail("again"), mail("again")], on_duplicate="existing") == 0
        assert [OUTBOX.status_of(connection, row_id) is not None for row_id in ids] == [True] * 4
    with owner.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM outbox").scalar_one() == 10
