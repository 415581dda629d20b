"""Address lists: what is read, what is refused and with which words."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from message.rows import compose, composer, content, decoded, draft, few, many, parsed, parsed_raw

from poller.message.addresses import parse_list, parse_one
from poller.message.draft import Unsendable

GOOD = [
    ("a@b.test", [("", "a@b.test")]),
    ("a@localhost", [("", "a@localhost")]),
    ("A.B+c@B.Test", [("", "A.B+c@b.test")]),
    ("Anna <a@b.test>", [("Anna", "a@b.test")]),
    ("Anna Maria Lind<a@b.test>", [("Anna Maria Lind", "a@b.test")]),
    ("a@b.test, c@d.test", [("", "a@b.test"), ("", "c@d.test")]),
    (",a@b.test,, c@d.test, ", [("", "a@b.test"), ("", "c@d.test")]),
    ('"Doe, John" <j@b.test>, c@d.test', [("Doe, John", "j@b.test"), ("", "c@d.test")]),
    (r'"He said \"hi\" \\o/" <j@b.test>', [('He said "hi" \\o/', "j@b.test")]),
    ("John Q. Public <j@b.test>", [("John Q. Public", "j@b.test")]),
    ("Jürgen Ü. <j@b.test>", [("Jürgen Ü.", "j@b.test")]),
    ("j@b.test (a comment (nested) with \\) )", [("", "j@b.test")]),
    ("(before) John (mid) Doe <j@b.test> (after)", [("John Doe", "j@b.test")]),
    ("< a@b.test >", [("", "a@b.test")]),
    ("=?utf-8?q?J=C3=BCrgen?= <j@b.test>", [("Jürgen", "j@b.test")]),
    ("=?utf-8?b?SsO8cmc=?= =?utf-8?q?en?= Meier <j@b.test>", [("Jürgen Meier", "j@b.test")]),
    ("=?no-such?q?x?= <j@b.test>", [("=?no-such?q?x?=", "j@b.test")]),
    ("undisclosed-recipients:;", []),
    ("", []),
    (" , ", []),
    ("Team: a@b.test, Bob <b@b.test>;, c@d.test", [("", "a@b.test"), ("Bob", "b@b.test"), ("", "c@d.test")]),
    ('"A: b": a@b.test;', [("", "a@b.test")]),
    ('"a b"@b.test', [("", '"a b"@b.test')]),
    ('"a"@b.test', [("", "a@b.test")]),
    ('"a..b"@docomo.test', [("", '"a..b"@docomo.test')]),
    ("a@[192.0.2.1]", [("", "a@[192.0.2.1]")]),
    ("a@[ipv6:2001:DB8::0:1]", [("", "a@[IPv6:2001:db8::1]")]),
    ("o'brien!#$%&*+-/=?^_`{|}~@b.test", [("", "o'brien!#$%&*+-/=?^_`{|}~@b.test")]),
    ("a@my_host.test", [("", "a@my_host.test")]),
    ("a@xn--mller-kva.de", [("", "a@xn--mller-kva.de")]),
    ("a@Müller.de", [("", "a@müller.de")]),
    ("用户@例え.jp", [("", "用户@例え.jp")]),
    ("x" * 64 + "@b.test", [("", "x" * 64 + "@b.test")]),
]


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_what_people_write_is_read(text: str, expected: list[tuple[str, str]]) -> None:
    assert expected == [(mailbox.name, mailbox.address) for mailbox in parse_list(text)]


BAD = [
    ("a@b.test; c@d.test", "use a comma"),
    ("Anna <a@b.test>; c@d.test", "use a comma"),
    ("; a@b.test", "use a comma"),
    ("a@b.test c@d.test", "comma"),
    ("Anna <a@b.test> c@d.test", "separate addresses by a comma"),
    ("a@b.test@c.test", "second @"),
    ("a@b.test <c@d.test>", "a display name that holds an @ stands in double quotes"),
    ("Anna", "no @"),
    ("Anna Lind", "no @"),
    ("@b.test", "before the @"),
    ("a@", "after the @"),
    ("<a@b.test", "closing >"),
    ("<>", "no @"),
    ("Anna <>", "no @"),
    ("<@relay.test:a@b.test>", "before the @"),
    ("a..b@c.test", "double quotes"),
    (".a@c.test", "double quotes"),
    ("a.@c.test", "double quotes"),
    ('""@c.test', "double quotes"),
    ('"a".b@c.test', "double quotes"),
    ("a b@c.test", "a space inside"),
    ("a @c.test", "a space inside"),
    ("a@ c.test", "a space inside"),
    ("a@c. test", "a space inside"),
    ("a@b..test", "empty part"),
    ("a@.test", "empty part"),
    ("a@b.test.", "empty part"),
    ("a@-b.test", "letters, digits, and hyphens"),
    ("a@b-.test", "letters, digits, and hyphens"),
    ("a@b!.test", "letters, digits, and hyphens"),
    ("a@192.0.2.1", "[192.0.2.1]"),
    ("a@[192.0.2.256]", "in brackets"),
    ("a@[fe80::1]", "in brackets"),
    ("a@[IPv6:fe80::1%eth0]", "in brackets"),
    ("a@[x", "closing bracket"),
    ('"a@b.test', "closing quote"),
    ("(a@b.test", "closing parenthesis"),
    ("a)b@c.test", "double quotes only"),
    ("a\\b@c.test", "double quotes only"),
    ("a@b]c.test", "double quotes only"),
    ("team: a@b.test", "no end"),
    ("team: other: a@b.test;;", "inside a group"),
    ("x" * 65 + "@b.test", "64 octets"),
    ("ü" * 33 + "@b.test", "64 octets"),
    ("a@" + "x" * 64 + ".test", "63 characters"),
    ("a@" + ".".join(["x" * 50] * 6), "255 octets"),
    ("x" * 64 + "@" + ".".join(["x" * 49] * 4), "254 octets"),
    ("a@" + ".".join(["ü" * 30] * 8), "too long"),
    ("a@☃.test", "IDNA 2008"),
    ("a@x\u200dy.test", "IDNA 2008"),
    ("a\u200bb@c.test", "cannot be part"),
    ("a\xa0b@c.test", "cannot be part"),
    ("=?utf-8?q?a?=@c.test", "encoded word"),
    ('"=?utf-8?q?a b?="@c.test', "cannot be part"),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_what_is_no_address_is_refused_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_list(text)


def test_an_error_quotes_the_address_at_fault_cut_and_escaped() -> None:
    with pytest.raises(Unsendable) as caught:
        compose(cc="ok@b.test, ü" + "x" * 200 + "@b.test, also@b.test")
    assert caught.value.column == "cc"
    assert caught.value.reason.startswith("'\\xfcxxxx")
    assert "ok@b.test" not in caught.value.reason
    assert len(caught.value.reason) < 200


def test_exactly_one_address_is_exactly_one() -> None:
    assert parse_one("A <a@b.test>").address == "a@b.test"
    with pytest.raises(ValueError, match="2 addresses"):
        parse_one("a@b.test, c@d.test")


@many
@given(st.text(max_size=80))
@example("(" * 1000)
@example('"' * 1001)
@example("a:" * 500)
@example("<" * 500 + "@" * 500)
def test_any_text_is_either_a_list_or_a_value_error(text: str) -> None:
    try:
        found = parse_list(text)
    except ValueError:
        return
    for mailbox in found:
        assert parse_one(f"<{mailbox.wire}>").wire == mailbox.wire
        assert len(mailbox.wire.encode()) <= 254
        assert mailbox.domain.isascii()


@many
@given(st.text(st.sampled_from('ab.@,;:<>[]()"\\ =?é-'), max_size=30))
def test_any_mix_of_special_characters_is_either_a_list_or_a_value_error(text: str) -> None:
    try:
        found = parse_list(text)
    except ValueError:
        return
    assert [m.wire for m in found] == [m.wire for m in parse_list(", ".join(f"<{m.wire}>" for m in found))]


def test_a_mailbox_is_one_recipient_however_often_and_however_spelled() -> None:
    row = draft(
        recipients="A <a@b.test>, a@B.TEST", cc='"a"@b.test, c@Müller.de', bcc="c@xn--mller-kva.de, d@b.test, A@b.test"
    )
    found = composer().recipients(row)
    assert [(one.kind, one.name, one.address, one.wire) for one in found] == [
        ("to", "A", "a@b.test", "a@b.test"),
        ("cc", "", "c@müller.de", "c@xn--mller-kva.de"),
        ("bcc", "", "d@b.test", "d@b.test"),
        ("bcc", "", "A@b.test", "A@b.test"),
    ]


@pytest.mark.parametrize("lists", [{}, {"recipients": ""}, {"recipients": "undisclosed:;", "cc": " ", "bcc": ","}])
def test_a_row_without_any_recipient_is_refused(lists: dict[str, str]) -> None:
    row = draft(**{"recipients": None, **lists})
    for ask in (composer().recipients, composer().compose):
        with pytest.raises(Unsendable) as caught:
            ask(row)
        assert caught.value.column == "recipients"


def test_blind_copies_never_appear() -> None:
    message = content(recipients=None, bcc="Secret Person <secret@hidden.test>")
    assert b"ecret" not in message
    assert b"hidden" not in message
    assert b"\r\nTo: undisclosed-recipients:;\r\n" in message


@few
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=40, unique=True))
def test_long_lists_are_folded_and_come_back(numbers: list[int]) -> None:
    expected = [f"user.{number}@example{number}.test" for number in numbers]
    message = parsed(recipients=",".join(expected), cc=None)
    assert expected == [address.addr_spec for address in message["To"].addresses]
    head = content(recipients=",".join(expected)).partition(b"\r\n\r\n")[0]
    assert max(map(len, head.split(b"\r\n"))) <= 78


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=120).filter(str.strip)


@many
@given(NAMES)
@example("Doe, John")
@example('quo"te \\ back')
@example("=?utf-8?q?x?=")
@example("日本太郎 " * 20)
@example("👨‍👩‍👧‍👦" * 12)
@example("dot.ted name")
@example("a long, plain name " * 6)
def test_any_display_name_comes_back(name: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    if "=?" in name:
        quoted = quoted.replace("=?", "= ?")
        name = name.replace("=?", "= ?")
    raw = parsed_raw(recipients=f'"{quoted}" <a@b.test>')["To"]
    phrase, _, address = raw.replace("\n ", " ").rpartition("<")
    phrase = phrase.strip()
    if phrase.startswith('"'):
        phrase = re.sub(r"\\(.)", r"\1", phrase[1:-1])
    assert address == "a@b.test>"
    assert name.strip() == decoded(phrase)


def test_a_non_ascii_local_part_makes_the_message_smtputf8_and_stands_raw() -> None:
    made = compose(recipients="Jürgen <用户@例え.jp>")
    assert made.smtputf8
    assert "To: =?utf-8?q?J=C3=BCrgen?= <用户@xn--r8jz45g.jp>\r\n".encode() in made.content
    assert not compose(recipients="Jürgen <user@例え.jp>").smtputf8


@pytest.mark.parametrize("column", ["cc", "sender", "envelope_from", "reply_to"])
def test_smtputf8_is_wanted_whichever_address_in_the_message_needs_it(column: str) -> None:
    assert compose(**{column: "ü@b.test"}).smtputf8


def test_a_blind_copy_wants_no_smtputf8_for_the_others() -> None:
    assert not compose(bcc="ü@b.test").smtputf8


def test_the_sender_is_one_address_from_the_row_or_the_settings() -> None:
    assert (
        b"From: Shop <shop@example.com>\r\n"
        in composer(sender="Shop <shop@example.com>").compose(draft(sender=None)).content
    )
    for sender in (None, "", "a@b.test, c@d.test", "nobody"):
        with pytest.raises(Unsendable) as caught:
            compose(sender=sender)
        assert caught.value.column == "sender"


@pytest.mark.parametrize(
    ("given_path", "expected"),
    [
        (None, "s@example.com"),
        ("", ""),
        ("<>", ""),
        ("b@Bounce.test", "b@bounce.test"),
        ("<b@müller.de>", "b@xn--mller-kva.de"),
    ],
)
def test_the_reverse_path_is_the_senders_unless_given(given_path: str | None, expected: str) -> None:
    assert expected == compose(envelope_from=given_path).mail_from


@pytest.mark.parametrize("bad", ["x", "a@b.test, c@d.test", "a@b.test\r\nRCPT TO:<x@y.test>"])
def test_a_bad_reverse_path_is_refused(bad: str) -> None:
    with pytest.raises(Unsendable) as caught:
        compose(envelope_from=bad)
    assert caught.value.column == "envelope_from"


def test_replies_may_go_to_several() -> None:
    message = parsed(reply_to="Ä <a@b.test>, c@d.test")
    assert [(one.display_name, one.addr_spec) for one in message["Reply-To"].addresses] == [
        ("Ä", "a@b.test"),
        ("", "c@d.test"),
    ]
