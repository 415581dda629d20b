"""Pure: domains of addresses: names, internationalised names, address literals.

Accepts what users really send to: `localhost`, `b.test`, underscores, `[192.0.2.1]`, `[IPv6:2001:db8::1]`, and names in
any script, mapped by UTS 46 and encoded by IDNA 2008. Whether a domain exists is for the relay to say.

Raises ValueError in words with the remedy. Does no look-ups.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_LENGTH = 255  # octets, RFC 5321 section 4.5.3.1.2
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_ONLY_NUMBERS = re.compile(r"[0-9.]+")


def in_ascii(domain: str) -> str:
    """The domain as the wire and the headers carry it: lower case, A-labels. ValueError with the remedy otherwise."""
    if len(domain) > _LENGTH:
        raise ValueError(f"the domain is longer than {_LENGTH} octets")
    return _in_ascii(domain)


@lru_cache(maxsize=4096)
def _in_ascii(domain: str) -> str:
    if domain.startswith("["):
        return _literal(domain)
    name = domain.lower() if domain.isascii() else _encoded(domain)
    if not _NAME.fullmatch(name):
        raise ValueError(_fault(name))
    if _ONLY_NUMBERS.fullmatch(name):
        raise ValueError(f"an address given as numbers stands in brackets: [{name}]")
    return name


def compared(domain: str) -> str:
    """The domain as it is compared, whichever way it was written; one that can't be read as it is, in lower case."""
    try:
        return in_ascii(domain.rstrip("."))
    except ValueError:
        return domain.lower()


def spellings(domain: str) -> tuple[str, ...]:
    """How a database may have it, in lower case: as it was written, in ASCII, and in its own script."""
    import idna  # noqa: PLC0415 - its tables take long to load, and most applications meet ASCII alone

    name = compared(domain)
    try:
        own_script = idna.decode(name) if "xn--" in name else name
    except UnicodeError:
        own_script = name
    return tuple(dict.fromkeys((domain.lower(), name, own_script.lower())))


def _encoded(domain: str) -> str:
    import idna  # noqa: PLC0415 - see above

    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"not a domain by IDNA 2008: {error}") from None


def _fault(name: str) -> str:
    if name.startswith(".") or name.endswith(".") or ".." in name:
        return "the domain has an empty part: a dot too many"
    if any(len(label) > 63 for label in name.split(".")):  # noqa: PLR2004 - RFC 1035 section 2.3.4
        return "a part of the domain is longer than 63 characters"
    return "the domain may hold letters, digits, and hyphens inside its parts only"


def _literal(domain: str) -> str:
    text = domain[1:-1]
    try:
        if text[:5].lower() == "ipv6:":
            address = ipaddress.IPv6Address(text[5:])
            if address.scope_id is None:
                return f"[IPv6:{address.compressed}]"
        return f"[{ipaddress.IPv4Address(text)}]"
    except ValueError:
        raise ValueError("an address in brackets is written [192.0.2.1] or [IPv6:2001:db8::1]") from None
