"""`[templates] inline_css`: the rules of `<style>` go into `style` attributes, where every mail program heeds them.

Rule 1. Nothing is fetched, from no host and no disk: a `<link>` to a stylesheet is dropped.
Rule 2. What can't be an attribute (`@media`, `@font-face`) stays in a `<style>`; the rest of it goes.
Rule 3. The same HTML gives the same HTML.
Rule 4. The library walks the tree on the native stack, and a deep one would end the process: what has more than
        MOST_TAGS tags, or MOST_OPEN of them open at once, is refused.

Raises `Unsendable` with column `template`. The library is css-inline, an extra: `pip install "poller[css]"`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from poller.message.draft import Unsendable

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_TAGS: Final = 5000
"""Twice as many, nested, were still borne by a stack of 8 MiB (css-inline 0.24)."""
MOST_OPEN: Final = 500
_TAG: Final = re.compile(r"<(/?)([A-Za-z][^\s/>]*)")
_WITHOUT_END: Final = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "wbr"))
_QUOTED: Final = 200  # characters of the library's words


def trouble() -> str:
    """What keeps it from working, in words with the remedy; "" if nothing."""
    try:
        import css_inline  # noqa: F401, PLC0415 - an extra
    except ImportError:
        return '[templates] inline_css needs the package css-inline: pip install "poller[css]"'
    return ""


def inliner() -> Callable[[str], str]:
    """What inlines. Raises ImportError."""
    from css_inline import CSSInliner, InlineError  # noqa: PLC0415 - an extra

    made = CSSInliner(load_remote_stylesheets=False, keep_style_tags=False, keep_at_rules=True)

    def inlined(html: str) -> str:
        _require_flat(html)
        try:
            return str(made.inline(html))
        except InlineError as error:
            raise Unsendable("template", f"its CSS can't be inlined: {str(error)[:_QUOTED]}; correct it") from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # Rust's, which is no Exception
                raise
            raise Unsendable("template", "its CSS can't be inlined: css-inline failed; simplify it") from None

    return inlined


def _require_flat(html: str) -> None:
    """Rule 4. What closes nothing, or stands in a comment, is counted too: rather too many than too few."""
    tags, is_open, most = 0, Counter[str](), 0
    depth = 0
    for end, name in _TAG.findall(html):
        word = name.lower()
        if not end:
            tags += 1
            if word not in _WITHOUT_END:
                is_open[word] += 1
                depth += 1
                most = max(most, depth)
        elif is_open[word]:
            is_open[word] -= 1
            depth -= 1
    if tags > MOST_TAGS or most > MOST_OPEN:
        reason = f"{tags:,} tags, {most:,} of them open at once; {MOST_TAGS:,} and {MOST_OPEN:,} are allowed"
        raise Unsendable("template", f"the HTML is too deep or too long to inline its CSS: {reason}; simplify it")
