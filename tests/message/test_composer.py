"""The whole: which content, staging, the configuration's own faults, and the same bytes for ever."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message.rows import any_text, assert_well_formed, attempted, compose, composer, content, draft, few, many, parsed

import poller.message
from poller.message.composer import Composer
from poller.message.draft import Attachment, Unsendable
from poller.message.settings import MessageSettings, TemplateSettings

FILES = (Attachment(name="ü.txt", content_type="text/plain", content=b"x"),)


def test_a_whole_message_reads_like_this() -> None:
    expected = """\
Date: Sun, 22 Nov 2026 09:05:07 +0000
From: s@example.com
To: Anna <a@b.test>
Cc: "Doe, J." <c@d.test>
Reply-To: r@example.com
Subject: Hi
Message-ID: <1.a@example.com>
X-Campaign: spring
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

Hello
""".replace("\n", "\r\n")
    made = content(
        recipients="Anna <a@b.test>",
        cc='"Doe, J." <c@d.test>',
        bcc="x@y.test",
        reply_to="r@example.com",
        subject="Hi",
        headers={"X-Campaign": "spring"},
    )
    assert expected == made.decode()


@pytest.mark.parametrize(
    ("columns", "column"),
    [
        ({"body_text": None}, "body_text"),
        ({"template": "t"}, "template"),
        ({"template": "t", "body_text": ""}, "template"),
        ({"template": "t", "body_html": ""}, "template"),
    ],
)
def test_content_is_ready_made_or_a_template_and_never_both_or_neither(columns: dict[str, Any], column: str) -> None:
    with pytest.raises(Unsendable) as caught:
        compose(**columns)
    assert column == caught.value.column


def test_the_same_row_is_the_same_bytes() -> None:
    columns: dict[str, Any] = {"subject": "Ü", "body_html": "<p>x", "attachments": FILES}
    assert content(**columns) == content(**columns)
    assert content(**columns) != content(**columns, message_id="<2@example.com>")


def test_the_same_row_is_the_same_bytes_in_another_process() -> None:
    code = "from message.rows import *; import sys; sys.stdout.buffer.write(content(subject='Ü', body_html='<p>x'))"
    tests = Path(__file__).parent.parent
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{tests}:{tests.parent}"},
        ).stdout
        for seed in ("1", "2")
    ]
    assert [content(subject="Ü", body_html="<p>x")] * 2 == made


COLUMNS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("recipients", "cc", "bcc", "sender", "reply_to", "envelope_from", "subject", "body_text", "body_html"),
            st.none() | any_text | st.just("A <a@b.test>"),
        ),
        "headers": st.none() | st.dictionaries(any_text, any_text, max_size=2) | st.integers(),
        "template": st.none() | any_text,
        "message_id": any_text | st.just("<a@b>"),
        "locale": any_text,
    },
)


@many
@given(COLUMNS)
def test_any_row_is_either_composed_or_unsendable(columns: dict[str, Any]) -> None:
    made = attempted(composer(), draft(**columns))
    if isinstance(made, Unsendable):
        assert made.column in (*columns, "body_text", "sender", "recipients")
        assert made.reason.isprintable()
    else:
        assert_well_formed(made.content, ascii_only=not made.smtputf8)


def test_redirected_mail_goes_to_one_address_and_says_for_whom_it_was() -> None:
    staging = composer(redirect_to="QA <qa@example.com>")
    row = draft(recipients="Ä <a@b.test>", cc="c@d.test", bcc="secret@hidden.test")
    assert [one.wire for one in staging.recipients(row)] == ["qa@example.com"] * 3
    assert [one.address for one in staging.recipients(row)] == ["a@b.test", "c@d.test", "secret@hidden.test"]
    text = staging.compose(row).content.decode()
    assert "\r\nX-Poller-Redirected-From: =?utf-8?b?w4Q=?= <a@b.test>, c@d.test\r\n" in text
    assert "\r\nX-Poller-Redirected-Bcc: 1\r\n" in text
    assert "hidden" not in text
    assert staging.compose(row).mail_from == "s@example.com"


def test_only_the_listed_addresses_and_domains_may_be_written_to() -> None:
    staging = composer(only_to=("Anna@b.test", "@Müller.de"))
    row = draft(recipients="anna@b.test, x@b.test, y@müller.de, z@sub.xn--mller-kva.de")
    assert [not one.withheld for one in staging.recipients(row)] == [True, False, True, False]
    assert "only_to" in staging.recipients(row)[1].withheld
    assert not any(one.withheld for one in composer().recipients(row))


def test_only_to_looks_at_where_redirected_mail_really_goes() -> None:
    staging = composer(only_to=("@example.com",), redirect_to="qa@example.com")
    assert staging.recipients(draft())[0].withheld == ""
    assert staging.check() == []
    conflict = composer(only_to=("@b.test",), redirect_to="qa@example.com").check()
    assert ["redirect_to is not among only_to" in problem for problem in conflict] == [True]


@pytest.mark.parametrize(
    "settings", [{"redirect_to": "nobody"}, {"redirect_to": ""}, {"only_to": ("b.test",)}, {"only_to": ("@",)}]
)
def test_a_staging_switch_that_cannot_be_read_lets_nothing_through(settings: dict[str, Any]) -> None:
    staging = composer(**settings)
    assert len(staging.check()) == 1
    for ask in (staging.recipients, staging.compose):
        with pytest.raises(Unsendable, match="configuration"):
            ask(draft())


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"sender": "x"}, "sender"), ({"sender": ""}, "sender"), ({"message_id_domain": "a b"}, "message_id_domain")],
)
def test_check_names_the_setting_at_fault(settings: dict[str, Any], key: str) -> None:
    assert [problem.startswith(f"[message] {key}: ") for problem in composer(**settings).check()] == [True]


def test_check_is_silent_when_all_is_well() -> None:
    assert composer().check() == []
    assert composer(sender="Ü <a@müller.de>", only_to=("a@b.test", "@c.test"), message_id_domain="x.test").check() == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"message_id_domain": "ids.test", "sender": "a@b.test"}, "ids.test"),
        ({"sender": "Ü <a@Müller.de>"}, "xn--mller-kva.de"),
        ({}, "host.test"),
        ({"sender": "broken"}, "host.test"),
    ],
)
def test_message_ids_take_the_configured_domain_then_the_senders_then_the_hosts(
    settings: dict[str, Any], expected: str
) -> None:
    made = Composer(MessageSettings(**settings), TemplateSettings(), host_name="host.test")
    assert expected == made.message_id_domain


@few
@given(st.lists(st.sampled_from(["a@b.test", "c@d.test", "e@f.test"]), min_size=1, max_size=3))
def test_a_blind_copy_is_written_only_if_it_is_also_an_open_one(bcc: list[str]) -> None:
    text = content(recipients="a@b.test", bcc=", ".join(bcc)).decode()
    assert "Bcc" not in text
    assert "c@d.test" not in text
    assert "e@f.test" not in text
    assert text.count("a@b.test") == 1


def test_the_reader_sees_no_defects() -> None:
    message = parsed(recipients="Ä <a@b.test>", subject="Ü", body_html="<p>x", attachments=FILES)
    assert [defect for part in message.walk() for defect in part.defects] == []
    assert [defect for part in message.walk() for value in part.values() for defect in value.defects] == []


def test_this_room_imports_the_standard_library_itself_and_three_libraries_in_their_files() -> None:
    for file in Path(poller.message.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                allowed = top in sys.stdlib_module_names or name.startswith("poller.message")
                assert (
                    allowed
                    or name
                    in {"poller.units", "poller.frozen", "poller.domains", "poller.sealed", "poller.unsubscribe"}
                    or (top == "jinja2" and file.name in {"templates.py", "missing.py", "sandbox.py"})
                    or (top == "cryptography" and file.name == "keys.py")
                    or (top == "css_inline" and file.name == "inlining.py")
                ), name
