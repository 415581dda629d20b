"""What the table `oauth2` of a relay asks for: where tokens come from, for what, and in whose name.

Rule 1. A preset fills in what is not written; what is written comes first.
Rule 2. A secret goes over verified TLS, or to this machine: an address of http is only for the loopback.

Standard library only. Fetches nothing. Microsoft: "Authenticate an IMAP, POP or SMTP connection using OAuth" and "OAuth
2.0 device authorization grant" on learn.microsoft.com; Google: "OAuth 2.0 for Mobile & Desktop Apps" and "XOAUTH2
Protocol" on developers.google.com.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poller.smtp.settings import OAuth2Settings

_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
ANY_TENANT: Final = "organizations"
"""Where a person logs in, who knows the tenant."""


@dataclass(frozen=True, kw_only=True)
class _Preset:
    """`{tenant}` in an address is the tenant."""

    token_url: str
    grant: str
    scopes: Mapping[str, str]
    """By grant."""
    device_url: str = ""
    authorize_url: str = ""


_ENTRA = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0"
_PRESETS: Final = {
    "microsoft365": _Preset(
        token_url=f"{_ENTRA}/token",
        grant="client_credentials",
        scopes={
            "client_credentials": "https://outlook.office365.com/.default",
            "refresh_token": "https://outlook.office.com/SMTP.Send offline_access",
        },
        device_url=f"{_ENTRA}/devicecode",
        authorize_url=f"{_ENTRA}/authorize",
    ),
    "google": _Preset(
        token_url="https://oauth2.googleapis.com/token",  # noqa: S106 - an address
        grant="refresh_token",
        scopes={"refresh_token": "https://mail.google.com/"},
        authorize_url="https://accounts.google.com/o/oauth2/v2/auth",
    ),
}
_NO_PRESET: Final = _Preset(token_url="", grant="", scopes={})


@dataclass(frozen=True, kw_only=True)
class Way:
    """How to get a token, with the preset filled in; "" for what is not known."""

    token_url: str
    grant: str
    scope: str
    device_url: str
    authorize_url: str


def way_of(settings: OAuth2Settings, grant: str | None = None) -> Way:
    """Rule 1; `grant` instead of the one that is written, for a login by a person."""
    preset = _PRESETS[settings.preset] if settings.preset else _NO_PRESET
    chosen = grant or settings.grant or preset.grant
    tenant = settings.tenant or ANY_TENANT
    return Way(
        token_url=settings.token_url or preset.token_url.format(tenant=tenant),
        grant=chosen,
        scope=settings.scope or preset.scopes.get(chosen, ""),
        device_url=settings.device_url or preset.device_url.format(tenant=tenant),
        authorize_url=settings.authorize_url or preset.authorize_url.format(tenant=tenant),
    )


def contradictions(settings: OAuth2Settings) -> Iterator[tuple[str, str]]:
    """What only shows between the keys of the table: the key to blame, "" for the table; and what to do."""
    if not settings.is_given:
        return
    for key in ("token_url", "device_url", "authorize_url"):
        yield from ((key, trouble) for trouble in _url_trouble(getattr(settings, key)))
    if settings.tenant and not _TENANT.fullmatch(settings.tenant):
        yield "tenant", "must be the tenant's id or one of its domains, such as example.onmicrosoft.com"
    if settings.token_file and settings.token_command:
        yield "token_command", "give only one of token_file, token_command"
    elif settings.token_file or settings.token_command:
        if settings.preset or settings.token_url or settings.grant:
            word = "token_file" if settings.token_file else "token_command"
            yield word, "gives the token itself; leave it out, or preset, token_url and grant"
    else:
        yield from _grant_contradictions(settings)


def _grant_contradictions(settings: OAuth2Settings) -> Iterator[tuple[str, str]]:
    way = way_of(settings)
    if not way.token_url:
        yield "", "says not where tokens come from; give preset, or token_url, or token_command, or token_file"
        return
    if not way.grant:
        yield "", 'needs grant = "client_credentials" or "refresh_token"'
    if not settings.client_id:
        yield "", "needs client_id"
    if way.grant == "client_credentials":
        yield from _client_contradictions(settings, way)
    if way.grant == "refresh_token" and not settings.refresh_token_file:
        yield "", "needs refresh_token_file, which poller login writes"


def _client_contradictions(settings: OAuth2Settings, way: Way) -> Iterator[tuple[str, str]]:
    if settings.preset == "google":
        yield (
            "grant",
            'Google gives a client no tokens without a person\'s consent; use "refresh_token", and poller login',
        )
        return
    if not settings.client_secret:
        yield "", "needs client_secret (or client_secret_file, client_secret_command)"
    if not way.scope:
        yield "", "needs scope"
    if settings.preset == "microsoft365" and not (settings.tenant or settings.token_url):
        yield "", "needs tenant: the id of the directory (Entra admin centre, Overview)"


def _url_trouble(url: str | None) -> Iterator[str]:
    """Rule 2."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"https", "http"} or not url.isascii() or not url.isprintable() or " " in url:
        yield "not an address; write it like https://login.example.com/token"
    elif parts.scheme == "http" and not is_loopback(host):
        yield "would send secrets in clear text; write https:// (http:// is for this machine only)"
    elif parts.username is not None:
        yield "has a user name in it; client_id and client_secret are keys of their own"


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, by itself."""
    name = host.strip("[]").rstrip(".").lower()
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")
