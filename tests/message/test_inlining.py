"""`[templates] inline_css`: rules become attributes, nothing is fetched, and nothing ends the process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from message.rows import draft

from poller.message.composer import Composer
from poller.message.draft import Unsendable
from poller.message.inlining import MOST_TAGS, inliner
from poller.message.settings import MessageSettings, TemplateSettings

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("css_inline")

STYLE = "<style>p { color: red } a:hover { color: blue } @media print { p { color: black } }</style>"


def test_rules_become_attributes_and_what_can_not_stays() -> None:
    made = inliner()(f"{STYLE}<p>Grüße &lt;b&gt; {{{{ x }}}}</p>")
    assert '<p style="color: red;">Grüße &lt;b&gt; {{ x }}</p>' in made
    assert "@media print" in made
    assert "p { color: red }" not in made
    assert inliner()(f"{STYLE}<p>Grüße &lt;b&gt; {{{{ x }}}}</p>") == made


def test_nothing_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "x.css").write_text("p { color: red }")
    links = [f'<link rel="stylesheet" href="{at}">' for at in (tmp_path / "x.css", f"file://{tmp_path}/x.css", "x.css")]
    assert "red" not in inliner()("".join(links) + "<p>x</p>")


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 50_000,
        "<div><!--</div>-->" * 20_000,
        '<div title="</div>">' * 20_000,
        "<div></p>" * 20_000,
        "<b>" * 501,
    ],
)
def test_what_is_too_deep_for_the_stack_fails_its_row_alone(html: str) -> None:
    with pytest.raises(Unsendable, match="too deep or too long"):
        inliner()(html)


@pytest.mark.parametrize("unit", ["<div><!--</div>-->", '<div title="</div>">', "<b><!--</b>-->"])
def test_what_hides_its_depth_and_has_no_more_tags_than_allowed_is_borne(unit: str) -> None:
    made: list[str] = []
    thread = threading.Thread(target=lambda: made.append(inliner()(STYLE + unit * (MOST_TAGS - 10))))
    thread.start()
    thread.join()
    assert len(made) == 1


@pytest.mark.parametrize("css", ["p{{{{", "}", "p { color: url(javascript:1) ", "@import 'http://x.test/y.css'; p{}"])
def test_broken_css_is_borne(css: str) -> None:
    assert "<p" in inliner()(f"<style>{css}</style><p>x</p>")


def test_a_template_is_inlined_and_a_ready_body_is_not(tmp_path: Path) -> None:
    (tmp_path / "t.html").write_text(f"{STYLE}<p>{{{{ name }}}}</p>")
    composer = Composer(MessageSettings(), TemplateSettings(directory=str(tmp_path), inline_css=True))
    made = composer.compose(draft(template="t", context={"name": "<A>"}, body_text=None, subject="s")).content
    assert b'<p style=3D"color: red;">&lt;A&gt;</p>' in made or b'<p style="color: red;">&lt;A&gt;</p>' in made
    ready = composer.compose(draft(body_html=f"{STYLE}<p>x</p>")).content
    assert b"style=" not in ready
