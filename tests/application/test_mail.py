"""What is wrong with a mail is said when it is made, in the words that a worker would use later."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

import poller
from poller.columns import MAIL_COLUMNS
from poller.message.composer import Composer
from poller.message.draft import Draft
from poller.message.settings import MessageSettings, TemplateSettings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
GOOD: dict[str, Any] = {"recipients": "a@example.com", "body_text": "Hi"}
REFUSED: dict[str, dict[str, Any]] = {
    "recipients: 'bob@@example.com': nothing stands after the @": {"recipients": "bob@@example.com"},
    "recipients: 'a@b.example; c@d.example': a semicolon": {"recipients": "a@b.example; c@d.example"},
    "recipients: no address in recipients, cc or bcc": {"recipients": None},
    "cc: ": {"cc": "nobody"},
    "sender: ": {"sender": "a@example.com, b@example.com"},
    "reply_to: ": {"reply_to": "a@"},
    "envelope_from: ": {"envelope_from": "a b@example.com"},
    "subject: a line end": {"subject": "Hi\nBcc: eve@example.com"},
    "body_text: a NUL character": {"body_text": "a\0"},
    "body_text: half a character": {"body_text": "\ud800"},
    "body_text: neither": {"body_text": None},
    "template: body_text is given too": {"template": "t"},
    "headers: Bcc may not be given here": {"headers": {"Bcc": "eve@example.com"}},
    "headers: not a JSON object": {"headers": ["X-A"]},
    "message_id: ": {"message_id": "1"},
    "attachments: 'multipart/mixed' cannot be": {
        "attachments": (poller.Attachment(name="a", content=b"", content_type="multipart/mixed"),)
    },
}
REFUSED_HERE: dict[str, dict[str, Any]] = {
    "recipients: .* holds 2 addresses; write exactly one": {"recipients": ["a@example.com, eve@example.com"]},
    "recipients: there is none": {"recipients": [""]},
    "priority: 10 is not 0": {"priority": 10},
    "dedupe_key: it is empty": {"dedupe_key": ""},
    "on_doubt: 'ask' is neither": {"on_doubt": "ask"},
    "max_attempts: less than 1": {"max_attempts": 0},
    "due_at: a time without zone": {"due_at": datetime(2026, 11, 22)},  # noqa: DTZ001 - that is the point
    "context: not a dict": {"body_text": None, "template": "t", "context": [1]},
    "context: no JSON can be made of it": {"body_text": None, "template": "t", "context": {"a": {1}}},
}


@pytest.mark.parametrize(("words", "columns"), {**REFUSED, **REFUSED_HERE}.items(), ids=[*REFUSED, *REFUSED_HERE])
def test_it_is_refused_at_once(words: str, columns: dict[str, Any]) -> None:
    with pytest.raises(poller.Unsendable, match=f"^{words}"):
        poller.Mail(**{**GOOD, **columns})


@pytest.mark.parametrize("columns", REFUSED.values(), ids=REFUSED)
def test_a_worker_would_say_the_same(columns: dict[str, Any]) -> None:
    row = {**GOOD, **columns}
    with pytest.raises(poller.Unsendable) as at_once:
        poller.Mail(**row)
    draft = Draft(**{"id": 1, "date": NOON, "message_id": "<1@a.example>", "sender": "s@example.com", **row})
    composer = Composer(MessageSettings(), TemplateSettings())
    with pytest.raises(poller.Unsendable) as later:
        composer.compose(draft)
    assert str(at_once.value) == str(later.value)


def test_a_mail_has_just_the_columns_of_the_table() -> None:
    assert tuple(spec.name for spec in fields(poller.Mail)) == (*MAIL_COLUMNS, "attachments")


def test_a_list_of_addresses_has_one_in_each_entry() -> None:
    mail = poller.Mail(recipients=['"Müller, Anna" <a@example.com>', "b@example.com"], body_text="Hi")
    assert mail.recipients == '"Müller, Anna" <a@example.com>, b@example.com'


def test_what_is_shown_of_a_mail_has_no_body() -> None:
    mail = poller.Mail(recipients="a@example.com", body_text="secret", body_html="secret", attachments=())
    assert "secret" not in repr(mail)


def test_importing_it_brings_nothing_of_the_service() -> None:
    code = (
        "import sys; before = set(sys.modules); from poller import *; import poller;"
        " poller.Outbox, poller.Mail, poller.Attachment, poller.State, poller.Unsendable, poller.Duplicate;"
        " new = {name for name in set(sys.modules) - before if name.split('.')[0] not in sys.stdlib_module_names};"
        " print(*sorted(new))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    rooms = {".".join(name.split(".")[:2]) for name in loaded}
    allowed = {"application", "columns", "domains", "frozen", "message", "statuses"}
    assert rooms == {"poller", *(f"poller.{room}" for room in allowed)}
    assert not {"poller.message.composer", "poller.message.templates", "poller.application.apart"} & set(loaded)
