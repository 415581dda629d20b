"""Shared files: stored once, found by their hash, kept while a row names them."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from outbox.ground import by_hand, insert, row_with
from outbox.test_retention import age, at_once, left
from sqlalchemy.exc import DBAPIError

from poller.outbox.blobs import PIECE, blob_of, share
from poller.outbox.enqueue import enqueue
from poller.outbox.retention import purge
from poller.outbox.settings import RetentionSettings
from poller.outbox.tables import attachment, blob

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

    from poller.outbox.store import Store

DAY = 86400.0


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, 2 * PIECE + 1])
def test_what_is_shared_twice_is_there_once_and_comes_back_as_it_was(engine: Engine, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    with engine.begin() as connection:
        names = {share(connection, content) for _ in range(2)}
        row_ids = [
            enqueue(connection, recipients="a@b.c", body_text="x", attachments=[{"name": "f", "blob_sha256": name}])
            for name in [*names] * 3
        ]
    assert names == {hashlib.sha256(content).hexdigest()}
    assert len(row_ids) == 3
    assert blob_of(engine, names.pop()) == content
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(blob)).scalar() == 1


def test_a_blob_that_is_not_what_its_name_says_is_refused_or_not_given_out(engine: Engine, kind: str) -> None:
    row = {"sha256": "0" * 64, "content": b"x"}
    if kind == "sqlite":
        with engine.begin() as connection:
            connection.execute(sa.insert(blob).values(row))
        assert blob_of(engine, "0" * 64) is None
        return
    with pytest.raises(DBAPIError, match="has_its_hash"), engine.begin() as connection:
        connection.execute(sa.insert(blob).values(row))


def test_an_attachment_has_one_source(engine: Engine) -> None:
    row_id = insert(engine)
    for given in ({}, {"content": b"x", "path": "a"}):
        with pytest.raises(DBAPIError, match="has_one_source"), engine.begin() as connection:
            connection.execute(sa.insert(attachment).values(outbox_id=row_id, name="f", **given))


def test_a_shared_file_goes_a_day_after_it_came_once_no_row_names_it(store: Store) -> None:
    row_id = row_with(store, "sent")
    with store.engine.begin() as connection:
        named, unnamed, young = (share(connection, content) for content in (b"named", b"unnamed", b"young"))
        connection.execute(sa.insert(attachment).values(outbox_id=row_id, name="f", blob_sha256=named))
        old = sa.update(blob).where(blob.c.sha256 != young).values(created_at=store.now() - timedelta(days=2))
        connection.execute(old)
    assert unnamed != young
    settings = RetentionSettings(sent=30 * DAY)
    assert purge(store.engine, settings, wait=at_once).blobs == 1
    assert set(left(store, blob, "sha256")) == {named, young}
    age(store, row_id, days=31)
    purged = purge(store.engine, settings, wait=at_once)
    assert (purged.rows, purged.blobs) == (1, 1)
    assert left(store, blob, "sha256") == [young]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_application_shares_and_attaches_and_does_not_read(login: Callable[[str], Engine]) -> None:
    app = login("outbox_app")
    with app.begin() as connection:
        for _ in range(2):
            name = share(connection, b"terms and conditions")
            files = [{"name": "terms.pdf", "blob_sha256": name}]
            enqueue(connection, recipients="a@b.c", body_text="x", attachments=files)
    for statement in ("SELECT content FROM outbox_blob", "DELETE FROM outbox_blob"):
        with pytest.raises(DBAPIError, match="denied"):
            by_hand(app, statement)
