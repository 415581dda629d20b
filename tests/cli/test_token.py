"""`poller check` of a relay that takes tokens: each refusal that is documented, one by one, and what is said to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from servers.fault import Faults, FaultServer, Heard
from servers.refusals import AT_THE_ENDPOINT, AT_THE_RELAY
from servers.tokens import TokenEndpoint, jwt, refusal, said

from poller.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers.tokens import Said

TOKEN = jwt(upn="shop@example.com", tid="t-1", scp="SMTP.Send")
SECRETS = ("client-secret-value", TOKEN)


def good(_: dict[str, str]) -> Said:
    return said({"access_token": TOKEN, "expires_in": 3600})


def check(
    directory: Path, answer: Callable[[dict[str, str]], Said], faults: Faults, *arguments: str, skew: float = 0.0
) -> tuple[int, list[str], int]:
    """The exit code, what it says, and how often it asked for a token."""
    with FaultServer(faults) as relay, TokenEndpoint(answer, skew=skew) as endpoint:
        path = directory / "config.toml"
        path.write_text(
            f'[message]\nsender = "shop@example.com"\n'
            f'[smtp]\nhost = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\nusername = "shop@example.com"\n'
            f'[smtp.oauth2]\ntoken_url = "{endpoint.url}"\ngrant = "client_credentials"\nclient_id = "poller"\n'
            f'client_secret = "client-secret-value"\nscope = "smtp"\ntimeout = "500ms"\n'
        )
        assert CliRunner().invoke(main, ["--config", str(path), "migrate"]).exit_code == 0
        result = CliRunner().invoke(main, ["--config", str(path), "check", *arguments])
        assert [secret for secret in SECRETS if secret in result.output] == []
        return result.exit_code, result.output.splitlines(), len(endpoint.asked)


def taking(reply: bytes = b"235 2.7.0 welcome\r\n", **more: object) -> Faults:
    return Faults(take_token=lambda *_: reply, mechanisms=("LOGIN", "XOAUTH2"), **more)  # type: ignore[arg-type]


def about(what: str, lines: list[str]) -> list[str]:
    return [line for line in lines if line[5:].startswith(f"{what} ")]


def test_a_token_is_shown_by_whose_it_is_and_how_long_it_is_valid(tmp_path: Path) -> None:
    code, lines, asked = check(tmp_path, good, taking())
    (line,) = about("token", lines)
    assert (code, asked) == (0, 1)
    assert line.startswith("ok   token      for shop@example.com, tenant t-1, valid for 1h, until 20")
    assert about("login", lines) == ["ok   login      as shop@example.com"]


@pytest.mark.parametrize("name", AT_THE_ENDPOINT)
def test_each_refusal_of_the_endpoint_is_a_line_and_the_relay_is_looked_at_all_the_same(
    tmp_path: Path, name: str
) -> None:
    answer, ours = AT_THE_ENDPOINT[name]
    code, lines, asked = check(tmp_path, lambda _: answer, taking())
    (line,) = about("token", lines)
    assert (code, asked) == (1, 1)
    assert line.startswith("FAIL token")
    assert ours in line
    assert [verdict[:4] for verdict in about("relay", lines)] == ["ok  "]
    assert about("login", lines) == []


@pytest.mark.parametrize("name", AT_THE_RELAY)
def test_each_refusal_of_the_relay_is_a_line_with_its_own_words(tmp_path: Path, name: str) -> None:
    reply, ours = AT_THE_RELAY[name]
    code, lines, asked = check(tmp_path, good, taking(reply))
    (line,) = about("relay", lines)
    assert (code, asked) == (1, 2 if reply.startswith(b"5") else 1)
    assert line.startswith("FAIL relay      at auth: ")
    assert ours in line
    assert reply.split(b"\r\n")[0][10:40].decode().strip() in line


def test_an_endpoint_that_says_nothing_is_a_line(tmp_path: Path) -> None:
    code, lines, _ = check(tmp_path, lambda _: said({}, silent=60), taking())
    assert code == 1
    assert "no answer within 500ms" in about("token", lines)[0]


@pytest.mark.parametrize(("skew", "words"), [(600.0, "10m behind"), (-600.0, "10m ahead of")])
def test_a_clock_that_is_ten_minutes_off_is_a_line(tmp_path: Path, skew: float, words: str) -> None:
    code, lines, _ = check(tmp_path, good, taking(), skew=skew)
    assert code == 0
    assert [line for line in about("clock", lines) if line.startswith("warn")] == [
        f"warn clock      this machine's clock is {words} the token endpoint's; set it right"
    ]


def test_a_sender_whose_right_is_missing_is_told_by_what_is_delivered(tmp_path: Path) -> None:
    def answer(heard: Heard) -> bytes | None:
        words = b"550 5.7.60 SMTP; Client does not have permissions to send as this sender\r\n"
        return words if heard.verb == "." else None

    _, lines, _ = check(tmp_path, good, taking(answer=answer), "--deliver-to", "me@example.com")
    assert "Add-RecipientPermission" in " ".join(about("pipelining", lines))


def test_a_relay_that_takes_no_passwords_is_given_the_table_to_write(tmp_path: Path) -> None:
    reply = b"550 5.7.30 Basic authentication is not supported for Client Submission.\r\n"
    with FaultServer(Faults(users={"u": "p"}, answer=lambda h: reply if h.verb == "AUTH" else None)) as relay:
        path = tmp_path / "config.toml"
        there = f'host = "127.0.0.1"\nport = {relay.port}\nsecurity = "none"\nusername = "u"\npassword = "pass-word"\n'
        path.write_text(f"[smtp]\n{there}")
        result = CliRunner().invoke(main, ["--config", str(path), "check"])
    assert "give it a table [smtp.oauth2] instead of a password" in result.output


def test_the_same_refusal_has_the_same_words_each_time(tmp_path: Path) -> None:
    """So that the log tells it once: Entra puts a new number and a time into each."""
    count = iter(range(10))
    seen = [
        about("token", check(tmp_path, lambda _: refusal("invalid_client", f"x Trace ID: {next(count)}"), taking())[1])
        for _ in range(2)
    ]
    places = [line[0].split(" gives ")[1] for line in seen]
    assert places[0] == places[1]
