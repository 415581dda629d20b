"""The login (RFC 4954), without I/O: with a password, or with a token.

Rule 1. Of the mechanisms that the relay offers, the first of MECHANISMS (with a token, of TOKEN_MECHANISMS) is used, or
        the one that `[smtp] auth` names. One that the relay does not take after all (TRY_ANOTHER) is followed by the
        next; a refused password or token is not.
Rule 2. No word of the relay that repeats a part of the secret comes out of here.
Rule 3. A relay that refuses a token may first explain why, in JSON behind a 334: it is answered, and its status and
        scope are told with the reply that follows.

CRAM-MD5 is last: it hides the password on the line and asks the relay to keep it in the clear, and under TLS the line
hides it anyway.

Raises RelayTrouble, with the remedy.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import replace
from typing import TYPE_CHECKING

from poller.exchange import Phase, RelayTrouble
from poller.smtp.actions import Await, LineLost, Send
from poller.smtp.remedies import after_login_refusal
from poller.smtp.replies import DONE, GO_ON, printable
from poller.smtp.transaction import last_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from poller.exchange import Reply
    from poller.smtp.actions import Talk
    from poller.smtp.replies import Features, RawReply
    from poller.smtp.settings import SmtpSettings

LONGEST_COMMAND = 512
"""Bytes with CRLF (RFC 5321 section 4.5.3.1.4); a longer AUTH sends its response by itself (RFC 4954 section 4)."""
TRY_ANOTHER = frozenset({500, 502, 504, 534})
"""Not a word, not implemented, not this mechanism, mechanism too weak. 535 is about the password."""
MOST_EXPLAINED = 200
"""Characters of what stands behind a 334."""
LEAST_SECRET = 4
"""Characters: of a shorter word nobody can tell whether it is part of the secret."""


def log_in(settings: SmtpSettings, relay: str, features: Features, token: str | None = None) -> Talk[None]:
    """Over a line on which a login is allowed. `relay` is its name in errors. With the `token`, if there is one."""
    # A secret from the environment may hold bytes that are no UTF-8: surrogateescape gives them back as they were.
    username, secret = (
        (word or "").encode("utf-8", "surrogateescape") for word in (settings.username, token or settings.password)
    )
    told: list[bytes] = []
    known = MECHANISMS if token is None else _token_mechanisms(settings, told)
    secrets = _forms(username, secret) if token is None else _token_forms(settings, username, secret)
    answer: RawReply | None = None
    for mechanism in _usable(settings, [*known], relay, features):
        try:
            answer = yield from known[mechanism](username, secret)
        except LineLost as lost:
            said = yield from last_words()
            reply = _without(said.reply, secrets) if said else None
            words = f", after saying: {reply}" if reply else ""
            raise RelayTrouble(lost.loss.phase, f"{relay}: {lost.loss.reason}{words}", reply) from lost
        if answer.code not in TRY_ANOTHER:
            break
    if answer is not None and answer.code // 100 != DONE:
        reply = _without(answer.reply, secrets)
        remedy = _remedy(reply) if token is None else after_login_refusal(reply)
        raise RelayTrouble(
            Phase.AUTH, f"{relay} refused our login; {remedy}: {reply}{_explained(told, secrets)}", reply
        )


def _remedy(reply: Reply) -> str:
    """What a person can do. Exchange Online has switched passwords off: 5.7.30, 5.7.139 "basic authentication"."""
    if reply.status == "5.7.30" or "basic authentication is" in reply.text.lower():
        return "it takes OAuth 2.0 tokens and no passwords; give it a table [smtp.oauth2] instead of a password"
    return "check [smtp] username and password"


def _usable(settings: SmtpSettings, known: list[str], relay: str, features: Features) -> Iterable[str]:
    """Rule 1."""
    wanted = [settings.auth.upper()] if settings.auth != "auto" else known
    usable = [name for name in wanted if name in features.auth]
    if not usable:
        offered = "only " + " ".join(sorted(features.auth)) if features.auth else "no login"
        names = f"AUTH {' or '.join(wanted)}"
        reason = f"{relay} offers {offered}, not {names}; check [smtp] port, security, auth and username"
        raise RelayTrouble(Phase.AUTH, reason)
    return usable


def _plain(username: bytes, password: bytes) -> Talk[RawReply]:
    """RFC 4616."""
    response = b64encode(b"\0".join((b"", username, password)))
    command = b"AUTH PLAIN " + response + b"\r\n"
    if len(command) <= LONGEST_COMMAND:
        return (yield from _ask(command))
    return (yield from _respond((yield from _ask(b"AUTH PLAIN\r\n")), response))


def _login(username: bytes, password: bytes) -> Talk[RawReply]:
    """What Outlook's servers spoke before there was a standard: two questions."""
    answer = yield from _ask(b"AUTH LOGIN\r\n")
    answer = yield from _respond(answer, b64encode(username))
    return (yield from _respond(answer, b64encode(password)))


def _cram_md5(username: bytes, password: bytes) -> Talk[RawReply]:
    """RFC 2195."""
    question = yield from _ask(b"AUTH CRAM-MD5\r\n")
    try:
        challenge = b64decode(question.lines[0], validate=True)
    except (NotBase64, ValueError):
        return question
    digest = hmac.new(password, challenge, "md5").hexdigest()
    return (yield from _respond(question, b64encode(b"%s %s" % (username, digest.encode("ascii")))))


MECHANISMS: Mapping[str, Callable[[bytes, bytes], Talk[RawReply]]] = {
    "PLAIN": _plain,
    "LOGIN": _login,
    "CRAM-MD5": _cram_md5,
}
"""The best first."""


def xoauth2(username: bytes, token: bytes) -> bytes:
    """Google, "XOAUTH2 Protocol", as Exchange Online speaks it too."""
    return b"user=%s\1auth=Bearer %s\1\1" % (username, token)


def oauthbearer(username: bytes, token: bytes, host: str, port: int) -> bytes:
    """RFC 7628 section 3.1; the name as RFC 5801 section 4 has it."""
    name = username.replace(b"=", b"=3D").replace(b",", b"=2C")
    return b"n,a=%s,\1host=%s\1port=%d\1auth=Bearer %s\1\1" % (name, host.encode("idna"), port, token)


TOKEN_MECHANISMS = ("XOAUTH2", "OAUTHBEARER")
"""The best first: both large providers document the first, and Exchange Online offers no other."""


def _token_mechanisms(
    settings: SmtpSettings, told: list[bytes]
) -> Mapping[str, Callable[[bytes, bytes], Talk[RawReply]]]:
    """What a relay tells before it refuses is added to `told`."""

    def by_xoauth2(username: bytes, token: bytes) -> Talk[RawReply]:
        return _present("XOAUTH2", xoauth2(username, token), b"", told)

    def by_oauthbearer(username: bytes, token: bytes) -> Talk[RawReply]:
        response = oauthbearer(username, token, settings.name_in_certificate, settings.port)
        return _present("OAUTHBEARER", response, b"\1", told)

    return dict(zip(TOKEN_MECHANISMS, (by_xoauth2, by_oauthbearer), strict=True))


def _present(name: str, response: bytes, farewell: bytes, told: list[bytes]) -> Talk[RawReply]:
    """The response, and where it is refused with an explanation, the `farewell` that asks for the reply."""
    encoded = b64encode(response)
    command = b"AUTH %s %s\r\n" % (name.encode("ascii"), encoded)
    if len(command) <= LONGEST_COMMAND:
        answer = yield from _ask(command)
    else:
        answer = yield from _respond((yield from _ask(b"AUTH %s\r\n" % name.encode("ascii"))), encoded)
    if answer.code // 100 != GO_ON:
        return answer
    told.append(answer.lines[0])
    return (yield from _respond(answer, b64encode(farewell)))


def _explained(told: list[bytes], secrets: Iterable[str]) -> str:
    """Rule 3: " (status 401, scope https://mail.google.com/)"; "" if there is nothing to tell."""
    try:
        found = json.loads(b64decode(told[-1], validate=True))
        parts = [f"{name} {found[name]}" for name in ("status", "scope") if isinstance(found.get(name), str)]
    except (AttributeError, IndexError, RecursionError, ValueError):
        return ""
    words = _hidden(printable(", ".join(parts).encode("utf-8", "replace")), secrets)
    return f" ({words[:MOST_EXPLAINED]})" if words else ""


def _respond(question: RawReply, response: bytes) -> Talk[RawReply]:
    """Only a 3xx asks for more; any other reply stands as the answer to the login."""
    if question.code // 100 != GO_ON:
        return question
    return (yield from _ask(response + b"\r\n"))


def _ask(command: bytes) -> Talk[RawReply]:
    yield Send(Phase.AUTH, command)
    answer: RawReply = yield Await(Phase.AUTH)
    return answer


def _forms(username: bytes, password: bytes) -> list[str]:
    """A password as it may come back."""
    together = b"\0".join((b"", username, password))
    return [form.decode("latin-1") for form in (b64encode(together), b64encode(password), password)]


def _token_forms(settings: SmtpSettings, username: bytes, token: bytes) -> list[str]:
    """A token as it may come back."""
    other = oauthbearer(username, token, settings.name_in_certificate, settings.port)
    forms = (b64encode(xoauth2(username, token)), b64encode(other), b64encode(token), token)
    return [form.decode("latin-1") for form in forms]


def _without(reply: Reply, forms: Iterable[str]) -> Reply:
    """Rule 2: some relays repeat the command that they refuse."""
    return replace(reply, text=_hidden(reply.text, forms))


def _hidden(text: str, forms: Iterable[str]) -> str:
    return " ".join("(hidden)" if _is_secret(word, forms) else word for word in text.split(" "))


def _is_secret(word: str, forms: Iterable[str]) -> bool:
    bare = word.strip("\"'<>()[],;:.")
    return len(bare) >= LEAST_SECRET and any(bare in form or (form and form in bare) for form in forms)
