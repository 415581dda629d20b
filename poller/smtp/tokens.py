"""The tokens for the logins at one relay: fetched when one is needed, kept in memory, renewed before they end.

    token = tokens.current(bell)        # a token that is good for a while, or RelayTrouble
    ...                                 # log in with it
    tokens.accepted()                   # or:
    tokens.refused(token, trouble)      # True: fetch another one at once, and try again

Rule 1. One fetch at a time, from whatever thread; the others wait for it and take what it brought.
Rule 2. A token that has begun to end (`Token.renew_at`) is renewed. Where that fails it is used while it lasts, and the
        endpoint is asked again after RETRY_S; the relay is not in trouble yet.
Rule 3. A token that the relay refuses is forgotten, and a new one is fetched at once. When the relay refuses that too,
        it is in trouble, until it has accepted one. A reply of 4yz says nothing about the token.
Rule 4. An endpoint that asks to be left alone (Retry-After) is not asked before.
Rule 5. A refresh token that comes with an answer is written to its file before the token is used. If it can't be
        written it is kept in memory, and that is told.
Rule 6. A token_file is read at each login: somebody else keeps it fresh.
Rule 7. No secret is in a word that comes out of here.

Raises RelayTrouble at AUTH: no row is to blame.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from poller.exchange import Phase, RelayTrouble
from poller.smtp.endpoint import Call, Unanswered, in_time, late, place_of
from poller.smtp.oauth2 import way_of
from poller.smtp.refresh_file import read_refresh_token, write_refresh_token
from poller.smtp.token_answers import (
    ASSUMED_LIFE_S,
    LONGEST_LIFE_S,
    WRONG_CLOCK_S,
    NoToken,
    Token,
    clock_in_words,
    token_in,
    token_of_text,
)
from poller.smtp.wake import Bell
from poller.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.smtp.settings import OAuth2Settings

RETRY_S: Final = 30.0
"""Between two tries to renew a token that is still good."""
GRACE_S: Final = 2.0
"""Above the time that is set, before a thread that fetches is given up: its own words are better than ours."""
MOST_BYTES: Final = 64 * 1024
"""Of a file or of what a command prints."""
_REFUSED: Final = 5


class Tokens:
    """The token source of one relay. `clock` is steady, `wall` the time of day; `table` is where the relay is written.

    `events(name, facts)` hears "token.fetched", "token.late" and "token.refused".
    """

    def __init__(
        self,
        settings: OAuth2Settings,
        *,
        table: str = "smtp",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        events: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """"fetched", "failed" (no token to be had), "refused" (by the relay)."""
        self.events = events
        self._settings = settings
        self._way = way_of(settings)
        self._table = table
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._trouble: NoToken | None = None
        self._not_before = 0.0
        self._refusals = 0
        self._refresh_read = self._refresh_in_memory = ""

    # ---- what a login needs

    def current(self, bell: Bell | None = None) -> Token:
        """A token. A ring of the `bell` ends the wait. Raises RelayTrouble."""
        bell = bell or Bell()
        if not self._lock.acquire(timeout=self._settings.timeout + GRACE_S):
            raise self._in_trouble(NoToken(f"{self._who}: {late(self._settings.timeout)}"))
        try:
            return self._current(bell)
        except NoToken as trouble:
            raise self._in_trouble(trouble) from None
        finally:
            self._lock.release()

    def usable_for(self, token: Token) -> float:
        """Seconds until a session that was opened with it should be replaced."""
        now = self._clock()
        return max(0.0, (token.renew_at if now < token.renew_at else min(token.ends, self._not_before)) - now)

    def left(self, token: Token) -> float:
        """Seconds until it ends."""
        return max(0.0, token.ends - self._clock())

    def accepted(self) -> None:
        """The relay has taken a token."""
        self._refusals = 0

    def refused(self, token: Token, trouble: RelayTrouble) -> bool:
        """The relay has not let us in. True: because of this token, and a new one may be better (Rule 3)."""
        if trouble.phase is not Phase.AUTH or trouble.reply is None or trouble.reply.kind != _REFUSED:
            return False
        self._refusals += 1
        self.counts["refused"] += 1
        if self._token is token:
            self._token = None
        if self._refusals == 1:
            self._tell("token.refused", reason=trouble.reason)
        return self._refusals == 1

    def lacking(self, token: Token) -> str:
        """What the token says itself that it may not do, in words; "" if nothing, or if it does not say."""
        needed = "SMTP.SendAsApp" if self._way.grant == "client_credentials" else "SMTP.Send"
        if self._settings.preset != "microsoft365" or not (token.claims.whose or token.claims.rights):
            return ""
        if needed in token.claims.rights:
            return ""
        has = ", ".join(sorted(token.claims.rights)[:10]) or "none"
        return f"the token does not have {needed} (it has: {has}); grant it, with admin consent (API permissions)"

    def hints(self, token: Token) -> str:
        """What may be wrong with the token, to be added to the words of a relay that refuses it; begins with "; "."""
        clock = clock_in_words(token.skew) if abs(token.skew) > WRONG_CLOCK_S else ""
        return "".join(f"; {words}" for words in (self.lacking(token), clock) if words)

    # ---- where it comes from

    @property
    def _who(self) -> str:
        settings = self._settings
        if settings.token_file:
            return f"[smtp.oauth2] token_file {settings.token_file}"
        return f"token_command {settings.token_command[0]}" if settings.token_command else place_of(self._way.token_url)

    def _current(self, bell: Bell) -> Token:
        now = self._clock()
        token = None if self._settings.token_file else self._token  # a file is read each time: it alone knows
        if token is not None and (now < token.renew_at or (now < token.ends and now < self._not_before)):
            return token
        try:
            self._token = self._fetched(bell)
        except NoToken as trouble:
            self.counts["failed"] += 1
            if token is None or self._clock() >= token.ends:
                raise
            self._not_before = max(self._not_before, self._clock() + RETRY_S)
            self._tell("token.late", reason=self._worded(trouble.reason), valid=format_duration(self.left(token)))
            return token
        self.counts["fetched"] += 1
        self._tell("token.fetched", whose=self._token.claims.whose, valid=format_duration(self.left(self._token)))
        return self._token

    def _fetched(self, bell: Bell) -> Token:
        """A new one. Raises NoToken."""
        wait = self._not_before - self._clock()
        if self._trouble is not None and wait > 0:
            words = f"it asked to be left alone for another {format_duration(wait)}"
            raise NoToken(f"{self._trouble.reason}; {words}")
        self._trouble = None
        try:
            return self._from_somewhere(bell)
        except NoToken as trouble:
            if trouble.wait:
                self._trouble, self._not_before = trouble, self._clock() + trouble.wait
            raise
        except Unanswered as silence:
            raise NoToken(f"no token to be had: {silence}") from None

    def _from_somewhere(self, bell: Bell) -> Token:
        settings = self._settings
        if settings.token_file:
            return self._from_file(settings.token_file)
        seconds = settings.timeout
        if settings.token_command:
            return in_time(self._from_command, seconds=seconds + GRACE_S, bell=bell, cancel=_nothing, who=self._who)
        call = Call(self._way.token_url, ca_file=settings.ca_file, seconds=seconds)
        return in_time(lambda: self._asked(call), seconds=seconds, bell=bell, cancel=call.cancel, who=self._who)

    def _asked(self, call: Call) -> Token:
        """From the endpoint. In a thread of its own."""
        form = {"grant_type": self._way.grant, "client_id": self._settings.client_id or ""}
        form |= {"scope": self._way.scope} if self._way.scope else {}
        form |= {"client_secret": self._settings.client_secret} if self._settings.client_secret else {}
        form |= {"refresh_token": self._refresh_token()} if self._way.grant == "refresh_token" else {}
        asked, wall = self._clock(), self._wall()
        secrets = (self._settings.client_secret or "", form.get("refresh_token", ""))
        token = token_in(call.post(form), self._who, asked=asked, wall=wall, secrets=secrets)
        if token.refresh and token.refresh != form.get("refresh_token") and self._settings.refresh_token_file:
            self._keep(token.refresh, self._settings.refresh_token_file)
        return token

    def _refresh_token(self) -> str:
        """What is in the file, unless it is the one that the provider has replaced and that could not be."""
        read = read_refresh_token(self._settings.refresh_token_file or "")
        if read != self._refresh_read:
            self._refresh_read, self._refresh_in_memory = read, ""
        return self._refresh_in_memory or read

    def _keep(self, refresh: str, path: str) -> None:
        """Rule 5."""
        try:
            write_refresh_token(path, refresh)
        except NoToken as trouble:
            self._refresh_in_memory = refresh
            self._tell("token.late", reason=self._worded(trouble.reason), valid="until this process ends")

    def _from_file(self, path: str) -> Token:
        try:
            with Path(path).open("rb") as stream:
                text = stream.read(MOST_BYTES).decode("ascii", "replace")
        except OSError as error:
            raise NoToken(f"{self._who}: {error.strerror}; the one who makes the token has to write it there") from None
        return token_of_text(text, self._who, now=self._clock(), wall=self._wall(), assumed=LONGEST_LIFE_S)

    def _from_command(self) -> Token:
        argv = self._settings.token_command
        try:
            done = subprocess.run(  # noqa: S603 - running it is the feature; the configuration says whose word it is
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=self._settings.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NoToken(f"{self._who}: {late(self._settings.timeout)}") from None
        except OSError as error:
            raise NoToken(f"{self._who}: {error.strerror}") from None
        if done.returncode:
            raise NoToken(f"{self._who} ended with status {done.returncode}; run it by hand to see why")
        text = done.stdout[:MOST_BYTES].decode("ascii", "replace")
        return token_of_text(text, self._who, now=self._clock(), wall=self._wall(), assumed=ASSUMED_LIFE_S)

    # ---- words

    def _worded(self, reason: str) -> str:
        return reason.replace("[smtp", f"[{self._table}")

    def _in_trouble(self, trouble: NoToken) -> RelayTrouble:
        return RelayTrouble(Phase.AUTH, self._worded(trouble.reason))

    def _tell(self, event: str, **facts: Any) -> None:
        if self.events is not None:
            self.events(event, facts)


def _nothing() -> None:
    """A command ends by its own timeout."""
