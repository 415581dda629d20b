"""`poller login`: a person agrees, on a device or in a browser, and the refresh token is in its file."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import socket
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner
from servers.tokens import Said, TokenEndpoint, jwt, refusal, said

from poller.cli import main
from poller.smtp import consent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GIVEN = said(
    {
        "access_token": jwt(upn="shop@example.com"),
        "expires_in": 3600,
        "refresh_token": "the-refresh-token",
    }
)
OFFER = said(
    {
        "device_code": "the-device-code",
        "user_code": "ABCD-1234",
        "verification_uri": "https://example.com/device",
        "expires_in": 900,
        "interval": 0.01,
    }
)


def written(directory: Path, base: str, **more: str | None) -> Path:
    keys = {
        "client_id": "app-1",
        "client_secret": "client-secret-value",
        "grant": "refresh_token",
        "refresh_token_file": "refresh",
        "token_url": f"{base}/token",
        "device_url": f"{base}/device",
        "authorize_url": f"{base}/authorize",
        **more,
    }
    table = "".join(f'{key} = "{value}"\n' for key, value in keys.items() if value is not None)
    path = directory / "config.toml"
    path.write_text(f'[smtp]\nhost = "localhost"\nusername = "shop@example.com"\n[smtp.oauth2]\n{table}')
    return path


def login(path: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["--config", str(path), "login", *arguments])
    assert [secret for secret in ("client-secret-value", "the-refresh-token") if secret in result.output] == []
    return result.exit_code, result.output


def by_device(directory: Path, *answers: Said, offer: Said = OFFER) -> tuple[int, str, list[dict[str, str]]]:
    left = iter(answers)
    with TokenEndpoint(lambda form: offer if form["path"] == "/device" else next(left)) as endpoint:
        code, output = login(written(directory, endpoint.base, preset="microsoft365"), "microsoft365")
        return code, output, endpoint.asked


def test_a_code_is_typed_in_on_any_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(consent.by_device, "__kwdefaults__", {"sleep": waits.append, "clock": lambda: 0.0})
    pending = refusal("authorization_pending")
    code, output, asked = by_device(tmp_path, pending, refusal("slow_down"), pending, GIVEN)
    assert code == 0, output
    assert "open https://example.com/device on any device, and type in: ABCD-1234" in output
    assert "for shop@example.com, valid for" in output
    assert "next: poller check" in output
    assert waits == [0.01, 0.01, 5.01, 5.01]
    assert asked[0]["scope"] == "https://outlook.office.com/SMTP.Send offline_access"
    assert {form["device_code"] for form in asked[1:]} == {"the-device-code"}
    file = tmp_path / "refresh"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("the-refresh-token\n", 0o600)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal("authorization_declined", "The user declined."), "authorization_declined: The user declined."),
        (refusal("access_denied"), "consent is missing"),
        (refusal("expired_token"), "expired_token"),
        (refusal("invalid_client", "AADSTS7000218: 'client_secret' is missing", 401), "wants a client secret"),
        (said({"access_token": "t"}), "no refresh token"),
        (Said(status=500), "trouble of its own"),
        (Said(hang_up=True), "closed the connection"),
    ],
)
def test_a_device_that_gets_no_consent_is_told_why_and_nothing_is_written(
    tmp_path: Path, answer: Said, words: str
) -> None:
    code, output, _ = by_device(tmp_path, answer)
    assert code == 1
    assert words in output
    assert not (tmp_path / "refresh").exists()


@pytest.mark.parametrize(
    "offer", [refusal("unauthorized_client", "AADSTS700016: no such app"), said({"user_code": 1}), Said(body=b"<html>")]
)
def test_without_a_code_there_is_nothing_to_type_in(tmp_path: Path, offer: Said) -> None:
    code, output, _ = by_device(tmp_path, offer=offer)
    assert code == 1
    assert "gives no code; " in output


def test_a_code_that_nobody_types_in_ends(tmp_path: Path) -> None:
    offer = said({"device_code": "c", "user_code": "u", "verification_uri": "v", "expires_in": 0.05, "interval": 0.03})
    code, output, _ = by_device(tmp_path, *[refusal("authorization_pending")] * 50, offer=offer)
    assert code == 1
    assert "run poller login again" in output


class Browser(threading.Thread):
    """Runs the command, and does with the address that it prints what `visit` does."""

    def __init__(self, path: Path, visit: Callable[[dict[str, str], Callable[..., None]], None]) -> None:
        super().__init__(daemon=True)
        command = [sys.executable, "-m", "poller", "--config", str(path), "login", "google"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.visit = visit
        self.output = ""
        self.statuses: list[int] = []

    def run(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if line.startswith("http"):
                query = {name: values[0] for name, values in parse_qs(urlsplit(line.strip()).query).items()}
                self.visit(query, functools.partial(self.come_back, query["redirect_uri"]))

    def come_back(self, redirect: str, **query: str) -> None:
        self.statuses.append(_get(redirect, query))

    def ended(self) -> tuple[int, str]:
        self.start()
        self.join(30)
        self.process.kill() if self.is_alive() else None
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(5), self.output


def _get(url: str, query: dict[str, str]) -> int:
    joined = "&".join(f"{name}={value}" for name, value in query.items())
    try:
        with urllib.request.urlopen(f"{url}/?{joined}", timeout=10) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_browser_comes_back_with_a_code_that_only_we_can_use(tmp_path: Path) -> None:
    challenge: list[str] = []

    def visit(query: dict[str, str], come_back: Callable[..., None]) -> None:
        challenge.append(query["code_challenge"])
        assert (query["access_type"], query["response_type"], query["scope"]) == (
            "offline",
            "code",
            "https://mail.google.com/",
        )
        port = urlsplit(query["redirect_uri"]).port
        with socket.create_connection(("127.0.0.1", port or 0)) as silent:
            silent.sendall(b"hello\r\n\r\n")
        come_back(state="another", code="stolen")  # somebody else on this machine
        come_back()
        come_back(state=query["state"], code="the-code")

    with TokenEndpoint(lambda _: GIVEN) as endpoint:
        browser = Browser(written(tmp_path, endpoint.base, preset="google"), visit)
        code, output = browser.ended()
        assert code == 0, output
        (form,) = endpoint.asked
    assert browser.statuses == [400, 400, 200]
    assert (form["code"], form["grant_type"], form["client_secret"]) == (
        "the-code",
        "authorization_code",
        "client-secret-value",
    )
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    assert challenge == [base64.urlsafe_b64encode(digest).rstrip(b"=").decode()]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", form["redirect_uri"])
    assert (tmp_path / "refresh").read_text() == "the-refresh-token\n"
    assert [secret for secret in ("the-refresh-token", "client-secret-value", "the-code") if secret in output] == []


def test_a_person_who_says_no_is_heard(tmp_path: Path) -> None:
    def visit(query: dict[str, str], come_back: Callable[..., None]) -> None:
        come_back(state=query["state"], error="access_denied")

    with TokenEndpoint(lambda _: GIVEN) as endpoint:
        code, output = Browser(written(tmp_path, endpoint.base, preset="google"), visit).ended()
        assert (code, endpoint.asked) == (1, [])
    assert "the provider gives no consent; consent is missing" in output


@pytest.mark.parametrize(
    ("more", "arguments", "words"),
    [
        ({}, ("google",), 'no relay has [smtp.oauth2] preset = "google"'),
        ({}, ("google", "--relay", "west"), "there is no relay west"),
        ({"preset": "google", "refresh_token_file": "nowhere/refresh"}, ("google",), "is not writable for you"),
        ({"preset": "google", "device_url": None}, ("google", "--device"), "set [smtp.oauth2] device_url"),
        ({"preset": "google", "client_id": None}, ("google",), "needs client_id"),
        ({"preset": "google", "refresh_token_file": None}, ("google",), "needs refresh_token_file"),
    ],
)
def test_what_is_missing_is_said_before_anybody_is_sent_to_a_browser(
    tmp_path: Path, more: dict[str, str | None], arguments: tuple[str, ...], words: str
) -> None:
    code, output = login(written(tmp_path, "http://127.0.0.1:9", **more), *arguments)
    assert code == 2
    assert words in output
