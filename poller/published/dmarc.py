"""DMARC (RFC 9989): the record that applies to a domain, found by the tree walk, and whose mail is aligned with whose.

Rule 1. The walk asks for `_dmarc` at the domain, then at each name above it, down to the top-level domain; of a name of
        eight labels or more it goes on with the last seven (section 4.10). It ends at psd=y or psd=n.
Rule 2. A name with several records, or with one that can't be used, has none.
Rule 3. The organizational domain is the one whose record says psd=n, or the one below a record of psd=y, else the
        highest with a record, else the domain itself (section 4.10.2).

Raises `LookupFailed` from the look-ups alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from poller.published.tags import begins_with, tags_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Texts = Callable[[str], tuple[str, ...]]

_LABELS_AT_ONCE: Final = 8  # RFC 9989 section 4.10: longer names are cut, so that a walk asks eight times at most
_POLICIES: Final = ("none", "quarantine", "reject")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A usable record and where it was found."""

    domain: str
    tags: Mapping[str, str]

    @property
    def is_strict(self) -> bool:
        """Whether the signature has to be by the very domain in From."""
        return self.tags.get("adkim", "r").lower() == "s"

    @property
    def is_tested(self) -> bool:
        """Whether the domain asks receivers to be one step milder than it says (t=y)."""
        return self.tags.get("t", "n").lower() == "y"

    def asked_of(self, author: str) -> str:
        """What receivers are to do with mail from `author` that is not aligned."""
        for_itself = _policy(self.tags, "p")
        return for_itself if author == self.domain else _policy(self.tags, "sp") or for_itself


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What the tree walk from `start` found, the lowest first."""

    start: str
    found: tuple[Policy, ...]

    @property
    def organization(self) -> str:
        """The organizational domain (Rule 3)."""
        for policy in self.found:
            psd = policy.tags.get("psd", "u").lower()
            if psd == "n":
                return policy.domain
            if psd == "y" and policy.domain != self.start:
                above = policy.domain.count(".") + 1
                return ".".join(self.start.split(".")[-above - 1 :])
        return self.found[-1].domain if self.found else self.start

    @property
    def policy(self) -> Policy | None:
        """The record that applies: of the domain, else of its organization, else of the suffix above it."""
        by_domain = {policy.domain: policy for policy in self.found}
        last = self.found[-1] if self.found and self.found[-1].tags.get("psd", "").lower() == "y" else None
        return by_domain.get(self.start) or by_domain.get(self.organization) or last


def walk(domain: str, texts: Texts) -> Walk:
    """Rule 1."""
    found: list[Policy] = []
    for name in _names(domain):
        policy = _usable(name, records_of(name, texts))
        if policy:
            found.append(policy)
            if policy.tags.get("psd", "u").lower() in {"y", "n"}:
                break
    return Walk(start=domain, found=tuple(found))


def records_of(domain: str, texts: Texts) -> list[str]:
    """The DMARC records of one name; others are no concern of it."""
    return [text for text in texts(f"_dmarc.{domain}") if begins_with(text, "v=DMARC1")]


def is_aligned(signer: str, author: Walk, texts: Texts) -> bool:
    """Whether a signature by `signer` counts for mail from the domain of `author` (section 4.4)."""
    if signer == author.start:
        return True
    if author.policy is not None and author.policy.is_strict:
        return False
    return walk(signer, texts).organization == author.organization


def _names(domain: str) -> Iterator[str]:
    yield domain
    labels = domain.split(".")
    rest = labels[1:] if len(labels) < _LABELS_AT_ONCE else labels[1 - _LABELS_AT_ONCE :]
    while rest:
        yield ".".join(rest)
        rest = rest[1:]


def _usable(name: str, records: list[str]) -> Policy | None:
    """Rule 2. One with a policy that nobody can read is taken for p=none, if it says where reports go."""
    if len(records) != 1:
        return None
    tags = tags_of(records[0])
    if all(_policy(tags, policy) for policy in ("p", *({"sp", "np"} & tags.keys()))):
        return Policy(domain=name, tags=tags)
    if "rua" not in tags:
        return None
    return Policy(domain=name, tags={**tags, "p": "none", "sp": "none"})


def _policy(tags: Mapping[str, str], name: str) -> str:
    value = tags.get(name, "").lower()
    return value if value in _POLICIES else ""
