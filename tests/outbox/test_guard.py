"""The clone guard: an outbox knows where it is at home, and one that came back older is left alone until adopted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import databases
import pytest
import sqlalchemy as sa
from outbox.ground import insert

from poller.outbox import guard
from poller.outbox.database import connect
from poller.outbox.guard import HELD, address_of, adopt, hold, home_of, stranger
from poller.outbox.operate import pause_all, resume_all
from poller.outbox.settings import DatabaseSettings
from poller.pacing.gate import Gate

if TYPE_CHECKING:
    from poller.outbox.store import Store

HERE, THERE = "postgresql://db1:5432/shop", "postgresql://db2:5432/shop"


@pytest.mark.parametrize(
    ("url", "home"),
    [
        ("postgresql://me:secret@DB1.example.com/shop", "postgresql://db1.example.com:5432/shop"),
        ("postgresql+psycopg://db1.example.com.:5432/shop", "postgresql://db1.example.com:5432/shop"),
        ("postgresql://127.0.0.1/shop", "postgresql://localhost:5432/shop"),
        ("postgresql://[::1]:5433/shop", "postgresql://localhost:5433/shop"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql://localhost:5432/shop"),
        ("mysql://me@localhost/shop", "mysql://localhost:3306/shop"),
        ("mariadb://localhost:3306/shop", "mysql://localhost:3306/shop"),
        ("sqlite:////var/lib/../lib/shop.db", "sqlite:////var/lib/shop.db"),
    ],
)
def test_an_address_is_the_same_however_it_is_written_and_holds_no_secret(url: str, home: str) -> None:
    assert address_of(DatabaseSettings(url=url)) == home


def test_a_schema_is_part_of_the_address_and_a_given_name_replaces_it() -> None:
    url = "postgresql://db1/shop"
    assert address_of(DatabaseSettings(url=url, schema="mail")) == "postgresql://db1:5432/shop schema mail"
    nobody = sa.create_engine("sqlite://")
    assert home_of(DatabaseSettings(url=url, belongs_to="production"), nobody) == "production"


def test_the_first_who_asks_moves_in_and_others_are_strangers(store: Store) -> None:
    assert stranger(store.engine, HERE) == ""
    assert stranger(store.engine, HERE) == ""
    why = stranger(store.engine, THERE)
    assert f"belongs to {HERE} and was met at {THERE}" in why
    assert "poller adopt" in why


def test_an_adopted_outbox_is_at_home_at_both_addresses(store: Store) -> None:
    stranger(store.engine, HERE)
    done = adopt(store.engine, THERE)
    assert (done.homes, done.is_new, done.switched_on, done.still_off) == ((HERE,), True, False, "")
    assert (stranger(store.engine, THERE), stranger(store.engine, HERE)) == ("", "")
    again = adopt(store.engine, THERE)
    assert (again.homes, again.is_new) == ((HERE, THERE), False)


def test_an_older_outbox_is_off_for_everybody_until_it_is_adopted(store: Store, other: Store) -> None:
    row_id = insert(store.engine)
    stranger(store.engine, HERE)
    hold(store.engine, "60 messages are not marked")
    assert (store.claim(Gate(limit=10)), other.claim(Gate(limit=10))) == ([], [])
    assert (store.paused() or "").startswith(f"{HELD}60 messages are not marked; look at it, then: poller adopt")
    assert adopt(store.engine, HERE).switched_on
    assert [row.id for row in store.claim(Gate(limit=10))] == [row_id]


def test_an_operators_word_is_not_replaced_and_not_lifted_by_adopting(store: Store) -> None:
    pause_all(store.engine, "maintenance")
    hold(store.engine, "60 messages are not marked")
    assert store.paused() == "maintenance"
    done = adopt(store.engine, HERE)
    assert (done.switched_on, done.still_off) == (False, "maintenance")
    assert resume_all(store.engine)


def test_the_same_address_on_another_server_is_another_place(
    store: Store, database: DatabaseSettings, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = DatabaseSettings(url="mysql://localhost/shop") if kind == "mariadb" else database
    monkeypatch.setattr(guard, "machine_id", lambda: "1" * 32)
    home = home_of(here, store.engine)
    assert home == home_of(here, store.engine)
    assert home.startswith(address_of(here) + " on ")
    assert stranger(store.engine, home) == ""
    if kind == "postgresql":
        try:
            postgres = databases.EmbeddedPostgres()
        except databases.Missing as why:
            pytest.skip(str(why))
        other = connect(DatabaseSettings(url=postgres.url))
        try:
            there = home_of(here, other)
        finally:
            other.dispose()
            postgres.stop()
    else:
        monkeypatch.setattr(guard, "machine_id", lambda: "0" * 32)
        there = home_of(here, store.engine)
    assert there.startswith(address_of(here) + " on ")
    assert "poller adopt" in stranger(store.engine, there)


@pytest.mark.parametrize("statement", ["_MAY_ASK", "_ASK"])
def test_where_a_server_does_not_tell_the_url_decides_alone(
    store: Store, database: DatabaseSettings, kind: str, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "postgresql":
        monkeypatch.setattr(guard, statement, "SELECT NULL" if statement == "_MAY_ASK" else "SELECT no_such_function()")
    monkeypatch.setattr(guard, "machine_id", lambda: "")
    assert home_of(database, store.engine) == address_of(database)
