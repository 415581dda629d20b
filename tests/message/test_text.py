"""HTML to text: what a reader without HTML sees."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from message.rows import many

from poller.message.text import AND_SO_ON, MOST, text_from_html

TABLE = [
    ("", ""),
    ("Hello", "Hello"),
    ("<p>One</p><p>Two</p>", "One\n\nTwo"),
    ("<p>One\n   two\t three</p>", "One two three"),
    ("a<br>b<br/>c", "a\nb\nc"),
    ("a<br><br>b", "a\n\nb"),
    ("<div>a</div><div>b</div>", "a\nb"),
    ("<div><div><p>a</p></div></div><p>b", "a\n\nb"),
    ("<h1>Title</h1>Text", "Title\n\nText"),
    ("<b>bold</b> and <i>it</i>alic", "bold and italic"),
    ("Tom &amp; J&eacute;r&#xF4;me&nbsp;!", "Tom & Jérôme !"),
    ("<a href='https://x.test/?a=1&amp;b=2'>Shop</a>.", "Shop (https://x.test/?a=1&b=2)."),
    ("<a href='https://x.test/'>https://x.test</a>", "https://x.test"),
    ("<a href='https://x.test/'>x.test</a>", "x.test"),
    ("<a href='mailto:a@b.test'>a@b.test</a>", "a@b.test"),
    ("<a href='mailto:a@b.test'>Write</a> us", "Write (a@b.test) us"),
    ("<a href='#top'>Top</a><a href='javascript:x()'>!</a><a>?</a>", "Top!?"),
    ("<a href='https://x.test'><img src='y'></a>", "https://x.test"),
    ("<a href='https://x.test'><img src='y' alt='Our shop'></a>", "Our shop (https://x.test)"),
    ("x<ul><li>a</li><li>b</li></ul>y", "x\n\n- a\n- b\n\ny"),
    ("<ul><li>a<li>b</ul>", "- a\n- b"),
    ("<ul><li>a<br>more</li></ul>", "- a\n  more"),
    ("<ol><li>a</li><li>b</li></ol>", "1. a\n2. b"),
    ("<ol start=9><li>a</li><li>b</li></ol>", "9. a\n10. b"),
    ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n  - b\n- c"),
    ("<ul><li><p>a</p></li><li><p>b</p></li></ul>", "- a\n\n- b"),
    ("a<blockquote>b<p>c</p></blockquote>d", "a\n\n> b\n>\n> c\n\nd"),
    ("<table><tr><th>Tea</th><td>3 €</td></tr><tr><td>Oat</td><td>2 €</td></tr></table>", "Tea  3 €\nOat  2 €"),
    ("a<hr>b", "a\n\n--------------------\n\nb"),
    ("<pre>\n a\n  b\n</pre>c", " a\n  b\n\nc"),
    ("<head><title>T</title><style>p{}</style></head><body>x", "x"),
    ("<head><title>T</title><body>x", "x"),
    ("a<script>if (a<b) {}</script>b<style>x</style>", "ab"),
    ("<div style='DISPLAY : none'>hidden <div>in</div> too</div>shown", "shown"),
    ("<!-- no --><!--[if mso]>no<![endif]-->yes<![if !mso]>!<![endif]>", "yes!"),
    ("a &lt;b&gt; c", "a <b> c"),
    ("<a href='https://x.test/1'>One<p>two", "One\n\ntwo\n\n(https://x.test/1)"),
    (
        "<a href='https://x.test/1'>One<a href='https://x.test/2'>Two</a>.",
        "One (https://x.test/1)Two (https://x.test/2).",
    ),
    ("<p style='mso-hide:all'><a href='https://x.test/1'>Confirm</a></p>", "Confirm (https://x.test/1)"),
    ("<head><title>T</title><p>Text", "Text"),
    ("<p style='display:none'>preheader<p>Text", "Text"),
    ("<ul><li style='display:none'>no<li>yes</ul>", "- yes"),
    ("<table><tr><td style='display:none'>no<td>yes<tr><td>too</table>", "yes\ntoo"),
    ("<b><p>one</b> two", "one two"),
    ("<div style='display:none'><b>no</div>yes", "yes"),
    ("a</p>b", "a\n\nb"),
    ("1 < 2 && 3 > 2 <3 </ x>", "1 < 2 && 3 > 2 <3"),
    ("a <unfinished b", "a"),
    ("a<textarea><b>&amp;</textarea>b", "a<b>&b"),
    ("<p title='a > b' class=\"c\">x", "x"),
    ("a<!-->b<!--->c<!-- d", "abc"),
    ("<svg><path d='x'/></svg>a<br/>b", "a\nb"),
]


@pytest.mark.parametrize(("html", "expected"), TABLE)
def test_html_becomes_readable_text(html: str, expected: str) -> None:
    assert expected == text_from_html(html)


TAGS = "<p>|</p>|<ul>|</ul>|<ol>|<li>|</li>|<blockquote>|</blockquote>|<pre>|</pre>|<a href='https://x.y'>|</a>|<br>"
MORE = "<td>|<p style='display:none'>|</p>|<head>|<body>|<script>|</script>|text| |\n|&amp;|<![|<!|<?|</|<|<img alt=x>"


@many
@given(st.lists(st.sampled_from((TAGS + "|" + MORE).split("|")), max_size=40))
def test_html_of_any_shape_gives_some_text(pieces: list[str]) -> None:
    text = text_from_html("".join(pieces))
    assert "\n\n\n\n" not in text or "<br>" in pieces or "<pre>" in pieces
    assert text == text.strip("\n")


@many
@given(st.text(max_size=200))
def test_any_text_at_all_gives_some_text(html: str) -> None:
    assert isinstance(text_from_html(html), str)


@many
@given(st.lists(st.text("abcdefg", min_size=1, max_size=8), min_size=1, max_size=20))
def test_no_word_is_lost_and_none_is_joined_to_another(words: list[str]) -> None:
    assert words == text_from_html("".join(f"<div><b>{word}</b></div>" for word in words)).split()


HOSTILE = [
    "<a ",
    "<",
    "<!--",
    "</",
    "<a b='",
    "<![",
    "<script>",
    "<?",
    "&amp",
    "<div>",
    "<p>a",
    "<b><p>",
    "</b>",
    "<td><p></p>",
]
HOSTILE += [
    "<ul><li>a",
    "<blockquote>a",
    "<a href='https://x.y'>a",
    "<svg><g>",
    "<span style='display:none'>",
    "<foo@bar> a<b\n",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", HOSTILE)
def test_half_a_megabyte_of_any_shape_is_read_in_one_pass(piece: str) -> None:
    """The time is the runner's to watch: what looks twice for what is missing takes hours here."""
    assert text_from_html(piece * (500_000 // len(piece))) is not None


def test_what_is_very_long_is_cut_and_says_so() -> None:
    text = text_from_html("word " * (MOST // 4))
    assert text.endswith(AND_SO_ON)
    assert len(text) <= MOST + len(AND_SO_ON) + 2
