"""A real Postfix accepts a message, finds nobody there, and its own report finds the row: by return path and by DSN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from servers.postfix import DOMAIN, Postfix, available
from servers.processes import wait_until
from service.bench import WHATEVER_THE_DATABASE

from poller.bounces.post import Post
from poller.log import get_logger
from poller.message.bounce_settings import BounceSettings
from poller.message.return_path import ReturnPaths
from poller.outbox.tables import attempt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.bench import Bench

KEY = "0123456789abcdef" * 2
LATE = {
    "smtpd_reject_unlisted_recipient": "no",
    "virtual_mailbox_maps": "regexp:{{/^(bounces|shop)/ all/}}",
    "recipient_delimiter": "+",
}
"""Whom it does not know it finds out when it delivers."""


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    if why := available():
        pytest.skip(why)
    with Postfix(LATE) as relay:
        yield relay


@WHATEVER_THE_DATABASE
@pytest.mark.parametrize("way", ["return path", "envelope id"])
def test_a_real_bounce_finds_its_row(bench: Bench, postfix: Postfix, way: str) -> None:
    bounces: dict[str, Any] = {"key": KEY}
    if way == "return path":
        bounces |= {"address": f"bounces+{{token}}@{DOMAIN}", "dsn": False}
    (row_id,) = bench.insert(recipients=f"nobody@{DOMAIN}", sender=f"shop@{DOMAIN}")
    config = bench.configure(postfix.host, postfix.port, bounces=bounces)
    assert bench.run(config, "--once") == 0
    assert bench.row(row_id).status == "sent"
    wait_until(lambda: bool(postfix.messages()), "Postfix's report")
    (report,) = postfix.messages()
    settings = BounceSettings(suppress=("bounce",), **bounces)
    post = Post(engine=bench.engine, settings=settings, paths=ReturnPaths(settings), log=get_logger())
    assert post.take(report) == "bounced"
    columns = (attempt.c.outbox_id, attempt.c.recipient, attempt.c.outcome, attempt.c.reply_status)
    with bench.engine.connect() as connection:
        lines = [tuple(line) for line in connection.execute(sa.select(*columns))]
    assert lines == [(row_id, f"nobody@{DOMAIN}", "bounced", "5.1.1")]
    assert bench.row(row_id).status == "sent"
