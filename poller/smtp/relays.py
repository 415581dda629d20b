"""The relays: the first, `[smtp]`, and further ones, `[relays.NAME]`: how to reach each, when, and how much it takes.

Rule 1. Of the relays that a message may take, those of the lowest `order` come first; among them chance decides by
        `weight`. The others are for when these rest.
Rule 2. A relay with `senders` or `domains` takes the messages that they name and no others; one without takes all.
Rule 3. A further relay has the defaults of `RelaySettings`, not what `[smtp]` says: a password goes to no host that it
        was not written for.

Standard library only. Chooses nothing: it says what was chosen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from poller.pacing.limits import Limit
from poller.pacing.settings import Domain, Sender  # noqa: TC001 - pydantic reads them
from poller.smtp.oauth2 import contradictions as token_contradictions
from poller.smtp.oauth2 import is_loopback
from poller.smtp.settings import SmtpSettings
from poller.units import SETTINGS, Count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TOKEN_MECHANISMS: Final = ("xoauth2", "oauthbearer")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class RelaySettings(SmtpSettings, Limit):
    """One relay: every key of `[smtp]`, what it takes, and what it is for."""

    __pydantic_config__: ClassVar = SETTINGS

    order: Count = 1
    """Lower comes first."""
    weight: Count = 1
    """Its share among those of the same order."""
    max_connections: Count | None = None
    """At the same time, over all workers; None: one for each worker."""
    senders: tuple[Sender, ...] = ()
    domains: tuple[Domain, ...] = ()
    """Of recipients."""


@dataclass(frozen=True, kw_only=True)
class FirstRelaySettings(RelaySettings):
    """The relay in `[smtp]`, which has no table that names it."""

    __pydantic_config__: ClassVar = SETTINGS

    name: str = "smtp"


def relays_of(first: FirstRelaySettings, others: Mapping[str, RelaySettings]) -> dict[str, RelaySettings]:
    """Every relay by its name: the first, then the others as they were written. What comes first is for `order`."""
    return {first.name: first, **others}


def name_trouble(name: str, others: Iterable[str]) -> str:
    """What is wrong with a relay's name, beside those of the `others`; "" if nothing."""
    if not _NAME.fullmatch(name):
        return "a relay's name has letters, digits, dots, hyphens and underscores, at most 64"
    if name.lower() in {other.lower() for other in others}:
        return "another relay has this name; rows could not tell them apart"
    return ""


def names_in_trouble(first: FirstRelaySettings, others: Iterable[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the relays' names: the key to blame, and what to do."""
    keys = {("smtp", "name"): first.name, **{("relays", name): name for name in others}}
    names = list(keys.values())
    for number, (key, name) in enumerate(keys.items()):
        trouble = name_trouble(name, names[:number])
        if trouble:
            yield key, trouble


def contradictions(relay: RelaySettings, table: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """What only shows between the keys of a `table`: those weighed, the one to blame first; and the remedy.

    A key of a table within it is written with a dot.
    """
    yield from _login_contradictions(relay, table)
    if relay.security == "none" and relay.username and not is_loopback(relay.host):
        secret = "token" if relay.oauth2.is_given else "password"
        message = f"would send the {secret} in clear text; only a relay on this machine may do without TLS"
        yield ("security", "username", "host"), message
    if relay.rest_longest < relay.rest_first:
        message = f"the rests would shrink; {table}.rest_longest must be at least {table}.rest_first"
        yield ("rest_longest", "rest_first"), message
    if relay.window > 1 and relay.pipelining in {"transaction", "off"}:
        message = f'sends messages ahead; {table}.pipelining must be "auto" or "overlap", or {table}.window 1'
        yield ("window", "pipelining"), message


def _login_contradictions(relay: RelaySettings, table: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """A login has a username, and either a password or tokens."""
    if relay.oauth2.is_given:
        yield from (((f"oauth2.{key}".rstrip("."),), words) for key, words in token_contradictions(relay.oauth2))
        if relay.password:
            yield ("password", "oauth2"), f"a login has a password or tokens; leave out one of it and {table}.oauth2"
        if not relay.username:
            yield ("oauth2", "username"), f"needs {table}.username beside it: the mailbox that logs in"
        if relay.auth not in {"auto", *TOKEN_MECHANISMS}:
            yield ("auth", "oauth2"), f"takes a password; with {table}.oauth2 write one of: auto, xoauth2, oauthbearer"
        return
    if relay.username and not relay.password:
        yield ("username", "password"), f"needs {table}.password beside it, or [{table}.oauth2]"
    if relay.password and not relay.username:
        yield ("password", "username"), f"needs {table}.username beside it"
    if relay.auth in TOKEN_MECHANISMS:
        yield ("auth", "oauth2"), f"takes tokens; needs a table [{table}.oauth2]"
