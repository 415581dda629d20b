"""The mail catcher, spoken to by smtplib and, where smtplib is too polite, by hand."""

from __future__ import annotations

import shutil
import smtplib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from poller.cli.catcher import COMMAND_LIMIT, Catcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SENDER, ANNA, BEN = "shop@example.com", "anna@example.com", "ben@example.net"
OPENING = b"EHLO test\r\nMAIL FROM:<shop@example.com>\r\nRCPT TO:<anna@example.com>\r\nDATA\r\n"


def not_ben(address: str) -> str | None:
    return "451 4.7.1 not now" if address == BEN else None


@pytest.fixture
def catcher(tmp_path: Path) -> Iterator[Catcher]:
    with Catcher(tmp_path / "mail", refuse=not_ben, max_size=100_000) as catcher:
        yield catcher


@pytest.fixture
def client(catcher: Catcher) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP(catcher.host, catcher.port, timeout=10) as client:
        client.ehlo("test")
        yield client


def content_of(path: Path) -> bytes:
    """What came over the wire: the file without its envelope."""
    lines = path.read_bytes().split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.startswith((b"Return-Path: ", b"X-Envelope-To: ")))


def mail_of(catcher: Catcher) -> list[Path]:
    return sorted(catcher.directory.glob("*.eml"))


def spoken(catcher: Catcher, *pieces: bytes) -> bytes:
    """All that the catcher answers to these pieces, until it closes the line."""
    with socket.create_connection((catcher.host, catcher.port), timeout=10) as line:
        for piece in pieces:
            line.sendall(piece)
        line.shutdown(socket.SHUT_WR)
        with line.makefile("rb") as answers:
            return answers.read()


def codes(answers: bytes) -> list[bytes]:
    return [line[:3] for line in answers.splitlines() if line[3:4] == b" "]


def test_it_offers_what_a_modern_relay_does(client: smtplib.SMTP) -> None:
    assert {"pipelining", "8bitmime", "smtputf8", "size"} <= set(client.esmtp_features)
    assert client.esmtp_features["size"] == "100000"


def test_a_message_is_a_file_with_number_recipient_and_envelope(catcher: Catcher, client: smtplib.SMTP) -> None:
    client.sendmail(SENDER, [ANNA, "carla@example.org"], b"Subject: Hi\r\n\r\nHello\r\n")
    client.sendmail(SENDER, ANNA, b"Subject: Again\r\n\r\nHello\r\n")
    first, second = mail_of(catcher)
    assert (first.name, second.name) == ("0001_anna@example.com.eml", "0002_anna@example.com.eml")
    assert first.read_bytes() == (
        b"Return-Path: <shop@example.com>\r\n"
        b"X-Envelope-To: anna@example.com\r\nX-Envelope-To: carla@example.org\r\n"
        b"Subject: Hi\r\n\r\nHello\r\n"
    )
    assert catcher.caught == 2


@pytest.mark.parametrize(
    "content",
    [
        b".\r\n",
        b"..\r\n",
        b".a\r\n..b\r\n...\r\nend\r\n",
        b"Subject: Hi\r\n\r\n.\r\n.\r\n\r\n.\r\n",
        b"." * 70_000 + b"\r\n",
        b"x" * 65_535 + b"\r\n.\r\n",
        b"\xff\xfe eight bits\r\n",
        b"",
    ],
)
def test_dots_come_out_as_they_went_in(catcher: Catcher, client: smtplib.SMTP, content: bytes) -> None:
    client.sendmail(SENDER, ANNA, content)
    assert content_of(mail_of(catcher)[0]) == (content or b"\r\n")  # smtplib ends an empty message with a line


@pytest.mark.parametrize("fake", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n"])
def test_only_a_dot_between_two_crlf_ends_a_message(catcher: Catcher, fake: bytes) -> None:
    smuggled = b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<anna@example.com>\r\nDATA\r\nforged\r\n.\r\nQUIT\r\n"
    spoken(catcher, OPENING, b"honest" + fake + smuggled)
    assert len(mail_of(catcher)) == 1


def test_pipelined_commands_are_answered_in_order(catcher: Catcher) -> None:
    opening = b"EHLO test\r\nMAIL FROM:<shop@example.com> BODY=8BITMIME SIZE=100\r\nRCPT TO:<ben@example.net>\r\n"
    rest = b"RCPT TO:<anna@example.com>\r\nDATA\r\nHello\r\n.\r\nMAIL FROM:<>\r\nRSET\r\nQUIT\r\n"
    expected = [b"220", b"250", b"250", b"451", b"250", b"354", b"250", b"250", b"250", b"221"]
    assert codes(spoken(catcher, opening + rest)) == expected
    assert b"ben@" not in mail_of(catcher)[0].read_bytes()


def test_a_refused_recipient_does_not_stop_the_others(catcher: Catcher, client: smtplib.SMTP) -> None:
    refused = client.sendmail(SENDER, [ANNA, BEN], b"Hello\r\n")
    assert refused == {BEN: (451, b"4.7.1 not now")}
    assert len(mail_of(catcher)) == 1


def test_without_a_recipient_there_is_no_data(catcher: Catcher) -> None:
    answers = spoken(
        catcher, b"EHLO test\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<ben@example.net>\r\nDATA\r\nQUIT\r\n"
    )
    assert codes(answers) == [b"220", b"250", b"250", b"451", b"554", b"221"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"MAIL FROM:<a@example.com>", b"503"),
        (b"EHLO x\r\nRCPT TO:<a@example.com>", b"503"),
        (b"EHLO x\r\nDATA", b"503"),
        (b"EHLO x\r\nMAIL TO:<a@example.com>", b"501"),
        (b"EHLO x\r\nMAIL FROM:a@example.com", b"501"),
        (b"EHLO x\r\nMAIL FROM:<a@example.com> AUTH=<>", b"555"),
        (b"EHLO x\r\nMAIL FROM:<a@example.com> SIZE=100001", b"552"),
        (b"EHLO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>", b"503"),
        (b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<>", b"501"),
        (b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com> NOTIFY=NEVER", b"555"),
        (b'EHLO x\r\nMAIL FROM:<"a>b"@example.com>', b"250"),
        (b"HELO x\r\nmail from:<>", b"250"),
        ("EHLO x\r\nMAIL FROM:<ü@example.com>".encode(), b"553"),
        ("EHLO x\r\nMAIL FROM:<ü@example.com> SMTPUTF8".encode(), b"250"),
        (b"EHLO x\r\nMAIL FROM:<\xff@example.com> SMTPUTF8", b"501"),
        (b"VRFY anna", b"252"),
        (b"TURN", b"500"),
        (b"", b"500"),
    ],
)
def test_each_command_has_its_answer(catcher: Catcher, said: bytes, expected: bytes) -> None:
    assert codes(spoken(catcher, said + b"\r\nQUIT\r\n"))[-2:] == [expected, b"221"]


def test_a_name_in_any_script_is_a_file_name(catcher: Catcher, client: smtplib.SMTP) -> None:
    client.sendmail(SENDER, "山田@example.com", "Subject: 山\r\n\r\n".encode(), mail_options=["SMTPUTF8"])
    client.sendmail(SENDER, '"../../a b"@example.com', b"Hello\r\n")
    assert [path.name for path in mail_of(catcher)] == [
        "0001_山田@example.com.eml",
        "0002__.._.._a_b_@example.com.eml",
    ]


def test_a_message_that_is_too_large_is_refused_and_the_session_goes_on(catcher: Catcher, client: smtplib.SMTP) -> None:
    client.mail(SENDER)
    client.rcpt(ANNA)
    assert client.data(b"x" * 70 + b"\r\n" + b"y" * 100_000 + b"\r\n.\r\n")[0] == 552
    client.sendmail(SENDER, ANNA, b"small\r\n")
    assert [content_of(path) for path in mail_of(catcher)] == [b"small\r\n"]


def test_a_line_without_end_ends_the_session(catcher: Catcher) -> None:
    assert codes(spoken(catcher, b"x" * COMMAND_LIMIT)) == [b"220", b"500"]


def test_a_message_that_breaks_off_leaves_no_file(catcher: Catcher) -> None:
    spoken(catcher, OPENING, b"half a mess")
    assert list(catcher.directory.iterdir()) == []


def test_a_message_that_cannot_be_written_is_put_off(catcher: Catcher, client: smtplib.SMTP) -> None:
    shutil.rmtree(catcher.directory)
    with pytest.raises(smtplib.SMTPDataError) as refusal:
        client.sendmail(SENDER, ANNA, b"Hello\r\n")
    assert refusal.value.smtp_code == 452


def test_several_clients_are_served_at_once(catcher: Catcher, client: smtplib.SMTP) -> None:
    with smtplib.SMTP(catcher.host, catcher.port, timeout=10) as other:
        other.sendmail(SENDER, ANNA, b"second\r\n")
        client.sendmail(SENDER, ANNA, b"first\r\n")
    assert sorted(map(content_of, mail_of(catcher))) == [b"first\r\n", b"second\r\n"]


def test_leaving_closes_every_line_and_ends_every_thread(tmp_path: Path) -> None:
    with Catcher(tmp_path) as catcher:
        open_line = socket.create_connection((catcher.host, catcher.port), timeout=10)
        assert open_line.recv(100).startswith(b"220 ")
    with open_line:
        assert open_line.recv(100) == b""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("catcher")]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((catcher.host, catcher.port), timeout=10)
