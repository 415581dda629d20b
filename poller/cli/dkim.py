"""`poller dkim`: what to publish in the DNS; and for `poller check`: whether it is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from poller.cli.screen import say
from poller.cli.session import Misused, configuration, in_words
from poller.domains import compared
from poller.published.findings import examine
from poller.published.key_record import name_of
from poller.published.records import Records, can_ask
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.cli.check import Verdicts
    from poller.message.composer import Composer
    from poller.message.dkim import DkimSigner
    from poller.message.signing import Signing

TTL_S = 3600  # short enough to correct a mistake the same day
_STRING_MOST = 255  # octets of one string in a TXT record, RFC 1035 section 3.3


@click.command()
@click.option("--domain", metavar="DOMAIN", help="Only what signs mail from this domain [default: all].")
@click.pass_context
@in_words
def dkim(context: click.Context, domain: str | None) -> None:
    """Print the DNS records that receivers need to check the signatures, as a zone file has them."""
    signing = composer_of(configuration(context)).signing
    if signing.problems:
        raise Misused("\n".join(signing.problems))
    if not signing.domains:
        raise Misused('nothing signs; add a table [dkim."example.com"] with selector and key_file')
    domains = signing.domains
    if domain is not None:
        domains = (_signing(signing, domain),)
    for signer in (signer for name in domains for signer in signing.keys_of(name)):
        for line in zone_lines(signer):
            say(line)


def _signing(signing: Signing, author: str) -> str:
    """Whose keys sign mail from `author`."""
    found = signing.signing_domain(compared(author))
    if found is None:
        raise Misused(f'nothing signs mail from {author}; add [dkim."{compared(author)}"]')
    if found != compared(author):
        say(f"mail from {author} is signed by {found}", err=True)
    return found


def zone_lines(signer: DkimSigner) -> Iterator[str]:
    """The record in the form of a zone file; as comments what the form of a web page asks for."""
    text = signer.key.record
    yield f"; {signer.domain}, selector {signer.selector}, {signer.key.kind}"
    yield f"; where a web page asks: name {name_of(signer.selector, signer.domain)}, type TXT, value"
    yield f";   {text}"
    strings = [text[at : at + _STRING_MOST] for at in range(0, len(text), _STRING_MOST)]
    yield f"{name_of(signer.selector, signer.domain)}. {TTL_S} IN TXT ("
    yield from (f'    "{string}"' for string in strings)
    yield ")"


def check_published(verdicts: Verdicts, composer: Composer, records: Records | None = None) -> None:
    """A verdict for each key, and for SPF and DMARC of each domain that mail is known to be from.

    Nothing is asked where no domain signs, nor before every key can be used: until then nobody knows what signs.
    """
    signing = composer.signing
    if not signing.domains or signing.problems:
        return
    if not can_ask():
        verdicts.warn("dkim", 'not compared with the DNS; for that: pip install "poller[dns]"')
        return
    keys = [signer for domain in signing.domains for signer in signing.keys_of(domain)]
    authors = list(dict.fromkeys((*signing.domains, *composer.author_domains)))
    asked = records or Records()
    say("asking the DNS what receivers will find there", err=True)
    for finding in examine(keys, [(author, signing.signing_domain(author)) for author in authors], asked.texts):
        {"good": verdicts.good, "warn": verdicts.warn, "bad": verdicts.bad}[finding.level](finding.about, finding.words)
