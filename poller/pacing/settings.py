"""What is paced, and how: the `[throttle]` section and the tables below it. Standard library only.

    [throttle]                        the whole outbox, and the hours in which mail may go
    [throttle.providers.NAME]         a provider: one that is shipped, or domains and MX suffixes of your own
    [throttle.domains."example.com"]  one domain
    [throttle.senders."a@b.example"]  one sender
    [[throttle.replies]]              a reply and what follows from it, before the ones that are known

A message must fit into every limit that it falls under. What only shows between tables (two groups that claim one
domain) `contradictions` tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping  # noqa: TC003 - pydantic reads it
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from poller.judgement.advice import SHIPPED as SHIPPED_REPLIES
from poller.judgement.advice import ReplyPattern
from poller.judgement.providers import SHIPPED as SHIPPED_PROVIDERS
from poller.judgement.providers import Group, Providers, claimed_twice
from poller.pacing.complaints import Hearing
from poller.pacing.hours import Hours, Span, parse_zone
from poller.pacing.limits import Limit
from poller.units import SETTINGS, Checked, Count, Seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_LOCAL_PART: Final = re.compile(r"[^\s@<>]{1,64}")  # RFC 5321 section 4.5.3.1.1
_LONGEST_DOMAIN: Final = 253  # RFC 1035 section 3.1, as it is written
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_domain(name: str) -> str:
    """A domain as it is compared: lower case, ASCII. Raises ValueError with the remedy."""
    if not _is_domain(name):
        raise ValueError('not a domain; write it in lower case like "example.com", and xn--... if it is not ASCII')
    return name


def _is_domain(name: str) -> bool:
    return len(name) <= _LONGEST_DOMAIN and bool(_DOMAIN.fullmatch(name))


def check_claim(name: str) -> str:
    """A domain, or "hotmail.*" for those of all countries. Raises ValueError."""
    check_domain(name.removesuffix(".*"))
    return name


def check_suffix(name: str) -> str:
    """The end of a mail exchanger's name. Raises ValueError."""
    check_domain(name.removeprefix("."))
    return name


def check_sender(address: str) -> str:
    """An address, or "@example.com" for all of a domain; in lower case, so that no spelling passes a limit by.

    Raises ValueError.
    """
    local_part, at, domain = address.lower().rpartition("@")
    if not at or (local_part and not _LOCAL_PART.fullmatch(local_part)) or not _is_domain(domain):
        raise ValueError('not a sender; write it like "a@example.com", or "@example.com" for all')
    return address.lower()


def check_provider(name: str) -> str:
    """The name of a provider, which rows and people tell it by. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError("a provider's name has letters, digits, hyphens and underscores, at most 64")
    return name


def check_zone(name: str) -> str:
    """The name of a time zone. Raises ValueError."""
    parse_zone(name)
    return name


Domain = Annotated[str, Checked(check_domain)]
Claim = Annotated[str, Checked(check_claim)]
Suffix = Annotated[str, Checked(check_suffix)]
Sender = Annotated[str, Checked(check_sender)]
Provider = Annotated[str, Checked(check_provider)]
Zone = Annotated[str, Checked(check_zone)]


@dataclass(frozen=True, kw_only=True)
class ProviderSettings(Limit):
    """A provider: what it takes mail for, and how much may go there. Without domains and mx, those that are shipped."""

    __pydantic_config__: ClassVar = SETTINGS

    domains: tuple[Claim, ...] = ()
    mx: tuple[Suffix, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ThrottleSettings(Limit):
    """The limit of the whole outbox, its hours, and the limits below it."""

    __pydantic_config__: ClassVar = SETTINGS

    windows: tuple[Span, ...] = ()
    quiet: tuple[Span, ...] = ()
    time_zone: Zone = "UTC"
    first_pause: Seconds = 60.0
    longest_pause: Seconds = 3600.0
    """What complains pauses from `first_pause`, doubling while nothing is accepted, up to `longest_pause`."""
    raise_every: Seconds = 900.0
    raise_after: Count = 10
    """Its pace is raised by a step after so many acceptances, and so long after the last change."""
    look_up_mx: bool = True
    """Have the DNS tell the provider of a domain that no group names."""
    providers: Mapping[Provider, ProviderSettings] = field(default_factory=dict)
    domains: Mapping[Domain, Limit] = field(default_factory=dict)
    senders: Mapping[Sender, Limit] = field(default_factory=dict)
    replies: tuple[ReplyPattern, ...] = ()

    @property
    def hours(self) -> Hours:
        """When mail may go. Raises ValueError if never."""
        return Hours(windows=self.windows, quiet=self.quiet, zone=parse_zone(self.time_zone))

    @property
    def hearing(self) -> Hearing:
        """How complaints are answered."""
        return Hearing(
            first_pause=self.first_pause,
            longest_pause=self.longest_pause,
            raise_every=self.raise_every,
            raise_after=self.raise_after,
        )

    @property
    def groups(self) -> dict[str, Group]:
        """The operator's groups; a limit for a shipped one is none."""
        named = {name: Group(domains=item.domains, mx=item.mx) for name, item in self.providers.items()}
        return {name: group for name, group in named.items() if group.domains or group.mx}

    @property
    def known_providers(self) -> Providers:
        """The shipped groups and the operator's."""
        return Providers.of(self.groups)

    @property
    def table(self) -> tuple[ReplyPattern, ...]:
        """The operator's replies, then the shipped ones."""
        return (*self.replies, *SHIPPED_REPLIES)


def contradictions(settings: ThrottleSettings) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What only shows between tables: the key to blame, without the section, and what to do."""
    try:
        _ = settings.hours
    except ValueError as error:
        yield ("windows" if settings.windows else "quiet",), str(error)
    for claim, first, name in claimed_twice(settings.groups):
        key = "mx" if claim.startswith(".") else "domains"
        claims = [suffix.strip(".") for suffix in getattr(settings.providers[name], key)]
        number = claims.index(claim.removeprefix(".")) + 1
        yield ("providers", name, key), f"item {number} is claimed by [throttle.providers.{first}] too"
    for name, provider in settings.providers.items():
        if name not in SHIPPED_PROVIDERS and not (provider.domains or provider.mx):
            known = ", ".join(SHIPPED_PROVIDERS)
            yield ("providers", name), f"names neither domains nor mx, and is none of those that are shipped: {known}"
    for number, line in enumerate(settings.replies):
        if line.provider is not None and line.provider not in {*SHIPPED_PROVIDERS, *settings.providers}:
            yield ("replies", number, "provider"), "no such provider; give it a table, [throttle.providers.NAME]"
