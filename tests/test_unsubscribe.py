"""Tokens: what was signed comes back, and nothing else does. And `poller.unsubscribe`, which applications see."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller import unsubscribe
from poller.sealed import BadToken, Forged, Opened, keys_of, opened, seal
from poller.unsubscribe import Expired, Malformed, Unsubscription, UnusableKey, sign, verify

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 28, 2, 0, tzinfo=UTC)
KEYS = keys_of("k" * 32)
OTHERS = keys_of("o" * 44)
many = settings(deadline=None, max_examples=200)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
names = texts.filter(lambda name: 0 < len(name.encode()) < 256)
times = st.datetimes(datetime(1970, 1, 1), datetime(2106, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - a zone is added


def made(address: str = "anna@example.com", at: datetime = NOW) -> str:
    return sign("news", address, keys=KEYS, outbox="", at=at)


def why(token: str, **options: object) -> type[Exception] | None:
    """What is raised for a token; None if it is good."""
    try:
        verify(token, **{"keys": KEYS, "outbox": "", "now": NOW, **options})  # type: ignore[arg-type]
    except BadToken as error:
        return type(error)
    return None


@many
@given(names, texts, times)
def test_list_address_and_time_come_back(name: str, address: str, at: datetime) -> None:
    token = sign(name, address, keys=KEYS, outbox="shop", at=at)
    assert verify(token, keys=KEYS, outbox="shop") == Unsubscription(name, address, at.replace(microsecond=0))
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert sign(name, address, keys=KEYS, outbox="shop", at=at) == token


def test_a_time_that_a_token_cannot_hold_is_taken_for_the_nearest() -> None:
    for year, expected in ((1000, 1970), (9999, 2106)):
        token = made(at=datetime(year, 6, 1, tzinfo=UTC))
        assert verify(token, keys=KEYS, outbox="").issued_at.year == expected


@many
@given(st.data())
def test_a_token_that_was_changed_anywhere_is_refused(data: st.DataObject) -> None:
    token = made()
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters(exclude_characters=token[place]))
    assert why(token[:place] + letter + token[place + 1 :]) in {Malformed, Forged}


def test_a_token_that_was_cut_or_grew_is_refused() -> None:
    for address in ("a@b.test", "ab@b.test", "abc@b.test"):  # each remainder of base64
        token = made(address)
        assert {why(token[:end]) for end in range(len(token))} == {Malformed, Forged}
        assert {why(token[start:]) for start in range(1, len(token))} <= {Malformed, Forged}
        for more in ("A", "AA", "AAA", "AAAA", "=", "==", ".", "\n", " "):
            assert why(token + more) in {Malformed, Forged}


@many
@given(st.text(max_size=300))
def test_what_is_no_token_is_refused_in_words(text: str) -> None:
    assert why(text) in {Malformed, Forged}


def test_the_same_bits_in_another_spelling_are_refused() -> None:
    for address in ("a@b.test", "ab@b.test", "abc@b.test"):
        token = made(address)
        spellings = [
            token[:-1] + letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        ]
        assert [one for one in spellings if why(one) is None] == [token]


def test_a_token_is_good_for_its_purpose_its_outbox_and_its_keys_only() -> None:
    assert why(made()) is None
    assert why(made(), outbox="other") is Forged
    assert why(made(), keys=OTHERS) is Forged
    bounce = seal(b"\x04newsa@b.test", purpose="bounce", outbox="", keys=KEYS, issued_at=1)
    assert why(bounce) is Forged
    with pytest.raises(Forged):
        opened(made(), purpose="bounce", outbox="", keys=KEYS)


@many
@given(texts, texts, texts, texts, st.binary(max_size=40))
def test_no_two_divisions_of_one_text_are_signed_alike(a: str, b: str, c: str, d: str, content: bytes) -> None:
    token = seal(content, purpose=a, outbox=b, keys=KEYS, issued_at=7)
    try:
        assert opened(token, purpose=c, outbox=d, keys=KEYS) == Opened(content, 7)
    except Forged:
        assert (a, b) != (c, d)
    else:
        assert (a, b) == (c, d)


def test_the_first_key_signs_and_each_verifies() -> None:
    old = made()
    both = keys_of(f"{'n' * 40}\n\n  {'k' * 32}  \n")
    new = sign("news", "anna@example.com", keys=both, outbox="", at=NOW)
    assert (why(old, keys=both), why(new, keys=both), why(new)) == (None, None, Forged)


def test_a_token_is_what_the_page_says_for_other_languages() -> None:
    def part(text: bytes) -> bytes:
        return len(text).to_bytes(4, "big") + text

    at = b"\x01" + int(NOW.timestamp()).to_bytes(4, "big")
    content = b"\x04newsanna@example.com"
    signed = b"".join(map(part, (b"poller token", b"unsubscribe", b"shop", at + content)))
    signature = hmac.new(b"k" * 32, signed, hashlib.sha256).digest()[:16]
    by_hand = base64.urlsafe_b64encode(at + signature + content).decode().rstrip("=")
    assert sign("news", "anna@example.com", keys=KEYS, outbox="shop", at=NOW) == by_hand


def test_a_token_is_too_old_after_max_age_and_never_without() -> None:
    token = made(at=NOW - timedelta(days=30))
    assert why(token, max_age=timedelta(days=30)) is None
    assert why(token, max_age=timedelta(days=30) - timedelta(seconds=1)) is Expired
    assert why(made(at=datetime(1980, 1, 1, tzinfo=UTC))) is None
    assert why(made(at=NOW - timedelta(days=30))[:-1], max_age=timedelta(days=1)) in {Forged, Malformed}


def test_a_key_comes_from_the_variables_that_the_service_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KEY", "KEY_FILE", "OUTBOX"):
        monkeypatch.delenv(f"POLLER__UNSUBSCRIBE__{name}", raising=False)
    with pytest.raises(UnusableKey, match="there is no key; set POLLER__UNSUBSCRIBE__KEY_FILE"):
        verify(made())
    file = tmp_path / "keys"
    monkeypatch.setenv("POLLER__UNSUBSCRIBE__KEY_FILE", str(file))
    with pytest.raises(UnusableKey, match=f"{file}: No such file or directory; name a file"):
        verify(made())
    file.write_text("k" * 32 + "\n")
    assert verify(made()).address == "anna@example.com"
    monkeypatch.setenv("POLLER__UNSUBSCRIBE__OUTBOX", "shop")
    with pytest.raises(Forged):
        verify(made())
    monkeypatch.setenv("POLLER__UNSUBSCRIBE__KEY", "o" * 32)
    with pytest.raises(Forged):
        verify(made(), outbox="")


@pytest.mark.parametrize("text", ["", " \n", "hunter2", f"{'k' * 32}\nhunter2", "hunter2 hunter2 hunter2 hunter"])
def test_a_key_that_is_missing_or_short_is_refused_and_never_shown(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(UnusableKey, match=f"^{file} .*openssl rand -base64 32") as error:
        unsubscribe.read_keys(file)
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv("POLLER__UNSUBSCRIBE__KEY", text or "x")
    with pytest.raises(UnusableKey, match=r"^POLLER__UNSUBSCRIBE__KEY ") as error:
        verify(made())
    assert "hunter2" not in str(error.value)


def test_a_key_file_that_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"\xff" * 40)
    for path in (file, tmp_path):
        with pytest.raises(UnusableKey, match=str(path)):
            unsubscribe.read_keys(path)


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_list_that_a_token_cannot_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="a list's name has 1 to 255 octets"):
        sign(name, "a@b.test", keys=KEYS, outbox="", at=NOW)


def test_an_application_that_verifies_loads_nothing_of_the_service() -> None:
    program = "import sys, poller.unsubscribe; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in loaded if name.startswith("poller")} == {"poller", "poller.sealed", "poller.unsubscribe"}
    assert not loaded & {"sqlalchemy", "jinja2", "pydantic", "structlog", "click", "idna"}
