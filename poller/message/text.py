"""HTML to plain text: the text part of a message whose application gave HTML only.

Keeps what a reader needs: paragraphs, line breaks, lists, quotes, cells of a table side by side, links as
`text (address)`, alternative texts of images. Leaves out the head, styles, scripts, and what `display:none` hides.
Paragraphs are not wrapped: clients do that better, and addresses stay whole.

Never raises: HTML of any shape gives some text. Does not follow links, load images, or read style sheets.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from poller.message.markup import VOID, read

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCKS = {
    **dict.fromkeys(("address", "article", "aside", "body", "caption", "center", "dd", "div", "dt", "fieldset"), 1),
    **dict.fromkeys(("figcaption", "footer", "form", "header", "html", "li", "main", "nav", "section", "tr"), 1),
    **dict.fromkeys(("blockquote", "dl", "figure", "h1", "h2", "h3", "h4", "h5", "h6"), 2),
    **dict.fromkeys(("hr", "ol", "p", "pre", "table", "ul"), 2),
}
"""Line ends around an element: one begins a line of its own, two leave a blank line."""
_SKIPPED = frozenset(("script", "style", "template", "title", "iframe", "noembed", "noframes", "object", "svg"))
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)  # mso-hide hides it from Outlook alone
_LINKS = re.compile(r"(?:https?|ftp|mailto|tel|sms):", re.IGNORECASE)
_WHITE = re.compile(r"[ \t\n\r\f]+")
MOST = 1_000_000
"""Characters of HTML that are made into text: a second's work or two."""
AND_SO_ON = "[The rest is in the HTML part of this message.]"
_DEPTH = 8  # levels of lists and quotes that are still shown; deeper ones look like the eighth


def text_from_html(html: str) -> str:
    """The text, lines ended by LF, no blank lines at its ends."""
    reader = _Reader()
    read(html[:MOST], reader)
    lines = "".join(reader.out).replace("\xa0", " ").split("\n")
    text = "\n".join(line.rstrip() for line in lines).strip("\n")
    return text if len(html) <= MOST else f"{text}\n\n{AND_SO_ON}"


def _shared_start(one: str, other: str) -> str:
    """What both begin with."""
    length = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    return min(one, other, key=len) if length is None else one[:length]


class _Reader:
    """Writes words as they come; breaks and spaces are owed until the next word, so that none are doubled."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.breaks = 0
        self.space = ""
        self.margin: list[str] = []
        """What every new line begins with: `> ` of quotes, the indentation of lists."""
        self.bullet = ""
        self.lists: list[tuple[int | None, int]] = []
        """For each open list: the number of its last item (None without numbers), and how deep its margin is."""
        self.quotes: list[int] = []
        """How deep the margin was where each open quote began."""
        self.blank = ""
        """The margin of the line before: a blank line between two takes what both have."""
        self.link: tuple[str, int] | None = None
        """Address and position in `out` of the open link."""
        self.preformatted = 0

    def start(self, tag: str, given: Mapping[str, str]) -> bool:
        if tag in _SKIPPED or (tag not in VOID and _HIDDEN.search(given.get("style", ""))):
            return False
        self.owe(self.around(tag))
        if opened := getattr(self, f"open_{tag}", None):
            opened(given)
        return True

    def end(self, tag: str) -> None:
        if closed := getattr(self, f"close_{tag}", None):
            closed()
        self.owe(self.around(tag))

    def data(self, data: str) -> None:
        if self.preformatted:
            self.write_as_is(data)
            return
        words = _WHITE.sub(" ", data)
        if words.startswith(" "):
            self.space = self.space or " "
        if stripped := words.strip(" "):
            self.write(stripped)
            self.space = " " if words.endswith(" ") else ""

    def around(self, tag: str) -> int:
        """Line ends around this element: a list inside a list needs no blank line."""
        return 1 if tag in ("ul", "ol") and self.lists else _BLOCKS.get(tag, 0)

    def owe(self, breaks: int) -> None:
        if not self.bullet:  # a paragraph that opens a list item begins on the bullet's line
            self.breaks = max(self.breaks, breaks)

    def write(self, text: str) -> None:
        """A word, after the breaks, the margin or the space that are owed."""
        margin = "".join(self.margin[:_DEPTH])
        if self.bullet:
            margin = margin[: len(margin) - len(self.bullet)] + self.bullet
        if self.breaks and self.out:
            blank = _shared_start(self.blank, margin).rstrip()
            self.out.append("\n" + f"{blank}\n" * (self.breaks - 1) + margin)
        elif not self.out:
            self.out.append(margin)
        elif self.space:
            self.out.append(self.space)
        if self.breaks or self.bullet:
            self.blank = "".join(self.margin[:_DEPTH])
        self.breaks, self.space, self.bullet = 0, "", ""
        self.out.append(text)

    def write_as_is(self, data: str) -> None:
        if self.breaks > 1:  # the line end right after <pre> is not part of it
            data = data.removeprefix("\n")
        for at, line in enumerate(data.split("\n")):
            self.breaks += bool(at)
            if line:
                self.write(line)

    def open_br(self, _given: Mapping[str, str]) -> None:
        self.breaks = min(self.breaks + 1, 3)
        self.space = ""

    def open_hr(self, _given: Mapping[str, str]) -> None:
        self.write("-" * 20)
        self.owe(2)

    def open_img(self, given: Mapping[str, str]) -> None:
        if alt := _WHITE.sub(" ", given.get("alt", "")).strip():
            self.write(alt)

    def open_a(self, given: Mapping[str, str]) -> None:
        self.close_a()  # no link stands within another
        self.link = (given.get("href", "").strip(), len(self.out))

    def close_a(self) -> None:
        address, start = self.link or ("", 0)
        self.link = None
        if not _LINKS.match(address):
            return
        said = "".join(self.out[start:]).strip()
        bare = address.removeprefix("mailto:").removeprefix("tel:")
        if not said.strip("\n>- "):
            self.write(bare)
        elif bare.rstrip("/") not in (said, f"https://{said}", f"http://{said}"):
            self.space = " "
            self.write(f"({bare})")

    def open_ul(self, _given: Mapping[str, str]) -> None:
        self.lists.append((None, len(self.margin)))

    def open_ol(self, given: Mapping[str, str]) -> None:
        start = given.get("start") or "1"
        first = int(start) if re.fullmatch(r"[0-9]{1,5}", start) else 1
        self.lists.append((first - 1, len(self.margin)))

    def close_ul(self) -> None:
        if self.lists:
            _, depth = self.lists.pop()
            del self.margin[depth:]
        self.bullet = ""

    close_ol = close_ul

    def open_li(self, _given: Mapping[str, str]) -> None:
        number, depth = self.lists[-1] if self.lists else (None, 0)
        del self.margin[depth:]
        if number is not None:
            number += 1
            self.lists[-1] = (number, depth)
        self.bullet = "- " if number is None else f"{number}. "
        self.margin.append(" " * len(self.bullet))

    def close_li(self) -> None:
        del self.margin[self.lists[-1][1] if self.lists else 0 :]
        self.bullet = ""

    def open_blockquote(self, _given: Mapping[str, str]) -> None:
        self.quotes.append(len(self.margin))
        self.margin.append("> ")

    def close_blockquote(self) -> None:
        if self.quotes:
            del self.margin[self.quotes.pop() :]

    def open_td(self, _given: Mapping[str, str]) -> None:
        self.space = "  "

    open_th = open_td

    def open_pre(self, _given: Mapping[str, str]) -> None:
        self.preformatted += 1

    def close_pre(self) -> None:
        self.preformatted = max(0, self.preformatted - 1)
