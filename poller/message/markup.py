"""HTML as a row of events: what begins, what is said, what ends; near enough to how a browser reads it.

Rule 1. The time grows with the text and not faster, whatever its shape: nothing is searched for twice in vain, and no
        search among the open elements goes beyond LOOK of them.
Rule 2. Elements end where a browser ends them: an end tag that is left out is understood, one that fits nothing is
        passed over, and at the end of the text all that is open ends.
Rule 3. What a tag or a comment leaves unfinished at the end of the text is nothing, as the HTML Standard has it.

Never raises. HTML Standard, sections 13.2.5 and 13.2.6. (html.parser and Lexbor take four times as long for twice the
text, the one where tags are unfinished, the other where elements are deeply nested.)
"""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

LOOK = 100
"""Open elements, from the innermost, among which one is looked for."""

VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"))
_AS_IT_IS = frozenset(("iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"))
_END = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _AS_IT_IS}
BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "center", "dd", "details", "dialog", "div", "dl", "dt"),
        *("fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup"),
        *("hr", "li", "main", "menu", "nav", "ol", "p", "pre", "section", "summary", "table", "ul"),
    )
)
"""A paragraph ends where one of these begins."""
_CELLS = frozenset(("table", "td", "th", "caption"))
_TABLE = _CELLS | {"tr", "thead", "tbody", "tfoot"}
_PARAGRAPH = frozenset(("p",)), _CELLS | {"button", "object", "template"}
_ENDED_BY: dict[str, tuple[Collection[str], Collection[str]]] = {
    "li": (("li",), _CELLS | {"ul", "ol", "menu"}),
    "option": (("option",), ("select",)),
    "tr": (("tr",), ("table",)),
    **dict.fromkeys(("dt", "dd"), (("dt", "dd"), _CELLS | {"dl"})),
    **dict.fromkeys(("td", "th"), (("td", "th"), ("tr", "table"))),
    **dict.fromkeys(("thead", "tbody", "tfoot"), (("thead", "tbody", "tfoot"), ("table",))),
}
"""Which open elements end when this one begins, and what shelters them."""

_NAME = re.compile(r"[a-zA-Z][^\t\n\f\r />]*")
_BETWEEN = re.compile(r"[\t\n\f\r /]*")
_KEY = re.compile(r"[^\t\n\f\r />][^\t\n\f\r />=]*")
_EQUALS = re.compile(r"[\t\n\f\r ]*=[\t\n\f\r ]*")
_BARE = re.compile(r"[^\t\n\f\r >]*")


class Reader(Protocol):
    """Who is told. Names of elements and attributes are in lower case, character references are resolved."""

    def start(self, tag: str, given: Mapping[str, str]) -> bool:
        """An element begins; False leaves it out, with all that is in it."""

    def data(self, text: str) -> None:
        """Text."""

    def end(self, tag: str) -> None:
        """It ends."""


def read(html: str, reader: Reader) -> None:
    """Tell the reader everything in order."""
    elements = _Elements(reader)
    for token in _tokens(html):
        if token.kind == "text":
            elements.text(token.text)
        elif token.kind == "start":
            elements.begin(token.text, token.given)
        else:
            elements.finish(token.text)
    elements.finish_all()


class _Token(NamedTuple):
    """`text` is the name of a tag, or what is said."""

    kind: Literal["start", "end", "text"]
    text: str
    given: Mapping[str, str] = {}


def _tokens(html: str) -> Iterator[_Token]:
    at = said = 0
    while (at := html.find("<", at)) >= 0:
        found, beyond = _tag(html, at)
        if beyond == at:  # no tag
            at += 1
            continue
        if at > said:
            yield _Token("text", unescape(html[said:at]))
        if beyond is None:  # unfinished
            return
        at = said = beyond
        if found is not None:
            yield found
            if found.kind == "start" and found.text in _AS_IT_IS:
                closing = _END[found.text].search(html, at)
                said = at = closing.start() if closing else len(html)
                yield _Token("text", html[beyond:at] if found.text != "textarea" else unescape(html[beyond:at]))
    if said < len(html):
        yield _Token("text", unescape(html[said:]))


def _tag(html: str, at: int) -> tuple[_Token | None, int | None]:
    """The tag whose < stands at `at`, if it is one, and where it ends; None if it does not end."""
    if html.startswith("<!--", at):
        abrupt = next((len(end) for end in (">", "->") if html.startswith(end, at + 4)), 0)
        return None, at + 4 + abrupt if abrupt else _behind(html, "-->", at + 4)
    if html.startswith(("<!", "<?"), at):
        return None, _behind(html, ">", at + 2)
    is_end = html.startswith("</", at)
    name = _NAME.match(html, at + 1 + is_end)
    if name is None:
        return None, _behind(html, ">", at + 2) if is_end and at + 2 < len(html) else at
    given, beyond = _attributes(html, name.end())
    return _Token("end" if is_end else "start", name[0].lower(), given), beyond


def _behind(html: str, what: str, at: int) -> int | None:
    found = html.find(what, at)
    return None if found < 0 else found + len(what)


def _attributes(html: str, at: int) -> tuple[dict[str, str], int | None]:
    """Attributes from `at` to the end of the tag, and where that is."""
    given: dict[str, str] = {}
    while True:
        at = _skipped(_BETWEEN, html, at)
        if at >= len(html):
            return given, None
        if html[at] == ">":
            return given, at + 1
        begin, at = at, _skipped(_KEY, html, at)
        key, value = html[begin:at].lower(), ""
        if equals := _EQUALS.match(html, at):
            at = equals.end()
            if (quote := html[at : at + 1]) in {'"', "'"}:
                end = html.find(quote, at + 1)
                if end < 0:
                    return given, None
                value, at = html[at + 1 : end], end + 1
            else:
                begin, at = at, _skipped(_BARE, html, at)
                value = html[begin:at]
        given.setdefault(key, unescape(value))


def _skipped(what: re.Pattern[str], html: str, at: int) -> int:
    match = what.match(html, at)
    return match.end() if match else at


class _Elements:
    """The open elements, each with what it is to the reader."""

    TOLD, LEFT_OUT, WITHIN = "told", "left out", "within what is left out"

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._open: list[tuple[str, str]] = []
        self._counts: Counter[str] = Counter()
        self._left_out = 0

    def text(self, text: str) -> None:
        if not self._left_out:
            self._reader.data(text)

    def begin(self, tag: str, given: Mapping[str, str]) -> None:
        if tag in BLOCKS:
            self._end_first(*_PARAGRAPH)
        if tag in _ENDED_BY:
            self._end_first(*_ENDED_BY[tag])
        state = self.WITHIN if self._left_out else self.TOLD if self._reader.start(tag, given) else self.LEFT_OUT
        if tag in VOID:
            if state == self.TOLD:
                self._reader.end(tag)
            return
        self._left_out += state == self.LEFT_OUT
        self._open.append((tag, state))
        self._counts[tag] += 1

    def finish(self, tag: str) -> None:
        if tag == "p" and not self._counts["p"]:  # an empty paragraph
            self.begin("p", {})
        at = self._found((tag,), () if tag in _TABLE else _CELLS)
        if at is None:
            return
        if tag in BLOCKS or tag in _TABLE or not any(name in BLOCKS for name, _ in self._open[at:]):
            self._close_down_to(at)
        else:  # <b><p></b>: the paragraph goes on
            self._ended(*self._open.pop(at))

    def finish_all(self) -> None:
        self._close_down_to(0)

    def _end_first(self, names: Collection[str], shelter: Collection[str]) -> None:
        at = self._found(names, shelter)
        if at is not None:
            self._close_down_to(at)

    def _found(self, names: Collection[str], shelter: Collection[str]) -> int | None:
        """Where the innermost of these stands, unless something shelters it."""
        if not any(self._counts[name] for name in names):
            return None
        for at in range(len(self._open) - 1, max(-1, len(self._open) - 1 - LOOK), -1):
            name = self._open[at][0]
            if name in names:
                return at
            if name in shelter:
                return None
        return None

    def _close_down_to(self, at: int) -> None:
        while len(self._open) > at:
            self._ended(*self._open.pop())

    def _ended(self, tag: str, state: str) -> None:
        self._counts[tag] -= 1
        self._left_out -= state == self.LEFT_OUT
        if state == self.TOLD:
            self._reader.end(tag)
