"""SPF (RFC 7208): whether a domain has one record that receivers can use. Which relays it lets in is not judged.

Rule 1. The terms that need the DNS are counted through all includes, as receivers count them: more than MOST_LOOKUPS
        make the whole record void (section 4.6.4). The count ends there, so that a loop does too.
Rule 2. A name with a macro is counted and not followed: what it is depends on the message.

Raises `LookupFailed` from the look-ups alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Texts = Callable[[str], tuple[str, ...]]

MOST_LOOKUPS: Final = 10
_TERM: Final = re.compile(r"([-+?~]?)(all|include|a|mx|ptr|ip4|ip6|exists|redirect|exp)(?:([:=/])(.*))?", re.IGNORECASE)
_NEEDS_DNS: Final = {"include", "a", "mx", "ptr", "exists", "redirect"}
_FOLLOWED: Final = {"include", "redirect"}


class _Void(Exception):  # noqa: N818 - what is wrong with the record
    """Receivers can't use the record; the reason and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a domain's record."""

    trouble: str = ""
    """Why receivers do not use it, with the remedy."""
    lookups: int = 0
    others: str = ""
    """What is said of all other senders: "-", "~", "?", or "" if nothing."""


def spf_records(domain: str, texts: Texts) -> list[str]:
    """The SPF records of one name."""
    return [text for text in texts(domain) if text.lower().split(" ", 1)[0] == "v=spf1"]


def judge(domain: str, texts: Texts) -> Verdict:
    """The record of `domain`, which must have one at least."""
    reader = _Reader(texts)
    try:
        others = reader.read(domain)
    except _Void as error:
        return Verdict(trouble=str(error))
    if others == "+":
        return Verdict(trouble="+all lets everybody send in its name; end the record with -all or ~all")
    return Verdict(lookups=reader.lookups, others=others)


def _terms_that_count(record: str) -> list[str]:
    """Where there is an `all`, `redirect=` is passed over (section 6.1)."""
    terms = record.split()[1:]
    has_all = any(term.lstrip("-+?~").lower() == "all" for term in terms)
    return [term for term in terms if not (has_all and term.lower().startswith("redirect="))]


class _Reader:
    """Follows one record through its includes (Rule 1)."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self.lookups = 0

    def read(self, domain: str) -> str:
        """What `all` says there, or where it redirects to."""
        records = spf_records(domain, self._texts)
        if len(records) != 1:
            count = f"{len(records)} SPF records; merge them into one" if records else "no SPF record; take it out"
            raise _Void(f"{domain} has {count}")
        redirected = ""
        for term in _terms_that_count(records[0]):
            sign, name, beside = self._term(domain, term)
            if name == "all":
                return sign or "+"
            if name in _FOLLOWED and "%" not in beside:
                there = beside.rstrip(".").lower()
                said = self.read(there)
                if name == "include" and said == "+" and sign in {"", "+"}:
                    raise _Void(f"{there}, which it includes, lets everybody send (+all); take it out")
                redirected = said if name == "redirect" else redirected
        return redirected

    def _term(self, domain: str, term: str) -> tuple[str, str, str]:
        match = _TERM.fullmatch(term)
        if not match:
            if re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*=.*", term):  # a modifier that nobody knows is passed over
                return "", "", ""
            raise _Void(f"the record of {domain} has a term that nobody can read: {term}; correct it")
        name, beside = match[2].lower(), match[4] or ""
        self.lookups += name in _NEEDS_DNS
        if self.lookups > MOST_LOOKUPS:
            raise _Void(f"more than {MOST_LOOKUPS} look-ups, so receivers stop reading; name fewer includes")
        return match[1], name, beside
