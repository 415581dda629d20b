"""Telling: by mail, past the outbox and perhaps by another relay; by a command; by a signed webhook.

Rule 1. Each way is tried, whatever became of the others. An alarm is told when one of them took it.
Rule 2. No step of a way waits long: COMMAND_S, WEBHOOK_S, MAIL_S, each time it waits for an answer. A worker that is
        to stop begins no further way.
Rule 3. A webhook is signed as Standard Webhooks has it: `webhook-id`, `webhook-timestamp`, `webhook-signature`. The id
        is the same for the same news, so that who hears it twice can tell. No redirect is followed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, Protocol

from poller.exchange import Message, RelayTrouble
from poller.message.draft import Draft, Unsendable
from poller.smtp.courier import Courier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poller.alerts.alarms import Kind
    from poller.log import Logger
    from poller.message.composer import Composer
    from poller.smtp.relays import RelaySettings

COMMAND_S: Final = 20.0
WEBHOOK_S: Final = 10.0
MAIL_S: Final = 20.0
_SAYS: dict[Kind, str] = {"raised": "Alarm", "still": "Still", "over": "Over"}


class NotToldError(Exception):
    """A way did not take it; the text says why, and names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What is told. `since` is when it began, in seconds since the epoch; `at` when this is told, `before` the last."""

    alarm: str
    kind: Kind
    words: str
    since: float
    at: float
    before: float | None = None
    outbox: str
    worker: str

    @property
    def id(self) -> str:
        """The same for the same news."""
        told = f"{self.outbox} {self.alarm} {self.kind} {self.since} {self.before if self.kind == 'still' else ''}"
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def as_json(self) -> str:
        """For a command, and for a webhook."""
        facts = asdict(self)
        del facts["before"]
        facts |= {"id": self.id, "since": when(self.since), "at": when(self.at)}
        return json.dumps(facts, ensure_ascii=False)

    @property
    def subject(self) -> str:
        """In one line."""
        return f"{_SAYS[self.kind]}: {self.words}"

    def lines(self) -> Iterator[str]:
        """For a mail."""
        yield f"{self.words}."
        yield ""
        yield f"Since:  {when(self.since)}"
        yield f"Outbox: {self.outbox}"
        yield f"Seen by the worker {self.worker} at {when(self.at)}."
        if self.kind == "over":
            yield ""
            yield "It is over."
        yield ""
        yield "poller status shows how it stands now."
        yield ""


class Notice(Protocol):
    """What can be told."""

    @property
    def id(self) -> str:
        """The same for the same news."""

    @property
    def at(self) -> float:
        """When it is told, seconds since the epoch."""

    @property
    def subject(self) -> str:
        """In one line."""

    def lines(self) -> Iterator[str]:
        """In so many words, for a mail."""

    def as_json(self) -> str:
        """For programs."""


class Addressees(Protocol):
    """Whom to tell; each may be empty."""

    @property
    def email(self) -> tuple[str, ...]:
        """Addresses."""

    @property
    def relay(self) -> str:
        """By which relay."""

    @property
    def command(self) -> tuple[str, ...]:
        """Words."""

    @property
    def webhook(self) -> str | None:
        """Its address."""

    @property
    def webhook_secret(self) -> str | None:
        """What signs."""


@dataclass(kw_only=True, slots=True)
class Teller:
    """Tells by each of the `ways`. `failed` is the event that says that one did not take it."""

    ways: tuple[Callable[[Notice], None], ...]
    log: Logger
    failed: str
    is_stopping: Callable[[], bool] = field(default=lambda: False)

    def tell(self, notice: Notice, **about: str) -> bool:
        """Whether one of them took it (Rule 1). `about` is for the log."""
        took = [self._told_by(way, notice, about) for way in self.ways]
        return any(took)

    def _told_by(self, way: Callable[[Notice], None], notice: Notice, about: dict[str, str]) -> bool:
        if self.is_stopping():
            return False
        try:
            way(notice)
        except NotToldError as why:
            reason = str(why)
        else:
            return True
        self.log.error(self.failed, **about, reason=reason)
        return False


def ways(settings: Addressees, composer: Composer, relay: RelaySettings | None) -> tuple[Callable[[Notice], None], ...]:
    """The ways that the settings name. Each raises NotToldError."""
    found: list[Callable[[Notice], None]] = []
    if settings.email and relay is not None:
        found.append(lambda news: by_mail(news, settings, composer, relay))
    if settings.command:
        found.append(lambda news: by_command(news, settings.command))
    if settings.webhook:
        found.append(lambda news: by_webhook(news, settings.webhook or "", settings.webhook_secret or ""))
    return tuple(found)


def by_mail(news: Notice, settings: Addressees, composer: Composer, relay: RelaySettings) -> None:
    """One message to all of `email`, in a session of its own."""
    waits = ("connect_timeout", "reply_timeout", "data_timeout", "block_timeout", "end_timeout")
    bounded = replace(relay, **{name: min(getattr(relay, name), MAIL_S) for name in waits})
    courier = Courier(bounded, table="smtp" if settings.relay == "smtp" else f"relays.{settings.relay}")
    try:
        message = _message(news, settings, composer)
        courier.open()
        exchange = next(courier.carry(iter([message])), None)
    except (RelayTrouble, Unsendable) as error:
        raise NotToldError(f"email by the relay {settings.relay}: {error}") from None
    finally:
        courier.close()
    if exchange is None or exchange.end is None or exchange.end.kind != 2:  # noqa: PLR2004 - accepted
        said = exchange and next((r for r in (exchange.end, *exchange.rcpt, exchange.mail) if r is not None), None)
        raise NotToldError(f"email by the relay {settings.relay}: {said or 'no answer'}")


def _message(news: Notice, settings: Addressees, composer: Composer) -> Message:
    draft = Draft(
        id=0,
        message_id=f"<alert-{news.id}@{composer.message_id_domain}>",
        date=datetime.fromtimestamp(int(news.at), UTC),
        recipients=", ".join(settings.email),
        subject=f"[poller] {news.subject}"[:200],
        body_text="\n".join(news.lines()),
        headers={"Auto-Submitted": "auto-generated"},
    )
    composed = composer.compose(draft)
    return Message(
        row_id=0,
        claim_seq=1,
        message_id=draft.message_id,
        mail_from=composed.mail_from,
        recipients=tuple(recipient.wire for recipient in composer.recipients(draft)),
        content=composed.content,
        smtputf8=composed.smtputf8,
    )


def by_command(news: Notice, command: tuple[str, ...]) -> None:
    """The news as JSON on its standard input; it has to end with status 0."""
    try:
        done = subprocess.run(  # noqa: S603 - running it is the feature
            command,
            input=news.as_json().encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_S,
            check=False,
        )
    except OSError as error:
        raise NotToldError(f"command {command[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NotToldError(f"command {command[0]}: no end within {COMMAND_S:.0f} s") from None
    if done.returncode:
        raise NotToldError(f"command {command[0]}: ended with status {done.returncode}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """What it says counts as a refusal."""


def by_webhook(news: Notice, url: str, secret: str) -> None:
    """Rule 3. Anything but 2xx is a refusal."""
    body = news.as_json().encode()
    fields = signed(news, body, secret)
    try:
        request = urllib.request.Request(url, data=body, headers=fields, method="POST")  # noqa: S310 - the settings say https
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=WEBHOOK_S):
            pass
    except urllib.error.HTTPError as error:
        raise NotToldError(f"webhook: it answered {error.code}") from None
    except (OSError, ValueError, HTTPException) as error:  # the last: an answer that is no HTTP
        said = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise NotToldError(f"webhook: {said}") from None


def signed(news: Notice, body: bytes, secret: str) -> dict[str, Any]:
    """The header fields of a Standard Webhook: https://www.standardwebhooks.com, symmetric signature v1."""
    stamp = str(int(news.at))
    what = f"{news.id}.{stamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret.encode(), what, "sha256")).decode()
    return {
        "content-type": "application/json",
        "webhook-id": news.id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }


def when(seconds: float) -> str:
    """A time in words."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
