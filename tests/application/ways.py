"""Every way in which an application may hold a transaction open, as one function: `way(url, work, commit=...)`.

`work` is given the connection, and what runs a plain statement on it: the application's own business.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import sqlalchemy as sa
from application import django_site
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    Run = Callable[[str], Any]
    Work = Callable[[Any, Run], None]
    AsyncRun = Callable[[str], Coroutine[Any, Any, Any]]
    AsyncWork = Callable[[Any, AsyncRun], Coroutine[Any, Any, None]]

_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}
_ASYNC_DRIVERS = {"postgresql": "postgresql+psycopg", "sqlite": "sqlite+aiosqlite"}


def _url(url: str, drivers: dict[str, str]) -> sa.URL:
    made = sa.make_url(url)
    return made.set(drivername=drivers[made.get_backend_name()])


@contextmanager
def _engine(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(_url(url, _DRIVERS))
    try:
        yield engine
    finally:
        engine.dispose()


@asynccontextmanager
async def _async_engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(_url(url, _ASYNC_DRIVERS))
    try:
        yield engine
    finally:
        await engine.dispose()


def sqlalchemy_connection(url: str, work: Work, *, commit: bool) -> None:
    with _engine(url) as engine, engine.connect() as connection:
        work(connection, connection.exec_driver_sql)
        connection.commit() if commit else connection.rollback()


def sqlalchemy_session(url: str, work: Work, *, commit: bool) -> None:
    with _engine(url) as engine, Session(engine) as session:
        work(session, lambda statement: session.execute(sa.text(statement)))
        session.commit() if commit else session.rollback()


def sqlalchemy_scoped_session(url: str, work: Work, *, commit: bool) -> None:
    with _engine(url) as engine:
        session = scoped_session(sessionmaker(engine))
        work(session, lambda statement: session.execute(sa.text(statement)))
        session.commit() if commit else session.rollback()
        session.remove()


def sqlalchemy_async_connection(url: str, work: AsyncWork, *, commit: bool) -> None:
    async def run() -> None:
        async with _async_engine(url) as engine, engine.connect() as connection:
            await work(connection, connection.exec_driver_sql)
            await (connection.commit() if commit else connection.rollback())

    asyncio.run(run())


def sqlalchemy_async_session(url: str, work: AsyncWork, *, commit: bool) -> None:
    async def run() -> None:
        async with _async_engine(url) as engine, AsyncSession(engine) as session:
            await work(session, lambda statement: session.execute(sa.text(statement)))
            await (session.commit() if commit else session.rollback())

    asyncio.run(run())


def plain_psycopg(url: str, work: Work, *, commit: bool) -> None:
    with closing(psycopg.connect(_url(url, {"postgresql": "postgresql"}).render_as_string(hide_password=False))) as db:
        work(db, db.execute)  # type: ignore[arg-type] # a literal string, to the type checker
        db.commit() if commit else db.rollback()


def pymysql_connection(url: str) -> Any:
    at = sa.make_url(url)
    return pymysql.connect(
        host=at.host, port=at.port or 3306, user=at.username, password=str(at.password or ""), database=at.database
    )


def plain_pymysql(url: str, work: Work, *, commit: bool) -> None:
    with closing(pymysql_connection(url)) as db:
        work(db, db.cursor().execute)
        db.commit() if commit else db.rollback()


def plain_sqlite3(url: str, work: Work, *, commit: bool) -> None:
    with closing(sqlite3.connect(str(sa.make_url(url).database))) as db:
        work(db, db.execute)
        db.commit() if commit else db.rollback()


def django(url: str, work: Work, *, commit: bool) -> None:
    with django_site.database(url) as connection, django_site.atomic() as transaction:
        work(connection, connection.cursor().execute)
        transaction.set_rollback(not commit)


SYNC: dict[str, tuple[Callable[..., None], ...]] = {
    "postgresql": (
        sqlalchemy_connection,
        sqlalchemy_session,
        sqlalchemy_scoped_session,
        plain_psycopg,
        django,
    ),
    "mariadb": (sqlalchemy_connection, sqlalchemy_session, sqlalchemy_scoped_session, plain_pymysql, django),
    "sqlite": (sqlalchemy_connection, sqlalchemy_session, sqlalchemy_scoped_session, plain_sqlite3, django),
}
ASYNC: dict[str, tuple[Callable[..., None], ...]] = {
    "postgresql": (sqlalchemy_async_connection, sqlalchemy_async_session),
    "sqlite": (sqlalchemy_async_connection, sqlalchemy_async_session),
    "mariadb": (),
}
