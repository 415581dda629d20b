"""A message that came whole goes out as it came, with what it lacks in front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keys
import pytest
from hypothesis import given
from hypothesis import strategies as st
from message.rows import NOW, few

from poller.message.composer import Composer
from poller.message.draft import Attachment, Composed, Draft, Unsendable
from poller.message.settings import MessageSettings, TemplateSettings
from poller.message.whole import taken_apart

if TYPE_CHECKING:
    from pathlib import Path

ASKED = (
    b"From: Jo <jo@example.com>\r\nDate: x\r\nMessage-ID: <own@example.com>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
)
WHOLE = ASKED + b"\r\n.dot\r\n\r\n"


def draft(raw: bytes, **columns: Any) -> Draft:
    return Draft(**{"id": 1, "message_id": "<1@x.test>", "date": NOW, "recipients": "a@b.test", "raw": raw, **columns})


def composed(raw: bytes, settings: MessageSettings | None = None, **columns: Any) -> Composed:
    return Composer(settings or MessageSettings(sender="s@x.test"), TemplateSettings()).compose(draft(raw, **columns))


def reason(raw: bytes, **columns: Any) -> tuple[str, str]:
    with pytest.raises(Unsendable) as caught:
        composed(raw, **columns)
    return caught.value.column, caught.value.reason


def test_what_lacks_nothing_goes_out_byte_by_byte() -> None:
    assert composed(WHOLE) == Composed(mail_from="jo@example.com", content=WHOLE)


@given(st.binary().filter(lambda body: b"\0" not in body))
@few
def test_whatever_the_body_is_it_stays(body: bytes) -> None:
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    assert composed(ASKED + b"\r\n" + body).content == ASKED + b"\r\n" + lines + (
        b"" if lines.endswith(b"\r\n") or not lines else b"\r\n"
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "Date: D\r\nFrom: s@x.test\r\nMessage-ID: <1@x.test>\r\n\r\n"),
        (b"Hello\n", "Date: D\r\nFrom: s@x.test\r\nMessage-ID: <1@x.test>\r\n\r\nHello\r\n"),
        (b"\nHello: x\n", "Date: D\r\nFrom: s@x.test\r\nMessage-ID: <1@x.test>\r\n\r\nHello: x\r\n"),
        (b"X: 1\nno field\n", "Date: D\r\nFrom: s@x.test\r\nMessage-ID: <1@x.test>\r\nX: 1\r\n\r\nno field\r\n"),
        (b"From a Mon Jan 1\nX: 1\n\nb", "Date: D\r\nFrom: s@x.test\r\nMessage-ID: <1@x.test>\r\nX: 1\r\n\r\nb\r\n"),
        (
            ASKED + b"Bcc: b@b.test,\r\n c@c.test\r\nReturn-Path: <x>\r\nX: 1\r\n 2\r\n",
            ASKED.decode() + "X: 1\r\n 2\r\n\r\n",
        ),
    ],
)
def test_what_is_missing_stands_in_front_and_what_is_nobodys_business_is_left_out(raw: bytes, expected: str) -> None:
    date = "Sun, 22 Nov 2026 09:05:07 +0000"
    assert composed(raw).content == expected.replace("Date: D", f"Date: {date}").encode()


def test_what_the_bytes_need_of_the_relay_is_found_out() -> None:
    in_header = ASKED.replace(b"x\r\n", b"x\r\nX: \xc3\xa9\r\n")
    assert [composed(raw).smtputf8 for raw in (WHOLE, WHOLE + b"\xe9\r\n", in_header)] == [False, False, True]


def test_the_envelope_is_the_columns_and_none_of_it_is_named() -> None:
    found = composed(WHOLE, bcc="c@b.test", envelope_from="bounce@x.test", sender="z@z.test")
    assert (found.mail_from, found.content) == ("bounce@x.test", WHOLE)
    assert [composed(WHOLE, envelope_from=path).mail_from for path in ("", "<>")] == ["", ""]


def test_what_no_relay_could_take_is_refused_in_words() -> None:
    assert reason(b"X: 1\n\n\0")[0] == "raw"
    neither = "the header holds bytes that are neither ASCII nor UTF-8, at position 3"
    assert reason(b"X: \xe9\n\n") == ("raw", f"{neither}; write encoded words (RFC 2047), or UTF-8")
    file = Attachment(name="a", content_type="text/plain", content=b"")
    assert reason(WHOLE, attachments=(file,))[0] == "attachments"


def test_on_a_staging_machine_it_tells_how_many_would_have_got_it_and_nobodys_parameters_go() -> None:
    settings = MessageSettings(sender="s@x.test", redirect_to="me@x.test")
    found = composed(WHOLE, settings, bcc="c@b.test", dsn={"mail": "RET=HDRS"})
    assert (found.content, found.dsn) == (b"X-Poller-Redirected-Bcc: 2\r\n" + WHOLE, None)
    recipients = Composer(settings, TemplateSettings()).recipients(draft(WHOLE))
    assert [recipient.wire for recipient in recipients] == ["me@x.test"]


def test_it_is_signed_unless_its_domain_has_signed_it(tmp_path: Path) -> None:
    composer = Composer(MessageSettings(), TemplateSettings(), {"example.com": keys.table(tmp_path, "rsa")})
    first = composer.compose(draft(WHOLE)).content
    signers = composer.signing.keys_of("example.com")
    assert (first.endswith(WHOLE), keys.verdicts(first, [*signers])) == (True, [True])
    assert composer.compose(draft(first)).content == first
    other = b"DKIM-Signature: v=1; d=other.test; b=x\r\n" + WHOLE
    assert composer.compose(draft(other)).content.count(b"DKIM-Signature:") == 2


def test_dsn_parameters_go_with_the_envelope_and_only_what_is_one() -> None:
    dsn = {"mail": "ret=HDRS ENVID=a+2Bb", "rcpt": {"A@b.test": "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@b.test"}}
    said = {"": "RET=HDRS ENVID=a+2Bb", "A@b.test": "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@b.test"}
    assert composed(WHOLE, dsn=dsn).dsn == said
    wrongs: tuple[Any, ...] = (
        {"mail": "RET=ALL"},
        {"mail": "SIZE=1"},
        {"rcpt": {"a@b.test": "NOTIFY=NEVER\r\nQUIT"}},
        [],
        {"x": 1},
    )
    for wrong in wrongs:
        assert reason(WHOLE, dsn=wrong)[0] == "dsn"


def test_a_subject_is_read_as_people_read_it() -> None:
    assert taken_apart(WHOLE).subject == "Grüße"
    assert taken_apart(b"Subject: =?utf-8?q?a?=\n =?utf-8?q?b?= c =?nope?q?d?=\n\n").subject == "ab c =?nope?q?d?="
