"""Bodies and files: what is sent arrives, byte for byte where it must."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, Message
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from message.rows import (
    any_text,
    assert_well_formed,
    attempted,
    composer,
    content,
    decoded,
    draft,
    few,
    many,
    parsed,
    parsed_raw,
)

from poller.message.draft import Attachment, Unsendable

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=400)


def shape(message: Message) -> Any:
    """The tree of types."""
    if message.is_multipart() and message.get_content_maintype() == "multipart":
        return (message.get_content_subtype(), *(shape(part) for part in message.get_payload()))
    return message.get_content_type()


def crlf(text: str) -> str:
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    lines += "\n" if lines and not lines.endswith("\n") else ""
    return lines.replace("\n", "\r\n")


def text_of(part: Message) -> str:
    payload = part.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode("utf-8")


def attachment(name: str = "a.pdf", content_type: str = "application/pdf", **given_: Any) -> Attachment:
    return Attachment(**{"name": name, "content_type": content_type, "content": b"%PDF", **given_})


@many
@given(TEXT)
@example("From here\r\nFrom there ü\n")
@example("x" * 5000)
@example("ü" * 5000)
@example(("x" * 74 + "ü \n") * 3)
@example(("ab" * 37 + "é\t\n" + "x" * 75 + " \n" + "x" * 76 + " \n") * 3)
@example("Fromü " + "x" * 70 + "From me \n")
@example(".\n..\n.")
@example("=3D=\n")
@example("a\x0c\x1b\u2028\x85b")
@example("-- \nAnna")
@example("\ufeffbom")
def test_any_text_body_comes_back_with_crlf(body: str) -> None:
    message = content(body_text=body)
    assert crlf(body) == text_of(email.message_from_bytes(message)).replace("\r\n", "\n").replace("\n", "\r\n")
    assert_well_formed(message)
    encoded = email.message_from_bytes(message)["Content-Transfer-Encoding"]
    longest = max(map(len, message.partition(b"\r\n\r\n")[2].split(b"\r\n")))
    assert longest <= (998 if encoded == "7bit" else 76)
    assert b"\r\nFrom " not in message


@many
@given(TEXT, TEXT)
def test_text_and_html_come_back_as_alternatives(text: str, html: str) -> None:
    message = parsed(body_text=text, body_html=html)
    assert shape(message) == ("alternative", "text/plain", "text/html")
    plain, rich = message.get_payload()
    assert crlf(text) == text_of(plain).replace("\r\n", "\n").replace("\n", "\r\n")
    assert crlf(html) == text_of(rich).replace("\r\n", "\n").replace("\n", "\r\n")


def test_plain_ascii_goes_as_it_is_and_declares_it() -> None:
    message = parsed_raw(body_text="Hello\n.\n" + "x" * 998)
    assert message.get_content_charset() == "us-ascii"
    assert message["Content-Transfer-Encoding"] == "7bit"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        ("Viele Grüße aus Köln an alle, die uns kennen", "quoted-printable"),
        ("日本語の本文です", "base64"),
        ("x" * 999, "quoted-printable"),
        ("From me", "quoted-printable"),
        ("bell \x07", "quoted-printable"),
    ],
)
def test_other_text_takes_the_shorter_encoding(body: str, encoding: str) -> None:
    assert encoding == parsed_raw(body_text=body)["Content-Transfer-Encoding"]


@pytest.mark.parametrize("column", ["body_text", "body_html"])
@pytest.mark.parametrize("body", ["a\0b", "a\ud800b"])
def test_a_nul_or_half_a_character_in_a_body_is_refused(column: str, body: str) -> None:
    with pytest.raises(Unsendable) as caught:
        content(**{column: body})
    assert column == caught.value.column


def test_an_empty_body_is_a_body() -> None:
    assert text_of(parsed_raw(body_text="")) == ""
    assert shape(parsed(body_html="")) == ("alternative", "text/plain", "text/html")


IMAGE = attachment("l.png", "image/png", content_id="logo")
FILE = attachment()
SHOWS = "<img src='cid:logo'>"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"body_text": "x"}, "text/plain"),
        ({"body_html": "x"}, ("alternative", "text/plain", "text/html")),
        ({"body_text": "x", "attachments": (FILE,)}, ("mixed", "text/plain", "application/pdf")),
        (
            {"body_html": SHOWS, "attachments": (FILE, IMAGE)},
            ("mixed", ("alternative", "text/plain", ("related", "text/html", "image/png")), "application/pdf"),
        ),
        (
            {"body_html": SHOWS, "attachments": (IMAGE,)},
            ("alternative", "text/plain", ("related", "text/html", "image/png")),
        ),
        ({"body_text": "x", "attachments": (IMAGE,)}, ("mixed", "text/plain", "image/png")),
        (
            {"body_html": "x", "attachments": (IMAGE,)},
            ("mixed", ("alternative", "text/plain", "text/html"), "image/png"),
        ),
    ],
)
def test_the_structure_is_as_deep_as_needed(columns: dict[str, Any], expected: Any) -> None:
    assert expected == shape(parsed(**columns))


def test_what_no_html_names_is_a_file_and_not_hidden_in_the_message() -> None:
    notes = attachment("notes.txt", "text/plain", content_id="notes")
    message = parsed(body_html="<p>See the notes", attachments=(notes,))
    assert [part.get_content_disposition() for part in message.iter_attachments()] == ["attachment"]


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=120).filter(str.strip)
FILES = st.lists(
    st.builds(
        attachment,
        name=NAMES,
        content_type=st.sampled_from(["application/pdf", "text/plain", "text/csv; charset=utf-8", "image/png"]),
        content=st.binary(max_size=300),
    ),
    max_size=4,
)


@many
@given(FILES)
@example(
    [
        attachment("請求書・日本語のとても長いファイル名です" * 4 + ".pdf"),
        attachment("🎉👨‍👩‍👧‍👦.png", content=b"\r\n.\r\n\0"),
    ]
)
@example([attachment('a"b\\c%41.pdf'), attachment("naïve.txt", "text/plain", content=b"a\nb\r\nc\rd\xff")])
@example([attachment("x" * 300), attachment("<>"), attachment("'a'")])
@example([attachment("=?utf-8?q?x?=.pdf"), attachment("a;b'c.pdf")])
def test_files_come_back_byte_for_byte_with_their_names(files: list[Attachment]) -> None:
    message = content(attachments=tuple(files))
    assert_well_formed(message)
    parts = [part for part in email.message_from_bytes(message).walk() if part.get_filename() is not None]
    assert [(file.name.strip(), file.content) for file in files] == [
        (part.get_filename(), part.get_payload(decode=True)) for part in parts
    ]
    assert all(part.get_content_disposition() == "attachment" for part in parts)


def test_an_old_client_finds_an_ascii_name() -> None:
    message = content(attachments=(attachment("Résumé 日本.pdf"),))
    assert b'Content-Type: application/pdf; name="Resume __.pdf"\r\n' in message
    assert b"filename*=utf-8''R%C3%A9sum%C3%A9%20%E6%97%A5%E6%9C%AC.pdf" in message


def test_a_file_without_a_name_has_none() -> None:
    part = parsed(attachments=(attachment(""),)).get_payload()[1]
    assert None is part.get_filename()
    assert part.get_content_disposition() == "attachment"


def test_a_large_file_comes_back_and_its_lines_are_76() -> None:
    data = bytes(range(256)) * 4000
    message = content(attachments=(attachment(content=data),))
    assert data == email.message_from_bytes(message).get_payload()[1].get_payload(decode=True)
    assert max(map(len, message.split(b"\r\n"))) == 76


def test_an_inline_image_has_the_id_that_html_names() -> None:
    image = email.message_from_bytes(content(body_html="<img src='cid:logo'>", attachments=(IMAGE,))).get_payload()[1]
    part = image.get_payload()[1]
    assert (part["Content-ID"], part.get_content_disposition()) == ("<logo>", "inline")


FORWARDED = b"Subject: inner\n\nHello\n"


def test_a_clean_message_travels_as_a_message() -> None:
    part = parsed(attachments=(attachment("m.eml", "message/rfc822", content=FORWARDED),)).get_payload()[1]
    assert (part.get_content_type(), part["Content-Transfer-Encoding"]) == ("message/rfc822", "7bit")
    assert part.get_payload()[0]["Subject"] == "inner"


@pytest.mark.parametrize("inner", [b"Subject: \xfc\n\n", b"a\0b", b"Subject: x\n\n" + b"x" * 999])
def test_a_message_that_is_not_clean_travels_as_a_file_with_its_exact_bytes(inner: bytes) -> None:
    part = parsed(attachments=(attachment("m.eml", "message/rfc822", content=inner),)).get_payload()[1]
    assert (part.get_content_type(), part.get_filename()) == ("application/octet-stream", "m.eml")
    assert inner == part.get_payload(decode=True)


BAD_FILES = [
    attachment("a\r\nb"),
    attachment("a\0"),
    attachment("\ud800"),
    attachment("=?utf-8?q?=0A?="),
    attachment(content_type=""),
    attachment(content_type="pdf"),
    attachment(content_type="application/pdf\r\nBcc: x@y.test"),
    attachment(content_type="multipart/mixed"),
    attachment(content_type="text/plain; charset"),
    attachment(content_type="text/ü"),
    attachment(content_id=""),
    attachment(content_id="a b"),
    attachment(content_id="a>\r\nBcc: x"),
    attachment(content_id="ü"),
]


@pytest.mark.parametrize("file", BAD_FILES)
def test_a_file_that_cannot_be_written_fails_the_row(file: Attachment) -> None:
    with pytest.raises(Unsendable) as caught:
        content(attachments=(FILE, file))
    assert caught.value.column == "attachments"


def test_two_inline_parts_with_one_id_fail_the_row() -> None:
    with pytest.raises(Unsendable) as caught:
        content(body_html="x", attachments=(IMAGE, IMAGE))
    assert caught.value.column == "attachments"


@few
@given(any_text, any_text)
def test_any_file_is_either_sent_or_the_rows_fault(name: str, content_type: str) -> None:
    file = attachment(name, content_type, content_id=name or None)
    made = attempted(composer(), draft(attachments=(file,)))
    if isinstance(made, Unsendable):
        assert made.column == "attachments"
    else:
        assert_well_formed(made.content)


def test_a_boundary_does_not_occur_in_a_message_that_carries_the_same_message() -> None:
    inner = content(body_text="x", body_html="<p>x")
    outer = content(
        body_text="x", body_html="<p>x", attachments=(attachment("m.eml", "message/rfc822", content=inner),)
    )
    message = email.message_from_bytes(outer, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert shape(message.get_payload()[1].get_payload()[0]) == ("alternative", "text/plain", "text/html")


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({"body_text": "x" * 2000}, "body_text"),
        ({"body_html": "x" * 2000}, "body_html"),
        ({"attachments": (attachment(content=b"x" * 800),)}, "attachments"),
        ({"attachments": (attachment(content=b"x" * 2000),)}, "attachments"),
    ],
)
def test_a_message_over_the_limit_is_refused_with_its_size(columns: dict[str, Any], column: str) -> None:
    with pytest.raises(Unsendable, match=r"1,000 allowed") as caught:
        composer(max_size=1000).compose(draft(**columns))
    assert column == caught.value.column


def test_the_name_of_a_file_is_decoded_by_modern_readers_too() -> None:
    part = parsed(attachments=(attachment("請求書.pdf"),)).get_payload()[1]
    assert part.get_filename() == "請求書.pdf"
    assert decoded("invoice.pdf") == "invoice.pdf"


INVITATION = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Grüße\r\nEND:VCALENDAR\r\n".encode()


@pytest.mark.parametrize(
    ("html", "files", "expected"),
    [
        (None, 0, ("alternative", "text/plain", "text/calendar")),
        ("<p>x</p>", 0, ("alternative", "text/plain", "text/html", "text/calendar")),
        (
            '<img src="cid:logo">',
            1,
            (
                "mixed",
                ("alternative", "text/plain", ("related", "text/html", "image/png"), "text/calendar"),
                "application/pdf",
            ),
        ),
    ],
)
def test_an_invitation_is_the_last_alternative_and_no_file(html: str | None, files: int, expected: Any) -> None:
    """Outlook and Gmail show their buttons for it (RFC 6047 section 2.4)."""
    kind = "text/calendar; method=REQUEST"
    invitation = attachment("", kind, content=INVITATION, is_alternative=True)
    others = [attachment("l.png", "image/png", content_id="logo"), attachment()][: 2 * files]
    message = content(body_text="x", body_html=html, attachments=(invitation, *others))
    assert_well_formed(message)
    whole = email.message_from_bytes(message)
    assert shape(whole) == expected
    (part,) = [part for part in whole.walk() if part.get_content_type() == "text/calendar"]
    assert (part.get_param("method"), part.get_param("charset")) == ("REQUEST", "utf-8")
    assert part["Content-Disposition"] is None
    assert part.get_payload(decode=True) == INVITATION
