"""How mail may come in: the `[submission]` section. Standard library only."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping  # noqa: TC003 - the configuration reads the annotations
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

from poller.domains import in_ascii
from poller.units import SETTINGS, Checked, Count, Misfit

PASSWORD_LEAST: Final = 8
"""Characters: anyone who knows one may write to anybody."""


@dataclass(frozen=True, kw_only=True)
class UserSettings:
    """Who may log in; the name is the table's."""

    __pydantic_config__: ClassVar = SETTINGS

    password: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.password) < PASSWORD_LEAST:
            raise Misfit("password", f"too short; give at least {PASSWORD_LEAST} characters")


def check_domain(name: str) -> str:
    """A domain to complete addresses with, in ASCII. Raises ValueError with the remedy."""
    try:
        written = in_ascii(name)
    except ValueError:
        written = ""
    if not written or written.startswith("["):
        raise ValueError("not a domain; write it like example.com")
    return written


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; of names only `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class SubmissionSettings:
    """Where mail comes in, and from whom."""

    __pydantic_config__: ClassVar = SETTINGS

    listen: str | None = None
    """HOST:PORT; None: nothing listens."""
    default_domain: Annotated[str, Checked(check_domain)] | None = None
    """What completes an address without a domain; default the name of this machine."""
    dedupe: bool = False
    """Whether the same Message-ID for the same recipients is one row."""
    certificate_file: str | None = None
    key_file: str | None = None
    """For STARTTLS; default: the key is in the file of the certificate."""
    users: Mapping[str, UserSettings] = field(default_factory=dict)
    """With any, nobody submits without a login."""
    max_connections: Count = 100

    def __post_init__(self) -> None:
        if self.key_file and not self.certificate_file:
            raise Misfit("certificate_file", "key_file is given without certificate_file; give both")
        if not self.place[0] or is_loopback(self.place[0]):
            return
        if not self.users:
            raise Misfit(
                "users", "who is not on this machine must log in; add [submission.users.NAME], or listen on it"
            )
        if not self.certificate_file:
            raise Misfit(
                "certificate_file", "passwords would travel in clear text; give a certificate, or listen on 127.0.0.1"
            )

    @property
    def place(self) -> tuple[str, str]:
        """Host and port of `listen`."""
        host, _, port = (self.listen or "").rpartition(":")
        return host.strip("[]"), port
