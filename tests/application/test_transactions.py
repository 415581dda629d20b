"""Mail shares the fate of the business beside it, whatever holds the transaction: none if rolled back, one if not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from email import message_from_bytes
from email.policy import default
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from application import ways
from application.django_site import database as django_database
from application.ways import ASYNC, SYNC, pymysql_connection
from psycopg.rows import dict_row
from pymysql.cursors import DictCursor
from servers.aiosmtp import Aiosmtpd
from service.bench import Bench

import poller

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from poller.outbox.settings import DatabaseSettings

OUTBOX = poller.Outbox()
_PURCHASE = "INSERT INTO purchase (name) VALUES ('{}')"


def mail(name: str) -> poller.Mail:
    return poller.Mail(recipients="anna@example.com", sender="shop@example.com", subject=name, body_text="Thank you")


def buy(connection: Any, run: ways.Run, *, name: str) -> None:
    run(_PURCHASE.format(name))
    OUTBOX.add(connection, mail(name))


async def buy_async(connection: Any, run: ways.AsyncRun, *, name: str) -> None:
    await run(_PURCHASE.format(name))
    await OUTBOX.add_async(connection, mail(name))


def test_no_mail_of_a_rollback_and_one_of_a_commit(database: DatabaseSettings, kind: str, tmp_path: Path) -> None:
    bench = Bench(database=database, directory=tmp_path)
    with bench.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE purchase (name VARCHAR(99))")
    committed: list[str] = []
    for way, work in [*((way, buy) for way in SYNC[kind]), *((way, buy_async) for way in ASYNC[kind])]:
        for commit in (False, True):
            name = f"{way.__name__} {'committed' if commit else 'rolled back'}"
            way(database.url, partial(work, name=name), commit=commit)  # type: ignore[operator] # two kinds of work
            committed += [name] if commit else []
    with Aiosmtpd() as relay:
        assert bench.run(bench.configure(relay.host, relay.port), "--once") == 0
        taken = [message_from_bytes(content, policy=default)["Subject"] for content in relay.messages()]
    with bench.engine.begin() as connection:
        bought = connection.exec_driver_sql("SELECT name FROM purchase").scalars().all()
    bench.close()
    assert sorted(taken) == sorted(bought) == sorted(committed)


def _psycopg(url: str) -> Any:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def _pymysql(url: str) -> Any:
    made = pymysql_connection(url)
    made.autocommit(True)
    return made


def _sqlite3(url: str) -> Any:
    return sqlite3.connect(str(sa.make_url(url).database), isolation_level=None)


BY_THEMSELVES: dict[str, tuple[Callable[[str], Any], str]] = {
    "postgresql": (_psycopg, "BEGIN"),
    "mariadb": (_pymysql, "BEGIN"),
    "sqlite": (_sqlite3, "BEGIN"),
}


def test_a_connection_that_commits_by_itself_is_refused_until_a_transaction_is_begun(
    database: DatabaseSettings, kind: str
) -> None:
    connect, begin = BY_THEMSELVES[kind]
    with closing(connect(database.url)) as db:
        with pytest.raises(poller.NotInTransaction, match="the connection is in autocommit mode"):
            OUTBOX.add(db, mail("alone"))
        db.cursor().execute(begin)
        OUTBOX.add(db, mail("together"))
        db.commit()


def test_sqlalchemy_in_autocommit_mode_is_refused(database: DatabaseSettings) -> None:
    for options, later in (({"isolation_level": "AUTOCOMMIT"}, {}), ({}, {"isolation_level": "AUTOCOMMIT"})):
        engine = sa.create_engine(ways._url(database.url, ways._DRIVERS), **options)
        with engine.connect().execution_options(**later) as connection, pytest.raises(poller.NotInTransaction):
            OUTBOX.add(connection, mail("alone"))
        engine.dispose()


def test_django_outside_of_a_transaction_is_refused(database: DatabaseSettings) -> None:
    with django_database(database.url) as connection, pytest.raises(poller.NotInTransaction, match="atomic"):
        OUTBOX.add(connection, mail("alone"))


def test_what_is_no_connection_is_refused_by_its_name(database: DatabaseSettings, kind: str) -> None:
    engine = sa.create_engine(ways._url(database.url, ways._DRIVERS))
    with pytest.raises(TypeError, match=r"^Engine is no connection that is known here; give a Connection"):
        OUTBOX.add(engine, mail("nowhere"))

    async def work(connection: Any, _: object) -> None:
        OUTBOX.add(connection, mail("not awaited"))

    for way in ASYNC[kind]:
        with pytest.raises(TypeError, match="is asynchronous: use the method whose name ends in _async"):
            way(database.url, work, commit=False)


def _rows_as_dicts(kind: str, url: str) -> Any:
    if kind == "postgresql":
        return psycopg.connect(url.replace("+psycopg", ""), row_factory=dict_row)
    if kind == "mariadb":
        made = pymysql_connection(url)
        made.cursorclass = DictCursor
        return made
    made = sqlite3.connect(str(sa.make_url(url).database))
    made.row_factory = lambda cursor, row: {name[0]: value for name, value in zip(cursor.description, row, strict=True)}
    return made


def test_how_the_application_likes_its_rows_does_not_matter(database: DatabaseSettings, kind: str) -> None:
    with closing(_rows_as_dicts(kind, database.url)) as db:
        ids = OUTBOX.add_many_ids(db, [mail("a"), mail("b")])
        assert OUTBOX.add(db, mail("c")) == ids[1] + 1
        assert [OUTBOX.status_of(db, row_id) is not None for row_id in ids] == [True, True]


def test_where_the_caller_reads_on_the_same_connection_meanwhile_many_go_in_all_the_same(
    database: DatabaseSettings,
) -> None:
    def from_rows(connection: sa.Connection) -> Any:
        for number in range(2500):
            yield mail(str(connection.execute(sa.select(sa.literal(number))).scalar_one()))

    engine = sa.create_engine(ways._url(database.url, ways._DRIVERS))
    with engine.begin() as connection:
        assert OUTBOX.add_many(connection, from_rows(connection)) == 2500
    engine.dispose()
