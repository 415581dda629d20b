"""The login (RFC 4954), without I/O.

Rule 1. Of the mechanisms that the relay offers, the first of MECHANISMS is used, or the one that `[smtp] auth` names.
        One that the relay does not take after all (TRY_ANOTHER) is followed by the next; a refused password is not.
Rule 2. No word of the relay that repeats a part of the secret comes out of here.

CRAM-MD5 is last: it hides the password on the line and asks the relay to keep it in the clear, and under TLS the line
hides it anyway.

Raises RelayTrouble, with the remedy.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from dataclasses import replace
from typing import TYPE_CHECKING

from poller.exchange import Phase, RelayTrouble
from poller.smtp.actions import Await, LineLost, Send
from poller.smtp.replies import DONE, GO_ON
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
LEAST_SECRET = 4
"""Characters: of a shorter word nobody can tell whether it is part of the secret."""


def log_in(settings: SmtpSettings, relay: str, features: Features) -> Talk[None]:
    """Over a line on which a login is allowed. `relay` is its name in errors."""
    # A secret from the environment may hold bytes that are no UTF-8: surrogateescape gives them back as they were.
    username, password = (
        (word or "").encode("utf-8", "surrogateescape") for word in (settings.username, settings.password)
    )
    answer: RawReply | None = None
    for mechanism in _usable(settings, relay, features):
        try:
            answer = yield from MECHANISMS[mechanism](username, password)
        except LineLost as lost:
            said = yield from last_words()
            reply = _without(said.reply, username, password) if said else None
            words = f", after saying: {reply}" if reply else ""
            raise RelayTrouble(lost.loss.phase, f"{relay}: {lost.loss.reason}{words}", reply) from lost
        if answer.code not in TRY_ANOTHER:
            break
    if answer is not None and answer.code // 100 != DONE:
        reply = _without(answer.reply, username, password)
        raise RelayTrouble(Phase.AUTH, f"{relay} refused our login; {_remedy(reply)}: {reply}", reply)


def _remedy(reply: Reply) -> str:
    """What a person can do. Exchange Online has switched passwords off: 5.7.30, 5.7.139 "basic authentication"."""
    if reply.status == "5.7.30" or "basic authentication is" in reply.text.lower():
        return "it takes OAuth 2.0 tokens and no passwords; ask its provider for a way that takes one"
    return "check [smtp] username and password"


def _usable(settings: SmtpSettings, relay: str, features: Features) -> Iterable[str]:
    """Rule 1."""
    wanted = [settings.auth.upper()] if settings.auth != "auto" else [*MECHANISMS]
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


def _respond(question: RawReply, response: bytes) -> Talk[RawReply]:
    """Only a 3xx asks for more; any other reply stands as the answer to the login."""
    if question.code // 100 != GO_ON:
        return question
    return (yield from _ask(response + b"\r\n"))


def _ask(command: bytes) -> Talk[RawReply]:
    yield Send(Phase.AUTH, command)
    answer: RawReply = yield Await(Phase.AUTH)
    return answer


def _without(reply: Reply, username: bytes, password: bytes) -> Reply:
    """Rule 2: some relays repeat the command that they refuse."""
    together = b"\0".join((b"", username, password))
    forms = [form.decode("latin-1") for form in (b64encode(together), b64encode(password), password)]
    words = ["(hidden)" if _is_secret(word, forms) else word for word in reply.text.split(" ")]
    return replace(reply, text=" ".join(words))


def _is_secret(word: str, forms: Iterable[str]) -> bool:
    bare = word.strip("\"'<>()[],;:.")
    return len(bare) >= LEAST_SECRET and any(bare in form or (form and form in bare) for form in forms)
