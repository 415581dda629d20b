"""Mailing lists: which header fields a row gets, on one line each and once, and whose link stands in them."""

from __future__ import annotations

import re
from dataclasses import replace
from email.utils import unquote
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message.rows import assert_well_formed, attempted, decoded, draft, few

from poller.message.composer import Composer
from poller.message.draft import Unsendable
from poller.message.list_settings import ListSettings, UnsubscribeSettings
from poller.message.mailing_list import MailingLists
from poller.message.settings import MessageSettings, TemplateSettings
from poller.sealed import keys_of
from poller.unsubscribe import Unsubscription, verify

if TYPE_CHECKING:
    from pathlib import Path

KEY = "k" * 32
URL = "https://example.com/u?{query}&t={token}".replace("{query}", "a=1")
NEWS = ListSettings(id="news.example.com", unsubscribe_url=URL)


def composer(directory: Path | None = None, *, outbox: str = "", **lists: ListSettings) -> Composer:
    templates = TemplateSettings(directory=str(directory) if directory else None)
    mailing_lists = MailingLists(lists or {"news": NEWS}, UnsubscribeSettings(key=KEY, outbox=outbox))
    return Composer(MessageSettings(), templates, mailing_lists=mailing_lists)


def head(made: bytes) -> list[str]:
    """The fields as they go over the wire, each with its folds."""
    return re.split(r"\r\n(?![ \t])", made.partition(b"\r\n\r\n")[0].decode())


def fields(by: Composer, reader: str | None = None, **columns: Any) -> list[str]:
    """Those that come from the list."""
    made = head(by.compose(draft(**{"list": "news", **columns}), reader).content)
    names = ("list-", "precedence", "auto-submitted", "feedback-id")
    return [field for field in made if field.lower().startswith(names)]


def token_in(field: str) -> str:
    return field.partition("t=")[2].partition(">")[0]


def whose(field: str, outbox: str = "") -> Unsubscription:
    return verify(token_in(field), keys=keys_of(KEY), outbox=outbox)


def refused(by: Composer, **columns: Any) -> str:
    error = attempted(by, draft(**{"list": "news", **columns}))
    assert isinstance(error, Unsendable)
    return str(error)


def test_a_list_writes_just_these_fields() -> None:
    plain = ListSettings(id="news.example.com")
    assert fields(composer(news=plain)) == ["List-Id: <news.example.com>", "Precedence: bulk"]
    by_mail = replace(plain, unsubscribe_mailto="mailto:leave@example.com?subject=leave", precedence="")
    assert fields(composer(news=by_mail)) == [
        "List-Id: <news.example.com>",
        "List-Unsubscribe: <mailto:leave@example.com?subject=leave>",
    ]
    whole = ListSettings(
        id="news.example.com",
        name="Example news, weekly",
        unsubscribe_url=URL,
        unsubscribe_mailto="mailto:leave@example.com?subject={token}",
        precedence="list",
        auto_submitted=True,
        feedback_id="{batch}:{list}:{template}:example",
    )
    found = fields(composer(news=whole), batch="May: ä/1")
    token = token_in(found[1])
    assert found == [
        'List-Id: "Example news, weekly" <news.example.com>',
        f"List-Unsubscribe: <https://example.com/u?a=1&t={token}>, <mailto:leave@example.com?subject={token}>",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
        "Precedence: list",
        "Auto-Submitted: auto-generated",
        "Feedback-ID: May____1:news:-:example",
    ]
    assert whose(found[1])[:2] == ("news", "a@b.test")


def test_a_row_without_a_list_gets_none() -> None:
    assert fields(composer(), list=None) == fields(composer(), list="") == []


@few
@given(
    st.integers(0, 300 - len(URL)),
    st.integers(1, 64),
    st.sampled_from(["", "mailto:leave@example.com?subject={token}"]),
)
def test_the_link_is_whole_on_one_line_however_long(more: int, local: int, mailto: str) -> None:
    url = URL.replace("/u", "/u" + "x" * more)
    by = composer(news=replace(NEWS, unsubscribe_url=url, unsubscribe_mailto=mailto or None))
    address = f"{'l' * local}@{'d' * 60}.test"
    found = fields(by, recipients=address)
    token = token_in(found[1])
    links = [url, mailto] if mailto else [url]
    assert found[1] == "List-Unsubscribe: " + ", ".join(f"<{link.replace('{token}', token)}>" for link in links)
    assert found[2] == "List-Unsubscribe-Post: List-Unsubscribe=One-Click"
    assert whose(found[1]).address == address
    assert_well_formed(by.compose(draft(list="news", recipients=address)).content)


@few
@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=200).filter(str.strip))
def test_the_name_of_a_list_comes_back(name: str) -> None:
    shown = name.strip()
    (list_id, *_) = fields(composer(news=ListSettings(id="news.example.com", name=shown)))
    phrase, _, rest = list_id.removeprefix("List-Id:").replace("\r\n", "").rpartition("<")
    assert rest == "news.example.com>"
    assert (decoded(phrase.strip()) if "=?" in phrase else unquote(phrase.strip())) == shown


def test_each_recipient_has_a_link_of_their_own() -> None:
    by = composer(outbox="shop")
    row = draft(list="news", recipients="a@b.test, Änne <ä@bücher.test>", bcc="hidden@b.test")
    readers = [recipient.address for recipient in by.recipients(row)]
    found = [fields(by, reader, recipients=row.recipients, bcc=row.bcc)[1] for reader in readers]
    assert (
        [whose(field, "shop").address for field in found] == readers == ["a@b.test", "ä@bücher.test", "hidden@b.test"]
    )
    assert by.writes_apart(row)
    assert b"hidden" not in by.compose(row, "hidden@b.test").content


def test_a_tester_has_no_customers_link() -> None:
    lists = MailingLists({"news": NEWS}, UnsubscribeSettings(key=KEY))
    staging = Composer(MessageSettings(redirect_to="tester@b.test"), TemplateSettings(), mailing_lists=lists)
    assert whose(fields(staging, "a@b.test")[1]).address == "tester@b.test"


def test_who_has_no_link_gets_the_message_that_all_get() -> None:
    by = composer(news=ListSettings(id="news.example.com", unsubscribe_mailto="mailto:leave@example.com"))
    assert not by.writes_apart(draft(list="news"))
    assert not by.writes_apart(draft(list=None))


def test_the_same_row_makes_the_same_bytes() -> None:
    row = draft(list="news")
    assert composer().compose(row).content == composer().compose(row).content
    assert whose(fields(composer())[1]).issued_at == row.date


def test_templates_have_the_link(tmp_path: Path) -> None:
    (tmp_path / "news.txt").write_text("Leave: {{ unsubscribe_url }}\n")
    (tmp_path / "news.html").write_text('<a href="{{ unsubscribe_url }}">leave, {{ name }}</a>\n')
    by = composer(tmp_path)
    made = by.compose(draft(list="news", template="news", subject="News", context={"name": "Anna"})).content.decode()
    link = re.findall(r"List-Unsubscribe: <([^>]*)>", made)[0]
    whole = made.replace("=\r\n", "").replace("=3D", "=")
    assert f"Leave: {link}" in whole
    assert f'<a href="{link.replace("&", "&amp;")}">leave, Anna</a>' in whole
    without = refused(by, list=None, template="news", subject="News", context={"name": "Anna"})
    assert "'unsubscribe_url' is undefined" in without


def test_a_context_that_has_a_link_too_fails_the_row(tmp_path: Path) -> None:
    (tmp_path / "news.txt").write_text("{{ unsubscribe_url }}\n")
    given = {"template": "news", "subject": "News", "context": {"unsubscribe_url": "https://example.com/all"}}
    assert "context: unsubscribe_url is given, and the row's list gives it too" in refused(composer(tmp_path), **given)
    assert "https://example.com/all" in composer(tmp_path).compose(draft(**given)).content.decode()


@pytest.mark.parametrize("name", ["List-Unsubscribe", "list-unsubscribe-post", "LIST-ID", "Precedence"])
def test_what_the_list_writes_the_row_may_not_write_too(name: str) -> None:
    assert f"headers: {name} may not be given here: the list news writes it" in refused(
        composer(), headers={name: "<x>"}
    )
    assert fields(composer(), list=None, headers={name: "<x>"}) == [f"{name}: <x>"]


def test_what_the_list_leaves_out_the_row_may_write() -> None:
    by = composer(news=ListSettings(id="news.example.com", precedence=""))
    assert fields(by, headers={"Precedence": "list", "List-Help": "<https://example.com>"})[1:] == [
        "Precedence: list",
        "List-Help: <https://example.com>",
    ]


def test_a_list_that_is_not_configured_fails_the_row() -> None:
    assert (
        refused(composer(), list="nwes")
        == "list: there is no list 'nwes'; name one of news, or none, then: poller retry"
    )
    nothing = Composer(MessageSettings(), TemplateSettings())
    assert refused(nothing) == (
        "list: there is no list 'news'; configure it as [lists.'news'], or name none, then: poller retry"
    )


def test_a_link_that_fits_no_line_fails_the_row() -> None:
    url = "https://example.com/" + "x" * 600 + "/{token}"
    by = composer(news=ListSettings(id="news.example.com", unsubscribe_url=url))
    error = refused(by, recipients=f"{'l' * 64}@{'.'.join(['d' * 60] * 3)}.test")
    assert error.startswith("list: List-Unsubscribe does not fit on a line of 998 characters")


def test_a_key_that_cannot_be_used_is_told_and_no_message_is_made() -> None:
    lists = MailingLists({"news": NEWS}, UnsubscribeSettings())
    by = Composer(MessageSettings(), TemplateSettings(), mailing_lists=lists)
    assert by.check_settings() == ["[unsubscribe] key: holds no key; make one with: openssl rand -base64 32"]
    assert "holds no key" in refused(by)
