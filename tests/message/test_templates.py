"""Templates: which file is taken, what is escaped, and whose fault it is when one fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message.rows import attempted, draft, few

from poller.message.composer import Composer
from poller.message.draft import Unsendable
from poller.message.settings import MessageSettings, TemplateSettings
from poller.message.templates import Rendered, Templates

if TYPE_CHECKING:
    from pathlib import Path


def write(directory: Path, **files: str) -> Templates:
    """Files by name, a dot written as two underscores."""
    for name, text in files.items():
        file = directory / name.replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return Templates(str(directory), 10_000)


def render(templates: Templates, context: object = None, locale: str | None = None, name: str = "t") -> Rendered:
    return templates.render(name, context, locale, subject=True)


def composer(directory: Path) -> Composer:
    return Composer(MessageSettings(), TemplateSettings(directory=str(directory)))


def test_subject_text_and_html_come_from_three_files(tmp_path: Path) -> None:
    templates = write(tmp_path, t__subject__txt="Hi {{ n }}\n", t__txt="Dear {{ n }}\n", t__html="<p>{{ n }}</p>")
    assert Rendered(subject="Hi <A>\n", text="Dear <A>\n", html="<p>&lt;A&gt;</p>") == render(templates, {"n": "<A>"})


@pytest.mark.parametrize(
    ("files", "expected"), [({"t__txt": "x"}, (None, "x", None)), ({"t__html": "y"}, (None, None, "y"))]
)
def test_one_body_is_enough(tmp_path: Path, files: dict[str, str], expected: tuple[str | None, ...]) -> None:
    made = write(tmp_path, **files).render("t", {}, None, subject=False)
    assert expected == (made.subject, made.text, made.html)


LOCALES: list[tuple[dict[str, str], str | None, tuple[str, str | None, str | None]]] = [
    ({}, None, ("en", "en", "en")),
    ({}, "de_AT", ("en", "en", "en")),
    ({"de": "subject txt html"}, "de_AT", ("de", "de", "de")),
    ({"de": "subject txt html", "de_AT": "txt"}, "de_AT", ("de", "de_AT", "de")),
    ({"de": "subject txt", "de_AT": "subject"}, "de-AT", ("de_AT", "de", None)),
    ({"de": "subject txt", "de-AT": "subject txt"}, "de_AT", ("de-AT", "de-AT", None)),
    ({"de": "subject txt", "de_AT": "subject txt"}, "DE-at", ("de_AT", "de_AT", None)),
    ({"de": "subject txt", "de_AT": "subject txt"}, "de", ("de", "de", None)),
    ({"de": "subject"}, "de", ("en", "en", "en")),
    ({"zh_Hant": "subject html"}, "zh-hant-tw", ("zh_Hant", None, "zh_Hant")),
    ({"de": "subject txt html"}, "", ("en", "en", "en")),
]


@pytest.mark.parametrize(("present", "locale", "expected"), LOCALES)
def test_one_message_is_in_one_language(
    tmp_path: Path, present: dict[str, str], locale: str | None, expected: tuple[str, str | None, str | None]
) -> None:
    suffixes = {"subject": "subject.txt", "txt": "txt", "html": "html"}
    for suffix in suffixes.values():
        (tmp_path / f"t.{suffix}").write_text("en")
    for language, parts in present.items():
        for part in parts.split():
            (tmp_path / f"t.{language}.{suffixes[part]}").write_text(language)
    made = render(Templates(str(tmp_path), 100), locale=locale)
    assert expected == (made.subject, made.text, made.html)


def test_a_subject_missing_in_that_language_is_not_taken_from_another(tmp_path: Path) -> None:
    templates = write(tmp_path, t__subject__txt="Hi", t__txt="x", t__de__txt="y")
    with pytest.raises(Unsendable) as caught:
        render(templates, locale="de")
    assert caught.value.column == "template"
    assert "t.de.txt" in caught.value.reason


def test_templates_in_folders_include_and_extend_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "t.txt").write_text(
        "{% extends '_base.txt' %}{% block b %}{% include 'shop/_x.txt' %}{% endblock %}"
    )
    (tmp_path / "shop" / "_x.txt").write_text("x{{ n }}")
    (tmp_path / "_base.txt").write_text("[{% block b %}{% endblock %}]")
    assert Templates(str(tmp_path), 100).render("shop/t", {"n": 1}, None, subject=False).text == "[x1]"


def test_what_is_included_into_html_is_escaped_whatever_its_ending(tmp_path: Path) -> None:
    (tmp_path / "_part.j2").write_text("{{ n }}")
    templates = write(tmp_path, t__html="{% include '_part.j2' %}")
    assert templates.render("t", {"n": "<"}, None, subject=False).html == "&lt;"


def test_many_templates_do_not_fill_the_memory(tmp_path: Path) -> None:
    templates = write(tmp_path, t__subject__txt="s", t__txt="x")
    for number in range(500):
        assert render(templates, locale=f"de-{number}").text == "x"
    assert len(templates._choices) <= 400


def test_an_edited_or_added_file_takes_effect(tmp_path: Path) -> None:
    templates = write(tmp_path, t__subject__txt="s", t__txt="old")
    assert render(templates, locale="de").text == "old"
    (tmp_path / "t.txt").write_text("new")
    os.utime(tmp_path / "t.txt", (1, 1))
    assert render(templates, locale="de").text == "new"
    write(tmp_path, t__de__subject__txt="d", t__de__txt="neu")
    os.utime(tmp_path, (1, 1))
    assert render(templates, locale="de").text == "neu"
    (tmp_path / "t.de.txt").unlink()
    os.utime(tmp_path, (2, 2))
    assert render(templates, locale="de").text == "new"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../t", "/t", "/etc/passwd", "t.txt", "a//b", "a/", "t\0", "t\n", "ü", "x" * 200, "a/../t"]
)
def test_a_name_outside_the_rules_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Unsendable) as caught:
        render(write(tmp_path, t__txt="x"), name=name)
    assert caught.value.column == "template"


LONG = ["characters or items"]
FAULTS: list[tuple[str, object, str, list[str]]] = [
    ("a\n{{ name }}", {}, "context", ["t.txt, line 2", "'name' is undefined", "default"]),
    ("{{ order.total }}", {"order": {}}, "context", ["line 1", "total"]),
    ("\n\n{% if %}", {}, "template", ["t.txt, line 3"]),
    ("{{ n.__class__.__mro__ }}", {"n": 1}, "template", ["line 1", "unsafe"]),
    ("{{ 1 / n }}", {"n": 0}, "template", ["line 1", "ZeroDivisionError"]),
    ("{{ n[m] }}", {"n": {}, "m": "\0" + "x" * 999}, "context", ["\\x00xxx"]),
    ("{{ n|round }}", {"n": "a\0b"}, "template", ["TypeError"]),
    ("{{ n|int(m) + {}[m] }}", {"n": 1, "m": "\0"}, "context", ["\\x00"]),
    ("{{ n + 1 }}", {"n": "a"}, "template", ["TypeError"]),
    ("{% include 'no.txt' %}", {}, "template", ["no.txt"]),
    ("{% include '../x.txt' %}", {}, "template", ["x.txt"]),
    ("{% include 't.txt' %}", {}, "template", ["without end"]),
    (
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        {},
        "template",
        ["10,000 characters", "max_size"],
    ),
    ("{{ 'x' * 1000000000 }}", {}, "template", ["repetition"]),
    ("{{ 9 ** 9 ** 9 }}", {}, "template", ["power"]),
    ("{% for a in range(10**9) %}{% endfor %}", {}, "template", ["line 1"]),
    ("{{ [1, 2]|random }}", {}, "template", ["random"]),
    ("{{ lipsum() }}", {}, "context", ["lipsum"]),
    ("{{ order.items }}", {"order": {"item": 3}}, "context", ["line 1", "items"]),
    (
        "{% set s = namespace(a='ab') %}{% for i in range(99) %}{% set s.a = s.a ~ s.a %}{% endfor %}",
        {},
        "template",
        LONG,
    ),
    (
        "{% set s = namespace(a='ab') %}{% for i in range(99) %}{% set s.a = s.a + s.a %}{% endfor %}",
        {},
        "template",
        LONG,
    ),
    ("{{ '%999999999d'|format(1) }}", {}, "template", ["wider"]),
    ("{{ '%999999999d' % 1 }}", {}, "template", ["wider"]),
    ("{{ '%*d' % (999999999, 1) }}", {}, "template", ["wider"]),
    ("{{ '{:>999999999}'.format(1) }}", {}, "template", ["wider"]),
    ("{{ 'a'|center(1000000000) }}", {}, "template", ["center"]),
    ("{{ 'a'.ljust(1000000000) }}", {}, "template", ["ljust"]),
    ("{{ [1]|slice(1000000000)|list }}", {}, "template", ["slice"]),
    ("{{ ['a']|map('center', 1000000000)|list }}", {}, "template", ["number beyond"]),
    ("{{ ('a' * 9000)|replace('a', 'b' * 9000) }}", {}, "template", ["replace"]),
    ("{{ ('a' * 9000).replace('a', 'b' * 9000) }}", {}, "template", ["replace"]),
    ("{{ ('x' * 9000).join(['a'] * 9000) }}", {}, "template", ["join"]),
    ("{{ (['a'] * 9000)|join('x' * 9000) }}", {}, "template", ["join"]),
]
TOO_LONG = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for a in range(99999) %}{% set x = range(9999)|list|sort|sum %}{% endfor %}",
]
GOOD = [
    ("{{ order.items }}", {"order": {"items": 3}}, "3"),
    ("{% for k, v in order.items() %}{{ k }}={{ v }};{% endfor %}", {"order": {"a": 1}}, "a=1;"),
    ("{% for k, v in order.items() %}{{ k }}{% endfor %}", {"order": {"items": 1}}, "items"),
    ("{{ order.a is defined }}{{ order.items is defined }}", {"order": {"a": 1}}, "TrueFalse"),
    (
        "{% for x in rows %}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}",
        {"rows": [1, 2]},
        "1/2False 2/2True ",
    ),
    (
        "{% for x in rows recursive %}{{ x.n }}{{ loop(x.more) if x.more }}{% endfor %}",
        {"rows": [{"n": 1, "more": [{"n": 2, "more": []}]}]},
        "12",
    ),
    (
        "{% for x in range(200) %}{% if loop.last %}{{ loop.length }}{{ loop.previtem }}{% endif %}{% endfor %}",
        {},
        "200198",
    ),
    ("{{ 5000000|round|int }} {{ n|string|length }}", {"n": 5000000}, "5000000 7"),
    ("{{ '%s and %5d' % ('a', 3) }} {{ '%.2f'|format(1.5) }} {{ '{:>3}'.format(1) }}", {}, "a and     3 1.50   1"),
    (
        "{{ name.upper() }}{{ name|replace('a', 'b') }}{{ rows|map(attribute='n')|join(', ') }}",
        {"name": "Anna", "rows": [{"n": 1}]},
        "ANNAAnnb1",
    ),
]


@pytest.mark.parametrize(("text", "context", "made"), GOOD)
def test_a_key_comes_before_a_method_and_what_is_usual_works(
    tmp_path: Path, text: str, context: object, made: str
) -> None:
    assert render(write(tmp_path, t__subject__txt="s", t__txt=text), context).text == made


@pytest.mark.parametrize("text", TOO_LONG)
def test_a_template_that_does_not_end_fails_its_row(tmp_path: Path, text: str) -> None:
    write(tmp_path, t__subject__txt="s", t__txt=text)
    with pytest.raises(Unsendable, match=r"takes longer than 0\.2 s") as caught:
        render(Templates(str(tmp_path), 10_000, max_seconds=0.2), {})
    assert caught.value.column == "template"


@pytest.mark.parametrize(("text", "context", "column", "words"), FAULTS)
def test_a_fault_names_the_template_the_line_and_the_reason(
    tmp_path: Path, text: str, context: object, column: str, words: list[str]
) -> None:
    (tmp_path / "x.txt").write_text("outside")
    with pytest.raises(Unsendable) as caught:
        render(write(tmp_path / "d", t__subject__txt="s", t__txt=text), context)
    assert column == caught.value.column
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 400
    for word in words:
        assert word in caught.value.reason


def test_a_file_that_is_no_utf_8_is_the_templates_fault(tmp_path: Path) -> None:
    templates = write(tmp_path, t__subject__txt="s")
    (tmp_path / "t.txt").write_bytes(b"\xff")
    with pytest.raises(Unsendable) as caught:
        render(templates)
    assert caught.value.column == "template"


@pytest.mark.parametrize("context", [[], "x", 1, True])
def test_a_context_that_is_no_object_is_refused(tmp_path: Path, context: object) -> None:
    with pytest.raises(Unsendable) as caught:
        render(write(tmp_path, t__subject__txt="s", t__txt="x"), context)
    assert caught.value.column == "context"


@pytest.mark.parametrize("locale", ["x", "de_", "../de", "de.AT", "d" * 20, "de\0"])
def test_what_is_no_locale_is_refused(tmp_path: Path, locale: str) -> None:
    with pytest.raises(Unsendable) as caught:
        render(write(tmp_path, t__subject__txt="s", t__txt="x"), locale=locale)
    assert caught.value.column == "locale"


def test_a_missing_template_says_which_files_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(Unsendable, match=r"no file t\.txt or t\.html, nor one for the language de"):
        render(Templates(str(tmp_path), 10), locale="de")


def test_the_subject_of_the_row_wins_over_the_file(tmp_path: Path) -> None:
    write(tmp_path, t__subject__txt="{{ missing }}", t__txt="x")
    assert b"Subject: Own {{ x }}\r\n" in composer(tmp_path).compose(draft(template="t", subject="Own {{ x }}")).content


@pytest.mark.parametrize("name", ["a\r\nBcc: x@y.test b", "a\nb", "=?utf-8?q?=0A?=", "a\0b", "\ud800"])
def test_a_variable_cannot_break_out_of_the_subject(tmp_path: Path, name: str) -> None:
    write(tmp_path, t__subject__txt="Hi {{ name }}!\n", t__txt="x")
    with pytest.raises(Unsendable) as caught:
        composer(tmp_path).compose(draft(template="t", context={"name": name}))
    assert caught.value.column == "context"


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_variable_cannot_break_the_body(tmp_path: Path, name: str) -> None:
    write(tmp_path, t__subject__txt="s", t__html="{{ name }}")
    with pytest.raises(Unsendable) as caught:
        composer(tmp_path).compose(draft(template="t", context={"name": name}))
    assert caught.value.column == "context"


def test_check_names_each_file_that_does_not_compile(tmp_path: Path) -> None:
    write(tmp_path, good__txt="x", bad__txt="a\n{% if %}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "worse.html").write_text("{{")
    problems = composer(tmp_path).check()
    assert [problem.split(": ")[0][9:] for problem in problems] == ["bad.txt, line 2", "sub/worse.html, line 1"]


def test_check_names_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert "create it" in composer(tmp_path / "none").check()[0]


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Composer:
    directory = tmp_path_factory.mktemp("templates")
    write(
        directory,
        t__subject__txt="{{ a }}",
        t__txt="{% for x in a %}{{ x * 2 }}{% endfor %}",
        t__html="{{ a|join(b) }}",
    )
    return composer(directory)


@few
@given(JSON)
def test_any_context_is_either_rendered_or_the_rows_fault(shared: Composer, value: object) -> None:
    for context in (value, {"a": value, "b": value}):
        made = attempted(shared, draft(template="t", context=context))
        assert not isinstance(made, Unsendable) or made.column in ("context", "template")


def test_a_byte_order_mark_in_front_of_a_template_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.subject.txt").write_bytes("\ufeffHello".encode())
    (tmp_path / "t.txt").write_bytes("\ufeffText".encode())
    made = render(Templates(str(tmp_path), 100), {})
    assert (made.subject, made.text) == ("Hello", "Text")
