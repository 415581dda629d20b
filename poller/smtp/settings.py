"""How to reach one relay: the `[smtp]` section, and how it lets us log in with tokens. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from poller.units import SETTINGS, Count, Port, Seconds, SecondsOrZero


@dataclass(frozen=True, kw_only=True)
class OAuth2Settings:
    """How the tokens for one relay's login are had: the table `oauth2` below it. Without a key: no tokens."""

    __pydantic_config__: ClassVar = SETTINGS

    preset: Literal["microsoft365", "google"] | None = None
    """Fills in the addresses and the scope: `poller.smtp.oauth2`."""
    tenant: str | None = None
    """Of Microsoft Entra: an id or a domain."""
    grant: Literal["client_credentials", "refresh_token"] | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    refresh_token_file: str | None = None
    """Read at each renewal, and written when the provider gives another one."""
    token_url: str | None = None
    scope: str | None = None
    device_url: str | None = None
    """Where `poller login` asks for a code that a person types in (RFC 8628)."""
    authorize_url: str | None = None
    """Where `poller login` sends a person's browser (RFC 8252)."""
    token_file: str | None = None
    """Holds the access token itself, kept fresh by somebody else."""
    token_command: tuple[str, ...] = ()
    """Prints the access token itself."""
    ca_file: str | None = None
    """PEM file of a private CA to trust beside the system's, at the token endpoint."""
    timeout: Seconds = 20.0
    """For all of an answer of the token endpoint, or of the command."""

    @property
    def is_given(self) -> bool:
        """Whether the table is there at all."""
        return self != OAuth2Settings()


@dataclass(frozen=True, kw_only=True)
class SmtpSettings:
    """One relay. Timeouts are the minimums of RFC 5321 section 4.5.3.2 unless a key says otherwise."""

    __pydantic_config__: ClassVar = SETTINGS

    host: str = "localhost"
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: str | None = None
    """PEM file of a private CA to trust beside the system's."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    auth: Literal["auto", "plain", "login", "cram-md5", "xoauth2", "oauthbearer"] = "auto"
    """The mechanism of the login; auto: the first that the relay offers and takes. The last two are for tokens."""
    oauth2: OAuth2Settings = field(default_factory=OAuth2Settings)
    """Log in with tokens instead of a password."""
    ehlo_name: str | None = None
    """What we call ourselves in EHLO; default this machine's full name."""
    connect_timeout: Seconds = 30.0
    reply_timeout: Seconds = 300.0
    """For the greeting and every reply but the two below: 5 minutes."""
    data_timeout: Seconds = 120.0
    """For the 354 after DATA: 2 minutes."""
    block_timeout: Seconds = 180.0
    """For the relay to take a block of content: 3 minutes."""
    end_timeout: Seconds = 600.0
    """For the final reply: 10 minutes. A shorter one causes duplicates."""
    pipelining: Literal["auto", "overlap", "transaction", "off"] = "auto"
    """How far to speak ahead of a relay that offers PIPELINING: `poller.smtp.gears`."""
    window: Count = 1
    """Messages that may be in flight on a relay that offers CHUNKING and PIPELINING: the bound on doubt. 1: off."""
    idle_close: SecondsOrZero = 2.0
    max_messages_per_connection: Count = 1000
    max_connection_age: Seconds = 300.0
    max_recipients_per_message: Count = 100
    on_doubt: Literal["resend", "hold"] | None = None
    """For messages whose final reply this relay did not get to us; default `[retry] on_doubt`."""
    rest_first: Seconds = 1.0
    rest_longest: Seconds = 300.0
    """A relay in trouble rests from `rest_first`, doubling up to `rest_longest`."""

    @property
    def name_in_certificate(self) -> str:
        """The host without the dot that makes a name absolute in the DNS: certificates and SNI have none (RFC 6066)."""
        return self.host.rstrip(".")
