"""Each role is given what it needs and denied the rest: the table of attempts in `outbox.rights`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from outbox import rights
from outbox.rights import ATTEMPTS, SERVERS
from sqlalchemy.exc import DBAPIError

from poller.outbox.enqueue import enqueue_alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

DENIED = re.compile(
    r"denied|must be owner|must be superuser|must have|access denied|admin option|invalid role", re.IGNORECASE
)
LEAST = 60
"""Attempts on each server."""


def answer(engine: Engine, statement: str) -> str:
    """ "" if it was done, else the database's words. Any error but a lack of rights is raised."""
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement.replace("%", "%%"))
            connection.rollback()
    except DBAPIError as error:
        words = str(error.orig)
        if DENIED.search(words):
            return words
        raise
    return ""


@pytest.mark.parametrize("kind", list(SERVERS))
def test_every_attempt_gets_the_answer_that_the_table_says(login: Callable[[str], Engine], kind: str) -> None:
    engines = {role: login(role) for role in {attempt.role for attempt in ATTEMPTS}}
    other = enqueue_alone(login("outbox_app"), recipients="b@example.com", body_text="theirs", dedupe_key="theirs")
    own = enqueue_alone(engines["outbox_app"], recipients="a@example.com", body_text="ours")
    tried = [attempt for attempt in ATTEMPTS if kind in attempt.statements]
    assert len(tried) >= LEAST
    wrong = {}
    for attempt in tried:
        said = answer(engines[attempt.role], attempt.statements[kind].format(own=own, other=other))
        if (not said) is not attempt.allowed:
            wrong[attempt.role, attempt.says] = said or "done"
    assert wrong == {}


@pytest.mark.parametrize("kind", list(SERVERS))
def test_an_application_sees_its_own_rows_and_no_address(login: Callable[[str], Engine], kind: str) -> None:
    mine, theirs, poller = login("outbox_app"), login("outbox_app"), login("outbox_poller")
    own = enqueue_alone(mine, recipients="a@example.com", body_text="x", dedupe_key="a")
    enqueue_alone(theirs, recipients="b@example.com", body_text="x", dedupe_key="b")
    with poller.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE outbox SET error = '550 <a@example.com>: no such user (a.b+c@example.com)' WHERE id = {own}"
        )
    with mine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT id, dedupe_key, error FROM outbox_state").all()
    assert kind in SERVERS
    assert [tuple(row) for row in rows] == [(own, "a", "550 <<address>>: no such user (<address>)")]


def test_the_page_shows_the_table() -> None:
    assert rights.shown() == rights.page_table()
