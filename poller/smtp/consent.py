"""A person's consent, once, for a refresh token: the device flow (RFC 8628) and the loopback flow (RFC 8252, 7636).

Device: the provider gives a code, a person types it into a browser anywhere, and we ask until it is done. Loopback: a
browser is sent to the provider and comes back to a port of this machine with a code that only we can use (PKCE), in
answer to our question only (`state`).

Rule 1. Every wait ends: the code's own time for a device, LOOPBACK_S for a browser.
Rule 2. A visitor of the port who does not bring our `state` is turned away, and waited on.
Rule 3. No secret is in a word that comes out of here.

Raises NoToken, with the remedy. It writes nothing: that is for the one who asked.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from poller.smtp.endpoint import Call, Unanswered, in_time, place_of
from poller.smtp.oauth2 import way_of
from poller.smtp.remedies import after_token_refusal
from poller.smtp.token_answers import NoToken, Token, explanation, token_in
from poller.smtp.wake import Bell
from poller.visible import visible

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from poller.smtp.endpoint import Answer
    from poller.smtp.settings import OAuth2Settings

LOOPBACK_S: Final = 600.0
"""For a person to agree in a browser."""
MOST_DEVICE_S: Final = 1800.0
"""A longer life of a code is not waited for; Entra gives 15 minutes."""
USUAL_INTERVAL_S: Final = 5.0
"""RFC 8628 section 3.2."""
LONGEST_INTERVAL_S: Final = 60.0
_VISITOR_S: Final = 5.0
_DEVICE: Final = "urn:ietf:params:oauth:grant-type:device_code"
_OK: Final = 200


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a person is to do."""

    url: str
    code: str = ""
    """To be typed in there; "" if there is none."""
    port: int = 0
    """Of this machine, where the browser comes back to; 0 if it does not."""


def by_device(
    settings: OAuth2Settings,
    invite: Callable[[Invitation], None],
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Token:
    """A token whose `refresh` is there, by a code that a person types in."""
    way = way_of(settings, "refresh_token")
    begun = _ask(settings, way.device_url, {"client_id": settings.client_id or "", "scope": way.scope})
    offer = _object(begun)
    code, shown = offer.get("device_code"), offer.get("user_code")
    place = offer.get("verification_uri", offer.get("verification_url"))
    if begun.status != _OK or not all(isinstance(word, str) and word for word in (code, shown, place)):
        raise _refused(begun, way.device_url, settings)
    invite(Invitation(url=visible(str(place)), code=visible(str(shown))))
    interval = _number(offer.get("interval"), USUAL_INTERVAL_S, LONGEST_INTERVAL_S)
    deadline = clock() + _number(offer.get("expires_in"), MOST_DEVICE_S, MOST_DEVICE_S)
    form = {"grant_type": _DEVICE, "device_code": str(code)} | _client(settings)
    while clock() < deadline:
        sleep(interval)
        asked = clock()
        answer = _ask(settings, way.token_url, form)
        match _object(answer).get("error"):
            case "authorization_pending":
                continue
            case "slow_down":  # RFC 8628 section 3.5
                interval = min(interval + 5.0, LONGEST_INTERVAL_S)
            case _:
                return _token(answer, way.token_url, settings, asked, hidden=str(code))
    raise NoToken("nobody has typed the code in, and its time is over; run poller login again")


def by_loopback(settings: OAuth2Settings, invite: Callable[[Invitation], None], *, port: int = 0) -> Token:
    """A token whose `refresh` is there, by a browser that comes back to a port of this machine."""
    way = way_of(settings, "refresh_token")
    verifier, state = secrets.token_urlsafe(64), secrets.token_urlsafe(32)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    with _Door(port, state) as door:
        redirect = f"http://127.0.0.1:{door.server_port}"
        query = {
            "client_id": settings.client_id or "",
            "redirect_uri": redirect,
            "response_type": "code",
            "scope": way.scope,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "access_type": "offline",  # Google: else there is no refresh token
            "prompt": "consent",  # Google: else there is one the first time only
        }
        joint = "&" if urlsplit(way.authorize_url).query else "?"
        invite(Invitation(url=f"{way.authorize_url}{joint}{urlencode(query)}", port=door.server_port))
        code = door.wait(LOOPBACK_S)
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect, "code_verifier": verifier}
    asked = time.monotonic()
    answer = _ask(settings, way.token_url, form | _client(settings))
    return _token(answer, way.token_url, settings, asked, hidden=code)


class _Door(HTTPServer):
    """The port that the browser comes back to. Only on the loopback, and only for one answer."""

    allow_reuse_address = False

    def __init__(self, port: int, state: str) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Visitor)
        except OSError as error:
            raise NoToken(f"port {port} of this machine: {error.strerror}; choose another with --port") from None
        self.state = state
        self.code = self.error = ""

    def wait(self, seconds: float) -> str:
        """The code. Raises NoToken when the person refuses, or does not come."""
        deadline = time.monotonic() + seconds
        while not self.code and not self.error:
            self.timeout = deadline - time.monotonic()
            if self.timeout <= 0:
                raise NoToken("nobody has come back from the browser; run poller login again")
            self.handle_request()
        if self.error:
            remedy = after_token_refusal(self.error)
            raise NoToken(f"the provider gives no consent; {remedy + ': ' if remedy else ''}{self.error}")
        return self.code

    def handle_error(self, request: object, client_address: object) -> None:
        """A visitor who hangs up is waited on."""

    def get_request(self) -> tuple[socket.socket, Any]:
        """With a patience for those who say nothing."""
        sock, address = super().get_request()
        sock.settimeout(_VISITOR_S)
        return sock, address


class _Visitor(BaseHTTPRequestHandler):
    """One request of a browser, or of anybody on this machine."""

    server: _Door

    def do_GET(self) -> None:
        """Rule 2."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if not hmac.compare_digest(query.get("state", "").encode(), self.server.state.encode()):
            self._say(400, "This is not the answer that poller is waiting for.")
        elif query.get("code"):
            self.server.code = query["code"]
            self._say(_OK, "Thank you. You may close this window and go back to poller.")
        else:
            said = ": ".join(query[name] for name in ("error", "error_description") if query.get(name))
            self.server.error = visible(said)[:300] or "no code"
            self._say(_OK, "There is no consent. poller says more.")

    def _say(self, status: int, words: str) -> None:
        body = f"<!doctype html><title>poller</title><p>{words}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """The path has the code in it."""


def _client(settings: OAuth2Settings) -> dict[str, str]:
    secret = {"client_secret": settings.client_secret} if settings.client_secret else {}
    return {"client_id": settings.client_id or ""} | secret


def _ask(settings: OAuth2Settings, url: str, form: dict[str, str]) -> Answer:
    try:
        call = Call(url, ca_file=settings.ca_file, seconds=settings.timeout)
        return in_time(
            lambda: call.post(form), seconds=settings.timeout, bell=Bell(), cancel=call.cancel, who=place_of(url)
        )
    except Unanswered as silence:
        raise NoToken(str(silence)) from None


def _token(answer: Answer, url: str, settings: OAuth2Settings, asked: float, *, hidden: str) -> Token:
    secret = (settings.client_secret or "", hidden)
    token = token_in(answer, place_of(url), asked=asked, wall=time.time(), secrets=secret)
    if token.refresh is None:
        raise NoToken(
            "the provider gives no refresh token; with a scope of your own, Microsoft wants offline_access in it"
        )
    return token


def _refused(answer: Answer, url: str, settings: OAuth2Settings) -> NoToken:
    words = explanation(answer.body, (settings.client_secret or "",))
    remedy = after_token_refusal(words) or "check [smtp.oauth2] client_id and device_url"
    return NoToken(f"{place_of(url)} gives no code; {remedy}: {answer.status} {words}".rstrip())


def _object(answer: Answer) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(answer.body)
        return found if isinstance(found, dict) else {}
    return {}


def _number(value: object, otherwise: float, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(float(value), most) if is_number and value > 0 else otherwise  # type: ignore[operator, arg-type]
