"""An EmailMessage is taken apart truthfully, or refused in words."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email.message import EmailMessage, Message
from email.mime.application import MIMEApplication
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import default
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import poller
from poller.message.composer import Composer
from poller.message.draft import Draft
from poller.message.settings import MessageSettings, TemplateSettings

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def plain(text: str = "Grüße\n") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Shop <shop@example.com>"
    message["To"] = '"Müller, Anna" <anna@exämple.com>, b@example.com'
    message["Cc"] = "Team: c@example.com, d@example.com;"
    message["Bcc"] = "e@example.com"
    message["Reply-To"] = "help@example.com"
    message["Subject"] = "Grüße aus " + "sehr " * 20 + "weiter Ferne"
    message["Date"] = NOON
    message["Message-ID"] = "<1@example.com>"
    message["References"] = "<a@example.com> <b@example.com>"
    message["X-Campaign"] = "frühling"
    message["X-Trace"] = "1"
    message["X-Trace"] = "2"
    message.set_content(text)
    return message


def full() -> EmailMessage:
    message = plain()
    message.add_alternative('<p>Grüße <img src="cid:logo">', subtype="html")
    html = message.get_payload()[1]  # type: ignore[index] # a list, of a multipart
    html.add_related(b"\x89PNG", "image", "png", cid="<logo>", filename="logo.png")  # type: ignore[union-attr]
    message.add_attachment(b"%PDF\0\r\n", maintype="application", subtype="pdf", filename="Rechnung März.pdf")
    message.add_attachment("a,ä\r\n", subtype="csv", filename="a.csv")
    message.add_attachment(plain("inner\n"))
    return message


def old_style() -> Message:
    message = MIMEMultipart()
    message["From"], message["To"], message["Subject"] = (
        "shop@example.com",
        "a@example.com",
        "=?utf-8?q?Gr=C3=BC=C3=9Fe?=",
    )
    message.attach(MIMEText("Grüße\n", "plain", "utf-8"))
    message.attach(MIMEApplication(b"%PDF", "pdf", name="a.pdf"))
    return message


def composed(mail: poller.Mail) -> EmailMessage:
    """As it would go out."""
    names = ("recipients", "cc", "bcc", "sender", "reply_to", "subject", "body_text", "body_html", "headers")
    row: dict[str, Any] = {name: getattr(mail, name) for name in (*names, "attachments")}
    draft = Draft(id=1, date=NOON, message_id=mail.message_id or "<1@example.com>", **row)
    content = Composer(MessageSettings(), TemplateSettings()).compose(draft).content
    return email.message_from_bytes(content, policy=default)


def told(message: EmailMessage) -> list[Any]:
    """What a reader's program makes of it: fields, and the leaves with their content."""
    whole = email.message_from_bytes(message.as_bytes(), policy=default)
    anew = {"content-type", "content-transfer-encoding", "mime-version", "bcc", "date", "cc", "to"}
    fields = sorted((name.lower(), str(value)) for name, value in whole.items() if name.lower() not in anew)
    people = [
        [(one.display_name, one.username, one.domain.encode("idna")) for one in whole[name].addresses]
        for name in ("To", "Cc")
    ]
    leaves = [
        (part.get_content_type(), part.get_filename(), part["content-id"], _content(part))
        for part in whole.walk()
        if isinstance(part, EmailMessage) and not part.is_multipart()
    ]
    return [fields, people, leaves]


def _content(part: EmailMessage) -> Any:
    content = part.get_content()
    return content.replace("\r\n", "\n").rstrip("\n") if isinstance(content, str) else content


def with_calendar() -> EmailMessage:
    message = plain()
    message.add_alternative("<p>Grüße", subtype="html")
    message.add_alternative("BEGIN:VCALENDAR\nSUMMARY:Grüße\n", subtype="calendar", params={"method": "REQUEST"})
    return message


@pytest.mark.parametrize("make", [plain, full, with_calendar])
def test_what_goes_out_is_what_was_given(make: Callable[[], EmailMessage]) -> None:
    given = make()
    assert told(composed(poller.Mail.from_email(given))) == told(given)


_LINES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], include_characters="\n"), max_size=300)
_NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
_KINDS = st.sampled_from([("application", "pdf"), ("image", "png"), ("application", "x-zip")])


@given(
    text=_LINES, html=st.none() | _LINES, files=st.lists(st.tuples(_NAMES, st.binary(max_size=200), _KINDS), max_size=3)
)
def test_whatever_is_kept_is_kept_twice(
    text: str, html: str | None, files: list[tuple[str, bytes, tuple[str, str]]]
) -> None:
    message = plain(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    for name, content, (main, sub) in files:
        message.add_attachment(content, maintype=main, subtype=sub, filename=name)
    given_files = [(name, content, f"{main}/{sub}") for name, content, (main, sub) in files]
    mail = poller.Mail.from_email(message)
    for kept in (mail, poller.Mail.from_email(composed(mail))):
        assert kept.body_text is not None
        assert kept.body_text.rstrip("\n") == text.rstrip("\n")
        assert (kept.body_html or "").rstrip("\n") == (html or "").rstrip("\n")
        assert [(file.name, file.content, file.content_type) for file in kept.attachments] == given_files


def test_its_columns_hold_it() -> None:
    mail = poller.Mail.from_email(full(), dedupe_key="k", priority=1)
    assert (mail.dedupe_key, mail.priority, mail.bcc, mail.message_id) == ("k", 1, "e@example.com", "<1@example.com>")
    assert (mail.body_text, mail.headers) == (
        "Grüße\n",
        {"References": "<a@example.com> <b@example.com>", "X-Campaign": "frühling", "X-Trace": ["1", "2"]},
    )
    assert [(file.name, file.content_id, file.content_type) for file in mail.attachments] == [
        ("logo.png", "logo", "image/png"),
        ("Rechnung März.pdf", None, "application/pdf"),
        ("a.csv", None, 'text/csv; charset="utf-8"'),
        ("", None, "message/rfc822"),
    ]


def test_a_message_of_the_older_classes_is_read_too() -> None:
    mail = poller.Mail.from_email(old_style())
    assert (mail.subject, mail.body_text) == ("Grüße", "Grüße\n")
    assert [(file.name, file.content) for file in mail.attachments] == [("a.pdf", b"%PDF")]


def signed() -> Message:
    message = MIMEMultipart("signed", protocol="application/pgp-signature")
    message["To"] = "a@example.com"
    message.attach(MIMEText("Hi"))
    message.attach(MIMEApplication(b"-", "pgp-signature"))
    return message


def around(inner: Message) -> Message:
    message = MIMEMultipart()
    message["To"] = "a@example.com"
    message.attach(MIMEText("Hi"))
    del inner["To"]
    message.attach(inner)
    return message


def calendar_first() -> Message:
    message = EmailMessage()
    message["To"] = "a@example.com"
    message.set_content("BEGIN:VCALENDAR", subtype="calendar")
    message.add_alternative("<p>Hi", subtype="html")
    return message


def flowed() -> Message:
    message = plain()
    message.set_param("format", "flowed")
    return message


def html_first() -> Message:
    message = EmailMessage()
    message["To"] = "a@example.com"
    message.set_content("<p>Hi", subtype="html")
    message.add_alternative("Hi", subtype="plain")
    return message


def unnamed_image() -> Message:
    image = MIMEImage(b"\x89PNG", "png")
    image["Content-ID"] = "<logo>"
    image["Content-Disposition"] = "inline"
    return around(image)


def described() -> Message:
    part = MIMEApplication(b"%PDF", "pdf")
    part["Content-Description"] = "the invoice"
    return around(part)


def with_header(name: str, value: str) -> Message:
    message = plain()
    message[name] = value
    return message


def broken() -> Message:
    return email.message_from_bytes(
        b"To: a@example.com\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nHi", policy=default
    )


def unknown_charset() -> Message:
    return email.message_from_bytes(
        b"To: a@example.com\r\nContent-Type: text/plain; charset=klingon\r\n\r\n\xff", policy=default
    )


REFUSED: dict[str, Callable[[], Message]] = {
    "it holds a multipart/signed; its signature covers bytes": signed,
    "it holds a multipart/signed; its signature covers bytes that are written": lambda: around(signed()),
    "it holds a multipart/report; it is a report": lambda: around(MIMEMultipart("report")),
    "it holds a multipart/mixed; that structure would be lost": lambda: around(MIMEMultipart()),
    r"a second text \(text/plain\) stands after the first": lambda: around(MIMEText("more")),
    "an alternative of type text/calendar stands before text or HTML": calendar_first,
    "text/plain has the parameter format, which would be lost": flowed,
    "its plain text is the preferred alternative": html_first,
    "the inline part 'logo' is named by no HTML": unnamed_image,
    "a part has the field Content-Description of its own": described,
    "it is broken: ": broken,
    "its text can't be read: ": unknown_charset,
}
REFUSED_FIELDS: dict[str, Callable[[], Message]] = {
    "headers: Sender may not be given here; use the column sender": lambda: with_header("Sender", "a@example.com"),
    "headers: DKIM-Signature may not be given here": lambda: with_header("DKIM-Signature", "v=1"),
    "headers: Resent-To may not be given here": lambda: with_header("Resent-To", "a@example.com"),
}


@pytest.mark.parametrize(("words", "make"), REFUSED.items(), ids=REFUSED)
def test_what_would_arrive_as_something_else_is_refused(words: str, make: Callable[[], Message]) -> None:
    with pytest.raises(poller.Unsendable, match=f": the message can't be kept as it is: {words}"):
        poller.Mail.from_email(make())


@pytest.mark.parametrize(("words", "make"), REFUSED_FIELDS.items(), ids=REFUSED_FIELDS)
def test_a_field_that_is_not_the_applications_is_refused(words: str, make: Callable[[], Message]) -> None:
    with pytest.raises(poller.Unsendable, match=f"^{words}"):
        poller.Mail.from_email(make())
