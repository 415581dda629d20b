"""What a token endpoint's answer means: a token, or why there is none.

Rule 1. A token's time is counted from the moment it was asked for, on a clock that nobody sets: a wrong wall clock does
        not shorten it. Only a token that comes without "expires_in" is judged by the times in it.
Rule 2. Words of the provider come out printable, short, and without what we sent in secret.
Rule 3. What is read out of a token is only shown to people. It is not verified: that is for the relay to do.

Pure. Raises NoToken.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from poller.smtp.remedies import after_token_refusal
from poller.units import format_duration
from poller.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poller.smtp.endpoint import Answer

ASSUMED_LIFE_S: Final = 300.0
"""Of a token that does not say how long it is valid: RFC 6749 section 5.1 only recommends that it does."""
LONGEST_LIFE_S: Final = 86400.0
"""The providers give an hour, Entra up to 28 hours to some; a longer promise is not relied on."""
EARLIEST_S: Final = 300.0
"""A token is renewed so long before its end, or a sixth of its life before, whichever is less."""
LONGEST_WAIT_S: Final = 3600.0
"""A longer Retry-After is not waited for: somebody may have mended it."""
WRONG_CLOCK_S: Final = 120.0
"""Beyond what a slow answer explains."""
MOST_WORDS: Final = 300
"""Characters of a provider's explanation."""
_OK: Final = 200
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_TRACE: Final = re.compile(r"\s*\b(Trace ID|Correlation ID|Timestamp):.*", re.DOTALL)
"""Entra's numbers of one single answer; with them the same trouble would be told anew each time."""


class NoToken(Exception):  # noqa: N818 - named by what is missing
    """There is none; the text says why, with the remedy. `wait`: seconds that the endpoint asked to be left alone."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a token says of itself (RFC 7519), where it is readable; for people."""

    user: str = ""
    app: str = ""
    tenant: str = ""
    rights: frozenset[str] = frozenset()
    """Roles of an app, scopes that a person agreed to."""
    expires: float | None = None
    """Seconds of the epoch."""

    @property
    def whose(self) -> str:
        """For whom it was given; "" if it does not say."""
        who = self.user or (f"the app {self.app}" if self.app else "")
        return f"{who}, tenant {self.tenant}" if who and self.tenant else who


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token for a login. Times are seconds of the clock that was passed in."""

    value: str = field(repr=False)
    ends: float
    renew_at: float
    claims: Claims = Claims()
    skew: float = 0.0
    """Seconds that this machine's clock is ahead of the endpoint's."""
    refresh: str | None = field(default=None, repr=False)
    """Another refresh token, if one came with it."""


def token_in(answer: Answer, who: str, *, asked: float, wall: float, secrets: Iterable[str]) -> Token:
    """The token of an answer of `who`. `asked`, on the steady clock; `wall`, the time of day. Raises NoToken."""
    fields = _object(answer.body)
    if answer.status != _OK or "access_token" not in fields:
        raise _refusal(answer, fields, who, wall, secrets)
    value, kind = fields["access_token"], fields.get("token_type", "Bearer")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise NoToken(f"{who} gives an access_token that is none")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NoToken(f"{who} gives no bearer token; SMTP takes no other kind")
    life = _seconds(fields.get("expires_in"))
    refresh = fields.get("refresh_token")
    return _token(
        value,
        asked,
        min(ASSUMED_LIFE_S if life is None else life, LONGEST_LIFE_S),
        who,
        skew=_skew(answer.date, wall),
        refresh=refresh if isinstance(refresh, str) and _TOKEN.fullmatch(refresh) else None,
    )


def token_of_text(text: str, who: str, *, now: float, wall: float, assumed: float) -> Token:
    """A token that a file holds or a command prints; if it does not say when it ends, `assumed` seconds from now."""
    value = text.strip()
    if not _TOKEN.fullmatch(value):
        raise NoToken(f"{who} gives no token: {'nothing' if not value else 'it must be one word of ASCII text'}")
    expires = claims_of(value).expires
    life = assumed if expires is None else min(expires - wall, LONGEST_LIFE_S)
    if life <= 0:
        ago = f"{format_duration(-life)} ago" if life < 0 else "just now"
        raise NoToken(
            f"the token of {who} ended {ago} by this machine's clock; its maker has stopped, or the clock is wrong"
        )
    return _token(value, now, life, who)


def _token(value: str, start: float, life: float, who: str, *, skew: float = 0.0, refresh: str | None = None) -> Token:
    if life <= 0:
        raise NoToken(f"{who} gives a token that has ended already")
    return Token(
        value=value,
        ends=start + life,
        renew_at=start + life - min(EARLIEST_S, life / 6),
        claims=claims_of(value),
        skew=skew,
        refresh=refresh,
    )


def claims_of(token: str) -> Claims:
    """What a JWT says; nothing of what is none."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, payload, signature
        return Claims()
    try:
        found = _object(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return Claims()
    roles, scopes = found.get("roles"), found.get("scp", found.get("scope"))
    rights = [role for role in roles if isinstance(role, str)] if isinstance(roles, list) else []
    rights += scopes.split() if isinstance(scopes, str) else []
    return Claims(
        user=_first(found, "upn", "unique_name", "preferred_username", "email"),
        app=_first(found, "app_displayname", "appid", "azp"),
        tenant=_first(found, "tid"),
        rights=frozenset(rights),
        expires=_seconds(found.get("exp")),
    )


def explanation(body: bytes, secrets: Iterable[str] = ()) -> str:
    """`error: description` of an answer (RFC 6749 section 5.2), Rule 2; "" if it has none."""
    fields = _object(body)
    said = [
        fields[name] for name in ("error", "error_description", "error_subtype") if isinstance(fields.get(name), str)
    ]
    words = " ".join(_TRACE.sub("", ": ".join(said)).split())
    for secret in secrets:
        words = words.replace(secret, "(hidden)") if secret else words
    return visible(words)[:MOST_WORDS]


def _refusal(answer: Answer, fields: dict[str, Any], who: str, wall: float, secrets: Iterable[str]) -> NoToken:
    words = explanation(answer.body, secrets)
    remedy = after_token_refusal(words) or _remedy_by_status(answer, is_json=bool(fields))
    skew = _skew(answer.date, wall)
    if abs(skew) > WRONG_CLOCK_S:
        remedy += f"; {clock_in_words(skew)}"
    said = f"{answer.status} {words}" if words else f"{answer.status}, {_shape(answer)}"
    return NoToken(f"{who} gives no token; {remedy}: {said}", _asked_wait(answer, wall))


def _remedy_by_status(answer: Answer, *, is_json: bool) -> str:
    match answer.status // 100:
        case 2 if is_json:
            return "its answer has no access_token; check [smtp.oauth2] token_url"
        case 2 | 3:
            return "that is no answer of a token endpoint; check [smtp.oauth2] token_url, and any proxy in between"
        case 5:
            return "it has trouble of its own; it is asked again later"
        case _ if answer.status == 429:  # noqa: PLR2004 - RFC 6585 section 4
            return "it was asked too often; it is asked again later"
        case _ if answer.status == 401:  # noqa: PLR2004 - RFC 9110 section 15.5.2
            return "check [smtp.oauth2] client_id and client_secret"
        case _:
            return "check [smtp.oauth2] token_url, client_id, client_secret, grant and scope"


def clock_in_words(skew: float) -> str:
    """That this machine's clock differs from the endpoint's; in minutes, so that the words stay the same."""
    minutes = 60 * max(1, round(abs(skew) / 60))
    way = "ahead of" if skew > 0 else "behind"
    return f"this machine's clock is {format_duration(minutes)} {way} the token endpoint's; set it right"


def _shape(answer: Answer) -> str:
    return f"{len(answer.body)} bytes of {visible(answer.kind)[:40]}" if answer.body else "nothing"


def _skew(date: str, wall: float) -> float:
    """Seconds that we are ahead; 0 if it does not tell the time."""
    try:
        return wall - parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _asked_wait(answer: Answer, wall: float) -> float:
    """RFC 9110 section 10.2.3: seconds, or a date by the endpoint's clock."""
    text = answer.retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_WAIT_S)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, at - wall + _skew(answer.date, wall)), LONGEST_WAIT_S)


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(value: object) -> float | None:
    """A number, or one in quotes, as some servers write it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e12 else None  # noqa: PLR2004 - beyond the year 30,000, and NaN


def _first(found: dict[str, Any], *names: str) -> str:
    return next((visible(found[name])[:100] for name in names if isinstance(found.get(name), str) and found[name]), "")
