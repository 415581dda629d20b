"""What was rendered for one reader is never sent to another: a link in it is theirs alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from poller.delivery.kept import rendering_of
from poller.judgement.keeping import Kept
from poller.message.rendering import made_of, pack, unpack
from poller.message.templates import Rendered
from poller.outbox.rows import DRAFT_COLUMNS, ClaimedRow

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTENT = dict.fromkeys(DRAFT_COLUMNS) | {"template": "news", "context": {"b": 1, "a": [2]}, "locale": "de"}
RENDERED = Rendered(subject="Grüße \ud800", text=None, html="<p>€\r\n\x00</p>")


def row(reader: str | None, **changed: object) -> ClaimedRow:
    """One that was rendered for `reader`, and `changed` since."""
    return ClaimedRow(
        id=1,
        claim_seq=2,
        message_id="<1@x>",
        holder="w1",
        status="sending",
        attempts=1,
        doubts=0,
        setbacks=0,
        first_attempt_at=NOW,
        claimed_at=NOW,
        expires_at=None,
        max_attempts=None,
        on_doubt=None,
        relay=None,
        batch=None,
        domain=None,
        content={**CONTENT, **changed},
        kept=Kept(rendered=pack(RENDERED), made_of=made_of(CONTENT, reader)),
    )


@pytest.mark.parametrize(("then", "now"), [("a@x", "b@x"), ("a@x", None), (None, "a@x")])
def test_another_reader_gets_a_rendering_of_their_own(then: str | None, now: str | None) -> None:
    assert rendering_of(row(then), now) is None
    assert rendering_of(row(then), then) == RENDERED


@pytest.mark.parametrize("column", ["template", "context", "locale", "subject", "list"])
def test_a_column_that_was_corrected_is_rendered_anew_and_no_other(column: str) -> None:
    assert rendering_of(row(None, **{column: "corrected"}), None) is None
    assert rendering_of(row(None, recipients="corrected@example.com"), None) == RENDERED


@pytest.mark.parametrize("damaged", [b"", b"x", pack(RENDERED)[:-3], b"\x78\x9c\x03\x00\x00\x00\x00\x01"])
def test_what_is_damaged_is_rendered_anew(damaged: bytes) -> None:
    assert unpack(damaged) is None
