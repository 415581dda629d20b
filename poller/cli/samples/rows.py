"""The demo's rows. `insert` writes them in one transaction, with nothing but SQL and sqlite3.

Most go straight through. Three do not, and the demo counts on them:

    UNREADABLE    no address can be read in it: the row fails, and says why
    GREYLISTED    refused for now at the first attempt (`greylist`), delivered at the second
    UNSUBSCRIBED  stands on the suppression list: nothing is sent

Nobody is at home in the domains: they are those of RFC 2606.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poller.cli.samples.files import pdf, png

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping

FEWEST = 20  # messages that still hold every kind
FIRST_INSERT = """\
INSERT INTO outbox (recipients, subject, body_text)
VALUES ('Anna <anna@example.com>', 'Hello', 'One INSERT is enough.')"""
"""Row 1, as the screen shows it and as it is run."""
UNREADABLE = "jane.doe(at)example.com"
GREYLISTED = "greylisted@example.net"
UNSUBSCRIBED = "unsubscribed@example.org"

_SUPPRESS = "INSERT INTO outbox_suppression (address, reason) VALUES (?, ?)"
_ATTACH = """\
INSERT INTO outbox_attachment (outbox_id, name, content_type, content, content_id)
VALUES (:outbox_id, :name, :content_type, :content, :content_id)"""
_FIRST_NAMES = ("Ben", "Clara", "Emil", "Fatima", "Greta", "Hugo", "Ida", "Jonas", "Lena", "Mateo", "Nora")
_LAST_NAMES = ("Adler", "Brandt", "Costa", "Dvorak", "Eriksen", "Fischer", "Gruber", "Hansen", "Ito", "Jansen")
_DOMAINS = ("example.com", "example.net", "example.org")


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A row of `outbox_attachment`; with a `content_id` the HTML shows it in its place."""

    name: str
    content_type: str
    content: bytes
    content_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of `outbox`, by column, and its files."""

    columns: Mapping[str, object]
    files: tuple[File, ...] = ()


def insert(connection: sqlite3.Connection, messages: int) -> None:
    """Write so many rows, FEWEST at least, and the suppression list; all or nothing."""
    with connection:
        connection.execute(_SUPPRESS, (UNSUBSCRIBED, "asked on 3 May to hear no more"))
        connection.execute(FIRST_INSERT)
        for row in rows(messages - 1):
            names = ", ".join(row.columns)
            values = ", ".join(f":{name}" for name in row.columns)
            row_id = connection.execute(f"INSERT INTO outbox ({names}) VALUES ({values})", row.columns).lastrowid
            for file in row.files:
                connection.execute(_ATTACH, {"outbox_id": row_id, **_columns(file)})


def rows(count: int) -> Iterator[Row]:
    """So many rows, of every kind in turn, the three special ones among them."""
    special = {1: _greylisted(), count // 3: _unreadable(), count * 2 // 3: _unsubscribed()}
    for place in range(count):
        yield special.get(place) or _KINDS[place % len(_KINDS)](place)


def greylist() -> Callable[[str], str | None]:
    """What the catcher answers: not now for GREYLISTED, once."""
    seen: set[str] = set()

    def refuse(address: str) -> str | None:
        if address != GREYLISTED or address in seen:
            return None
        seen.add(address)
        return "451 4.7.1 greylisted, come back in a moment"

    return refuse


def _columns(file: File) -> dict[str, object]:
    return {name: getattr(file, name) for name in ("name", "content_type", "content", "content_id")}


def _person(place: int) -> tuple[str, str]:
    """A name and an address; all differ for 330 places in a row."""
    first, last = _FIRST_NAMES[place % len(_FIRST_NAMES)], _LAST_NAMES[place % len(_LAST_NAMES)]
    return f"{first} {last}", f"{first}.{last}@{_DOMAINS[place % len(_DOMAINS)]}".lower()


# ---- the kinds


def _welcome(place: int, locale: str) -> Row:
    name, address = _person(place)
    context = {"name": name.split()[0], "books": ["Moby-Dick", "Die Verwandlung"], "customer": 4000 + place}
    columns = {
        "recipients": f"{name} <{address}>",
        "template": "welcome",
        "locale": locale,
        "context": json.dumps(context),
        "batch": "welcome",
    }
    return Row(columns=columns)


def _newsletter(place: int) -> Row:
    name, address = _person(place)
    html = "<p>Dear {},</p><p>this week: <a href='https://example.com/sea'>books about the <b>sea</b></a>.</p>"
    columns = {
        "recipients": f"{name} <{address}>",
        "subject": "Books about the sea",
        "body_text": f"Dear {name},\n\nthis week: books about the sea, https://example.com/sea\n",
        "body_html": html.format(name),
        "headers": json.dumps({"List-Unsubscribe": "<https://example.com/unsubscribe>"}),
        "batch": "newsletter",
        "priority": 9,
    }
    return Row(columns=columns)


def _reset(place: int) -> Row:
    _, address = _person(place)
    columns = {
        "recipients": address,
        "subject": "Your new password",
        "body_text": f"Choose it here within the hour: https://example.com/reset/{place}\n.\nAbove is a dot.\n",
        "priority": 0,
        "dedupe_key": f"reset-{place}",
    }
    return Row(columns=columns)


def _invoice(place: int) -> Row:
    name, address = _person(place)
    number = f"2026-{place:04}"
    html = '<p><img src="cid:logo" alt="An envelope" width="96" height="64"></p><p>Invoice {} is attached, {}.</p>'
    columns = {
        "recipients": f"{name} <{address}>",
        "subject": f"Invoice {number}",
        "body_html": html.format(number, name),
        "batch": "invoices",
    }
    paper = pdf(f"Invoice {number}", name, "2 books: 31.80 EUR")
    files = (
        File(name=f"invoice-{number}.pdf", content_type="application/pdf", content=paper),
        File(name="logo.png", content_type="image/png", content=png(), content_id="logo"),
    )
    return Row(columns=columns, files=files)


def _meeting(place: int) -> Row:
    (name, address), (_, other), (_, third) = _person(place), _person(place + 1), _person(place + 2)
    columns = {
        "recipients": f"{name} <{address}>, {other}",
        "cc": "Bücherstube <info@bücher.example>",
        "bcc": third,
        "reply_to": "office@example.com",
        "subject": "Tuesday at ten",
        "body_text": "Shall we meet on Tuesday at ten?\n",
    }
    return Row(columns=columns)


def _japanese(place: int) -> Row:
    _, address = _person(place)
    columns = {
        "recipients": f"山田 太郎 <{address}>",
        "subject": "📚 ご注文ありがとうございます",
        "body_text": "山田様\n\nご注文ありがとうございます。\n",
        "locale": "ja",
    }
    return Row(columns=columns)


_KINDS: tuple[Callable[[int], Row], ...] = (
    _newsletter,
    lambda place: _welcome(place, "en"),
    _reset,
    lambda place: _welcome(place, "de"),
    _newsletter,
    _invoice,
    _japanese,
    lambda place: _welcome(place, "de_AT"),
    _newsletter,
    _meeting,
)


def _unreadable() -> Row:
    return Row(columns={"recipients": UNREADABLE, "subject": "Hello", "body_text": "Hello Jane\n"})


def _greylisted() -> Row:
    body = "The first attempt was refused for now, the second was not.\n"
    return Row(columns={"recipients": GREYLISTED, "subject": "Twice tried", "body_text": body})


def _unsubscribed() -> Row:
    return Row(columns={"recipients": UNSUBSCRIBED, "subject": "Unwanted", "body_text": "Nobody gets this.\n"})
