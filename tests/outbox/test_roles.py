"""The roles: an application inserts and sees its state, a reader sees no body, the poller does its work and no DDL."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.ground import deferred, insert, roles_sql, sent, store_for
from outbox.test_schema import VIEWS as ALL_VIEWS
from sqlalchemy.exc import DBAPIError

from poller.judgement.keeping import Kept
from poller.outbox.content import content_of
from poller.outbox.database import connect
from poller.outbox.enqueue import APPLICATION_COLUMNS, enqueue_alone
from poller.outbox.migrate import require_current
from poller.outbox.operate import Selection, change
from poller.outbox.report import overview, story
from poller.outbox.retention import purge
from poller.outbox.settings import RetentionSettings
from poller.outbox.throttling import Throttles
from poller.pacing.gate import Choice, Gate, Grant, ScopeKey, Share
from poller.pacing.limits import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings

VIEWS = ALL_VIEWS - {"outbox_unsubscribed"}
"""What a reader may read: that one is each application's own."""

pytestmark = pytest.mark.parametrize("kind", ["postgresql", "mariadb"])


def may(engine: Engine, statement: str) -> bool:
    """Whether the statement is allowed. Any error but a lack of rights is raised."""
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if re.search(r"denied|must be owner", str(error.orig)):
            return False
        raise
    return True


def test_an_application_inserts_and_reads_its_state_and_nothing_else(login: Callable[[str], Engine]) -> None:
    app = login("outbox_app")
    files = [{"name": "a.pdf", "content": b"x"}]
    row_id = enqueue_alone(app, recipients="a@example.com", body_text="Hello", attachments=files)
    with app.connect() as connection:
        state = connection.execute(sa.text(f"SELECT status FROM outbox_state WHERE id = {row_id}")).scalar()
    assert state == "queued"
    for statement in (
        "INSERT INTO outbox (recipients, body_text, status) VALUES ('a@b.c', 'x', 'paused')",
        "INSERT INTO outbox (recipients, body_text, attempts) VALUES ('a@b.c', 'x', 1)",
        "UPDATE outbox SET priority = 0",
        "DELETE FROM outbox",
        "SELECT recipients FROM outbox",
        "SELECT body_text FROM outbox",
        "SELECT content FROM outbox_attachment",
        "SELECT sha256 FROM outbox_content",
        "INSERT INTO outbox_content (outbox_id, kept_at) VALUES (1, '2026-01-01 00:00:00')",
        "SELECT * FROM outbox_meta",
        "SELECT * FROM outbox_worker",
        "SELECT * FROM outbox_failed_today",
        "INSERT INTO outbox_suppression (address) VALUES ('a@b.c')",
        "DROP TABLE outbox_attempt",
    ):
        assert not may(app, statement), statement


def test_an_application_may_insert_just_what_enqueue_takes(kind: str) -> None:
    granted = re.search(r"GRANT INSERT \(([^)]*)\)(?:,\s+SELECT \(id\))?\s+ON outbox TO", roles_sql(kind))
    assert granted is not None
    assert tuple(name.strip() for name in granted[1].split(",")) == APPLICATION_COLUMNS


@pytest.mark.parametrize("role", ["outbox_app", "outbox_reader"])
def test_nobody_who_only_reads_has_a_handler_or_a_lock(
    login: Callable[[str], Engine], database: DatabaseSettings, kind: str, role: str
) -> None:
    owner = connect(database)
    insert(owner, body_text="private")
    engine = login(role)
    tables = ("outbox", "outbox_attachment", "outbox_recipient", "outbox_worker", "outbox_throttle", "outbox_meta")
    for table in tables:
        assert not may(engine, f"SELECT 1 FROM {table} FOR UPDATE"), table
        if kind == "mariadb":
            assert not may(engine, f"HANDLER {table} OPEN"), table
            assert not may(engine, f"LOCK TABLES {table} READ"), table
        else:
            assert not may(engine, f"LOCK TABLE {table} IN EXCLUSIVE MODE"), table
    views = ["outbox_state"] if role == "outbox_app" else sorted(VIEWS)
    with engine.connect() as reading, owner.connect() as other:
        for view in views if kind == "mariadb" else ():
            reading.exec_driver_sql(f"SELECT * FROM {view} FOR UPDATE").all()
            reading.exec_driver_sql(f"SELECT * FROM {view} LOCK IN SHARE MODE").all()
        for table in ("outbox", "outbox_worker", "outbox_throttle"):
            free = other.exec_driver_sql(f"SELECT COUNT(*) FROM (SELECT 1 FROM {table} FOR UPDATE SKIP LOCKED) AS s")
            assert free.scalar() == (1 if table == "outbox" else 0), table
        other.rollback()
        reading.rollback()
    owner.dispose()


def test_a_reader_sees_everything_but_contents_and_secrets(login: Callable[[str], Engine]) -> None:
    reader = login("outbox_reader")
    for statement in (
        "SELECT id, status, recipients, subject, error FROM outbox_rows",
        *(f"SELECT * FROM {view}" for view in sorted(VIEWS)),
    ):
        assert may(reader, statement), statement
    for statement in (
        "SELECT body_text FROM outbox",
        "SELECT body_html FROM outbox",
        "SELECT context FROM outbox",
        "SELECT * FROM outbox",
        "SELECT content FROM outbox_attachment",
        "SELECT outbox_id FROM outbox_content",
        "SELECT * FROM outbox_meta",
        "UPDATE outbox SET priority = 0",
        "INSERT INTO outbox (recipients, body_text) VALUES ('a@b.c', 'x')",
    ):
        assert not may(reader, statement), statement


def work_of_the_poller(engine: Engine) -> None:
    """Each kind of statement that a worker and its commands use, once."""
    require_current(engine)
    store = store_for(engine, "w1")
    incarnation = store.register(identity="d", host="h", pid=1, version="0", lease=60).incarnation
    assert store.heartbeat(identity="d", incarnation=incarnation, lease=60)
    ids = [enqueue_alone(engine, recipients="a@example.com", body_text="Hello") for _ in range(3)]
    rows = store.claim(Gate(limit=10))
    kept = Kept(rendered=b"x", made_of="0" * 64, sha256="0" * 64, message=b"x")
    done = [sent(store, rows[0]), deferred(store, rows[1])]
    written = store.record([replace(done[0], keep=kept), replace(done[1], keep=kept)]).written
    assert content_of(engine, ids[0]) is not None
    purge(engine, RetentionSettings(kept=0.001), wait=lambda _: None)
    store.hand_back(rows[2:])
    assert written == set(ids[:2])
    scope, paced = ScopeKey("relay", "smtp"), Gate(limit=1, scopes=(ScopeKey("relay", "smtp"),))
    (row,) = store.claim(paced, lambda found, *_: Choice(grants={found[0].id: Grant(scopes=(Share(scope),))}))
    store.hand_back([row])
    throttles = Throttles(engine, worker="w1")
    throttles.announce({scope: "10/m"})
    throttles.change(scope, lambda *_: Scope(reason="slow down"))
    assert (throttles.learn(scope, "session_limit", 5), throttles.connect("smtp", 1)) == (5, True)
    throttles.disconnect("smtp")
    throttles.announce({})
    assert list(throttles.read()) == [scope]
    assert store.own_orphans() == []
    assert store.attachments(ids[0]) == []
    assert store.suppressed(["a@example.com"]) == {}
    assert change(engine, Selection(ids=(ids[2],)), "cancel").rows == 1
    assert story(engine, ids[0]) is not None
    assert overview(engine).by_status == {"sent": 1, "queued": 1, "cancelled": 1}
    store.sign_off(incarnation=incarnation)


def test_the_poller_does_its_work_and_no_ddl(login: Callable[[str], Engine]) -> None:
    engine = login("outbox_poller")
    work_of_the_poller(engine)
    for statement in (
        "DROP TABLE outbox_attempt",
        "ALTER TABLE outbox ADD COLUMN x int",
        "CREATE INDEX x ON outbox (id)",
        "UPDATE outbox_attempt SET outcome = 'x'",
    ):
        assert not may(engine, statement), statement
