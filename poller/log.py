"""The log: the only structlog set-up, and the closed list of event names.

Rule 1. An event is `noun.verb` and stands in `EVENTS`; any other name raises ValueError where it is logged, so that a
        misspelt one ends in a test and not in a graph without data.
Rule 2. Nothing private gets out. A whole address is shortened wherever it turns up, in values, in tracebacks and in
        what libraries log; so is what stands before the @ of a URL, and the value of a key named like a secret, a
        subject or a body. `message_id` keeps its @: it names no person.
Rule 3. A machine reads the same keys in the same order: timestamp (UTC), level, event, then the others by name.
        Exceptions come without local variables.
Rule 4. One line is one event: control characters are escaped, so that a relay's reply can't forge another line.

`configure` is called once, by an entry point; until then events go where structlog sends them by default.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import logging
import math
import re
import sys
import time
from collections.abc import Mapping
from json.encoder import encode_basestring as _quoted
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import structlog

from poller.visible import visible

if TYPE_CHECKING:
    from collections.abc import Hashable

    from structlog.typing import EventDict, Processor, WrappedLogger

    from poller.settings import LogSettings

EVENTS: Final[Mapping[str, str]] = MappingProxyType({
    "worker.started": "the service runs, under this name and incarnation",
    "worker.stopping": "a stop was asked for; the message in hand is finished first",
    "worker.stopped": "the service has ended in order",
    "worker.lease_lost": "another worker may have taken over; nothing more is sent until the lease is back",
    "database.unavailable": "the database can't be reached or refuses us",
    "database.available": "the database answers again",
    "submission.listening": "mail is taken over SMTP, at this address",
    "submission.taken": "a message came in over SMTP and is a row now",
    "submission.refused": "a message or a login that came in over SMTP was refused, or could not be kept",
    "template.broken": "a template can't be used; the rows that name it fail, the others go out",
    "relay.unavailable": "the relay can't be reached, refuses the login or rests",
    "relay.available": "the relay takes mail again",
    "relay.roused": "a person has ended the relay's rest: poller retry --relay NAME --now",
    "relay.learnt": "the relay takes so many messages on one connection, or recipients in one transaction, and no more",
    "relay.lowered": "the relay does not bear commands that are sent ahead; fewer are from now on, for all workers",
    "relay.incident": "the relay refuses one row after another alike; the rows are kept, someone should look",
    "journal.unavailable": "the journal of this worker can't be written; nothing is sent until it can",
    "journal.available": "the journal can be written again",
    "journal.replayed": "what the journal knew and the database did not was written down",
    "token.fetched": "a token for the login at a relay was fetched; it is kept in memory until shortly before its end",
    "token.late": "a token can't be renewed, or a refresh token not be written; what is at hand is used while it lasts",
    "token.refused": "the relay refuses a token; another one is fetched at once",
    "session.opened": "connected, encrypted and logged in",
    "session.closed": "the connection ended, and why",
    "batch.claimed": "rows were claimed and are about to be sent",
    "attempt.sent": "the relay has accepted the message",
    "attempt.deferred": "the message will be tried again later",
    "attempt.failed": "the message was refused for good or given up",
    "attempt.in_doubt": "the message may have been delivered: its final reply is lost, or its worker was killed",
    "row.unsendable": "no message can be made of the row",
    "row.unclaimable": "the database refuses to let the row be claimed; the others go out",
    "row.suppressed": "the recipient is on the suppression list or outside `only_to`",
    "row.expired": "the row's time was over before it was sent",
    "row.gone": "the row was deleted or taken while its message was on its way",
    "row.accepted_twice": "the relay has accepted a message that had been sent before",
    "row.repaired": "the database had lost a claim of ours, being older than it was; claim and outcome are in it again",
    "rows.handed_back": "claimed rows were released unsent, at no cost to them",
    "rows.recovered": "rows that a dead worker had claimed were judged",
    "throttle.paused": "a relay or a destination asked for less: it pauses, and goes on more slowly, for all workers",
    "throttle.raised": "it has accepted mail for a while, and is given more again",
    "throttle.repaired": "a row of outbox_throttle was deleted or held nonsense, and was put right",
    "outbox.closed": "outside the sending windows, or in quiet hours: nothing is claimed until they are over",
    "outbox.opened": "mail may go again",
    "outbox.paused": "an operator has switched the whole outbox off",
    "outbox.held": "this outbox looks like a copy or an old backup; nothing is sent until it is adopted",
    "outbox.older": "the database has forgotten what it had confirmed: what the journal knows is written again",
    "outbox.resumed": "an operator has switched the outbox on again",
    "operator.acted": "somebody did something from the page: who, what, and to how many rows",
    "tick.failed": "an error that nobody foresaw ends the process; the next start judges what it held",
    "job.failed": "an error that nobody foresaw in what stands beside the mail; the mail goes on; tried again later",
    "rows.purged": "what was past the time that `[retention]` gives it was deleted",
    "bounce.told": "a message came back, is late, or somebody complained of it: written into its row's history",
    "bounce.ignored": "what came to the address for bounces is none: an automatic reply, or nothing that anybody knows",
    "bounce.unmatched": "a bounce tells of no row that is here",
    "bounce.forged": "a bounce has a token that is not one of ours; nothing was believed of it",
    "bounce.refused": "the database refuses what a bounce says; it is left out, and the others are taken",
    "bounce.waiting": "the mailbox for bounces, or the database, can't be reached; it is looked at again",
    "alert.told": "an alarm of `[alerts]` is told: raised, still there, or over",
    "alert.failed": "an alarm could not be told that way; it is tried again in two minutes",
    "batch.done": "every message of a batch has ended; `id` is the same for the same end, should it be told twice",
    "batch.paused": "so much of the beginning of a batch failed that `[batches] failed` has paused it",
    "batch.untold": "the report of a batch could not be told that way; it is tried again in two minutes",
    "batch.unseen": "batches could not be looked at; the next look makes it good (level debug)",
    "drain.finished": "nothing is due any more",
    "record.stubborn": "an outcome can't be written yet and is tried again",
    "record.failed": "an outcome can't be written; this line is what is known of it",
})  # fmt: skip
"""Every event, and what it means to the person who reads it."""

_LEVELS = {name: logging.getLevelNamesMapping()[name.upper()] for name in ("debug", "info", "warning", "error")}
_NAMES = {level: name for name, level in _LEVELS.items()}


class Logger(structlog.BoundLoggerBase):
    """What `get_logger` gives: a method for each level. An event that is not on the list is refused at every level."""

    def debug(self, event: str, **fields: object) -> None:
        """For anyone who looks for a fault."""
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What is as it should be."""
        self._say(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What somebody may want to look at."""
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """What somebody should look at."""
        self._say(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error, with the exception that is being handled."""
        self.log(logging.ERROR, event, exc_info=True, **fields)

    def log(self, level: int, event: str, **fields: object) -> None:
        """An event of one of the four levels, as `logging` counts them."""
        self._say(level, event, fields)

    def _say(self, level: int, event: str, fields: dict[str, object]) -> None:
        if event not in EVENTS:
            raise ValueError(f"{event!r} is not on the list of events; see poller.log.EVENTS")
        if level < _threshold[0]:
            return
        # The same steps as structlog's own `_proxy_to_logger`, which packs and unpacks the fields twice on the way.
        line: Any = {**self._context, **fields, "event": event}
        name = _NAMES[level]
        for step in self._processors:
            line = step(self._logger, name, line)
        self._logger.msg(line)


class _Outlet:
    """Writes lines. A log that can't be written, on a full disk say, must not end the service."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass


_ADDRESS = re.compile(r"[^\s<>\"'(),;:@/\\=\[\]…]+@(?=[\w\[])")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]*:[^\s@]*@")
_PRIVATE = re.compile(r"passw|secret|token|credential|subject|body|context|^url$")
_FIRST = ("timestamp", "level", "event")
_QUIET = ("apscheduler.executors", "apscheduler.scheduler", "sqlalchemy")  # INFO lines for every tick and statement
_NUMBERS = (int, float)
_OUTLET = "poller"  # the name by which a second `configure` finds the first one's outlet


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send every event, and what libraries log, to `stream` (default stderr). A second call replaces the first."""
    stream = stream or sys.stderr
    is_console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    rendering = _for_people(is_terminal=stream.isatty()) if is_console else _for_machines()
    steps: list[Processor] = [_stamped, *rendering]
    # Our own events go straight to the stream: there is one for each message, and logging's records cost more than all
    # that is done for it otherwise.
    structlog.configure(
        processors=steps if is_console else [_at_once(steps)],
        logger_factory=lambda *_: _Outlet(stream),
        wrapper_class=Logger,
        cache_logger_on_first_use=True,
    )
    last = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, _stamped], processors=[last, *rendering]
    )
    _threshold[0] = _LEVELS[settings.level]
    _route(_threshold[0], formatter, stream)


_threshold = [logging.INFO]


def _stamped(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event["level"] = method
    event["timestamp"] = _now()
    return event


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds // 1000:06}Z"


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _for_machines() -> list[Processor]:
    render = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))

    def exceptions(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return render(logger, method, event) if "exc_info" in event else event

    def as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
        # By hand: nearly everything is text, and json.dumps takes three times as long to get ready as to write.
        return "{" + ", ".join([f"{_quoted(key)}: {_json(value)}" for key, value in event.items()]) + "}"

    return [exceptions, _discreet, as_json]


def _at_once(steps: list[Processor]) -> Processor:
    """What `steps` make of an event of ours for a machine, in one go: there is one for each message."""

    def line(logger: WrappedLogger, method: str, event: EventDict) -> str:
        if "exc_info" in event or "exception" in event:
            made: Any = event
            for step in steps:
                made = step(logger, method, made)
            return cast("str", made)
        # The names of events and levels hold nothing that would have to be hidden or escaped.
        parts = [f'{{"timestamp": "{_now()}", "level": "{method}", "event": "{event["event"]}"']
        for key, start, is_private in _layout(tuple(event)):
            value = event[key]
            kind = type(value)
            if kind is str:
                text = _quoted("…" if is_private else _public_text(key, value))
            else:
                text = repr(value) if kind is int else _json(_public(key, value))
            parts.append(start + text)
        return "".join(parts) + "}"

    return line


@functools.lru_cache(maxsize=256)
def _layout(keys: tuple[str, ...]) -> tuple[tuple[str, str, bool], ...]:
    """Of an event with these keys those behind the first ones, in order: what stands in front, and if it is private.

    The same few sets of keys come again and again.
    """
    return tuple((key, f", {_quoted(key)}: ", _is_private(key)) for key in sorted(set(keys).difference(_FIRST)))


_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode


def _json(value: object) -> str:
    if isinstance(value, str):
        return _quoted(value)
    is_plain = type(value) is int or (type(value) is float and math.isfinite(value))
    return repr(value) if is_plain else _encode(value)


def _for_people(*, is_terminal: bool) -> list[Processor]:
    # the traceback becomes text before the discreet step sees it; the renderer's own would escape it, locals and all
    plain = structlog.dev.plain_traceback
    return [
        structlog.processors.format_exc_info,
        _discreet,
        structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain),
    ]


def _discreet(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Rules 2 to 4 for a whole event."""
    ordered: EventDict = {key: event.pop(key) for key in _FIRST if key in event}
    ordered["event"] = _public("event", ordered["event"])
    for key in sorted(event):
        ordered[key] = _traceback(event[key]) if key == "exception" else _public(key, event[key])
    return ordered


def _traceback(value: object) -> object:
    """A traceback as text keeps its own lines, and only those."""
    if isinstance(value, str):
        return "\n".join(_public_text("exception", line) for line in value.split("\n"))
    return _public("exception", value)


def _public(key: str, value: object) -> object:
    if isinstance(value, str):
        return "…" if _is_private(key) else _public_text(key, value)
    if value is None or isinstance(value, _NUMBERS):
        return value
    if _is_private(key):
        return "…"
    match value:
        case Mapping():
            return {str(name): _public(str(name), item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_public(key, item) for item in value]
        case _:
            return _public_text(key, _as_text(value))


def _as_text(value: object) -> str:
    match value:
        case bytes():
            return value.decode("latin-1")
        case dt.date():  # and times, which are dates to Python
            return value.isoformat()
        case _:
            return str(value)


@functools.lru_cache(maxsize=1024)
def _is_private(key: str) -> bool:
    return bool(_PRIVATE.search(key.lower()))


def _public_text(key: str, text: str) -> str:
    if "@" in text:
        if "://" in text:
            text = _CREDENTIALS.sub("…@", text)
        # The search is slow, and what is shortened already is no address.
        if key != "message_id" and text.count("@") != text.count("…@"):
            text = _ADDRESS.sub(_shortened, text)
    return visible(text)


def _shortened(found: re.Match[str]) -> str:
    return shortened(found[0])


def _route(level: int, formatter: logging.Formatter, stream: TextIO) -> None:
    root = logging.getLogger()
    for old in [outlet for outlet in root.handlers if outlet.name == _OUTLET]:
        root.removeHandler(old)
    outlet = logging.StreamHandler(stream)
    outlet.set_name(_OUTLET)
    outlet.setFormatter(formatter)
    root.addHandler(outlet)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    # A tick that drains for longer than the interval "skips" the next ones: that is how it is meant to be.
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
    # What a job raises is an event of ours, `tick.failed`, and is not said twice.
    logging.getLogger("apscheduler.executors").setLevel(logging.CRITICAL)


def get_logger(**bound: object) -> Logger:
    """A logger whose events carry `bound`. May be had at import: it looks at the configuration when it is used."""
    return cast("Logger", structlog.get_logger("poller", **bound))


def without_addresses(text: str) -> str:
    """`text` as logs may have it: each whole address in it is shortened."""
    return _ADDRESS.sub(_shortened, text)


def shortened(address: str) -> str:
    """An address as logs may have it: `jane@example.com` is `j…@example.com`."""
    local, at, domain = address.rpartition("@")
    if not at:
        return domain[:1] + "…"
    return local.lstrip('<"')[:1] + "…@" + domain.rstrip(">")


class OnChange:
    """Says a thing once, and again when it has changed: for a trouble that every tick would find anew.

    The last word is kept per `about`, so that `relay.unavailable` and `relay.available` about the same relay
    alternate, whatever their fingerprints.
    """

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._last: dict[Hashable, tuple[str, Hashable]] = {}

    def said(self, event: str, *, about: Hashable) -> bool:
        """Whether `event` was the last thing said `about` this."""
        return self._last.get(about, ("", None))[0] == event

    def say(self, level: str, event: str, *, about: Hashable, fingerprint: Hashable = None, **fields: object) -> bool:
        """Log `event` with `fields`, unless it was the last thing said `about` this with this `fingerprint`.

        Returns whether it was said.
        """
        if self._last.get(about) == (event, fingerprint):
            return False
        self._last[about] = (event, fingerprint)
        self._log.log(logging.getLevelNamesMapping()[level.upper()], event, **fields)
        return True
