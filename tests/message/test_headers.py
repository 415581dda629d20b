"""Header fields: what comes back, what is never broken, what never gets in."""

from __future__ import annotations

import email
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from message.rows import (
    any_text,
    assert_well_formed,
    attempted,
    compose,
    composer,
    content,
    decoded,
    draft,
    many,
    parsed,
    parsed_raw,
    printable,
)

from poller.message.draft import Unsendable
from poller.message.message_id import valid_message_id
from poller.message.words import clusters, encode

UNSUBSCRIBE = "<https://shop.test/u/" + "x" * 400 + "?a=1&b=2>, <mailto:u@shop.test?subject=unsubscribe>"


def head(**columns: object) -> str:
    return content(**columns).partition(b"\r\n\r\n")[0].decode()


def field(name: str, **columns: object) -> str:
    lines = [line for line in head(**columns).split("\r\n") if line.startswith(f"{name}:")]
    assert len(lines) == 1
    return lines[0]


@many
@given(printable)
@example("Grüße aus Köln")
@example("A =?utf-8?q?=0A?")
@example("x" * 2000)
@example("word " * 300)
@example("a" + " " * 950 + "b")
@example("double  space   triple")
@example("日本語の件名はとても長いことがあります。" * 5)
@example("👨‍👩‍👧‍👦🇩🇪👍🏽" * 20)
@example("e" + "\u0301" * 100)
def test_any_subject_comes_back(subject: str) -> None:
    raw = parsed_raw(subject=subject)["Subject"]
    assert subject.strip(" ") == decoded(raw)
    assert_well_formed(content(subject=subject))


@many
@given(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=60), st.sampled_from([" ", " ü "]))
def test_a_modern_reader_sees_the_subject_too(word: str, between: str) -> None:
    subject = f"{word}{between}{word}"
    assert subject == parsed(subject=subject)["Subject"]


def test_a_subject_is_absent_empty_or_there() -> None:
    assert "Subject" not in head(subject=None)
    assert parsed(subject="")["Subject"] == ""
    assert "\r\nSubject: Hi\r\n" in head(subject=" Hi ")


def test_a_tab_or_a_line_separator_in_a_subject_becomes_a_space() -> None:
    assert field("Subject", subject="a\tb\u2028c\u2029d") == "Subject: a b c d"


@many
@given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.integers(5, 60))
def test_an_encoded_word_is_short_enough_and_whole(text: str, used: int) -> None:
    words = encode(text, used)
    assert all(len(word) <= 75 for word in words)
    assert used + len(words[0]) <= 76 or used > 40
    assert text == "".join(decoded(word) for word in words)


def test_an_encoded_word_does_not_split_what_a_reader_sees_as_one() -> None:
    family = "👨‍👩‍👧‍👦"
    words = encode(f"{family}🇩🇪👍🏽é".replace("é", "e\u0301") * 10, 9)
    assert len(words) > 5
    for word in words:
        text = decoded(word)
        assert not text.startswith(("\u200d", "\u0301", "🏽"))
        assert text.count("\U0001f1e9") == text.count("\U0001f1ea")
        assert text.count("\u200d") % 3 == 0
    assert [family, "🇩🇪", "👍🏽", "e\u0301"] == list(clusters(f"{family}🇩🇪👍🏽e\u0301"))


def test_short_fields_are_not_folded_and_long_ones_at_78() -> None:
    assert field("Subject", subject="x " * 34 + "x") == "Subject: " + "x " * 34 + "x"
    lines = head(subject="word " * 100).split("\r\n")
    assert max(map(len, lines)) <= 78


def test_the_date_is_utc_in_english_whatever_the_zone() -> None:
    assert field("Date") == "Date: Sun, 22 Nov 2026 09:05:07 +0000"
    there = datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert field("Date", date=there) == "Date: Wed, 31 Dec 2025 23:30:00 +0000"


def test_one_click_unsubscription_stands_on_one_line_as_written() -> None:
    given_headers = {"List-Unsubscribe": UNSUBSCRIBE, "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    text = head(headers=given_headers)
    assert f"\r\nList-Unsubscribe: {UNSUBSCRIBE}\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in text


@pytest.mark.parametrize(
    "headers",
    [
        {"List-Unsubscribe": "<https://x.test/" + "x" * 990 + ">"},
        {"List-Unsubscribe": "<https://x.test/ü>"},
        {"X-Link": "see https://x.test/ü"},
        {"References": "<ü@x.test>"},
        {"X-Long": "x" * 2000},
    ],
)
def test_what_machines_read_is_refused_rather_than_encoded_or_broken(headers: dict[str, str]) -> None:
    with pytest.raises(Unsendable) as caught:
        compose(headers=headers)
    assert caught.value.column == "headers"
    assert next(iter(headers)) in caught.value.reason


def test_message_ids_are_folded_at_spaces_and_never_encoded() -> None:
    ids = [f"<{number}.{'x' * 40}@example.test>" for number in range(30)]
    for value in (" ".join(ids), ids):
        message = parsed_raw(headers={"References": value})
        assert len(message.get_all("References")) == 1
        assert ids == message["References"].split()


def test_a_list_field_that_may_occur_once_is_joined_by_commas() -> None:
    text = head(headers={"List-Unsubscribe": ["<mailto:u@x.test>", "<https://x.test/u>"]})
    assert "\r\nList-Unsubscribe: <mailto:u@x.test>, <https://x.test/u>\r\n" in text


def test_extra_fields_keep_their_order_and_a_list_repeats_the_field() -> None:
    given_headers = {"X-Zebra": "1", "Auto-Submitted": "auto-generated", "x-a": ["b", 2, 2.5], "Precedence": "bulk"}
    found = [(name, value) for name, value in parsed_raw(headers=given_headers).items() if name in (*given_headers,)]
    expected = [("X-Zebra", "1"), ("Auto-Submitted", "auto-generated"), ("x-a", "b"), ("x-a", "2"), ("x-a", "2.5")]
    assert [*expected, ("Precedence", "bulk")] == found
    assert parsed(headers={"X-Empty": ""})["X-Empty"] == ""
    assert None is parsed(headers={"X-None": []})["X-None"]


@many
@given(printable)
def test_a_free_extra_field_comes_back_or_is_refused(value: str) -> None:
    made = attempted(composer(), draft(headers={"X-Note": value}))
    if isinstance(made, Unsendable):
        assert made.column == "headers"
    elif "=?" not in value:
        assert value.strip(" ") == decoded(email.message_from_bytes(made.content)["X-Note"])


FORBIDDEN = """From Sender To Cc Bcc Reply-To Message-ID Date Subject Content-Type Content-Transfer-Encoding
    Content-Anything MIME-Version Resent-From Resent-Date Return-Path Received DKIM-Signature ARC-Seal
    ARC-Message-Signature Authentication-Results FROM bCC mime-version content-TYPE Delivered-To
    X-Poller-Redirected-From"""


@pytest.mark.parametrize("name", FORBIDDEN.split())
def test_a_field_that_is_not_the_applications_fails_the_row(name: str) -> None:
    with pytest.raises(Unsendable) as caught:
        compose(headers={"X-Fine": "1", name: "x"})
    assert caught.value.column == "headers"
    assert name in caught.value.reason


@pytest.mark.parametrize("name", ["", "a b", "a:", "ü", "X-A\r\nBcc", "X\0", "x" * 77, "\ud800"])
def test_what_is_no_field_name_fails_the_row(name: str) -> None:
    with pytest.raises(Unsendable) as caught:
        compose(headers={name: "x"})
    assert caught.value.column == "headers"


@pytest.mark.parametrize(
    "headers", ["x", 1, [], ["X-A"], True, {"X": None}, {"X": True}, {"X": {}}, {"X": [["a"]]}, {"X": float("nan")}]
)
def test_headers_that_are_no_object_of_texts_fail_the_row(headers: object) -> None:
    with pytest.raises(Unsendable) as caught:
        compose(headers=headers)
    assert caught.value.column == "headers"


def test_an_absurd_number_fails_the_row() -> None:
    with pytest.raises(Unsendable):
        compose(headers={"X": 10**6000})


INJECTIONS = [
    "a\r\nBcc: x@y.test",
    "a\nBcc: x@y.test",
    "a\rBcc: x@y.test",
    "a\0b",
    "a\x0bb",
    "a\x7fb",
    "a\x85b",
    "a\x1bb",
    "a\ud800b",
    "A =?UTF-8?Q?=0A?=Bcc: x@y.test",
    "=?utf-8?q?a=0d=0aBcc:_x@y.test?=",
    "=?utf-8?b?YQ0KQmNjOiB4?=",
    "=?utf-8?B?CgA?=",
    "=?utf-8*en?q?=0A?=",
    "=? utf-8 ?q?=0A?=",
    "=?utf-8?q?x y=0Az?=",
    "=?utf-7?q?+AAo-?=",
    "=?utf-16?b?CgAKAA==?=",
    "=?no-such?q?=0A?=",
    "=?unicode_escape?q?\\n?=",
    "=?utf-8?q?=00?=",
    "=?utf-8?q?=C2=85?=",
]
COLUMNS = ["subject", "sender", "reply_to", "recipients", "cc", "bcc", "envelope_from"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("text", INJECTIONS)
def test_a_control_character_open_or_hidden_is_refused_everywhere(column: str, text: str) -> None:
    for value in (text, f'"{text}" <a@b.test>'):
        with pytest.raises(Unsendable) as caught:
            compose(**{column: value})
        assert caught.value.column == column


@pytest.mark.parametrize("text", INJECTIONS)
def test_a_control_character_is_refused_in_extra_fields(text: str) -> None:
    for name in ("X-A", "List-Unsubscribe", "References"):
        with pytest.raises(Unsendable) as caught:
            compose(headers={name: text})
        assert caught.value.column == "headers"


@many
@given(any_text, st.sampled_from(["subject", "sender", "recipients", "cc", "headers", "message_id"]))
def test_no_text_adds_a_field(text: str, column: str) -> None:
    value = {"X-A": text} if column == "headers" else text
    made = attempted(composer(), draft(**{"cc": "c@d.test", "subject": "x", "headers": {"X-A": "1"}, column: value}))
    if isinstance(made, Unsendable):
        return
    message = made.content
    names = re.findall(r"^([A-Za-z-]+):", message.partition(b"\r\n\r\n")[0].decode(), re.MULTILINE)
    optional = {"To", "Cc"}
    expected = ["Date", "From", "To", "Cc", "Subject", "Message-ID", "X-A", "MIME-Version"]
    assert [name for name in expected if name not in optional] == [
        name for name in names if name not in optional and not name.startswith("Content-")
    ]
    assert_well_formed(message, ascii_only=False)


def test_an_encoded_word_in_a_subject_is_shown_as_it_was_written() -> None:
    subject = "=?utf-8?q?Caf=C3=A9?="
    assert subject == decoded(parsed_raw(subject=subject)["Subject"])


@pytest.mark.parametrize("good", ["<a@b>", "<1.x-y_z@example.com>", "<a@[192.0.2.1]>", "<" + "x" * 246 + "@b>"])
def test_a_message_id_is_left_at_right_in_brackets(good: str) -> None:
    assert valid_message_id(good)
    assert f"Message-ID: {good}" == field("Message-ID", message_id=good)


BAD_IDS = [
    "",
    "a@b",
    "<a>",
    "<a@b",
    "<a@b>x",
    "<a b@c>",
    "<a@b@c>",
    "<ü@b>",
    "<a@b>\n",
    "<a@b>\r\nBcc: x",
    "<@b>",
    "<a@>",
]


@pytest.mark.parametrize("bad", [*BAD_IDS, "<" + "x" * 247 + "@b>", "<a..b@c>", "<\ud800@b>", "<=?utf-8?q?=0A?=@b>"])
def test_any_other_message_id_is_refused(bad: str) -> None:
    assert not valid_message_id(bad)
    with pytest.raises(Unsendable) as caught:
        compose(message_id=bad)
    assert caught.value.column == "message_id"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("List-ID", "Größe und Maß <news.example.com>"),
        ("X-Sender", "Jürgen <j@example.com>"),
        ("Errors-To", "Ä <e@b.c>"),
    ],
)
def test_a_name_is_encoded_and_what_it_names_stands_as_it_is(name: str, value: str) -> None:
    raw = content(headers={name: value}).partition(b"\r\n\r\n")[0].decode("ascii")
    field = parsed_raw(headers={name: value})[name]
    assert field.endswith(value[value.index("<") :])
    assert decoded(field) == value
    assert max(map(len, raw.split("\r\n"))) <= 78


LONG = ["a" * 1000, "ab " * 400, "é" * 400, "é" * 20 + " b", "x=?", "ä, ö" * 30, "Zoë " * 3]


@pytest.mark.parametrize("column", ["sender", "recipients", "cc", "reply_to"])
@pytest.mark.parametrize("name", LONG)
def test_no_line_of_an_address_field_is_too_long(column: str, name: str) -> None:
    quoted = '"' + name + '"'
    addresses = f"{quoted} <a@example.com>" + ("" if column == "sender" else f", {quoted} <b@example.com>")
    raw = content(**{"recipients": "b@c.d", column: addresses})
    for field in raw.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b"\0 ").split(b"\r\n"):
        lines = field.split(b"\0")
        assert max(map(len, lines)) <= (76 if b"=?" in field else 998)
