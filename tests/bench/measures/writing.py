"""What `poller.Outbox` costs an application: as many mails by `add_many` as by the driver's own means, in turn."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import sqlalchemy as sa

import poller

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from bench.scene import Scene

    Rows = Sequence[tuple[str, ...]]

WAYS = ("plain", "many", "ids", "made")
"""COPY or `executemany` of the driver; `add_many` of mails made meanwhile; the same with ids; of mails made before."""
_NAMES = ("recipients", "sender", "subject", "body_text", "batch")
_OUTBOX = poller.Outbox()


def writing(scene: Scene) -> None:
    """Seconds with the COMMIT; ratios are to the plain way of the round."""
    count = scene.scale(100_000, 10_000)
    scene.book.say("writing.rows", f"{count:,}")
    rows = [_row(number) for number in range(count)]
    for kind in scene.kinds():
        for _ in range(scene.rounds):
            seconds: dict[str, float] = {}
            for way in WAYS:
                with scene.outbox(kind) as outbox:
                    seconds[way] = _written(kind, outbox.url, way, rows)
                scene.book.add(f"writing.{kind}.{way}.seconds", seconds[way])
                scene.book.add(f"writing.{kind}.{way}.to-plain", seconds[way] / seconds["plain"])
            scene.tell(f"{kind}: " + ", ".join(f"{way} {taken:.2f} s" for way, taken in seconds.items()))


def _row(number: int) -> tuple[str, ...]:
    body = f"Hello {number}, this is what we have to say to you.\n" * 7
    return (f"user{number}@example.com", "shop@example.com", f"Message {number}", body, "news")


def _mails(rows: Rows) -> Iterator[poller.Mail]:
    return (
        poller.Mail(recipients=to, sender=sender, subject=subject, body_text=body, batch=batch)
        for to, sender, subject, body, batch in rows
    )


def _written(kind: str, url: str, way: str, rows: Rows) -> float:
    made: Iterable[poller.Mail] = list(_mails(rows)) if way == "made" else _mails(rows)
    with closing(_connection(kind, url)) as connection:
        began = time.monotonic()
        if way == "plain":
            _plainly(kind, connection, rows)
        elif way == "ids":
            _OUTBOX.add_many_ids(connection, made)
        else:
            _OUTBOX.add_many(connection, made)
        connection.commit()
        return time.monotonic() - began


def _connection(kind: str, url: str) -> Any:
    at = sa.make_url(url)
    if kind == "postgresql":
        return psycopg.connect(at.set(drivername="postgresql").render_as_string(hide_password=False))
    if kind == "sqlite":
        return sqlite3.connect(str(at.database))
    password = str(at.password or "")
    return pymysql.connect(
        host=at.host, port=at.port or 3306, user=at.username, password=password, database=at.database
    )


def _plainly(kind: str, connection: Any, rows: Rows) -> None:
    names = ", ".join(_NAMES)
    with closing(connection.cursor()) as cursor:
        if kind == "postgresql":
            with cursor.copy(f"COPY outbox ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            marks = ", ".join(["?" if kind == "sqlite" else "%s"] * len(_NAMES))
            cursor.executemany(f"INSERT INTO outbox ({names}) VALUES ({marks})", rows)
