"""What mailing lists may be told: the `[lists."name"]` tables and `[unsubscribe]`. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from poller.sealed import UnusableKey, keys_of
from poller.units import SETTINGS, Checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLACE = "{token}"
"""Where the token stands in an address for unsubscribing."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ID = re.compile(rf"{_ATOM}(?:\.{_ATOM})+")
_ID_MOST = 255  # characters, RFC 2919 section 2
_TITLE_MOST = 200  # characters
_URL = re.compile(r"https://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?(?:[/?][!$-+.-;=?-Z_a-z~-]*)?")
_MAILTO = re.compile(r"mailto:[!$-+.-;=?A-Z_a-z~-]+@[!$-+.-;=?A-Z_a-z~-]+")
_ADDRESS_MOST = 300  # characters of either: with the longest token it stays within a line of 998
_FEEDBACK = re.compile(r"[!-z|~]*")
_FEEDBACK_MOST = 200  # characters
FEEDBACK_NAMES = ("list", "batch", "template")


def check_list_name(name: str) -> str:
    """The name of a list, as rows give it. Raises ValueError with the remedy."""
    if not _NAME.fullmatch(name):
        raise ValueError("a list's name has letters, digits, dots, hyphens and underscores, at most 64")
    return name


def check_list_id(text: str) -> str:
    """What List-Id has in angle brackets (RFC 2919). Raises ValueError with the remedy."""
    if len(text) > _ID_MOST or not _ID.fullmatch(text):
        raise ValueError('not a list id; write it like "news.example.com": a name of yours, and a domain of yours')
    return text


def check_title(text: str) -> str:
    """A list's name as people see it. Raises ValueError with the remedy."""
    if not text.strip() or len(text) > _TITLE_MOST or not text.isprintable() or "=?" in text:
        raise ValueError(f"not a name to show; write printable characters, {_TITLE_MOST} at most")
    return text.strip()


def check_unsubscribe_url(text: str) -> str:
    """RFC 8058: HTTPS, and a token of which nobody can make another. Raises ValueError with the remedy."""
    if text.count(PLACE) != 1:
        remedy = f'write {PLACE} once, where the token goes, as in "https://example.com/u/{PLACE}"'
        raise ValueError(f"it is for everybody alike; {remedy}")
    if not text.startswith("https://"):
        raise ValueError("one-click needs a URL that begins with https:// (RFC 8058)")
    return _checked(text, _URL, "not a URL for a header field; percent-encode what is special in it, also commas")


def check_unsubscribe_mailto(text: str) -> str:
    """RFC 2369. Raises ValueError with the remedy."""
    example = f'"mailto:leave@example.com?subject={PLACE}"'
    return _checked(text, _MAILTO, f"not a mailto URL for a header field; write it like {example}")


def _checked(text: str, shape: re.Pattern[str], reason: str) -> str:
    if len(text) > _ADDRESS_MOST:
        raise ValueError(f"too long; at most {_ADDRESS_MOST} characters, so that it fits on a line with its token")
    if text.count(PLACE) > 1 or not shape.fullmatch(text.replace(PLACE, "x")):
        raise ValueError(reason)
    return text


def check_feedback_id(text: str) -> str:
    """A Feedback-ID with places for what the row says. Raises ValueError with the remedy."""
    remedy = 'write it like "{batch}:{list}:news:example", with {batch}, {list} and {template} only, and no spaces'
    try:
        parts = [(before, name, form, turn) for before, name, form, turn in Formatter().parse(text)]
    except ValueError:
        raise ValueError(f"braces that do not fit together; {remedy}") from None
    places = [(name, form, turn) for _, name, form, turn in parts if name is not None]
    fixed = "".join(before for before, *_ in parts)
    if any(place not in {(name, "", None) for name in FEEDBACK_NAMES} for place in places):
        raise ValueError(f"a place that is not known; {remedy}")
    if not text or len(text) > _FEEDBACK_MOST or not _FEEDBACK.fullmatch(fixed):
        raise ValueError(f"not a Feedback-ID; {remedy}")
    return text


ListName = Annotated[str, Checked(check_list_name)]
ListId = Annotated[str, Checked(check_list_id)]
Title = Annotated[str, Checked(check_title)]
UnsubscribeUrl = Annotated[str, Checked(check_unsubscribe_url)]
UnsubscribeMailto = Annotated[str, Checked(check_unsubscribe_mailto)]
FeedbackId = Annotated[str, Checked(check_feedback_id)]


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """One mailing list: the header fields that its mail carries."""

    __pydantic_config__: ClassVar = SETTINGS

    id: ListId
    """List-Id (RFC 2919)."""
    name: Title | None = None
    unsubscribe_url: UnsubscribeUrl | None = None
    """List-Unsubscribe, with List-Unsubscribe-Post (RFC 8058)."""
    unsubscribe_mailto: UnsubscribeMailto | None = None
    """List-Unsubscribe, beside the URL or alone (RFC 2369)."""
    precedence: Literal["bulk", "list", ""] = "bulk"
    auto_submitted: bool = False
    """Auto-Submitted: auto-generated (RFC 3834), for what no person has sent off."""
    feedback_id: FeedbackId | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether each recipient has a link of their own, and so a message of their own."""
        return any(PLACE in (url or "") for url in (self.unsubscribe_url, self.unsubscribe_mailto))


@dataclass(frozen=True, kw_only=True)
class UnsubscribeSettings:
    """The secret behind the links for unsubscribing, which applications share (`poller.unsubscribe`)."""

    __pydantic_config__: ClassVar = SETTINGS

    key: str | None = field(default=None, repr=False)
    """One a line: the first signs, all verify."""
    outbox: str = ""
    """A name of this outbox, where several share a key: a token of one is refused by the others."""


def contradictions(
    lists: Mapping[str, ListSettings], shared: UnsubscribeSettings
) -> Iterator[tuple[tuple[tuple[str, ...], ...], str]]:
    """What only shows between tables: the keys, the one to blame first, and what to do."""
    needing = [name for name, settings in lists.items() if settings.has_tokens]
    if shared.key is None and needing:
        reason = "it has a link for each recipient, and there is no key to sign them with"
        remedy = "make one, openssl rand -base64 32 > FILE, and name it in [unsubscribe] key_file"
        yield tuple(("lists", name) for name in needing), f"{reason}; {remedy}"
    elif shared.key is not None:
        try:
            keys_of(shared.key)
        except UnusableKey as error:
            yield (("unsubscribe", "key"),), str(error)
