"""The configuration: read once, whole, and refused with every reason at once. The only pydantic.

Rule 1. The rooms declare their settings as dataclasses; `Config` has one attribute for each section. No key is named
        here unless something is said about it, so a key that a room adds is readable from that moment.
Rule 2. Every problem is reported in one `ConfigError`, by place and key. No value is ever shown: it may be a secret.
Rule 3. The environment overrides the file, key by key: `POLLER__SECTION__KEY`. For a secret it overrides the file's
        `KEY`, `KEY_file` and `KEY_command` together. An empty variable clears a key that may be absent.
Rule 4. A command for a secret comes only from a file that nobody but its user or root could have written.
Rule 5. A relative path in the file starts from the file's directory; in the environment, or without a file, from the
        working directory.

`poller.config.sources` reads what was written; here it is given its meaning. Raises `ConfigError` and nothing else. It
does not look at what the settings name (a host, a directory): `poller check` does. Only the entry points see a
`Config`; a room receives its own section.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from poller.alerts.settings import AlertSettings
from poller.batches.settings import BatchSettings
from poller.config.sources import (
    MARK,
    UNREAD,
    ConfigError,
    Key,
    Known,
    Layer,
    Problem,
    Written,
    at_home,
    dotted,
    is_below,
    is_settings,
    read,
)
from poller.judgement.retry import RetrySettings
from poller.message.bounce_settings import BounceSettings
from poller.message.bounce_settings import contradictions as bounce_contradictions
from poller.message.list_settings import ListName, ListSettings, UnsubscribeSettings
from poller.message.list_settings import contradictions as list_contradictions
from poller.message.settings import AttachmentSettings, DkimSettings, MessageSettings, SigningDomain, TemplateSettings
from poller.outbox.settings import DatabaseSettings, RetentionSettings
from poller.pacing.settings import ThrottleSettings
from poller.pacing.settings import contradictions as throttle_contradictions
from poller.settings import HttpSettings, LogSettings, PollSettings, WorkerSettings
from poller.settings import contradictions as http_contradictions
from poller.smtp.relays import FirstRelaySettings, RelaySettings, names_in_trouble
from poller.smtp.relays import contradictions as relay_contradictions
from poller.submission.settings import SubmissionSettings, is_loopback
from poller.units import Misfit, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Config", "ConfigError", "Problem", "load"]

LONGEST_LOCAL_WORK_S: Final = 60.0  # what a transaction may take beside the wait for its final reply

_PATH_NAME = re.compile(r"(?:^|_)(?:file|dir|directory)$")
_SQLITE_FILE = re.compile(
    r"(?P<scheme>sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)(?P<path>[^?]+)(?P<query>\?.*)?", re.DOTALL
)
_URL = re.compile(  # the shape that SQLAlchemy reads; a password may hold a "/"
    r"(?P<dialect>\w+)(?:\+\w+)?://(?:[^:/]*(?::[^@]*)?@)?(?:\[[^/?]+\]|[^/:?]*)(?::\d*)?(?:/(?P<rest>.*))?", re.DOTALL
)
_SUPPORTED = ("postgresql", "mysql", "mariadb", "sqlite")
_UNSUPPORTED = {
    "mssql": "SKIP LOCKED is silently dropped for it, and two workers would send the same mail",
    "oracle": "claiming rows has neither been written nor tested for it",
    "cockroachdb": "claiming rows has not been tested with it",
    "postgres": "SQLAlchemy calls it postgresql; write postgresql://",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every section, with defaults for what was left out."""

    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    smtp: FirstRelaySettings = field(default_factory=FirstRelaySettings)
    relays: Mapping[str, RelaySettings] = field(default_factory=dict)
    """Further ones, by name."""
    throttle: ThrottleSettings = field(default_factory=ThrottleSettings)
    message: MessageSettings = field(default_factory=MessageSettings)
    templates: TemplateSettings = field(default_factory=TemplateSettings)
    attachments: AttachmentSettings = field(default_factory=AttachmentSettings)
    dkim: Mapping[SigningDomain, DkimSettings] = field(default_factory=dict)
    """By the domain that signs."""
    lists: Mapping[ListName, ListSettings] = field(default_factory=dict)
    """Mailing lists, by the name that rows give."""
    unsubscribe: UnsubscribeSettings = field(default_factory=UnsubscribeSettings)
    poll: PollSettings = field(default_factory=PollSettings)
    retry: RetrySettings = field(default_factory=RetrySettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    log: LogSettings = field(default_factory=LogSettings)
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    submission: SubmissionSettings = field(default_factory=SubmissionSettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    bounces: BounceSettings = field(default_factory=BounceSettings)
    source: Path | None = field(default=None, compare=False)
    """The file that was read."""
    looked: tuple[Path, ...] = field(default=(), compare=False)
    """Where a file was looked for, in order; the last is `source` if there is one."""


_SECTIONS: dict[str, Any] = {
    name: hint
    for name, hint in get_type_hints(Config, include_extras=True).items()
    if any(map(is_settings, (hint, *get_args(hint))))
}


RELAYS = ("smtp", "relays")
"""The sections of what is needed to send."""
COMPOSING = ("unsubscribe", "bounces")
"""And those of what is needed to make a message."""
HTTP = ("http",)
"""And of what is needed to be looked at."""


def load(path: Path | None, environ: Mapping[str, str], *, unread: Collection[str] = ()) -> Config:
    """Read `path`, else `$POLLER_CONFIG`, else `./config.toml`, else `/etc/poller/config.toml`, else the defaults.

    `environ` overrides single keys. Secrets of the sections `unread` are not looked at. Raises ConfigError.
    """
    written = read(path, environ, Known(_SECTIONS), unread)
    problems = written.problems
    sections = {name: _section(name, written, problems) for name in _SECTIONS}
    config = Config(source=written.source, looked=written.looked, **sections)
    problems += _disagreements(config, written.given, {problem.key for problem in problems})
    if problems:
        raise ConfigError(*sorted(problems, key=_in_order), readable=config)
    return config


# ---- validation

_SAYS = {
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": 'must be a list, such as ["a", "b"]',
    "list_type": 'must be a list, such as ["a", "b"]',
    "dict_type": "must be a table",
    "dataclass_type": "must be a table",
    "missing": "must be given",
}
"""pydantic's own texts may quote the input, so they are never used."""


def _section(section: str, written: Written, problems: list[Problem]) -> Any:
    """The settings of a section; a key with a problem keeps its default, so that the other checks can go on."""
    given: Layer = {}
    for key, item in written.given.items():
        if key[0] == section and isinstance(item.value, float) and not math.isfinite(item.value):
            problems.append(Problem(item.where, dotted(key), _SAYS["float_type"]))
        elif key[0] == section:
            given[key] = item
    return _anchored(_validated(section, given, problems), (section,), written)


def _defaults(section: Any) -> Any:
    """Of a section that is not written; of named tables, none."""
    return {} if get_args(section) else section()


def _validated(section: str, given: Layer, problems: list[Problem], lost: tuple[Key, ...] = ()) -> Any:
    """What is left without the keys that have a problem. A table without a key that it has `lost` is not blamed too."""
    if not given:  # nothing to read; what reads takes longer to make than everything else here
        return _defaults(_SECTIONS[section])
    # as JSON, because a strict reading of JSON is what a file wants: a list is a tuple, "587" is not a number
    text = json.dumps(_nested((section,), given), default=lambda _date: {})
    try:
        return TypeAdapter(_SECTIONS[section]).validate_json(text, strict=True)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
    keys = [_key_at(section, _place(fault), given) for fault in faults]
    wrong = [_blamed(key, given) for key in keys]
    problems += [
        _problem(fault, bad, key, given)
        for fault, bad, key in zip(faults, wrong, keys, strict=True)
        if not any(is_below(gone, bad) for gone in lost)
    ]
    kept = {key: item for key, item in given.items() if not any(is_below(key, bad) for bad in wrong)}
    return _validated(section, kept, problems, (*lost, *wrong))


def _nested(table: Key, given: Layer) -> Any:
    """The values below a key as tables within tables; items of a list without gaps."""
    names = list(dict.fromkeys(key[len(table)] for key in given if is_below(key, table) and len(key) > len(table)))
    found = (given.get((*table, name)) for name in names)
    values = [
        item.value if item and item.value is not MARK else _nested((*table, name), given)
        for name, item in zip(names, found, strict=True)
    ]
    return values if any(isinstance(name, int) for name in names) else dict(zip(names, values, strict=True))


def _place(fault: Any) -> tuple[str | int, ...]:
    """Where pydantic found a fault; a table that does not fit together may say which of its keys is to change."""
    error = fault.get("ctx", {}).get("error")
    return (*fault["loc"], error.key) if isinstance(error, Misfit) else tuple(fault["loc"])


def _key_at(section: str, place: tuple[str | int, ...], given: Layer) -> Key:
    """The key that pydantic means; it counts the items that are there, keys number those that were written."""
    key: Key = (section,)
    for part in place:
        numbers = list(dict.fromkeys(k[len(key)] for k in given if is_below(k, key) and len(k) > len(key)))
        key = (*key, numbers[part] if isinstance(part, int) and numbers else part)
    return key


def _blamed(key: Key, given: Layer) -> Key:
    """What was written there, or the table that it is missing from; the section if that is all there is."""
    prefixes = (key[:length] for length in range(len(key), 0, -1))
    return next((prefix for prefix in prefixes if prefix in given), key[:1])


def _problem(fault: Any, blamed: Key, key: Key, given: Layer) -> Problem:
    where = given[blamed].where if blamed in given else next(iter(given.values())).where
    missing = fault["type"] == "missing"
    return Problem(where, dotted(key if missing else blamed), _message(fault["type"], fault, key[len(blamed) :]))


def _message(kind: str, fault: Any, item: Key) -> str:
    context = fault.get("ctx", {})
    if kind == "value_error":
        message = str(context["error"])  # written by the rooms, who know the rule
    elif kind == "literal_error":
        message = "must be one of " + context["expected"].replace("'", '"').replace(" or ", ", ")
    else:
        message = _SAYS.get(kind, "not valid here")
    return f"item {item[0] + 1}: {message}" if item and isinstance(item[0], int) else message


def _anchored(settings: Any, table: Key, written: Written) -> Any:
    """Rule 5, for paths and for the path in an SQLite URL."""
    if isinstance(settings, Mapping):
        return {name: _anchored(item, (*table, name), written) for name, item in settings.items()}
    changes: dict[str, Any] = {}
    for name in (item.name for item in fields(settings)):
        key, value = (*table, name), getattr(settings, name)
        start = written.given[key].base if key in written.given else written.base
        sqlite = _SQLITE_FILE.fullmatch(value) if key == ("database", "url") else None
        if isinstance(value, Mapping) or is_settings(value):
            changes[name] = _anchored(value, key, written)
        elif isinstance(value, tuple) and any(map(is_settings, value)):
            changes[name] = tuple(_anchored(item, (*key, at), written) for at, item in enumerate(value))
        elif sqlite:
            changes[name] = f"{sqlite['scheme']}{start / sqlite['path']}{sqlite['query'] or ''}"
        elif isinstance(value, str) and value and _PATH_NAME.search(name):
            changes[name] = str(start / at_home(Path(value)))
        elif isinstance(value, tuple) and value and name.endswith("_command") and "/" in value[0]:
            changes[name] = (str(start / at_home(Path(value[0]))), *value[1:])
    return replace(settings, **changes)


# ---- what only shows between keys


def _url_trouble(config: Config) -> str:
    url = _URL.fullmatch(config.database.url)
    if not url:
        return "not a database URL; write it like postgresql://user@host/name or sqlite:///outbox.db"
    if url["dialect"] in _UNSUPPORTED:
        return f"not supported: {url['dialect']}, because {_UNSUPPORTED[url['dialect']]}"
    if url["dialect"] not in _SUPPORTED:
        return "not supported: use one of " + ", ".join(_SUPPORTED)
    if url["dialect"] == "sqlite" and (url["rest"] or "").partition("?")[0] in {"", ":memory:"}:
        return "an outbox in memory ends with the process; name a file, as in sqlite:///outbox.db"
    return ""


def _schema_trouble(config: Config) -> str:
    elsewhere = config.database.schema is not None and not config.database.url.startswith("postgresql")
    return "only PostgreSQL has schemas; leave it out for the database in database.url" if elsewhere else ""


def _nothing_to_hear(config: Config) -> str:
    deaf = config.poll.listen and not config.database.url.startswith("postgresql")
    return "only PostgreSQL notifies; leave it out for the database in database.url" if deaf else ""


def _retry_backwards(config: Config) -> str:
    backwards = config.retry.longest < config.retry.first
    return "the waits would shrink; retry.longest must be at least retry.first" if backwards else ""


def _pauses_backwards(config: Config) -> str:
    backwards = config.throttle.longest_pause < config.throttle.first_pause
    remedy = "throttle.longest_pause must be at least throttle.first_pause"
    return f"the pauses would shrink; {remedy}" if backwards else ""


def _heartbeat_slow(config: Config) -> str:
    slow = config.worker.heartbeat > config.worker.takeover / 3
    remedy = "worker.heartbeat must be at most a third of worker.takeover"
    return f"a worker would be given up after a lost beat or two; {remedy}" if slow else ""


_PLACE = re.compile(r"(?:[^:\[\]\s]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")
_LAST_PORT = 65535


def _no_place_to_listen(config: Config) -> str:
    return _no_place(config.http.listen, "127.0.0.1:8025")


def _no_place_for_mail(config: Config) -> str:
    return _no_place(config.submission.listen, "127.0.0.1:2525")


def _no_place(listen: str | None, example: str) -> str:
    found = _PLACE.fullmatch(listen) if listen is not None else None
    is_right = listen is None or (found is not None and int(found["port"]) <= _LAST_PORT)
    return "" if is_right else f'must be HOST:PORT, such as "{example}"'


def _in_a_circle(config: Config) -> str:
    """What comes in would go out to where it comes in."""
    if config.submission.listen is None:
        return ""
    host, port = config.submission.place
    relays = (config.smtp, *config.relays.values())
    circle = any(is_loopback(relay.host or "") and str(relay.port) == port and is_loopback(host) for relay in relays)
    return "a relay has the same address, so mail would go round in a circle; choose another port" if circle else ""


def _nobody_to_carry_alarms(config: Config) -> str:
    return "" if config.alerts.relay in {"smtp", *config.relays} else _NO_SUCH_RELAY


def _nobody_to_carry_reports(config: Config) -> str:
    return "" if config.batches.relay in {"smtp", *config.relays} else _NO_SUCH_RELAY


_NO_SUCH_RELAY = "there is no relay of this name; write smtp, or one of [relays]"


_CHECKS: tuple[tuple[tuple[Key, ...], Callable[[Config], str]], ...] = (
    ((("database", "url"),), _url_trouble),
    ((("database", "schema"), ("database", "url")), _schema_trouble),
    ((("poll", "listen"), ("database", "url")), _nothing_to_hear),
    ((("retry", "longest"), ("retry", "first")), _retry_backwards),
    ((("throttle", "longest_pause"), ("throttle", "first_pause")), _pauses_backwards),
    ((("worker", "heartbeat"), ("worker", "takeover")), _heartbeat_slow),
    ((("http", "listen"),), _no_place_to_listen),
    ((("alerts", "relay"),), _nobody_to_carry_alarms),
    ((("submission", "listen"),), _no_place_for_mail),
    ((("submission", "listen"), ("smtp", "port")), _in_a_circle),
    ((("batches", "relay"),), _nobody_to_carry_reports),
)
"""The keys that a check weighs against each other, the one to blame first."""

Finding = tuple[tuple[Key, ...], str]
"""The keys that were weighed against each other, the one to blame first, and what to do."""


def _between_relays(config: Config) -> Iterator[Finding]:
    """What holds for the first relay holds for each."""
    relays: dict[Key, RelaySettings] = {("smtp",): config.smtp}
    relays |= {("relays", name): relay for name, relay in config.relays.items()}
    for table, relay in relays.items():
        for keys, message in relay_contradictions(relay, dotted(table)):
            yield tuple((*table, *key.split(".")) for key in keys), message
    slowest = max(relays, key=lambda table: relays[table].end_timeout)
    least = relays[slowest].end_timeout + min(LONGEST_LOCAL_WORK_S, relays[slowest].end_timeout)
    if config.worker.takeover < least:
        need = f"at least {format_duration(least)} ({dotted(slowest)}.end_timeout and a minute, or as much again)"
        message = f"a row could be taken over while it is being sent; worker.takeover must be {need}"
        yield (("worker", "takeover"), (*slowest, "end_timeout")), message


def _between_limits(config: Config) -> Iterator[Finding]:
    """A table with a problem of its own may have lost what another one looks for."""
    for key, message in throttle_contradictions(config.throttle):
        rests_on = {"providers": ("providers",), "replies": ("replies", "providers")}.get(str(key[0]), ())
        yield (("throttle", *key), *(("throttle", table) for table in rests_on)), message


def _in_http(config: Config) -> Iterator[Finding]:
    for key, message in http_contradictions(config.http, UNREAD):
        yield (("http", *key), ("http", "listen")), message


def _disagreements(config: Config, given: Layer, wrong: set[str]) -> Iterator[Problem]:
    """What the checks find; a finding is dropped when one of its keys already has a problem of its own."""
    found: list[Finding] = [(keys, check(config)) for keys, check in _CHECKS]
    found += () if config.unsubscribe.key == UNREAD else list_contradictions(config.lists, config.unsubscribe)
    found += () if config.bounces.key == UNREAD else bounce_contradictions(config.bounces)
    for keys, message in (*found, *_between_relays(config), *_between_limits(config), *_in_http(config)):
        if message and not any(bad.startswith(dotted(key)) for bad in wrong for key in keys):
            key = next((key for key in keys if key in given), keys[0])
            yield Problem(given[key].where if key in given else "defaults", dotted(key), message)
    for key, item in given.items():  # one that is run for each token, and not only now: Rule 4 holds all the same
        if key[-1] == "token_command" and item.no_command:
            yield Problem(item.where, dotted(key), item.no_command)
    for name, message in names_in_trouble(config.smtp, config.relays):
        yield Problem(given[name].where, dotted(name), message)


def _in_order(problem: Problem) -> tuple[bool, int]:
    line = problem.where.rpartition(":")[2]
    return (not line.isdigit(), int(line) if line.isdigit() else 0)
