"""What came back, read: the shapes of many systems, and what nobody should send."""

from __future__ import annotations

import pytest
from bounces import formats
from bounces.formats import FORMATS, GONE, Format
from hypothesis import given
from hypothesis import strategies as st

from poller.bounces.read import MOST_BYTES, MOST_REPORTS, returned

AUTOMATIC = {"vacation", "vacation, older", "challenge"}


@pytest.mark.parametrize("known", FORMATS, ids=lambda known: known.name)
def test_each_shape_says_what_became_of_whom(known: Format) -> None:
    said = returned(known.text.encode())
    assert tuple((said.kind, r.address, r.action, r.status) for r in said.reports) == known.expected


@pytest.mark.parametrize("known", [known for known in FORMATS if known.name in AUTOMATIC], ids=lambda known: known.name)
def test_what_a_mailbox_answers_by_itself_is_no_bounce(known: Format) -> None:
    assert returned(known.text.encode()).kind == "auto_reply"


def test_a_report_tells_the_message_id_and_where_it_came_to() -> None:
    said = returned(FORMATS[0].text.replace("{token}", "AQx").encode())
    assert said.message_ids == ("<cafe0123@shop.example>",)
    assert said.sent_to == ("bounces+AQx@shop.example",)


def test_an_envelope_id_is_read_where_it_is_told() -> None:
    text = formats.dsn(formats.block(GONE), per_message="Reporting-MTA: dns; mx\nOriginal-Envelope-Id: AQtoken")
    assert returned(text.encode()).envelope_id == "AQtoken"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (formats.WRONG_CHARSET, "unknown"),
        (formats.NESTED, "unknown"),
        (formats.BROKEN, "unknown"),
        (b"\xff" * 10_000, "unknown"),
        (b"\n" * 100_000, "unknown"),
        (formats.LARGE, "bounce"),
    ],
    ids=["charset", "nested", "broken", "bytes", "lines", "large"],
)
def test_whatever_comes_is_read_to_an_end(raw: bytes, kind: str) -> None:
    assert returned(raw).kind == kind


def test_what_a_system_says_can_do_nothing_on_a_terminal() -> None:
    (report,) = returned(formats.NUL).reports
    assert report.text.isprintable()


def test_a_report_of_very_many_is_cut() -> None:
    assert 0 < len(returned(formats.ENDLESS_FIELDS).reports) <= MOST_REPORTS
    assert len(formats.ENDLESS_FIELDS) > MOST_BYTES


@given(st.binary(max_size=2000), st.sampled_from(FORMATS), st.integers(min_value=0, max_value=3000))
def test_nothing_that_comes_raises(rubbish: bytes, known: Format, at: int) -> None:
    text = known.text.encode()
    assert returned(text[:at] + rubbish + text[at:]).kind in {"bounce", "complaint", "auto_reply", "unknown"}
