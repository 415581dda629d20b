"""The DNS beside the configuration: a verdict and a remedy for each key, and for each domain that mail is from.

Rule 1. A verdict is `bad` where receivers will not accept what is signed or said; `warn` where something is missing or
        could not be looked up; else `good`.
Rule 2. A domain in From is taken for the envelope's too: so it is for rows without an envelope_from.

It does not know the addresses that a relay sends from: whether SPF names them shows a message to a mailbox elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from poller.pacing.mx import LookupFailed
from poller.published import dmarc, key_record, spf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poller.message.dkim import DkimSigner

    Texts = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a check."""

    level: Literal["good", "warn", "bad"]
    about: Literal["dkim", "spf", "dmarc"]
    words: str


def of_key(signer: DkimSigner, texts: Texts) -> Finding:
    """Whether receivers find the other half of this key."""
    name, key = key_record.name_of(signer.selector, signer.domain), signer.key
    try:
        found = texts(name)
    except LookupFailed as error:
        return _unknown("dkim", error)
    if trouble := key_record.trouble_with(found, key):
        remedy = f"shown by: poller dkim --domain {signer.domain}"
        return Finding(level="bad", about="dkim", words=f"{name} ({key.kind}): {trouble}; {remedy}")
    if key_record.is_testing(found):
        words = f"{name} ({key.kind}): the key that signs, but t=y: receivers only test it; take t=y out"
        return Finding(level="warn", about="dkim", words=words)
    return Finding(level="good", about="dkim", words=f"{name} ({key.kind}): the key that signs")


def of_author(author: str, signer: str | None, texts: Texts) -> Iterator[Finding]:
    """What receivers find of a domain in From, whose mail `signer` signs."""
    if signer is None:
        remedy = f'unless a relay signs it, add [dkim."{author}"]'
        yield Finding(level="warn", about="dkim", words=f"{author}: mail from it is not signed here; {remedy}")
    try:
        yield _of_spf(author, texts)
    except LookupFailed as error:
        yield _unknown("spf", error)
    try:
        yield from _of_dmarc(author, signer, texts)
    except LookupFailed as error:
        yield _unknown("dmarc", error)


def _of_spf(domain: str, texts: Texts) -> Finding:
    if not spf.spf_records(domain, texts):
        remedy = f'publish {domain} TXT "v=spf1 include:YOUR-RELAY -all", with what your relay tells you to include'
        return Finding(level="warn", about="spf", words=f"{domain}: no record; {remedy}")
    verdict = spf.judge(domain, texts)
    if verdict.trouble:
        return Finding(level="bad", about="spf", words=f"{domain}: {verdict.trouble}")
    if verdict.others in {"", "?"}:
        words = f"{domain}: says nothing of other senders; end the record with -all or ~all"
        return Finding(level="warn", about="spf", words=words)
    words = f"{domain}: one record, {verdict.others}all, {verdict.lookups} of {spf.MOST_LOOKUPS} look-ups"
    words += "; aligned where the envelope's domain is that of From"
    return Finding(level="good", about="spf", words=words)


def _of_dmarc(author: str, signer: str | None, texts: Texts) -> Iterator[Finding]:
    records = dmarc.records_of(author, texts)
    found = dmarc.walk(author, texts)
    if records and (found.policy is None or found.policy.domain != author):
        remedy = "leave one" if len(records) > 1 else 'it needs p=none, p=quarantine or p=reject behind "v=DMARC1"'
        reason = f"{len(records)} records" if len(records) > 1 else "a record that can't be used"
        yield Finding(level="bad", about="dmarc", words=f"_dmarc.{author}: {reason}; {remedy}")
    elif found.policy is None:
        remedy = f'publish _dmarc.{signer or author} TXT "v=DMARC1; p=none; rua=mailto:YOU"'
        yield Finding(level="warn", about="dmarc", words=f"{author}: no record here or above; {remedy}")
    else:
        testing = ", one step milder while t=y" if found.policy.is_tested else ""
        words = f"{author}: p={found.policy.asked_of(author)}{testing} (_dmarc.{found.policy.domain})"
        yield Finding(level="good", about="dmarc", words=words)
    if signer is not None and found.policy is not None:  # without a record nothing has to be aligned
        yield _of_alignment(author, signer, found, texts)


def _of_alignment(author: str, signer: str, found: dmarc.Walk, texts: Texts) -> Finding:
    if dmarc.is_aligned(signer, found, texts):
        return Finding(level="good", about="dmarc", words=f"{author}: aligned, signed by {signer}")
    why = "adkim=s wants the very same domain" if found.policy and found.policy.is_strict else "another organization"
    words = f'{author}: not aligned with {signer}, which signs: {why}; add [dkim."{author}"]'
    return Finding(level="bad", about="dmarc", words=words)


def examine(keys: Sequence[DkimSigner], authors: Sequence[tuple[str, str | None]], texts: Texts) -> Iterator[Finding]:
    """Every key, then every domain in From with the one that signs for it."""
    for signer in keys:
        yield of_key(signer, texts)
    for author, signing in authors:
        yield from of_author(author, signing, texts)


def _unknown(about: Literal["dkim", "spf", "dmarc"], error: LookupFailed) -> Finding:
    return Finding(level="warn", about=about, words=f"not looked up: {error}; try again")
