"""`poller check`: the token for a relay's login, before the relay is asked: whose it is, and how long it is valid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from poller.cli.screen import say
from poller.exchange import RelayTrouble
from poller.smtp.refresh_file import is_readable_by_others
from poller.smtp.settings import OAuth2Settings
from poller.smtp.token_answers import WRONG_CLOCK_S, clock_in_words
from poller.units import format_duration

if TYPE_CHECKING:
    from poller.smtp.token_answers import Token
    from poller.smtp.tokens import Tokens

WITHOUT_LOGIN: Final[dict[str, Any]] = {"username": None, "password": None, "auth": "auto", "oauth2": OAuth2Settings()}
"""How a relay is asked where there is no token: its greeting and its TLS can be looked at all the same."""


class Verdicts(Protocol):
    """What `check` prints with."""

    def good(self, what: str, detail: str = "") -> None:
        """It is as it should be."""

    def warn(self, what: str, detail: str) -> None:
        """It works, but."""

    def bad(self, what: str, detail: str) -> None:
        """It does not."""


def check_token(verdicts: Verdicts, settings: OAuth2Settings, tokens: Tokens, whose: str) -> bool:
    """Whether there is one."""
    say(f"asking for a token; it has {format_duration(settings.timeout)}", err=True)
    if settings.refresh_token_file and is_readable_by_others(settings.refresh_token_file):
        words = f"others may read {settings.refresh_token_file}; chmod 600 {settings.refresh_token_file}"
        verdicts.warn("token", f"{whose}{words}")
    try:
        token = tokens.current()
    except RelayTrouble as trouble:
        verdicts.bad("token", f"{whose}{trouble.reason}")
        return False
    verdicts.good("token", f"{whose}{in_words(token, tokens.left(token))}")
    if lacking := tokens.lacking(token):
        verdicts.warn("token", f"{whose}{lacking}")
    if abs(token.skew) > WRONG_CLOCK_S:
        verdicts.warn("clock", f"{whose}{clock_in_words(token.skew)}")
    return True


def in_words(token: Token, left: float) -> str:
    """For whom, and for how long."""
    ends = datetime.now(UTC) + timedelta(seconds=left)
    person = f"for {token.claims.whose}, " if token.claims.whose else ""
    return f"{person}valid for {format_duration(left)}, until {ends:%Y-%m-%d %H:%M:%S} UTC"
