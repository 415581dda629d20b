"""What the configuration promises: every key readable, every error at once, no value shown."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from poller.config import Config, ConfigError, Problem, load

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
SECTIONS: dict[str, Any] = {
    item.name: getattr(Config(), item.name) for item in fields(Config) if is_dataclass(getattr(Config(), item.name))
}
KEYS = [(section, item) for section, settings in SECTIONS.items() for item in fields(settings)]


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
SPARE = "smtp.end_timeout and a minute, or as much again"
BEATS = (
    "a worker would be given up after a lost beat or two; worker.heartbeat must be at most a third of worker.takeover"
)
CLEAR_TEXT = "would send the password in clear text; only a relay on this machine may do without TLS"


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("smtp.username = 'x'", "smtp.username", "needs smtp.password beside it"),
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


# ---- the example

_OPTIONAL = re.compile(r"^#(?=[a-z_]+ = )", re.MULTILINE)
_SECRET_ELSEWHERE = re.compile(
    rf"^#(?:{'|'.join(item.name for _, item in KEYS if not item.repr)})_(?:file|command) = .*\n", re.MULTILINE
)


def test_the_example_holds_exactly_the_defaults() -> None:
    example = written(EXAMPLE.read_text("utf-8"))
    assert load(example, {}) == load(written("", "empty.toml"), {})


def test_the_example_names_every_key_under_its_section() -> None:
    found, section = [], ""
    for line in EXAMPLE.read_text("utf-8").splitlines():
        header, key = re.fullmatch(r"\[(\w+)\]", line), re.match(r"#?([a-z_]+) = ", line)
        section = header[1] if header else section
        found += [(section, key[1])] if key else []
    forms = ("", "_file", "_command")
    expected = [(section, item.name + form) for section, item in KEYS for form in (forms if not item.repr else ("",))]
    assert sorted(found) == sorted(expected)


def test_the_example_gives_a_value_to_every_key_that_has_a_default() -> None:
    text = EXAMPLE.read_text("utf-8")
    given = {match[1] for match in re.finditer(r"^([a-z_]+) = ", text, re.MULTILINE)}
    assert given == {item.name for _, item in KEYS if item.default is not None}


def test_the_example_loads_with_everything_in_it_switched_on() -> None:
    text = _OPTIONAL.sub("", _SECRET_ELSEWHERE.sub("", EXAMPLE.read_text("utf-8")))
    config = load(written(text), {"POLLER__DATABASE__URL": "postgresql://poller@localhost/mail"})
    assert [
        name
        for name, settings in SECTIONS.items()
        for item in fields(settings)
        if getattr(getattr(config, name), item.name) is None
    ] == []
