"""Pure: what a person wants to know of a row before it is sent. Nothing here decides whether it is.

`inspect` composes the row as the service would, and says what keeps it from becoming a message (FAILS), and what a
recipient or his provider would take ill in it.
"""

from __future__ import annotations

import re
from email.parser import HeaderParser
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

from poller.frozen import dataclass
from poller.message.draft import MissingVariable, TooLarge, Unsendable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from poller.message.composer import Composer
    from poller.message.draft import Composed, Draft, Recipient

FAILS: Final = ("missing variables", "bad addresses", "oversized messages", "bad templates", "other trouble")
"""Kinds of findings with which the row would fail."""
WARNS: Final = ("duplicate addresses", "suppressed addresses", "expired", "links without scheme", "no unsubscribe")
KINDS: Final = (*FAILS, *WARNS)

_COLUMNS: Final = {
    **dict.fromkeys(("recipients", "cc", "bcc", "sender", "reply_to", "envelope_from"), "bad addresses"),
    **dict.fromkeys(("template", "context", "locale"), "bad templates"),
}
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LINKS: Final = {"a": "href", "area": "href", "img": "src"}
_SHOWN: Final = 100  # characters of a link
_MOST_LINKS: Final = 5
_LINE: Final = 57, 78
"""Bytes of a file in a line of base64, and what that line has with its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """`kind` is one of KINDS; `words` say what it is, for a person."""

    kind: str
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What was found, and the mailboxes to which the row would go; none where it would fail."""

    findings: tuple[Finding, ...]
    recipients: tuple[Recipient, ...] = ()


def inspect(
    draft: Draft, sizes: Sequence[int], composer: Composer, *, suppressed: Mapping[tuple[str, str], str], max_size: int
) -> Inspected:
    """Look at one row; `suppressed` has reasons by list and address.

    Its attachments came without content, which has `sizes`.
    """
    try:
        recipients = composer.recipients(draft)
        composed = composer.compose(draft)
    except Unsendable as error:
        return Inspected(findings=(_failure(error, draft, composer),))
    except Exception as error:  # noqa: BLE001 - composing is pure, so this is a property of the row (prepare, Rule 1)
        return Inspected(findings=(Finding(kind="other trouble", words=f"{type(error).__name__}: {error}"),))
    found = [*_size(composed, sizes, max_size), *_suppressed(draft, recipients, suppressed)]
    found += [*_links(draft, composed), *_unsubscribe(composed)]
    return Inspected(findings=tuple(found), recipients=recipients)


def _failure(error: Unsendable, draft: Draft, composer: Composer) -> Finding:
    if isinstance(error, MissingVariable):
        names = composer.missing_variables(draft)
        return Finding(kind="missing variables", words=f"{names}; {error}" if names else str(error))
    if isinstance(error, TooLarge):
        return Finding(kind="oversized messages", words=str(error))
    return Finding(kind=_COLUMNS.get(error.column, "other trouble"), words=str(error))


def _size(composed: Composed, sizes: Sequence[int], max_size: int) -> Iterator[Finding]:
    """Files in base64, as they travel."""
    raw, line = _LINE
    whole = len(composed.content) + sum(-(-size // raw) * line for size in sizes)
    if whole > max_size:
        words = f"about {whole:,} bytes with its attachments, more than the {max_size:,} of [message] max_size"
        yield Finding(kind="oversized messages", words=words)


def _suppressed(
    draft: Draft, recipients: Sequence[Recipient], suppressed: Mapping[tuple[str, str], str]
) -> Iterator[Finding]:
    for recipient in recipients:
        keys = [("", recipient.address), (draft.list or "", recipient.address)]
        reasons = [
            recipient.withheld,
            *(suppressed[key] or "on the suppression list" for key in keys if key in suppressed),
        ]
        if words := next(filter(None, reasons), ""):
            yield Finding(kind="suppressed addresses", words=f"{recipient.address}: {words}")


class _Links(HTMLParser):
    """Collects the links that lead nowhere from a mail."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One link."""
        wanted = _LINKS.get(tag)
        for name, value in attrs:
            link = (value or "").strip()
            if name == wanted and not _SCHEME.match(link) and not link.startswith("#"):
                self.found[link] = None


def _links(draft: Draft, composed: Composed) -> Iterator[Finding]:
    html = composed.rendered.html if composed.rendered is not None else draft.body_html
    if not html:
        return
    links = _Links()
    links.feed(html)
    links.close()
    if links.found:
        names = [repr(link[:_SHOWN]) for link in links.found]
        more = f" and {len(names) - _MOST_LINKS} more" if len(names) > _MOST_LINKS else ""
        yield Finding(kind="links without scheme", words=", ".join(names[:_MOST_LINKS]) + more)


def _unsubscribe(composed: Composed) -> Iterator[Finding]:
    """RFC 8058: what large providers ask of bulk mail. Looked for in the message, no matter who put it there."""
    head = composed.content.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
    fields = HeaderParser().parsestr(head)
    if not fields["List-Unsubscribe"]:
        yield Finding(kind="no unsubscribe", words="no List-Unsubscribe field")
    elif not fields["List-Unsubscribe-Post"]:
        yield Finding(kind="no unsubscribe", words="not with one click: List-Unsubscribe-Post is missing (RFC 8058)")
