"""A message and its envelope become the columns of a row."""

from __future__ import annotations

from typing import Any

import pytest

from poller.message.draft import Unsendable
from poller.submission.entry import Envelope, columns_of, completed, recipients_of

RAW = (
    b"From: Jo <jo@x.test>\r\nTo: a@b.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <1@x.test>\r\n"
    b"\r\nHi\r\n"
)


def columns(raw: bytes = RAW, *recipients: str, mail_from: str | None = "b@x.test", **more: Any) -> dict[str, Any]:
    given = {"domain": "here.test", "max_size": 1000, **more}
    return columns_of(raw, Envelope(mail_from=mail_from, recipients=recipients or ("c@d.test",)), **given)


def test_the_message_stays_as_it_came_and_the_columns_tell_what_is_in_it() -> None:
    assert columns() == {
        "raw": RAW,
        "recipients": "c@d.test",
        "sender": "jo@x.test",
        "envelope_from": "b@x.test",
        "subject": "Grüße",
        "message_id": "<1@x.test>",
        "dsn": None,
        "dedupe_key": None,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root", "root@here.test"),
        ("root (Cron Daemon)", "root@here.test (Cron Daemon)"),
        ("a@b.test, root,Jo <jo@x.test>", "a@b.test, root@here.test,Jo <jo@x.test>"),
        ("<www-data>", "<www-data@here.test>"),
        ("undisclosed-recipients:;", "undisclosed-recipients:;"),
        ('"root, or so" <a@b.test>', '"root, or so" <a@b.test>'),
    ],
)
def test_an_address_without_a_domain_is_completed_and_no_other(text: str, expected: str) -> None:
    assert completed(text, "here.test") == expected


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", [" ", "<", '",', "(,a", "a ", " <", "> "])
def test_no_header_takes_long_to_read(piece: str) -> None:
    completed(piece * 200_000 + "!", "here.test")


def test_cron_writes_to_root_and_nothing_but_the_domain_is_added() -> None:
    raw = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> true\n\n.\n"
    found = columns(raw, "root", mail_from=None)
    assert (found["recipients"], found["sender"], found["envelope_from"]) == ("root@here.test", "root@here.test", None)
    assert found["raw"].replace(b"@here.test", b"") == raw.replace(b"\n", b"\r\n")


def test_a_message_id_that_is_none_stays_in_the_message_and_the_row_gets_its_own() -> None:
    assert columns(RAW.replace(b"<1@x.test>", b"<1>"))["message_id"] is None


def test_a_repeated_message_has_the_same_key_and_for_others_another_one() -> None:
    keys = [columns(RAW, *to, dedupe=True)["dedupe_key"] for to in (("c@d.test", "e@f.test"), ("e@f.test", "c@d.test"))]
    other = columns(RAW, "g@h.test", dedupe=True)["dedupe_key"]
    assert (keys[0] == keys[1], keys[0] != other, keys[0].startswith("msgid:<1@x.test> ")) == (True, True, True)
    long = columns(RAW.replace(b"<1@", b"<" + b"1" * 230 + b"@"), dedupe=True)["dedupe_key"]
    assert len(long) < 255


def test_recipients_of_the_header_are_to_cc_and_bcc_each_once() -> None:
    raw = b"To: A <a@b.test>,\r\n root\r\nCc: a@b.test\r\nBcc: c@d.test\r\n\r\n"
    assert recipients_of(raw, "here.test") == ["a@b.test", "root@here.test", "c@d.test"]


def test_what_could_never_be_sent_is_refused_now() -> None:
    for raw in (b"x" * 1001, b"\0", b"X: \xff\n\n"):
        with pytest.raises(Unsendable):
            columns(raw)
    with pytest.raises(ValueError, match="no @"):
        columns(RAW, "a b")
