"""Batches: how far each is, told once when it is done, and paused when too much of its beginning fails."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from outbox.ground import history_of, insert, status_of

from poller.alerts.tell import NotToldError, Teller
from poller.batches.settings import BatchSettings
from poller.batches.watch import BatchWatch
from poller.log import get_logger
from poller.outbox.operate import Selection, change
from poller.outbox.tables import batches, outbox
from poller.units import Misfit

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from poller.alerts.tell import Notice
    from poller.outbox.store import Store

PROMPT: dict[str, Any] = {"quiet": 0.0, "every": 0.0}


def watch(engine: Engine, *ways: Callable[[Notice], None], **settings: Any) -> BatchWatch:
    """One worker's, which has looked before."""
    made = BatchWatch(
        settings=BatchSettings(**{**PROMPT, **settings}),
        engine=engine,
        teller=Teller(ways=ways, log=get_logger(), failed="batch.untold"),
        worker="w1",
        outbox="here",
        clock=time.monotonic,
        log=get_logger(),
    )
    made.round()
    return made


def end(store: Store, *ids: int, status: str = "sent", **columns: Any) -> None:
    """They end now."""
    now: datetime = store.now()
    values = {"status": status, "finished_at": now, "sent_at": now if status == "sent" else None, **columns}
    with store.engine.begin() as connection:
        connection.execute(sa.update(outbox).where(outbox.c.id.in_(ids)).values(values))


def batch_of(engine: Engine, name: str = "spring") -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.select(batches).where(batches.c.batch == name)).one()


def rows_of(store: Store, number: int, **columns: Any) -> list[int]:
    return [insert(store.engine, batch="spring", **columns) for _ in range(number)]


def test_the_end_of_a_batch_is_told_once_by_one_of_many_who_look_at_the_same_time(store: Store) -> None:
    told: list[Notice] = []
    watches = [watch(store.engine, told.append) for _ in range(4)]
    end(store, *rows_of(store, 3))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            list(pool.map(BatchWatch.round, watches))
    assert [json.loads(one.as_json())["kind"] for one in told] == ["batch.done"]
    found = batch_of(store.engine)
    assert (found.state, found.messages, found.sent, found.not_sent, found.open) == ("done", 3, 3, 0, 0)


@pytest.mark.parametrize("status", ["queued", "sending", "paused", "in_doubt"])
def test_a_batch_with_a_row_that_is_open_is_not_done(store: Store, status: str) -> None:
    told: list[Notice] = []
    looking = watch(store.engine, told.append)
    *most, last = rows_of(store, 3)
    if status != "queued":
        held = {"claimed_by": "w1", "claimed_at": store.now(), "message_id": "<1@x>", "claim_seq": 1}
        with store.engine.begin() as connection:
            more = held if status == "sending" else {}
            connection.execute(sa.update(outbox).where(outbox.c.id == last).values(status=status, **more))
    end(store, *most)
    looking.round()
    looking.round()
    assert (told, batch_of(store.engine).state) == ([], "open")


def test_who_dies_while_telling_is_replaced_and_the_news_has_the_same_id(store: Store) -> None:
    told: list[Notice] = []

    def die(notice: Notice) -> None:
        told.append(notice)
        raise KeyboardInterrupt

    first, second = watch(store.engine, die), watch(store.engine, told.append)
    end(store, *rows_of(store, 2))
    with pytest.raises(KeyboardInterrupt):
        first.round()
    second.round()
    assert (len(told), batch_of(store.engine).state) == (1, "telling")
    with store.engine.begin() as connection:
        connection.execute(sa.update(batches).values(taken_until=batches.c.looked_at))
    second.round()
    second.round()
    assert (len(told), told[0].id == told[1].id, batch_of(store.engine).state) == (2, True, "done")


def test_a_way_that_does_not_take_it_is_tried_again_and_another_one_is_enough(store: Store) -> None:
    told: list[Notice] = []

    def refuse(_notice: Notice) -> None:
        raise NotToldError("webhook: it answered 500")

    end(store, *rows_of(store, 2))
    alone = watch(store.engine, refuse)
    end(store, *rows_of(store, 2))
    alone.round()
    assert batch_of(store.engine).state == "telling"
    with store.engine.begin() as connection:
        connection.execute(sa.update(batches).values(taken_until=batches.c.looked_at))
    watch(store.engine, refuse, told.append)
    assert (len(told), batch_of(store.engine).state) == (1, "done")


def test_a_batch_is_done_again_when_what_was_retried_has_ended(store: Store) -> None:
    told: list[Notice] = []
    looking = watch(store.engine, told.append)
    good, bad = rows_of(store, 2)
    end(store, good)
    end(store, bad, status="failed", error="550 5.1.1 no such user bob@example.com")
    looking.round()
    change(store.engine, Selection(ids=(bad,)), "retry")
    looking.round()
    assert len(told) == 1
    end(store, bad)
    looking.round()
    first, second = (json.loads(one.as_json()) for one in told)
    assert (first["sent"], first["not_sent"], second["sent"]) == (1, 1, 2)
    assert first["failures"][0]["recipients"] == 1
    assert "bob@example.com" not in str(first["failures"])
    assert first["id"] != second["id"]


def test_a_batch_whose_beginning_fails_is_paused_once_and_says_so(store: Store) -> None:
    told: list[Notice] = []
    looking = watch(store.engine, told.append, failed=0.2, of=10)
    ids = rows_of(store, 20)
    end(store, *ids[:4])
    end(store, ids[4], status="failed", error="550 no")
    looking.round()
    assert (told, status_of(store.engine, ids[-1])) == ([], "queued")
    end(store, ids[5], status="failed", error="550 no")
    looking.round()
    looking.round()
    assert [json.loads(one.as_json())["kind"] for one in told] == ["batch.paused"]
    assert "20% or more of the first 10 messages failed" in told[0].subject
    assert {status_of(store.engine, row_id) for row_id in ids[6:]} == {"paused"}
    assert history_of(store.engine, ids[-1])[-1].worker == "the threshold of [batches]"
    change(store.engine, Selection(batch="spring"), "resume")
    end(store, ids[6], status="failed", error="550 no")
    looking.round()
    assert (len(told), status_of(store.engine, ids[-1])) == (1, "queued")


def test_a_batch_that_begins_well_is_never_paused(store: Store) -> None:
    looking = watch(store.engine, failed=0.2, of=4)
    ids = rows_of(store, 12)
    end(store, *ids[:4])
    looking.round()
    end(store, *ids[4:10], status="failed", error="550 no")
    looking.round()
    assert (batch_of(store.engine).verdict, status_of(store.engine, ids[-1])) == ("passed", "queued")


def test_small_batches_and_those_that_nobody_asks_for_are_told_to_nobody(store: Store) -> None:
    told: list[Notice] = []
    looking = watch(store.engine, told.append, only=("news-*",), least=2)
    end(store, *(insert(store.engine, batch=name) for name in ("news-1", "other", "other", "news-2", "news-2")))
    looking.round()
    assert [json.loads(one.as_json())["batch"] for one in told] == ["news-2"]


@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"watch": False, "failed": 0.2}, "watch"),
        ({"webhook": "http://example.com/"}, "webhook"),
        ({"webhook": "https://example.com/", "webhook_secret": "short"}, "webhook_secret"),
    ],
)
def test_settings_that_can_not_work_are_refused_by_their_key(kind: str, settings: dict[str, Any], key: str) -> None:
    assert kind
    with pytest.raises(Misfit) as misfit:
        BatchSettings(**settings)
    assert misfit.value.key == key


def test_batches_that_end_at_the_same_moment_are_all_told_however_many_they_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.outbox.batches.PAGE", 2)
    told: list[Notice] = []
    looking = watch(store.engine, told.append, least=1)
    end(store, *(insert(store.engine, batch=f"letter {number}") for number in range(7)))
    for _ in range(4):
        looking.round()
    assert sorted(json.loads(one.as_json())["batch"] for one in told) == [f"letter {number}" for number in range(7)]
