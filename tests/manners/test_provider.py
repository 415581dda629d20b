"""The simulated provider keeps its own rules, and counts rightly."""

from __future__ import annotations

import smtplib
import socket
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.provider import OTHERS, Manner, Provider, ProviderServer, most_within

MESSAGE = "Message-ID: <{}@example.com>\r\nSubject: x\r\n\r\nhello\r\n"


def provider(**changes: object) -> Provider:
    values: dict[str, object] = {"name": "big", "domains": frozenset({"big.example"}), "count": 3, "seconds": 60.0}
    return Provider(**{**values, "block": 60.0, **changes})  # type: ignore[arg-type]


def send(client: smtplib.SMTP, number: int, to: str) -> None:
    client.sendmail("a@example.com", [to], MESSAGE.format(number))


@given(st.lists(st.integers(0, 40).map(float), max_size=30), st.integers(1, 20).map(float))
def test_the_highest_count_is_that_of_the_fullest_window_wherever_it_begins(times: list[float], seconds: float) -> None:
    expected = max((sum(at <= other < at + seconds for other in times) for at in times), default=0)
    assert expected == most_within(times, seconds)


@pytest.mark.parametrize("where", ["at RCPT", "after DATA"])
@pytest.mark.parametrize("manner", ["421", "451", "550", "drop"])
def test_one_message_too_many_begins_a_block_in_its_manner(manner: Manner, where: str) -> None:
    kinds = {"421": 421, "451": 451, "550": 550, "drop": None}
    with ProviderServer(provider(manner=manner, after_data=where == "after DATA")) as server:
        codes: list[int | None] = []
        for number in range(5):
            with smtplib.SMTP(server.host, server.port) as client:
                try:
                    send(client, number, f"u{number}@big.example")
                except smtplib.SMTPRecipientsRefused as error:
                    codes += [code for code, _ in error.recipients.values()]
                except smtplib.SMTPResponseException as error:
                    codes.append(error.smtp_code)
                except smtplib.SMTPServerDisconnected:
                    codes.append(None)
                else:
                    codes.append(250)
        counted = server.counted("big")
    assert codes == [250, 250, 250, kinds[manner], kinds[manner]]
    assert (counted.accepted, counted.blocks, counted.refused, counted.attempts_in_blocks) == (3, 1, 2, 1)
    assert (counted.most_in_window, counted.duplicates) == (3, 0)


def test_others_are_taken_while_a_provider_blocks() -> None:
    with ProviderServer(provider(count=1, manner="451")) as server, smtplib.SMTP(server.host, server.port) as client:
        send(client, 1, "a@big.example")
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(client, 2, "b@big.example")
        send(client, 3, "c@other.example")
        assert (server.counted("big").accepted, server.counted(OTHERS).accepted) == (1, 1)


def test_an_attempt_within_a_block_extends_it_where_it_says_so() -> None:
    brief = {"count": 1, "seconds": 0.01, "block": 0.5}
    with ProviderServer(provider(**brief), provider(name="sore", domains=frozenset(), **brief, extends=True)) as server:
        said = {
            name: [standing.refuses(at) for at in (0.0, 0.001, 0.3, 0.6)] for name, standing in server.standing.items()
        }
    assert said == {"big": [False, True, True, False], "sore": [False, True, True, True]}


def test_a_message_that_comes_again_is_counted_as_a_duplicate() -> None:
    with ProviderServer() as server, smtplib.SMTP(server.host, server.port) as client:
        for number in (1, 1, 2, 1):
            send(client, number, "a@other.example")
        assert server.duplicates() == 2


def test_a_connection_is_told_when_its_messages_are_enough() -> None:
    with ProviderServer(per_connection=2) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            send(client, 1, "a@other.example")
            send(client, 2, "a@other.example")
            with pytest.raises(smtplib.SMTPSenderRefused, match="421"):
                send(client, 3, "a@other.example")
        assert [line.cut_off for line in server.connections] == [True]


def test_connections_beyond_those_it_bears_are_turned_away_and_counted() -> None:
    with ProviderServer(max_connections=1) as server:
        with smtplib.SMTP(server.host, server.port), pytest.raises(smtplib.SMTPConnectError, match="421"):
            smtplib.SMTP(server.host, server.port)
        assert (server.most_open, [line.refused for line in server.connections]) == (2, ["", "421"])


def test_moods_refuse_logins_and_drop_lines_until_they_pass() -> None:
    with ProviderServer(users={"shop": "secret"}) as server:
        server.mood = "no logins"
        with smtplib.SMTP(server.host, server.port) as client, pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("shop", "secret")
        server.mood = "drops"
        with smtplib.SMTP(server.host, server.port) as client:
            client.login("shop", "secret")
            with pytest.raises(smtplib.SMTPServerDisconnected):
                send(client, 1, "a@other.example")
        server.mood = "well"
        with smtplib.SMTP(server.host, server.port) as client:
            client.login("shop", "secret")
            send(client, 1, "a@other.example")
        assert len(server.accepted) == 1


def test_acceptances_stand_in_the_book_in_the_order_of_time() -> None:
    before = time.monotonic()
    with ProviderServer() as server, smtplib.SMTP(server.host, server.port) as client:
        for number in range(20):
            send(client, number, "a@other.example")
        times = server.times()
    assert all(one <= other for one, other in pairwise([before, *times, time.monotonic()]))


def test_a_message_that_was_taken_is_answered_also_when_the_next_one_ends_the_line() -> None:
    lines = [b"EHLO me", b"MAIL FROM:<a@example.com>", b"RCPT TO:<a@big.example>", b"DATA"]
    group = b"Message-ID: <1@x>\r\n\r\nhello\r\n.\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@big.example>\r\n"
    with (
        ProviderServer(provider(count=1, manner="drop")) as server,
        socket.create_connection((server.host, server.port)) as line,
        line.makefile("rb") as replies,
    ):
        for command in lines:
            line.sendall(command + b"\r\n")
        while not replies.readline().startswith(b"354"):
            pass
        line.sendall(group)
        said = replies.readlines()
        assert len(server.accepted) == 1
    assert [reply[:4] for reply in said] == [b"250 ", b"250 "]  # the message, and MAIL
