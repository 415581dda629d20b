"""The one table of statuses, and the SQL that has to say the same."""

from __future__ import annotations

import re

import pytest

from poller import statuses
from poller.outbox.migrate import sql_directory

_KNOWN = re.compile(r"CONSTRAINT outbox_status_is_known CHECK \(status IN\s+\(([^)]*)\)\)")


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite"])
def test_the_schema_knows_the_statuses_of_the_table_and_no_other(dialect: str) -> None:
    (listed,) = _KNOWN.findall((sql_directory(dialect) / "0001_outbox.sql").read_text("utf-8"))
    assert sorted(re.findall(r"'(\w+)'", listed)) == sorted(statuses.NAMES)


def test_each_status_ends_or_goes_on_by_itself_or_by_a_person() -> None:
    assert set(statuses.TERMINAL) | set(statuses.UNENDED) == set(statuses.NAMES)
    for status in statuses.TABLE:
        assert status.acts or status.name == "sent"
        assert not status.is_failure or status.is_terminal
    assert statuses.open_to("retry") == ("partial", "failed", "cancelled", "expired", "suppressed")
