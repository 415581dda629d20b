"""`poller check`: a verdict and a remedy for each thing, all at once, and nothing written."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from databases import free_port
from servers.fault import Faults, FaultServer

from poller.cli import main
from poller.cli.check import hours_in_words, limits_in_words
from poller.config.load import Config
from poller.pacing.hours import parse_span
from poller.pacing.limits import Limit
from poller.pacing.settings import ProviderSettings, ThrottleSettings
from poller.smtp.relays import FirstRelaySettings, RelaySettings
from poller.units import Rate

if TYPE_CHECKING:
    from pathlib import Path


def check(path: Path) -> tuple[int, list[str]]:
    result = CliRunner().invoke(main, ["--config", str(path), "check"])
    return result.exit_code, result.output.splitlines()


def written(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text)
    return path


def test_a_bad_configuration_shows_every_problem_and_still_looks_at_the_database(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"""[database]
url = "postgresql://poller@127.0.0.1:{free_port()}/shop"
[smtp]
hosst = "smtp.example.com"
reply_timeout = "5"
username = "shop"
password_file = "missing.secret"
""",
    )
    code, lines = check(path)
    failed = [line for line in lines if line.startswith("FAIL")]
    assert code == 2
    assert [line.split()[1] for line in failed] == ["config", "config", "config", "database"]
    assert 'smtp.hosst: unknown key; did you mean "host"?' in failed[0]
    assert "smtp.reply_timeout: not a duration" in failed[1]
    assert "missing.secret: No such file" in failed[2]
    assert "refused" in failed[3]


def test_a_missing_sqlite_file_is_said_and_not_made(tmp_path: Path) -> None:
    with FaultServer(Faults()) as relay:
        path = written(tmp_path, f'[smtp]\nhost = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\n')
        code, lines = check(path)
    assert code == 1
    assert [line.split()[1] for line in lines if line.startswith("FAIL")] == ["database"]
    assert not (tmp_path / "outbox.db").exists()


@pytest.mark.parametrize("refused", [0, 1])
def test_a_good_installation_passes_and_a_refused_login_does_not(tmp_path: Path, refused: int) -> None:
    faults = Faults(users={"shop": "secret"}, refuse_logins=refused)
    with FaultServer(faults) as relay:
        smtp = f'host = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\nusername = "shop"\npassword = "secret"\n'
        path = written(tmp_path, f"[smtp]\n{smtp}")
        assert CliRunner().invoke(main, ["--config", str(path), "migrate"]).exit_code == 0
        code, lines = check(path)
        assert relay.messages == []
    assert code == refused
    assert ("FAIL relay" in "\n".join(lines)) == bool(refused)


def test_each_relay_has_its_own_verdict_under_its_name(tmp_path: Path) -> None:
    there, away = 'host = "127.0.0.1"\nsecurity = "none"\nport = ', free_port()
    with FaultServer(Faults()) as first, FaultServer(Faults(users={"shop": "secret"})) as second:
        login = 'username = "shop"\npassword = "secret"\n'
        text = (
            f"[smtp]\n{there}{first.port}\n[relays.west]\n{there}{second.port}\n{login}[relays.gone]\n{there}{away}\n"
        )
        code, lines = check(written(tmp_path, text))
        assert (first.messages, second.messages) == ([], [])
    shown = "\n".join(lines)
    assert code == 1
    assert f"ok   relay      smtp: 127.0.0.1:{first.port}" in shown
    assert f"ok   relay      west: 127.0.0.1:{second.port}" in shown
    assert 'warn tls        west: none: fine on this machine only ([relays.west] security = "starttls")' in lines
    assert [line for line in lines if " login " in line] == [
        "ok   login      smtp: none asked for",
        "ok   login      west: as shop",
    ]
    assert "FAIL relay      gone: at connect: " in shown
    assert "check [relays.gone] host and port" in shown


def test_a_relay_with_a_wrong_table_is_not_asked_and_the_others_are(tmp_path: Path) -> None:
    with FaultServer(Faults()) as relay:
        there = f'host = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\n'
        text = f"[smtp]\n{there}[relays.west]\n{there}[relays.west2]\n{there}[relays.west.rates]\n"
        code, lines = check(written(tmp_path, text))
    assert code == 2
    assert [line.split()[2] for line in lines if line.split()[1] == "relay"] == ["smtp:", "west2:"]
    assert not any(line.split()[1] == "pacing" for line in lines)


def test_relays_that_are_all_for_some_mail_only_are_remarked_on(tmp_path: Path) -> None:
    with FaultServer(Faults()) as relay:
        there = f'[smtp]\nhost = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\n'
        _, lines = check(written(tmp_path, f'{there}domains = ["b.test"]\n'))
    expected = "warn relay      none takes all mail: each is for some senders or domains only (senders, domains)"
    assert expected in lines


def test_a_relay_that_says_nothing_is_given_up_soon_and_named_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.cli.check.PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = CliRunner().invoke(
            main, ["--config", str(written(tmp_path, f'[smtp]\nhost = "127.0.0.1"\nport = {port}\n')), "check"]
        )
    assert f"asking the relay 127.0.0.1:{port}; it has 500ms for each reply" in result.stderr
    (failed,) = [line for line in result.stdout.splitlines() if line.startswith("FAIL relay")]
    assert "at greeting" in failed


def test_pacing_is_told_in_one_line(tmp_path: Path) -> None:
    with FaultServer(Faults()) as relay:
        there = f'[smtp]\nhost = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\n'
        _, lines = check(written(tmp_path, there))
        assert "ok   pacing     no limits; always open" in lines
        day = f"{datetime.now(UTC) + timedelta(days=3):%a}"
        _, lines = check(written(tmp_path, f'{there}[throttle]\ngap = "1s"\nwindows = ["{day} 10:00-11:00"]\n'))
    (line,) = (line for line in lines if line.split()[1] == "pacing")
    assert line.startswith("warn pacing     1 limit (outbox 1); closed until ")
    assert line.endswith(" 10:00 UTC")


def test_only_what_has_a_rate_or_a_gap_counts_as_a_limit() -> None:
    limit, none = Limit(gap=1.0), Limit(burst=5)
    throttle = ThrottleSettings(
        rates=(Rate(count=1, period=1),),
        senders={"@a.test": limit, "@b.test": none},
        providers={"google": ProviderSettings(gap=1.0)},
        domains={"a.test": limit, "b.test": limit, "c.test": none},
    )
    config = Config(throttle=throttle, smtp=FirstRelaySettings(gap=1.0), relays={"b": RelaySettings()})
    assert limits_in_words(config) == "6 limits (outbox 1, relay 1, sender 1, provider 1, domain 2)"


@pytest.mark.parametrize(
    ("hour", "words"),
    [
        (6, "closed until 2026-11-20 08:00 Europe/Berlin"),
        (7, "open until 2026-11-20 18:00 Europe/Berlin"),
        (17, "closed until 2026-11-23 08:00 Europe/Berlin"),
    ],
)
def test_hours_are_told_by_the_clock_that_they_are_read_from(hour: int, words: str) -> None:
    throttle = ThrottleSettings(windows=(parse_span("Mon-Fri 08:00-18:00"),), time_zone="Europe/Berlin")
    assert hours_in_words(throttle, datetime(2026, 11, 20, hour, tzinfo=UTC)) == words


def test_what_a_relay_bears_is_found_out_with_a_few_messages_to_one_address(tmp_path: Path) -> None:
    with FaultServer(Faults()) as relay:
        there = f'[smtp]\nhost = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\n'
        path = written(tmp_path, f'{there}[message]\nsender = "shop@a.test"\n')
        result = CliRunner().invoke(main, ["--config", str(path), "check", "--deliver-to", "me@b.test"])
    *tried, last = [line for line in result.output.splitlines() if " pipelining " in line]
    gears = ("off", "transaction", "overlap", "window")
    assert tried == [f"ok   pipelining {gear}: 3 of 3 accepted" for gear in gears]
    used = 'bears window; used: transaction ([smtp] pipelining = "auto")'
    assert last == f"ok   pipelining {used}; for a relay that you know, [smtp] window = 3 is faster"
    assert {message.recipients for message in relay.messages} == {("me@b.test",)}


def test_a_trial_goes_nowhere_but_where_staging_lets_it(tmp_path: Path) -> None:
    with FaultServer(Faults()) as relay:
        there = f'[smtp]\nhost = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\n'
        path = written(tmp_path, f'{there}[message]\nsender = "shop@a.test"\nonly_to = ["@staging.test"]\n')
        result = CliRunner().invoke(main, ["--config", str(path), "check", "--deliver-to", "me@b.test"])
    assert "FAIL pipelining me@b.test: not among [message] only_to" in result.output
    assert relay.messages == []
