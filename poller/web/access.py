"""Who asks, and what may they do? A token, a proxy's word, or nobody.

Rule 1. Nobody sees an address or a message without the right to read, and nobody acts without the right to act.
Rule 2. Tokens are compared in constant time, each with what was given, and never leave this file: a cookie has a name,
        an end and a seal made with the token. Changing the token in the configuration ends its cookies.
Rule 3. A proxy is believed only at one of its addresses, by the peer of the connection.
Rule 4. A form is obeyed only with a seal that was made for the visitor who sends it, or from a program that shows its
        token with every request, which no foreign page can make a browser do.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from poller.frozen import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poller.settings import HttpSettings

COOKIE = "poller"
STAY_S = 12 * 3600  # a working day
EVERYBODY = "*"
HERE = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Somebody who may read. `name` is for the history; `ground` is what the seal of a form is made from."""

    name: str
    may_act: bool
    ground: str
    is_program: bool = False
    """Showed a token with this very request."""
    may_leave: bool = False
    """Came in by a cookie."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What a request shows of its sender: `peer` is the address of the connection, header names are lower case."""

    peer: str
    headers: Mapping[str, str]
    cookie: str = ""


class Access:
    """Judges requests. `host` is somebody who is let in without a word: for the demo, whose mail is made up."""

    def __init__(self, settings: HttpSettings, host: Visitor | None = None) -> None:
        self._tokens = settings.tokens
        self._header = (settings.user_header or "").lower()
        self._proxies = [ipaddress.ip_network(place) for place in settings.trusted_proxies]
        self._operators = settings.operators
        self._host = host
        self._secret = secrets.token_bytes(32)  # of this process: forms that a proxy's users have open end with it

    @property
    def has_tokens(self) -> bool:
        """Whether there is anything to log in with."""
        return bool(self._tokens)

    def visitor(self, asking: Asking) -> Visitor | None:
        """Who it is; None: somebody without any right."""
        scheme, _, token = asking.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            name = self._owner(token.strip())
            return self._named(name, "", is_program=True) if name else None
        return self._by_proxy(asking) or self._by_cookie(asking.cookie) or self._guest(asking)

    def is_proxy(self, peer: str) -> bool:
        """Whether a connection comes from one of the proxy's addresses."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)

    def enter(self, token: str) -> str:
        """A cookie for anyone who has this token; "" for nobody."""
        name = self._owner(token)
        if not name:
            return ""
        said = f"{quote(name, safe='')}.{int(time.time()) + STAY_S}"
        return f"{said}.{self._seal(self._key(name), said)}"

    def form_seal(self, visitor: Visitor) -> str:
        """What a form of this visitor carries (Rule 4)."""
        return self._seal(self._key(visitor.name), f"form {visitor.name} {visitor.ground}")

    def is_genuine(self, visitor: Visitor, seal: str) -> bool:
        """Whether a form was made for this visitor, or comes from a program."""
        return visitor.is_program or hmac.compare_digest(self.form_seal(visitor).encode(), seal.encode())

    # ---- the three ways in

    def _owner(self, token: str) -> str:
        """Whose token it is; every one is compared, so that the time says nothing (Rule 2)."""
        given = token.encode("utf-8", "surrogateescape")
        same = [name for name, one in self._tokens.items() if hmac.compare_digest(one.token.encode(), given)]
        return same[0] if same else ""

    def _by_proxy(self, asking: Asking) -> Visitor | None:
        name = asking.headers.get(self._header, "").strip() if self._header else ""
        if not name or not self.is_proxy(asking.peer):
            return None
        return Visitor(name=name, may_act=bool({name, EVERYBODY} & {*self._operators}), ground="proxy")

    def _guest(self, asking: Asking) -> Visitor | None:
        """Anyone who sits at this machine; a foreign name that leads here is some page's trick (DNS rebinding)."""
        name = asking.headers.get("host", "").rpartition(":")[0].strip("[]")
        return self._host if name in HERE else None

    def _by_cookie(self, cookie: str) -> Visitor | None:
        said, _, seal = cookie.rpartition(".")
        quoted, _, until = said.rpartition(".")
        name = unquote(quoted)
        is_whole = name in self._tokens and until.isdecimal() and int(until) > time.time()
        if not is_whole or not hmac.compare_digest(self._seal(self._key(name), said).encode(), seal.encode()):
            return None
        return self._named(name, said, may_leave=True)

    def _named(self, name: str, ground: str, *, is_program: bool = False, may_leave: bool = False) -> Visitor:
        may_act = self._tokens[name].right == "act"
        return Visitor(name=name, may_act=may_act, ground=ground, is_program=is_program, may_leave=may_leave)

    def _key(self, name: str) -> bytes:
        """Of whom a token stands for; of anybody else, this process's own."""
        owner = self._tokens.get(name)
        return hashlib.sha256(b"poller page " + owner.token.encode()).digest() if owner else self._secret

    @staticmethod
    def _seal(key: bytes, text: str) -> str:
        return hmac.new(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()
