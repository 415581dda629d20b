"""The suppression list: by address, domain and list, each line for itself; what applications enter, and what ends."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest
import sqlalchemy as sa
from outbox.ground import by_hand
from outbox.test_schema import refused
from sqlalchemy.exc import DBAPIError

import poller
from poller.outbox.database import connect, transaction
from poller.outbox.retention import purge
from poller.outbox.settings import RetentionSettings
from poller.outbox.suppression import enter, lines, remove, suppressed
from poller.outbox.tables import suppression
from poller.unsubscribe import keys_of, sign

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

    from poller.outbox.settings import DatabaseSettings
    from poller.outbox.store import Store

ANNA = "anna@example.com"
PAST, FUTURE = timedelta(seconds=-1), timedelta(days=1)


def given(engine: Engine, address: str, *, holds: timedelta | None = None, **more: str) -> None:
    """A line as bounce handling or an operator would enter it."""
    end = None if holds is None else lambda now: now + holds
    enter(engine, address, end=end, **more)  # type: ignore[arg-type]


def left(engine: Engine, address: str, list_name: str = "") -> None:
    """Somebody's unsubscription, as an application enters it."""
    transaction(engine, lambda c: poller.suppress(c, address, list_name=list_name))


def test_lists_and_ends_are_honoured(store: Store) -> None:
    given(store.engine, ANNA, list_name="news", reason="asked to")
    given(store.engine, "bob@example.com", holds=PAST, reason="over")
    given(store.engine, "carl@example.com", holds=FUTURE, reason="bounced")
    given(store.engine, "@example.org", list_name="news")
    asked = [ANNA, "bob@example.com", "Carl@Example.com", "dora@example.org"]
    assert store.suppressed(asked) == {
        ("news", ANNA): "asked to",
        ("", "Carl@Example.com"): "bounced",
        ("news", "dora@example.org"): "",
    }


def test_each_line_counts_by_itself(store: Store) -> None:
    given(store.engine, ANNA, list_name="news", source="bounce", holds=PAST)
    assert store.suppressed([ANNA]) == {}
    left(store.engine, ANNA, "news")
    left(store.engine, ANNA.upper(), "news")
    assert store.suppressed([ANNA]) == {("news", ANNA): "unsubscribed"}
    assert [line.source for line in lines(store.engine, address=ANNA)] == ["bounce", "unsubscribe"]


def test_an_unsubscription_is_told_before_a_bounce(store: Store) -> None:
    given(store.engine, ANNA, source="bounce", reason="no such user")
    left(store.engine, ANNA)
    assert store.suppressed([ANNA]) == {("", ANNA): "unsubscribed"}


def test_what_is_entered_twice_is_changed_by_operators(engine: Engine) -> None:
    given(engine, ANNA, reason="first", holds=FUTURE)
    given(engine, ANNA, reason="second")
    (line,) = lines(engine)
    assert (line.reason, line.expires_at, line.has_ended) == ("second", None, False)


def test_anyone_who_subscribes_again_is_written_to_again(store: Store) -> None:
    for list_name in ("news", "offers"):
        left(store.engine, ANNA, list_name)
    assert transaction(store.engine, lambda c: poller.unsuppress(c, ANNA.title(), list_name="news")) == 1
    assert transaction(store.engine, lambda c: poller.unsuppress(c, ANNA, list_name="news")) == 0
    assert store.suppressed([ANNA]) == {("offers", ANNA): "unsubscribed"}


def test_an_application_takes_no_operators_line_away(store: Store) -> None:
    given(store.engine, ANNA, list_name="news", reason="by hand")
    assert transaction(store.engine, lambda c: poller.unsuppress(c, ANNA, list_name="news")) == 0
    assert store.suppressed([ANNA]) == {("news", ANNA): "by hand"}


@pytest.mark.parametrize("address", ["", "anna", "@example.com", "Anna <anna@example.com>", "a@b.c, d@e.f", "a@"])
def test_an_application_enters_single_addresses(engine: Engine, address: str) -> None:
    with engine.connect() as connection, pytest.raises(ValueError, match="not an address"):
        poller.suppress(connection, address)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_two_who_enter_the_same_at_once_are_both_right(engine: Engine) -> None:
    other = sa.create_engine(engine.url)  # an application's own, with the isolation that the server has by default
    done = threading.Event()

    def second() -> None:
        with other.begin() as connection:
            connection.execute(sa.text("SELECT count(*) FROM outbox_unsubscribed"))  # what it sees is fixed from here
            started.set()
            poller.suppress(connection, ANNA)
            connection.execute(sa.text("SELECT 1"))  # its transaction goes on
        done.set()

    started = threading.Event()
    thread = threading.Thread(target=second)
    with engine.begin() as first:
        poller.suppress(first, ANNA)
        thread.start()
        started.wait(10)
    thread.join(10)
    other.dispose()
    assert done.is_set()
    assert len(lines(engine)) == 1


def test_entering_does_not_commit(engine: Engine) -> None:
    for address in (ANNA, "bob@example.com"):
        with engine.connect() as connection:
            poller.suppress(connection, address)
            poller.suppress(connection, address)
            connection.rollback()
    assert lines(engine) == []


def test_an_address_that_the_database_does_not_take_is_an_error_and_is_not_lost_in_silence(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError):
        poller.suppress(connection, "a@b.c", source="bounce")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "values", "rule"),
    [
        ("address, source", "'a@b.c', 'whim'", "outbox_suppression_source_is_known"),
        ("address, source, expires_at", "'a@b.c', 'unsubscribe', '2099-01-01 00:00:00'", "unsubscribe_has_no_end"),
        ("address, expires_at", "'a@b.c', '0999-01-01 00:00:00'", "outbox_suppression_expires_at_is_a_time"),
    ],
)
def test_the_database_refuses_what_is_not_true(engine: Engine, columns: str, values: str, rule: str) -> None:
    assert rule in refused(engine, f"INSERT INTO outbox_suppression ({columns}) VALUES ({values})")


@pytest.mark.parametrize("values", ["'@example.com', 'unsubscribe'", "'a@b.c', 'operator'", "'a@b.c', 'bounce'"])
def test_the_view_of_applications_takes_no_domain_and_no_foreign_source(engine: Engine, values: str) -> None:
    statement = f"INSERT INTO outbox_unsubscribed (address, source) VALUES ({values})"
    assert "outbox_unsubscribed" in refused(engine, statement)
    assert "outbox_unsubscribed" in refused(
        engine, statement.replace("source)", "list, source)").replace(", '", ", 'news', '")
    )


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_application_sees_and_changes_only_what_it_has_entered_itself(
    login: Callable[[str], Engine], database: DatabaseSettings
) -> None:
    one, two, owner = login("outbox_app"), login("outbox_app"), connect(database)
    given(owner, ANNA, source="complaint")
    for application in (one, two):
        left(application, ANNA)
    statement = sa.text("SELECT address, source FROM outbox_unsubscribed")
    with one.connect() as connection:
        assert [tuple(line) for line in connection.execute(statement)] == [(ANNA, "unsubscribe")]
    assert transaction(one, lambda c: poller.unsuppress(c, ANNA)) == 1
    assert [line.source for line in lines(owner)] == ["complaint", "unsubscribe"]
    for forbidden in (
        "UPDATE outbox_unsubscribed SET list = 'x'",
        "INSERT INTO outbox_suppression (address) VALUES ('a@b.c')",
        "SELECT address FROM outbox_suppression",
        "DELETE FROM outbox_suppression",
    ):
        with two.connect() as connection, pytest.raises(DBAPIError, match="denied"):
            connection.exec_driver_sql(forbidden)
    owner.dispose()


def test_a_line_whose_time_is_over_goes_when_retention_says_so(engine: Engine) -> None:
    for number in range(5):
        given(engine, f"a{number}@example.com", holds=timedelta(days=-number))
    given(engine, ANNA, holds=FUTURE)
    left(engine, ANNA)
    keep = RetentionSettings(suppressions=2.5 * 86400)
    assert purge(engine, keep, wait=lambda _: None, portion=1).suppressions == 2
    assert [line.address for line in lines(engine)] == [
        "a0@example.com",
        "a1@example.com",
        "a2@example.com",
        ANNA,
        ANNA,
    ]
    assert purge(engine, RetentionSettings(sent=1.0), wait=lambda _: None).suppressions == 0


def test_a_look_up_is_served_by_the_index(engine: Engine, kind: str) -> None:
    some = [{"address": f"a{n}@example.com", "list": "news", "source": "bounce"} for n in range(3000)]
    with engine.begin() as connection:
        connection.execute(sa.insert(suppression), some)
    if kind == "postgresql":
        by_hand(engine, "ANALYZE outbox_suppression")
    with engine.connect() as connection:
        found = suppressed(connection, [f"a{n}@example.com" for n in range(0, 3000, 30)])
        explain = {"sqlite": "EXPLAIN QUERY PLAN"}.get(kind, "EXPLAIN")
        plan = connection.exec_driver_sql(
            f"{explain} SELECT reason FROM outbox_suppression WHERE address IN ('a1@example.com', '@example.com')"
        ).all()
    assert len(found) == 100
    assert any(name in str(plan) for name in ("outbox_suppression_pkey", "PRIMARY", "sqlite_autoindex"))


def test_removing_takes_just_the_lines_of_that_address(engine: Engine) -> None:
    for address, list_name in ((ANNA, ""), (ANNA, "news"), (f"x{ANNA}", ""), ("@example.com", "")):
        given(engine, address, list_name=list_name)
    assert remove(engine, ANNA, list_name="news") == 1
    assert remove(engine, ANNA.upper()) == 1
    assert [line.address for line in lines(engine, address=ANNA)] == ["@example.com"]
    assert datetime.now(UTC) - lines(engine)[0].created_at < timedelta(days=1)


# ---- the page for applications

PAGE = Path(__file__).parents[2] / "docs" / "lists.md"
KEY = "0123456789abcdef" * 2


@pytest.fixture
def leave(engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], tuple[str, str]]:
    """The web side as the page shows it, at our outbox: the status and the page that a request gets."""
    (text,) = re.findall(r"```python\n(from html import escape\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    monkeypatch.setattr(sa, "create_engine", lambda _: engine)
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    (tmp_path / "unsubscribe.key").write_text(f"{KEY}\n")
    monkeypatch.setenv("POLLER__UNSUBSCRIBE__KEY_FILE", str(tmp_path / "unsubscribe.key"))

    def request(method: str, token: str) -> tuple[str, str]:
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": f"/u/{token}"}
        setup_testing_defaults(environ)
        answered: list[str] = []
        body = namespace["leave"](environ, lambda status, _: answered.append(status))
        return answered[0], b"".join(body).decode()

    return request


def test_the_web_side_of_the_page_takes_one_click_and_no_look_for_it(
    store: Store, leave: Callable[[str, str], tuple[str, str]]
) -> None:
    token = sign("news", "Anna@example.com", keys=keys_of(KEY), outbox="", at=datetime.now(UTC))
    assert leave("GET", token)[0] == "200 OK"
    assert store.suppressed([ANNA]) == {}
    for _ in range(2):
        assert leave("POST", token) == (
            "200 OK",
            "<!doctype html><p>Anna@example.com gets no more mail of the list news.</p>",
        )
    assert store.suppressed([ANNA]) == {("news", ANNA): "unsubscribed"}
    forged = sign("offers", ANNA, keys=keys_of("f" * 32), outbox="", at=datetime.now(UTC))
    for bad in (forged, token[:-3], "", f"{token}x"):
        assert leave("POST", bad)[0] == "400 Bad Request"
    assert len(lines(store.engine)) == 1
