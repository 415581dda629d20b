"""What the configuration promises: every key readable, every error at once, no value shown."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from poller.config.load import COMPOSING, HTTP, RELAYS, Config, ConfigError, Problem, load
from poller.judgement.advice import ReplyPattern
from poller.judgement.providers import SHIPPED as PROVIDERS
from poller.message.list_settings import ListSettings
from poller.message.settings import DkimSettings
from poller.pacing.limits import Limit
from poller.pacing.settings import ProviderSettings
from poller.settings import TokenSettings
from poller.smtp.relays import FirstRelaySettings, RelaySettings, relays_of
from poller.smtp.settings import OAuth2Settings
from poller.units import Rate

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
SECTIONS: dict[str, Any] = {
    item.name: getattr(Config(), item.name) for item in fields(Config) if is_dataclass(getattr(Config(), item.name))
}
TABLES = {("throttle", "providers"), ("throttle", "domains"), ("throttle", "senders"), ("throttle", "replies")}
TABLES |= {("smtp", "oauth2"), ("http", "tokens"), ("submission", "users")}
"""What lies below a section; the keys in them are none of the section."""
KEYS = [
    (section, item)
    for section, settings in SECTIONS.items()
    for item in fields(settings)
    if (section, item.name) not in TABLES
]


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "config.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def problems_of(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(written(text), environ or {})
    return [str(problem) for problem in caught.value.problems]


# ---- where it is looked for


def test_without_a_file_the_defaults_hold_and_it_says_where_it_looked() -> None:
    config = load(None, {})
    assert (config, config.source) == (Config(), None)
    assert config.looked == (Path("config.toml"), Path("/etc/poller/config.toml"))


def test_the_named_file_comes_before_the_variable_and_that_before_the_working_directory() -> None:
    for name in ("named.toml", "variable.toml", "config.toml"):
        written(f'[worker]\nname = "{name}"\n', name)
    environ = {"POLLER_CONFIG": "variable.toml"}
    found = [load(Path("named.toml"), environ), load(None, environ), load(None, {})]
    assert [config.worker.name for config in found] == ["named.toml", "variable.toml", "config.toml"]
    assert [config.source for config in found] == [Path("named.toml"), Path("variable.toml"), Path("config.toml")]


def test_a_named_file_that_is_missing_is_an_error_that_says_who_named_it() -> None:
    with pytest.raises(ConfigError) as caught:
        load(Path("no.toml"), {})
    assert caught.value.problems == (Problem("--config", "no.toml", "No such file or directory"),)
    with pytest.raises(ConfigError) as caught:
        load(None, {"POLLER_CONFIG": "no.toml"})
    assert caught.value.problems == (Problem("$POLLER_CONFIG", "no.toml", "No such file or directory"),)


def test_a_file_that_is_found_but_cannot_be_read_is_not_passed_over() -> None:
    Path("config.toml").mkdir()
    with pytest.raises(ConfigError, match=r"config\.toml: Is a directory"):
        load(None, {})


@pytest.mark.parametrize(
    ("raw", "line", "reason"),
    [
        (b"[smtp]\nport 587\n", 2, "not TOML: "),
        (b'[smtp]\nhost = """x\n\n', 3, "not TOML: "),
        (b"a = " + b"[" * 100_000, 1, "not TOML: "),
        (b"[smtp]\nhost = '\xff'\n", 2, "not UTF-8 text"),
    ],
    ids=["no equals sign", "open string", "too deep", "latin-1"],
)
def test_a_file_that_is_not_toml_is_an_error_with_its_line(raw: bytes, line: int, reason: str) -> None:
    Path("config.toml").write_bytes(raw)
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    assert [problem.where for problem in caught.value.problems] == [f"config.toml:{line}"]
    assert caught.value.problems[0].message.startswith(reason)


# ---- all errors at once


def test_every_error_is_shown_at_once_with_its_line_and_without_values() -> None:
    text = """\
[smtp]
hosst = "relay.internal"
username = "shop"
password_file = "missing.secret"
reply_timeout = "5 parsecs"
port = 99999
security = "ssl"

[message]
only_to = ["@example.com", 17]

[retri]
first = "1s"
"""
    environ = {"POLLER__POLL__BATCHSIZE": "5", "POLLER__POLL__INTERVAL": "hunter2"}
    expected = [
        'config.toml:2: smtp.hosst: unknown key; did you mean "host"?',
        f"config.toml:4: smtp.password_file: {Path.cwd() / 'missing.secret'}: No such file or directory",
        'config.toml:5: smtp.reply_timeout: not a duration; write it like "500ms", "5s", "10m", "2h" or "5d"',
        "config.toml:6: smtp.port: too large; at most 65535",
        'config.toml:7: smtp.security: must be one of "starttls", "tls", "none"',
        "config.toml:10: message.only_to: item 2: must be text in quotes",
        'config.toml:12: retri: unknown section; did you mean "retry"?',
        '$POLLER__POLL__BATCHSIZE: poll.batchsize: unknown key; did you mean "batch_size"?',
        '$POLLER__POLL__INTERVAL: poll.interval: not a duration; write it like "500ms", "5s", "10m", "2h" or "5d"',
    ]
    assert problems_of(text, environ) == expected


def test_the_error_reads_as_a_list() -> None:
    with pytest.raises(ConfigError) as caught:
        load(written("[smtp]\nport = 0\nx = 1\n"), {})
    expected = """\
2 problems in the configuration:
  config.toml:2: smtp.port: too small; at least 1
  config.toml:3: smtp.x: unknown key"""
    assert str(caught.value) == expected


@pytest.mark.parametrize(("section", "item"), KEYS, ids=lambda part: getattr(part, "name", part))
def test_no_key_shows_its_value_when_it_is_wrong(section: str, item: Any) -> None:
    values = ['"hunter2 \\u0000"', '["hunter2", ["hunter2"]]', '{hunter2 = "hunter2"}', "2024-01-01", "true", "nan"]
    shown = ""
    for value in values:
        try:
            load(written(f"[{section}]\n{item.name} = {value}\n"), {})
        except ConfigError as error:
            shown += str(error) + repr(error)
    assert f"config.toml:2: {section}.{item.name}: " in shown
    assert [secret for secret in ("hunter2", "2024") if secret in shown] == []


@pytest.mark.parametrize(
    "text",
    [
        'smtp.port = 0 # "',
        "\"smtp\".'port' = 0",
        "smtp = { host = 'x', port = 0 }",
        "[ 'smtp' ] # [poll]\nhost = '''\nport = 1\n'''\n\n  port = 0",
        "[message]\nonly_to = [\n  'a', # ]\n  'b',\n]\n[smtp]\nhost = '[poll]'\nport = 0",
        "[message]\r\nonly_to = []\r\n[smtp]\r\nport = 0",
    ],
)
def test_the_line_is_right_however_toml_is_written(text: str) -> None:
    line = len(text.splitlines())
    assert problems_of(text) == [f"config.toml:{line}: smtp.port: too small; at least 1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smtp = 5", "config.toml:1: smtp: a section; write [smtp] and its keys below"),
        ("port = 5", "config.toml:1: port: unknown section"),
        ("[poll]\n[poll.extra]\n", "config.toml:2: poll.extra: unknown key"),
        ("[smtp]\ninterval = '5s'\n", "config.toml:2: smtp.interval: unknown key; it belongs in [poll]"),
        ("[retry]\nfactor = inf\n", "config.toml:2: retry.factor: must be a number"),
        ("[smtp]\nport = true\n", "config.toml:2: smtp.port: must be a whole number"),
        ("[smtp]\nport = '587'\n", "config.toml:2: smtp.port: must be a whole number"),
        ("[smtp]\nhost = 2024-01-01\n", "config.toml:2: smtp.host: must be text in quotes"),
        ("[message]\nonly_to = 'a'\n", 'config.toml:2: message.only_to: must be a list, such as ["a", "b"]'),
    ],
)
def test_a_mistake_is_named_in_the_words_of_who_made_it(text: str, expected: str) -> None:
    assert problems_of(text) == [expected]


# ---- the environment


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("POLLER__SMTP__PORT", "2525", 2525),
        ("POLLER__SMTP__HOST", "25", "25"),
        ("POLLER__RETRY__FACTOR", "1.5", 1.5),
        ("POLLER__POLL__INTERVAL", "1m30s", 90.0),
        ("POLLER__MESSAGE__MAX_SIZE", "1MB", 1_000_000),
        ("POLLER__MESSAGE__MAX_SIZE", "1000", 1000),
        ("POLLER__MESSAGE__ONLY_TO", '["a@example.com", "@b"]', ("a@example.com", "@b")),
        ("POLLER__MESSAGE__SENDER", "Søren <s@example.com>", "Søren <s@example.com>"),
        ("POLLER__MESSAGE__SENDER", "", None),
    ],
)
def test_the_environment_overrides_the_file_by_the_type_of_the_key(variable: str, text: str, expected: object) -> None:
    path = written("[smtp]\nport = 1\nhost = 'file'\n[message]\nsender = 'file'\nonly_to = ['file']\n")
    _, section, key = variable.lower().split("__")
    assert getattr(getattr(load(path, {variable: text}), section), key) == expected


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("POLLER__SMPT__HOST", "x", 'smpt: unknown section; did you mean "smtp"?'),
        ("POLLER__SMTP__HOTS", "x", 'smtp.hots: unknown key; did you mean "host"?'),
        ("POLLER__SMTP", "x", "smtp.: unknown key"),
        ("POLLER__SMTP__PORT", "x", "smtp.port: must be a whole number"),
        (
            "POLLER__POLL__INTERVAL",
            "5",
            'poll.interval: not a duration; write it like "500ms", "5s", "10m", "2h" or "5d"',
        ),
        ("POLLER__RETRY__JITTER", "nan", "retry.jitter: must be a number"),
        ("POLLER__MESSAGE__ONLY_TO", "a@b", 'message.only_to: must be a list, such as ["a", "b"]'),
        ("POLLER__MESSAGE__ONLY_TO", "[]\nx = 1", 'message.only_to: must be a list, such as ["a", "b"]'),
        ("POLLER__MESSAGE__SENDER", "\udcff", "message.sender: not UTF-8 text"),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {variable: text})
    assert [str(problem) for problem in caught.value.problems] == [f"${variable}: {expected}"]


def test_other_variables_are_left_alone() -> None:
    assert load(None, {"POLLER": "x", "POLLER_HOME": "x", "SMTP__PORT": "x"}) == Config()


# ---- secrets

LOGIN = "[smtp]\nusername = 'shop'\n"


def test_a_secret_may_come_from_a_file_beside_the_configuration() -> None:
    Path("secret").write_text("pässword \r\n", encoding="utf-8")
    assert load(written(LOGIN + "password_file = 'secret'\n"), {}).smtp.password == "pässword "


def test_a_secret_may_come_from_a_command_that_no_shell_reads() -> None:
    argv = [sys.executable, "-c", "import sys; print(sys.argv[1])", "$HOME; `id`"]
    assert load(written(f"{LOGIN}password_command = {argv!r}\n"), {}).smtp.password == "$HOME; `id`"


def test_a_secret_from_the_environment_replaces_whatever_form_the_file_uses() -> None:
    Path("secret").write_text("from a file\n", encoding="utf-8")
    path = written(LOGIN + "password_command = ['false']\n")
    assert load(path, {"POLLER__SMTP__PASSWORD": "plain"}).smtp.password == "plain"
    assert load(path, {"POLLER__SMTP__PASSWORD_FILE": "secret"}).smtp.password == "from a file"


def test_two_forms_of_one_secret_are_an_error() -> None:
    expected = ["config.toml:4: smtp.password: give only one of password, password_file"]
    assert problems_of(LOGIN + "password = 'x'\npassword_file = 'y'\n") == expected


def test_a_command_from_the_environment_is_never_run() -> None:
    environ = {"POLLER__SMTP__PASSWORD_COMMAND": '["touch", "ran"]'}
    expected = (
        "$POLLER__SMTP__PASSWORD_COMMAND: smtp.password_command: "
        "not run: a command is honoured only from the configuration file"
    )
    assert problems_of(LOGIN, environ) == [expected]
    assert not Path("ran").exists()


def test_a_command_from_a_file_that_others_can_write_is_not_run() -> None:
    path = written(LOGIN + "password_command = ['touch', 'ran']\n")
    path.chmod(0o660)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    reason = "not run, because others can write config.toml; chmod go-w config.toml"
    assert caught.value.problems == (Problem("config.toml:3", "smtp.password_command", reason),)
    assert not Path("ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_command_from_a_file_of_somebody_else_is_not_run() -> None:
    path = written(LOGIN + "password_command = ['touch', 'ran']\n")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to someone else; make it yours or root's"):
        load(path, {})
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("password_command = ['false', 'hunter2']", "false: ended with status 1; run it by hand to see why"),
        ("password_command = ['/no/such/program', 'hunter2']", "/no/such/program: No such file or directory"),
        ("password_command = ['true']", "true: empty"),
        (
            "password_command = 'pass hunter2'",
            'must be a list of words, such as ["pass", "show", "smtp"]; no shell reads it',
        ),
        ("password_file = '/dev/null'", "/dev/null: empty"),
        ("password_file = '/dev/zero'", "/dev/zero: too long for a secret"),
        ("password_file = ['hunter2']", "must be the path of a file, in quotes"),
    ],
)
def test_a_secret_that_cannot_be_had_is_an_error_without_its_value(line: str, expected: str) -> None:
    name = line.partition(" ")[0]
    assert problems_of(f"{LOGIN}{line}\n") == [f"config.toml:3: smtp.{name}: {expected}"]


def test_every_field_that_hides_itself_is_a_secret_and_never_printed() -> None:
    secrets = [(section, item.name) for section, item in KEYS if not item.repr]
    assert {("database", "url"), ("smtp", "password")} <= set(secrets)
    Path("secret").write_text("postgresql://u:hunter2@h/x", encoding="utf-8")
    config = load(written(f"{LOGIN}password_file = 'secret'\n[database]\nurl_file = 'secret'\n"), {})
    assert config.database.url == config.smtp.password == "postgresql://u:hunter2@h/x"
    assert "hunter2" not in repr(config)


# ---- paths


def test_a_relative_path_starts_from_the_file_that_names_it(tmp_path: Path) -> None:
    Path("etc").mkdir()
    path = written("[templates]\ndirectory = 'mails'\n[smtp]\nca_file = '/ca.pem'\n", "etc/config.toml")
    config = load(path, {"POLLER__WORKER__STATE_DIR": "state"})
    assert config.templates.directory == str(tmp_path / "etc/mails")
    assert config.smtp.ca_file == "/ca.pem"
    assert config.worker.state_dir == "state"
    assert config.database.url == f"sqlite:///{tmp_path}/etc/outbox.db"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///a.db", "sqlite:///{here}/a.db"),
        ("sqlite+pysqlite:///a/b.db?timeout=5", "sqlite+pysqlite:///{here}/a/b.db?timeout=5"),
        ("sqlite:////abs/a.db", "sqlite:////abs/a.db"),
        (
            "postgresql+psycopg://u:p%40/w@h:5432/n?sslmode=require",
            "postgresql+psycopg://u:p%40/w@h:5432/n?sslmode=require",
        ),
        ("mariadb+pymysql://u@[::1]/n", "mariadb+pymysql://u@[::1]/n"),
        ("postgresql:///n?host=/run/postgresql", "postgresql:///n?host=/run/postgresql"),
    ],
)
def test_only_a_relative_sqlite_url_is_completed(url: str, expected: str, tmp_path: Path) -> None:
    assert load(written(f"[database]\nurl = '{url}'\n"), {}).database.url == expected.format(here=tmp_path)


# ---- what only shows between keys


NOT_A_URL = "not a database URL; write it like postgresql://user@host/name or sqlite:///outbox.db"
SKIPS_NOTHING = "SKIP LOCKED is silently dropped for it, and two workers would send the same mail"
IN_MEMORY = "an outbox in memory ends with the process; name a file, as in sqlite:///outbox.db"
WAITS = "the waits would shrink; retry.longest must be at least retry.first"
EARLY = "a row could be taken over while it is being sent; worker.takeover must be at least"
SPARED = "a minute, or as much again)"
SPARE = "smtp.end_timeout and a minute, or as much again"
RESTS, FIRST = "the rests would shrink;", "relays.b.rest_first"
PAUSES = "the pauses would shrink; throttle.longest_pause must be at least throttle.first_pause"
BEATS = (
    "a worker would be given up after a lost beat or two; worker.heartbeat must be at most a third of worker.takeover"
)
CLEAR_TEXT = "would send the password in clear text; only a relay on this machine may do without TLS"


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("smtp.username = 'x'", "smtp.username", "needs smtp.password beside it, or [smtp.oauth2]"),
        ("smtp.password = 'x'", "smtp.password", "needs smtp.username beside it"),
        (
            "database.schema = 'x'",
            "database.schema",
            "only PostgreSQL has schemas; leave it out for the database in database.url",
        ),
        ("database.url = 'h/n'", "database.url", NOT_A_URL),
        ("database.url = 'mysql://h:port/n'", "database.url", NOT_A_URL),
        ("database.url = 'mssql+pyodbc://h/n'", "database.url", f"not supported: mssql, because {SKIPS_NOTHING}"),
        (
            "database.url = 'hunter2://h/n'",
            "database.url",
            "not supported: use one of postgresql, mysql, mariadb, sqlite",
        ),
        ("database.url = 'sqlite://'", "database.url", IN_MEMORY),
        ("database.url = 'sqlite:///:memory:'", "database.url", IN_MEMORY),
        ("retry.longest = '59s'", "retry.longest", WAITS),
        ("retry.first = '5h'", "retry.first", WAITS),
        ("worker.takeover = '10m59s'", "worker.takeover", f"{EARLY} 11m ({SPARE})"),
        ("smtp.end_timeout = '20m'", "smtp.end_timeout", f"{EARLY} 21m ({SPARE})"),
        ("worker.heartbeat = '301s'", "worker.heartbeat", BEATS),
        ("smtp={host='h',security='none',username='u',password='p'}", "smtp.security", CLEAR_TEXT),
        (
            "smtp.rest_longest = '500ms'",
            "smtp.rest_longest",
            f"{RESTS} smtp.rest_longest must be at least smtp.rest_first",
        ),
        ("relays.b.username = 'x'", "relays.b.username", "needs relays.b.password beside it, or [relays.b.oauth2]"),
        ("relays.b.password = 'x'", "relays.b.password", "needs relays.b.username beside it"),
        ("relays.'b.c'.password = 'x'", 'relays."b.c".password', 'needs relays."b.c".username beside it'),
        ("relays.b={host='h',security='none',username='u',password='p'}", "relays.b.security", CLEAR_TEXT),
        ("relays.b.end_timeout = '20m'", "relays.b.end_timeout", f"{EARLY} 21m (relays.b.end_timeout and {SPARED}"),
        (
            "relays.b.rest_first = '6m'",
            "relays.b.rest_first",
            f"{RESTS} relays.b.rest_longest must be at least {FIRST}",
        ),
        ("throttle.longest_pause = '59s'", "throttle.longest_pause", PAUSES),
        ("throttle.first_pause = '2h'", "throttle.first_pause", PAUSES),
    ],
)
def test_keys_that_contradict_each_other_are_an_error(text: str, key: str, expected: str) -> None:
    assert problems_of(text) == [f"config.toml:1: {key}: {expected}"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1", "[::1]", "mail.localhost", "LOCALHOST."])
def test_a_relay_on_this_machine_may_do_without_tls(host: str) -> None:
    text = f"[smtp]\nhost = '{host}'\nsecurity = 'none'\nusername = 'u'\npassword = 'p'\n"
    assert load(written(text), {}).smtp.host == host


def test_both_switches_for_staging_may_be_on() -> None:
    config = load(written("[message]\nredirect_to = 'a@b.test'\nonly_to = ['@b.test']\n"), {})
    assert (config.message.redirect_to, config.message.only_to) == ("a@b.test", ("@b.test",))


def test_a_key_that_is_wrong_in_itself_is_not_blamed_twice() -> None:
    assert problems_of("retry.longest = '1 s'\nretry.first = '2h'") == [
        'config.toml:1: retry.longest: not a duration; write it like "500ms", "5s", "10m", "2h" or "5d"',
    ]


# ---- relays


def test_a_relay_of_its_own_has_the_defaults_and_not_what_the_first_one_says() -> None:
    text = (
        "[smtp]\nhost = 'a.test'\nport = 25\nusername = 'u'\npassword = 'p'\nrates = ['1/s']\n[relays.b]\norder = 2\n"
    )
    config = load(written(text), {})
    assert config.relays == {"b": RelaySettings(order=2)}
    assert (config.smtp.name, config.smtp.port, str(config.smtp.pace)) == ("smtp", 25, "1/s")


def test_a_relays_secret_and_path_are_read_like_those_of_the_first() -> None:
    Path("secret").write_text("hunter2\n", encoding="utf-8")
    text = "[relays.west-1]\nusername = 'u'\npassword_file = 'secret'\nca_file = 'ca.pem'\n"
    relay = load(written(text), {"POLLER__RELAYS__WEST_1__PORT": "465"}).relays["west-1"]
    assert (relay.password, relay.ca_file, relay.port) == ("hunter2", str(Path("ca.pem").absolute()), 465)


NAMED = "a relay's name has letters, digits, dots, hyphens and underscores, at most 64"
TAKEN = "another relay has this name; rows could not tell them apart"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[relays.'a b']", f'config.toml:1: relays."a b": {NAMED}'),
        ("[smtp]\nname = ''", f"config.toml:2: smtp.name: {NAMED}"),
        ("[relays.SMTP]", f"config.toml:1: relays.SMTP: {TAKEN}"),
        ("[smtp]\nname = 'West'\n[relays.west]", f"config.toml:3: relays.west: {TAKEN}"),
        ("[relays.b]\n[relays.B]", f"config.toml:2: relays.B: {TAKEN}"),
    ],
)
def test_each_relay_needs_a_name_of_its_own(text: str, expected: str) -> None:
    assert problems_of(text) == [expected]


def test_a_relay_may_be_called_smtp_when_the_first_one_is_not() -> None:
    config = load(written("[smtp]\nname = 'first'\n[relays.smtp]\n"), {})
    assert list(relays_of(config.smtp, config.relays)) == ["first", "smtp"]


def test_a_takeover_that_is_too_early_for_several_relays_is_told_once_with_what_suits_all() -> None:
    text = "[worker]\ntakeover = '5m'\n[relays.a]\nend_timeout = '20m'\n[relays.b]\nend_timeout = '30m'\n"
    assert problems_of(text) == [f"config.toml:2: worker.takeover: {EARLY} 31m (relays.b.end_timeout and {SPARED}"]


# ---- pacing

NOT_A_RATE = 'not a rate; write it like "2/s", "30/m", "100/15m", "1000/h" or "10000/d"'
NOT_A_DOMAIN = 'not a domain; write it in lower case like "example.com", and xn--... if it is not ASCII'
NOT_A_SENDER = 'not a sender; write it like "a@example.com", or "@example.com" for all'
A_YEAR = "a burst of 9000 is more than 1/h lets through in a year"
NEVER = "these windows and quiet hours never open"
NO_PROVIDER = "no such provider; give it a table, [throttle.providers.NAME]"
A_REPLY = "[[throttle.replies]]\naction = 'defer'\ncodes = [4]\n"
WRITE_A_TABLE = "a table; write [throttle.domains.a] and its keys below"
EVERY_REPLY = "would match every reply; give codes, a status or a text that only some have"


def test_pacing_is_read_with_all_its_tables() -> None:
    text = """\
[throttle]
rates = ["100/m", "20000/d"]
gap = "1s"
windows = ["Mon-Fri 08:00-18:00"]
time_zone = "Europe/Berlin"
raise_after = 20
[throttle.domains."example.com"]
rates = ["10/s"]
burst = 5
[throttle.senders]
"@example.com" = { gap = "5s", counts = "recipients" }
[throttle.providers.mine]
domains = ["example.*"]
[[throttle.replies]]
action = "defer"
codes = [4]
provider = "mine"
"""
    throttle = load(written(text), {"POLLER__THROTTLE__DOMAINS__EXAMPLE_COM__BURST": "6"}).throttle
    assert ([str(rate) for rate in throttle.rates], throttle.gap, throttle.raise_after) == (
        ["100/m", "20000/d"],
        1.0,
        20,
    )
    assert throttle.domains == {"example.com": Limit(rates=(Rate(count=10, period=1),), burst=6)}
    assert throttle.senders == {"@example.com": Limit(gap=5.0, counts="recipients")}
    assert throttle.known_providers.provider_of("example.co.uk") == "mine"
    assert [line.provider for line in throttle.replies] == ["mine"]
    assert str(throttle.hours.zone) == "Europe/Berlin"


TABLE_KEYS = [
    (table, item.name)
    for table, settings in (
        ("[relays.b]", RelaySettings),
        ("[smtp.oauth2]", OAuth2Settings),
        ("[throttle.providers.b]", ProviderSettings),
        ("[throttle.domains.b]", Limit),
        ("[[throttle.replies]]", ReplyPattern),
        ('[dkim."b.test"]', DkimSettings),
        ("[lists.b]", ListSettings),
        ("[http.tokens.b]", TokenSettings),
    )
    for item in fields(settings)
    if item.name != "oauth2"
]


_CLIENT = 'client_id = "a"\nclient_secret = "b"\n'
_GRANT = 'grant = "client_credentials"\n'


@pytest.mark.parametrize(
    ("login", "table", "key", "expected"),
    [
        ("", 'preset = "microsoft365"\n' + _CLIENT, "", "needs tenant: the id of the directory"),
        ("", 'preset = "microsoft365"\ntenant = "../x"\n' + _CLIENT, ".tenant", "must be the tenant's id"),
        ("", 'preset = "microsoft365"\ntenant = "t"\nclient_secret = "b"\n', "", "needs client_id"),
        ("", 'preset = "google"\nclient_id = "a"\n', "", "needs refresh_token_file, which poller login writes"),
        ("", 'preset = "google"\n' + _GRANT + _CLIENT, ".grant", "no tokens without a person's consent"),
        ("", _CLIENT, "", "says not where tokens come from"),
        ("", 'token_url = "https://a/t"\n' + _CLIENT, "", 'needs grant = "client_credentials" or "refresh_token"'),
        ("", 'token_url = "https://a/t"\n' + _GRANT + _CLIENT, "", "needs scope"),
        ("", 'token_url = "http://a/t"\nscope = "s"\n' + _GRANT + _CLIENT, ".token_url", "secrets in clear text"),
        ("", 'token_url = "a/t"\nscope = "s"\n' + _GRANT + _CLIENT, ".token_url", "not an address"),
        ("", 'token_file = "a"\ntoken_command = ["b"]\n', ".token_command", "give only one of"),
        ("", 'token_file = "a"\npreset = "google"\n', ".token_file", "gives the token itself"),
        ('password = "p"\n', 'token_file = "a"\n', "!password", "a login has a password or tokens"),
        ('auth = "plain"\n', 'token_file = "a"\n', "!auth", "takes a password"),
        ('auth = "xoauth2"\npassword = "p"\n', "", "!auth", "takes tokens; needs a table [smtp.oauth2]"),
    ],
)
def test_a_table_of_tokens_that_does_not_fit_together_is_an_error(
    login: str, table: str, key: str, expected: str
) -> None:
    (problem,) = problems_of(f'[smtp]\nusername = "u"\n{login}[smtp.oauth2]\n{table}')
    assert f"smtp.{key[1:]}: " in problem if key.startswith("!") else f"smtp.oauth2{key}: " in problem
    assert expected in problem


def test_a_table_of_tokens_needs_a_username_and_may_come_from_the_environment() -> None:
    assert "needs smtp.username beside it" in problems_of('[smtp.oauth2]\ntoken_file = "a"\n')[0]
    Path("config.toml").unlink()
    names = {"PRESET": "google", "CLIENT_ID": "a", "REFRESH_TOKEN_FILE": "r", "CLIENT_SECRET": "hunter2"}
    environ = {f"POLLER__SMTP__OAUTH2__{name}": value for name, value in names.items()}
    found = load(None, {**environ, "POLLER__SMTP__USERNAME": "u"}).smtp.oauth2
    assert (found.preset, found.refresh_token_file, found.client_secret) == ("google", "r", "hunter2")
    assert "hunter2" not in repr(found)


def test_a_command_for_tokens_comes_only_from_a_file_that_nobody_else_could_have_written() -> None:
    text = "[smtp]\nusername = 'u'\n[smtp.oauth2]\ntoken_command = ['bin/token', 'a/b']\n"
    base = Path.cwd()
    assert load(written(text), {}).smtp.oauth2.token_command == (str(base / "bin/token"), "a/b")
    path = written(text)
    path.chmod(0o622)
    with pytest.raises(ConfigError, match="chmod go-w"):
        load(path, {})
    with pytest.raises(ConfigError, match="only from the configuration file"):
        load(None, {"POLLER__SMTP__USERNAME": "u", "POLLER__SMTP__OAUTH2__TOKEN_COMMAND": '["token"]'})


@pytest.mark.parametrize(("table", "name"), TABLE_KEYS)
def test_no_key_of_a_table_shows_its_value_when_it_is_wrong(table: str, name: str) -> None:
    shown = ""
    for value in ('["hunter2 \\u0000", ["hunter2"]]', '{hunter2 = "hunter2"}', "2024-01-01", "true", "nan"):
        shown += "\n".join(problems_of(f"{table}\n{name} = {value}\n"))
    assert f"config.toml:2: {table.strip('[]')}.{name}: " in shown
    assert [secret for secret in ("hunter2", "2024") if secret in shown] == []


def test_a_quota_that_the_pace_never_fills_is_no_error() -> None:
    assert len(load(written("[throttle]\nrates = ['1/m', '100000/d']\n"), {}).throttle.rates) == 2


def test_pacing_may_come_from_the_environment_alone() -> None:
    environ = {
        "POLLER__THROTTLE__RATES": '["30/m"]',
        "POLLER__THROTTLE__DOMAINS": '{"example.com" = {rates = ["1/s"]}}',
        "POLLER__THROTTLE__REPLIES": '[{action = "refuse", codes = [421]}]',
    }
    throttle = load(None, environ).throttle
    assert (str(throttle.pace), list(throttle.domains), throttle.replies[0].codes) == ("30/m", ["example.com"], (421,))


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        ("[throttle]\nrates = ['30 a minute']", 2, "throttle.rates", f"item 1: {NOT_A_RATE}"),
        ("[throttle]\nrates = ['1/s', '-1/m']", 2, "throttle.rates", f"item 2: {NOT_A_RATE}"),
        ("[throttle]\nrates = '1/s'", 2, "throttle.rates", 'must be a list, such as ["a", "b"]'),
        (
            "[throttle]\nrates = ['0/m']",
            2,
            "throttle.rates",
            "item 1: a rate of zero would send nothing, ever; to stop mail use poller pause",
        ),
        (
            "[smtp]\nrates = ['1/m', '2/m']",
            2,
            "smtp.rates",
            "two rates for the same period, /m; keep the one that is meant",
        ),
        ("[throttle]\nburst = 0", 2, "throttle.burst", "too small; at least 1"),
        ("[throttle]\ngap = '1m'\nburst = 9000\nrates = ['1/h']", 3, "throttle.burst", A_YEAR),
        ("[smtp]\nport = 25\nburst = 9000\nrates = ['1/h']", 3, "smtp.burst", A_YEAR),
        ("[relays.b]\nrates = ['1/h']\nburst = 9000", 3, "relays.b.burst", A_YEAR),
        ("[throttle]\ncounts = 'bytes'", 2, "throttle.counts", 'must be one of "messages", "recipients"'),
        ("[throttle]\nraise_after = 0", 2, "throttle.raise_after", "too small; at least 1"),
        ("[throttle]\nfirst_pause = '0s'", 2, "throttle.first_pause", "too small; at least 1ms"),
        (
            "[throttle]\nwindows = ['8-18']",
            2,
            "throttle.windows",
            'item 1: not hours; write them like "Mon-Fri 08:00-18:00", "Sat,Sun 10:00-16:00" or "22:00-07:00"',
        ),
        ("[throttle]\nquiet = ['Mon 08:00-12:00', '00:00-24:00']", 2, "throttle.quiet", NEVER),
        ("[throttle]\nwindows = ['08:00-12:00']\nquiet = ['07:00-13:00']", 2, "throttle.windows", NEVER),
        (
            "[throttle]\ntime_zone = 'Mars/Base'",
            2,
            "throttle.time_zone",
            'not a time zone that is known here; write it like "Europe/Berlin" or "UTC"',
        ),
        ("[throttle.domains]\n'Example.com'.gap = '1s'", 2, 'throttle.domains."Example.com"', NOT_A_DOMAIN),
        ("[throttle.domains.'münchen.test']", 1, 'throttle.domains."münchen.test"', NOT_A_DOMAIN),
        ("[throttle.senders.'example.com']", 1, 'throttle.senders."example.com"', NOT_A_SENDER),
        ("[throttle.domain.'example.com']", 1, "throttle.domain", 'unknown key; did you mean "domains"?'),
        ("[throttle.domains.a]\nrate = ['1/s']", 2, "throttle.domains.a.rate", 'unknown key; did you mean "rates"?'),
        ("[throttle.domains]\na = '1/s'", 2, "throttle.domains.a", WRITE_A_TABLE),
        (
            "[throttle.providers.'my own']",
            1,
            'throttle.providers."my own"',
            "a provider's name has letters, digits, hyphens and underscores, at most 64",
        ),
        (
            "[throttle.providers.gogle]\ngap = '1s'",
            1,
            "throttle.providers.gogle",
            f"names neither domains nor mx, and is none of those that are shipped: {', '.join(PROVIDERS)}",
        ),
        (
            "[throttle.providers.a]\nmx = ['x.test']\n[throttle.providers.b]\nmx = ['y.test', '.x.test']",
            4,
            "throttle.providers.b.mx",
            "item 2 is claimed by [throttle.providers.a] too",
        ),
        ("[throttle.providers.a]\ndomains = ['*.test']", 2, "throttle.providers.a.domains", f"item 1: {NOT_A_DOMAIN}"),
        ("[[throttle.replies]]\naction = 'defer'", 1, "throttle.replies", EVERY_REPLY),
        ("[[throttle.replies]]\naction = 'defer'\ntext = '.*'", 1, "throttle.replies", EVERY_REPLY),
        ("[[throttle.replies]]\ncodes = [421]", 1, "throttle.replies.action", "must be given"),
        (
            "[[throttle.replies]]\naction = 'defer'\ntext = '('",
            3,
            "throttle.replies.text",
            "not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            "[[throttle.replies]]\naction = 'defer'\ncodes = [4, 250]",
            3,
            "throttle.replies.codes",
            "item 2: not the code of a refusal, such as 421, or its beginning, such as 45",
        ),
        (
            "[[throttle.replies]]\naction = 'pause'\ncodes = [4]",
            1,
            "throttle.replies",
            'a pause needs its time, as in wait = "1h"',
        ),
        (
            f"{A_REPLY}{A_REPLY}provider = 'gogle'",
            7,
            "throttle.replies.provider",
            NO_PROVIDER,
        ),
        ("[relays.b]\nsenders = ['b.test']", 2, "relays.b.senders", f"item 1: {NOT_A_SENDER}"),
        ("[relays.b]\ndomains = ['b.test', '@b.test']", 2, "relays.b.domains", f"item 2: {NOT_A_DOMAIN}"),
        ("[smtp]\nmax_connections = 0", 2, "smtp.max_connections", "too small; at least 1"),
        ("[relays]\nhost = 'h'", 2, "relays.host", "a table; write [relays.host] and its keys below"),
        ("[relays.b]\nname = 'c'", 2, "relays.b.name", "unknown key; it belongs in [smtp]"),
    ],
)
def test_pacing_that_cannot_be_meant_is_refused_by_key_and_line(text: str, line: int, key: str, expected: str) -> None:
    assert problems_of(text) == [f"config.toml:{line}: {key}: {expected}"]


def test_contradictions_between_tables_are_told_all_at_once() -> None:
    text = """\
[throttle]
quiet = ["00:00-24:00"]
[throttle.providers.a]
domains = ["x.test"]
[throttle.providers.b]
domains = ["x.test"]
[[throttle.replies]]
action = "defer"
codes = [4]
provider = "c"
[relays.b]
username = "u"
"""
    assert problems_of(text) == [
        f"config.toml:2: throttle.quiet: {NEVER}",
        "config.toml:6: throttle.providers.b.domains: item 1 is claimed by [throttle.providers.a] too",
        f"config.toml:10: throttle.replies.provider: {NO_PROVIDER}",
        "config.toml:12: relays.b.username: needs relays.b.password beside it, or [relays.b.oauth2]",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[throttle.providers.a]\ndomains = ['X.test']",
        f"{A_REPLY}provider = 'a'\n[throttle.providers.a]\nmx = ['x.test']\nburst = 0",
        f"[[throttle.replies]]\naction = 'defer'\n{A_REPLY}provider = 'a'",
    ],
)
def test_what_a_table_with_a_problem_may_have_lost_is_blamed_on_no_other(text: str) -> None:
    assert len(problems_of(text)) == 1


# ---- who signs

KEY = 'key_file = "k.pem"'


def test_a_table_for_a_domain_has_one_key_in_it_or_several_in_a_list() -> None:
    text = f"""
[dkim."example.com"]
selector = "a"
{KEY}
keys = [{{ selector = "b", key_file = "/keys/b.pem" }}]
[[dkim."mail.example.com".keys]]
selector = "c.d"
{KEY}
"""
    dkim = load(written(text), {}).dkim
    here = str(Path.cwd() / "k.pem")
    found = {domain: [(key.selector, key.key_file) for key in table.all_keys] for domain, table in dkim.items()}
    assert found == {"example.com": [("a", here), ("b", "/keys/b.pem")], "mail.example.com": [("c.d", here)]}


NO_SELECTOR = 'not a selector; write it in lower case, like "s2026", as it is published in the DNS'


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        (
            f"[dkim.'com']\nselector = 'a'\n{KEY}",
            1,
            "dkim.com",
            "a whole top-level domain signs for nobody; write the domain you own",
        ),
        (f"[dkim.'Example.com']\nselector = 'a'\n{KEY}", 1, 'dkim."Example.com"', NOT_A_DOMAIN),
        ("[dkim.'a.test']", 1, 'dkim."a.test"', "no key; give selector and key_file, or a list of them in keys"),
        ("[dkim.'a.test']\nselector = 'a'", 1, 'dkim."a.test"', "selector is given without key_file; give both"),
        (f"[dkim.'a.test']\n{KEY}", 1, 'dkim."a.test"', "key_file is given without selector; give both"),
        (f"[dkim.'a.test']\n{KEY}\nselector = 'A b'", 3, 'dkim."a.test".selector', NO_SELECTOR),
        ("[[dkim.'a.test'.keys]]\nselector = 'a'", 1, 'dkim."a.test".keys.key_file', "must be given"),
        (
            f"[dkim.'a.test']\n{KEY}\nselector = 'a'\nkeys = [{{selector = 'a', {KEY}}}]",
            1,
            'dkim."a.test"',
            "two keys with one selector",
        ),
    ],
)
def test_what_is_wrong_with_a_domain_that_signs_is_said_by_key(text: str, line: int, key: str, expected: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(f"config.toml:{line}: {key}: {expected}")


# ---- mailing lists

SECRET = "k" * 32
ONE = "[lists.news]\nid = 'news.b.test'\n"
URL = ONE + "unsubscribe_url = "


def test_a_list_and_the_key_of_its_links() -> None:
    Path("keys").write_text(f"{SECRET}\n{SECRET}old\n")
    config = load(written(URL + "'https://b.test/u?t={token}'\n[unsubscribe]\nkey_file = 'keys'\n"), {})
    assert config.lists == {"news": ListSettings(id="news.b.test", unsubscribe_url="https://b.test/u?t={token}")}
    assert config.unsubscribe.key == f"{SECRET}\n{SECRET}old"
    assert SECRET not in repr(config)


FORMS = {
    "unsubscribe_url": "percent-encode what is special in it",
    "unsubscribe_mailto": "not a mailto URL for a header field",
    "feedback_id": "with {batch}, {list} and {template} only",
}


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("[lists.news]\nname = 'News'", "1: lists.news.id", "must be given"),
        ("[lists.'a b']\nid = 'a.b'", '1: lists."a b"', "a list's name has letters, digits"),
        ("[lists.news]\nid = 'news'", "2: lists.news.id", 'not a list id; write it like "news.example.com"'),
        (ONE + 'name = "a\\nb"', "3: lists.news.name", "not a name to show"),
        (URL + "'https://b.test/u'", "3: lists.news.unsubscribe_url", "it is for everybody alike; write {token} once"),
        (URL + "'https://b.test/{token}/{token}'", "3: lists.news.unsubscribe_url", "it is for everybody alike"),
        (
            URL + "'http://b.test/{token}'",
            "3: lists.news.unsubscribe_url",
            "one-click needs a URL that begins with https",
        ),
        *(
            (f"{ONE}{key} = '{value}'", f"3: lists.news.{key}", FORMS[key])
            for key, value in (
                ("unsubscribe_url", "https://b.test/{token}#there"),
                ("unsubscribe_url", "https://b.test/a,b/{token}"),
                ("unsubscribe_url", "https://b.test/a>b/{token}"),
                ("unsubscribe_url", "https://b.test/a b/{token}"),
                ("unsubscribe_url", "https://bücher.test/{token}"),
                ("unsubscribe_url", "https://me:pw@b.test/{token}"),
                ("unsubscribe_mailto", "leave@b.test"),
                ("unsubscribe_mailto", "mailto:leave@b.test, mailto:x@b.test"),
                ("feedback_id", "{batch"),
                ("feedback_id", "{recipients}:x"),
                ("feedback_id", "{batch.__class__}:x"),
                ("feedback_id", "a b"),
            )
        ),
        (URL + f"'https://b.test/{'x' * 300}/{{token}}'", "3: lists.news.unsubscribe_url", "too long; at most 300"),
        ("[unsubscribe]\nkey = 'hunter2'", "2: unsubscribe.key", "has 7 characters, and a key has 32 at least"),
        (f"[unsubscribe]\nkey = '''{SECRET}\nhunter2'''", "2: unsubscribe.key", "line 2 has 7 characters"),
        ("[unsubscribe]\nkey_file = '/nowhere/k'", "2: unsubscribe.key_file", "/nowhere/k: No such file or directory"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_by_key(text: str, place: str, expected: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(f"config.toml:{place}")
    assert expected in problem
    assert "hunter2" not in problem


def test_a_list_with_links_needs_a_key_and_one_without_does_not() -> None:
    (problem,) = problems_of(URL + "'https://b.test/u/{token}'\n")
    assert problem.startswith("config.toml:1: lists.news: it has a link for each recipient, and there is no key")
    load(written(ONE + "unsubscribe_mailto = 'mailto:leave@b.test'\n[smtp]\nhost = 'localhost'\n"), {})


def test_who_makes_no_message_needs_no_key() -> None:
    text = URL + "'https://b.test/u/{token}'\n[unsubscribe]\nkey_file = '/nowhere'\n[smtp]\nhost = 'localhost'\n"
    assert list(load(written(text), {}, unread=COMPOSING).lists) == ["news"]


# ---- the example

_HEADER = re.compile(
    r"#?\[\[?((?:(?:throttle|http|submission)\.)?[a-z_]+)(?:\.(?:\w+(?P<below>\.oauth2)?|\"[^\"]+\"))?\]?\]"
)
_OPTIONAL = re.compile(r"^#(?=[a-z_]+ = |\[)", re.MULTILINE)
_SECRETS = "|".join(["client_secret", *(item.name for _, item in KEYS if not item.repr and item.name != "key")])
_SECRET_ELSEWHERE = re.compile(  # a key_file may also be one of DKIM's, which is no secret's other form
    rf"^#(?:(?:{_SECRETS})_(?:file|command) = |(?:key|token)_(?:file|command) = .*(?:unsubscribe|bounces|anna)).*\n",
    re.MULTILINE,
)
WITH_TOKENS = ["office", "gmail", "own", "program", "sidecar"]
_LIMIT = {item.name for item in fields(Limit)}
_TABLES: dict[str, set[str]] = {
    "relays": {item.name for item in fields(RelaySettings)} - {item.name for item in fields(FirstRelaySettings)},
    "relays.oauth2": {item.name for item in fields(OAuth2Settings)},
    "dkim": {item.name for item in fields(DkimSettings)},
    "submission.users": {"password"},
    "throttle.senders": set(),
    "throttle.domains": set(),
    "throttle.providers": {item.name for item in fields(ProviderSettings)} - _LIMIT,
    "throttle.replies": {item.name for item in fields(ReplyPattern)},
    "lists": {item.name for item in fields(ListSettings)},
    "http.tokens": {item.name for item in fields(TokenSettings)},
}
"""The tables that an operator names or lists: the keys that no section has shown before."""


def keys_of_the_example() -> list[tuple[str, str]]:
    found, section = [], ""
    for line in EXAMPLE.read_text("utf-8").splitlines():
        header, key = _HEADER.fullmatch(line), re.match(r"#?([a-z_]+) = ", line)
        section = header[1] + (header["below"] or "") if header else section
        found += [(section, key[1])] if key else []
    return found


def test_the_example_holds_exactly_the_defaults() -> None:
    example = written(EXAMPLE.read_text("utf-8"))
    assert load(example, {}) == load(written("", "empty.toml"), {})


def test_the_example_names_every_key_under_its_section() -> None:
    forms = ("", "_file", "_command")
    expected = [(section, item.name + form) for section, item in KEYS for form in (forms if not item.repr else ("",))]
    assert sorted(key for key in keys_of_the_example() if key[0] in SECTIONS) == sorted(expected)


@pytest.mark.parametrize("table", _TABLES)
def test_the_example_shows_every_kind_of_table_and_each_key_that_only_it_has(table: str) -> None:
    shown = {key for place, key in keys_of_the_example() if place == table}
    assert shown
    assert _TABLES[table] <= shown


def test_the_example_gives_a_value_to_every_key_that_has_a_default() -> None:
    text = EXAMPLE.read_text("utf-8")
    given = {match[1] for match in re.finditer(r"^([a-z_]+) = ", text, re.MULTILINE)}
    assert given == {item.name for _, item in KEYS if item.default is not None}


def test_the_example_loads_with_everything_in_it_switched_on() -> None:
    text = _OPTIONAL.sub("", _SECRET_ELSEWHERE.sub("", EXAMPLE.read_text("utf-8")))
    config = load(written(text), {"POLLER__DATABASE__URL": "postgresql://poller@localhost/mail"})
    assert [name for name, item in KEYS if getattr(getattr(config, name), item.name) is None] == []
    assert (list(config.relays), len(config.throttle.replies)) == (["backup", *WITH_TOKENS], 1)
    assert list(config.throttle.providers) == ["google", "university"]
    assert [key.selector for key in config.dkim["example.com"].all_keys] == ["s2026", "s2026e"]
    assert list(config.throttle.senders) == ["news@example.com", "@example.org"]


def test_the_example_names_every_provider_that_is_known() -> None:
    assert f"These providers are known: {', '.join(PROVIDERS)}.\n" in EXAMPLE.read_text("utf-8")


# ---- what a command does not need


@pytest.mark.parametrize("form", ['password_file = "/nowhere/smtp"', 'password_command = ["false"]'])
def test_who_does_not_send_needs_no_relays_secret(form: str) -> None:
    text = (
        f'[smtp]\nhost = "localhost"\nusername = "shop"\n{form}\n[relays.other]\nhost = "b"\nusername = "x"\n{form}\n'
    )
    with pytest.raises(ConfigError) as wrong:
        load(written(text), {})
    assert len(wrong.value.problems) == 2
    config = load(written(text), {}, unread=RELAYS)
    assert (config.smtp.host, config.relays["other"].host) == ("localhost", "b")
    assert "/nowhere" not in repr(config)


def test_what_a_database_needs_is_read_all_the_same() -> None:
    with pytest.raises(ConfigError, match="database"):
        load(written('[database]\nurl_file = "/nowhere/url"\n[smtp]\nhost = "localhost"\n'), {}, unread=RELAYS)


def test_a_variable_with_single_underscores_is_not_passed_over_in_silence() -> None:
    path = written('[smtp]\nhost = "localhost"\n')
    with pytest.raises(ConfigError, match=r"\$POLLER_DATABASE_URL.*is read as nothing; write POLLER__DATABASE__URL"):
        load(path, {"POLLER_DATABASE_URL": "sqlite:///x.db"})
    assert load(path, {"POLLER_CONFIG": str(path), "POLLER_TEST_LONG": "1", "POLLER_SHOP_URL": "x"}).source == path


def test_mail_is_not_sent_to_where_it_comes_in() -> None:
    text = '[smtp]\nhost = "{}"\nport = 2525\nsecurity = "none"\n[submission]\nlisten = "127.0.0.1:2525"\n'
    with pytest.raises(ConfigError, match=r"submission\.listen: a relay has the same address"):
        load(written(text.format("localhost")), {})
    load(written(text.format("relay.example.com")), {})
    with pytest.raises(ConfigError, match=r"submission\.listen: must be HOST:PORT"):
        load(written('[submission]\nlisten = "2525"\n'), {})


@pytest.mark.parametrize("place", ["8025", "127.0.0.1", "127.0.0.1:99999", "http://localhost:8025", "::1:80", ""])
def test_a_place_to_listen_at_is_a_host_and_a_port(place: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.listen: must be HOST:PORT"):
        load(written(f'[smtp]\nhost = "localhost"\n[http]\nlisten = "{place}"\n'), {})
    for right in ("127.0.0.1:8025", "[::1]:8025", "localhost:0"):
        load(written(f'[smtp]\nhost = "localhost"\n[http]\nlisten = "{right}"\n'), {})


# ---- who may see the page

_ANNA = f'[http.tokens.anna]\ntoken = "{"x" * 20}"\n'
_PROXY = 'user_header = "X-Remote-User"\ntrusted_proxies = ["10.0.0.0/8"]\n'


@pytest.mark.parametrize("more", [_ANNA, _PROXY, "page = false\n"])
def test_beyond_this_machine_the_page_wants_tokens_or_a_proxy(more: str) -> None:
    beyond = '[http]\nlisten = "0.0.0.0:8025"\n'
    with pytest.raises(ConfigError, match=r"http\.listen: others can reach it, .*\[http\.tokens\.NAME\]"):
        load(written(beyond), {})
    load(written(beyond + more), {})
    for place in ("localhost:1", "127.0.0.9:1", "[::1]:1"):
        load(written(f'[http]\nlisten = "{place}"\n'), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[http.tokens.anna]\ntoken = "hunter2"\n', r"http\.tokens\.anna\.token: could be guessed; at least 20"),
        ('[http]\nuser_header = "X Y"\n', r"http\.user_header: must be the name of a header"),
        ('[http]\nuser_header = "X-User"\ntrusted_proxies = []\n', r"http\.user_header: nobody would be believed"),
        ('[http]\ntrusted_proxies = ["::1", "proxy"]\n', r"http\.trusted_proxies: item 2: must be an address"),
    ],
)
def test_who_may_see_the_page_is_judged_without_a_value_shown(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(written(text), {})
    assert "hunter2" not in f"{error.value} {error.value!r}"


def test_who_only_looks_needs_no_token_of_the_page() -> None:
    text = '[http.tokens.anna]\ntoken_file = "/nowhere/anna"\n'
    assert list(load(written(text), {}, unread=HTTP).http.tokens) == ["anna"]
    assert "x" * 20 not in repr(load(written(_ANNA), {}))
