"""A page on a socket of its own, and somebody who visits it without a browser."""

from __future__ import annotations

import contextlib
import html
import http.client
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from poller.config.load import Config
from poller.message.settings import MessageSettings
from poller.settings import HttpSettings, TokenSettings
from poller.smtp.relays import FirstRelaySettings
from poller.web.access import COOKIE
from poller.web.site import PageServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poller.outbox.settings import DatabaseSettings

ANNA, BOB = "anna-may-act-0123456789", "bob-may-read-0123456789"
TOKENS = {"anna": TokenSettings(token=ANNA, right="act"), "bob": TokenSettings(token=BOB)}
COUNTED_WITHIN_S = 20.0
HTTP = HttpSettings(listen="127.0.0.1:0", tokens=TOKENS)


@dataclass(frozen=True)
class Answer:
    """Of HTTP; header names are lower case."""

    code: int
    headers: Mapping[str, str]
    text: str

    @property
    def words(self) -> str:
        """What stands there, without markup, on one line."""
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", self.text)).split())

    @property
    def seal(self) -> str:
        """Of the first form."""
        found = re.search(r'name="seal" value="([0-9a-f]+)"', self.text)
        return found[1] if found else ""


@dataclass
class Visitor:
    """Keeps a cookie, as a browser does."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Answer:
        """The page, once its numbers have been counted: on a busy machine it comes without them first."""
        deadline = time.monotonic() + COUNTED_WITHIN_S
        while "Counting…" in (answer := self._ask("GET", path, None, headers)).text and time.monotonic() < deadline:
            time.sleep(0.1)
        return answer

    def post(self, path: str, form: Mapping[str, object], **headers: str) -> Answer:
        return self._ask("POST", path, urlencode(form), headers)

    def enter(self, token: str, **headers: str) -> Answer:
        """Sign in."""
        answer = self.post("/login", {"token": token, "to": "/workers"}, **headers)
        found = re.match(rf"{COOKIE}=([^;]*)", answer.headers.get("set-cookie", ""))
        if found:
            self.headers["Cookie"] = f"{COOKIE}={found[1]}"
        return answer

    def act(self, act: str, at: str, **form: object) -> Answer:
        """As a person does it: from the page `at`, and yes to the question."""
        shown = {**form, "act": act, "seal": self.get(at).seal, "back": at}
        asked = self.post("/act", shown)
        return self.post("/act", {**shown, "sure": "yes"}) if asked.code == 200 else asked

    def _ask(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, {**self.headers, **more})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read().decode("utf-8", "replace"))
        finally:
            connection.close()


@contextlib.contextmanager
def serving(database: DatabaseSettings, http_: HttpSettings = HTTP, **sections: object) -> Iterator[PageServer]:
    """The page of this outbox."""
    config = Config(
        database=database,
        smtp=FirstRelaySettings(host="localhost", security="none"),
        message=MessageSettings(sender="Shop <shop@example.com>"),
        http=http_,
    )
    server = PageServer(replace(config, **sections), None)  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.stop()
