"""Pure: which provider takes the mail of a domain: named groups of domains, since a provider counts for all of them.

Rule 1. A domain that a group names belongs to it; "hotmail.*" means hotmail.com and its like in other countries, such
        as hotmail.co.uk, not hotmail.example.com. A name as it stands comes before one with a star.
Rule 2. Any other domain belongs to the group whose MX suffix fits its first mail exchanger, the longest suffix first;
        a suffix fits at dots only. Without known mail exchangers it belongs to none.
Rule 3. What an operator's groups claim the shipped ones give up; two groups of the operator that claim the same are
        an error.

The shipped groups carry no limits: hardly a provider publishes one for mail that it receives, and what it says in its
replies is heeded all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_STAR: Final = ".*"
_COUNTRY: Final = re.compile(r"[a-z]{2,}|(?:co|com|ne|net|or|org)\.[a-z]{2}")
"""What may stand for the star."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The domains of one provider, and the suffixes of its mail exchangers' names; both in lower case, ASCII."""

    domains: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Providers:
    """Every group, by what it claims."""

    exact: Mapping[str, str]
    starred: Mapping[str, str]
    mx: Mapping[str, str]

    @classmethod
    def of(cls, groups: Mapping[str, Group]) -> Providers:
        """The shipped groups, and over them an operator's `groups`, which must not contradict each other."""
        claims = [(name, claim) for name, group in (*SHIPPED.items(), *groups.items()) for claim in group.domains]
        return cls(
            exact={claim: name for name, claim in claims if not claim.endswith(_STAR)},
            starred={claim.removesuffix(_STAR): name for name, claim in claims if claim.endswith(_STAR)},
            mx={suffix.strip("."): name for name, group in (*SHIPPED.items(), *groups.items()) for suffix in group.mx},
        )

    def provider_of(self, domain: str, mx_hosts: Sequence[str] = ()) -> str | None:
        """The name of the group; None if it belongs to none. `mx_hosts` are in order of preference."""
        domain = domain.lower().rstrip(".")
        if domain in self.exact:
            return self.exact[domain]
        name, _, suffix = domain.partition(".")
        if name in self.starred and _COUNTRY.fullmatch(suffix):
            return self.starred[name]
        return self._by_mx(mx_hosts[0].lower().rstrip(".")) if mx_hosts else None

    def _by_mx(self, host: str) -> str | None:
        parts = host.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))
        return next((self.mx[suffix] for suffix in suffixes if suffix in self.mx), None)


def claimed_twice(groups: Mapping[str, Group]) -> list[tuple[str, str, str]]:
    """What two groups claim: the claim, who has it first, and who claims it too, in order."""
    owners: dict[str, str] = {}
    return [
        (claim, owners[claim], name)
        for name, group in groups.items()
        for claim in _claims(group)
        if owners.setdefault(claim, name) != name
    ]


def _claims(group: Group) -> Iterable[str]:
    return (*group.domains, *("." + suffix.strip(".") for suffix in group.mx))


SHIPPED: Final[Mapping[str, Group]] = {
    # kumomta assets/policy-extras/shaping.toml, from https://support.google.com/mail/answer/81126
    "google": Group(domains=("gmail.com", "googlemail.com"), mx=("google.com", "googlemail.com")),
    # Consumers: kumomta shaping.toml; https://www.spamresource.com/2024/04/mbp-spotlight-outlookcom.html
    "outlook": Group(
        domains=("outlook.*", "hotmail.*", "live.*", "msn.com", "passport.com", "windowslive.com"),
        mx=("olc.protection.outlook.com",),
    ),
    # Businesses: Exchange Online, also with DANE (mx.microsoft). Another service, with other limits. Same sources.
    "microsoft365": Group(mx=("mail.protection.outlook.com", "mail.eo.outlook.com", "mx.microsoft")),
    # https://senders.yahooinc.com: Yahoo, AOL and the domains that AT&T and Verizon gave it
    "yahoo": Group(
        domains=(
            "yahoo.*",
            "ymail.com",
            "rocketmail.com",
            "myyahoo.com",
            "aol.*",
            "aim.com",
            "netscape.net",
            "verizon.net",
            "att.net",
            "sbcglobal.net",
            "bellsouth.net",
        ),
        mx=("yahoodns.net",),
    ),
    # Another company; kumomta assets/community/shaping.toml
    "yahoo_japan": Group(domains=("yahoo.co.jp", "ymail.ne.jp"), mx=("mail.yahoo.co.jp",)),
    # https://support.apple.com/en-us/102322; kumomta shaping.toml
    "apple": Group(domains=("icloud.com", "me.com", "mac.com"), mx=("icloud.com",)),
    # https://spa.xfinity.com/help/postmaster
    "comcast": Group(domains=("comcast.net", "xfinity.com"), mx=("comcast.net",)),
    # United Internet: https://smtp.codes/unitedinternet/, https://postmaster.gmx.net
    "gmx": Group(domains=("gmx.*", "web.de", "mail.com", "usa.com", "email.com"), mx=("gmx.net", "web.de", "mail.com")),
    # kumomta shaping.toml; https://messagerie.orange.fr/postmaster.html
    "orange": Group(domains=("orange.fr", "wanadoo.fr"), mx=("orange.fr",)),
    # https://postmaster.t-online.de
    "telekom": Group(domains=("t-online.de", "magenta.de"), mx=("t-online.de",)),
    # https://service.mail.qq.com
    "qq": Group(domains=("qq.com", "foxmail.com"), mx=("qq.com",)),
}
