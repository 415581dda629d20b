"""Real relays agree: what is said here is understood there. A relay that cannot be had is skipped with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from servers import exim, opensmtpd, postfix, sink
from servers.exim import Exim
from servers.opensmtpd import OpenSmtpd
from servers.postfix import Postfix
from servers.processes import wait_until
from servers.sink import Sink
from smtp.letters import courier_to, letter, letters

from poller.judgement.outcome import queue_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers.certs import Authority, Certificate

    from poller.exchange import Message
    from poller.smtp.courier import Courier


@pytest.fixture(scope="module")
def relay(authority: Authority, certificate: Certificate) -> Iterator[Postfix]:
    """Postfix with TLS, a size limit, and one recipient that it refuses."""
    if reason := postfix.available():
        pytest.skip(reason)
    parameters = {
        "message_size_limit": "2000000",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": f"{certificate.key}, {certificate.certificate}",
        "smtpd_recipient_restrictions": "check_recipient_access inline:{{refused@example.test = REJECT go away}}",
        "smtpd_forbid_unauth_pipelining": "yes",
    }
    assert authority.ca_file.exists()
    with Postfix(parameters) as running:
        yield running


def test_postfix_takes_messages_on_one_session_byte_for_byte(relay: Postfix) -> None:
    courier = courier_to(relay.port)
    exchanges = list(courier.carry(letter(number, "user@example.test") for number in (11, 12)))
    courier.close()
    ids = [queue_id(exchange.end) for exchange in exchanges if exchange.end]
    delivered = [relay.wait_for(b"Subject: letter %d\n" % number) for number in (11, 12)]
    assert len(set(ids)) == 2
    assert all(message.endswith(b"\n\nhello\n.\n..two\n") for message in delivered)
    # Postfix writes its log in a process of its own, which may be behind.
    wait_until(lambda: all(f"{name}: from=<a@a.test>" in relay.log_text() for name in ids), "the queue ids in the log")


def test_postfix_takes_large_content_through_tls(relay: Postfix, authority: Authority) -> None:
    content = b"Subject: big\r\n\r\n" + b".0123456789abcdef\r\n" * 100_000
    courier = courier_to(relay.port, host="localhost", security="starttls", ca_file=str(authority.ca_file))
    (exchange,) = courier.carry(iter([letter(1, "user@example.test", content=content)]))
    courier.close()
    assert exchange.end is not None
    assert queue_id(exchange.end)
    body = relay.wait_for(b"Subject: big\n").partition(b"\n\n")[2]
    assert body == content.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


def test_postfix_refuses_one_recipient_and_all_and_goes_on_after_rset(relay: Postfix) -> None:
    courier = courier_to(relay.port)
    one, none, after = courier.carry(
        iter(
            [
                letter(1, "refused@example.test", "user@example.test"),
                letter(2, "refused@example.test"),
                letter(3, "user@example.test"),
            ]
        )
    )
    courier.close()
    assert [reply.code for reply in one.rcpt if reply] == [554, 250]
    assert [bool(exchange.end) for exchange in (one, none, after)] == [True, False, True]
    assert none.data is not None
    assert str(none.data) == "554 5.5.1 Error: no valid recipients"


WINDOW = pytest.mark.parametrize("window", [1, 16], ids=["overlap", "window"])


def with_refusals(user: str, refused: str) -> list[Message]:
    """Of forty messages each fourth has a refused recipient beside a good one, each fifth only a refused one."""
    recipients = [
        (refused,) if number % 5 == 0 else (refused, user) if number % 4 == 0 else (user,) for number in range(101, 141)
    ]
    return [letter(number, *to) for number, to in enumerate(recipients, 101)]


def agrees(courier: Courier, messages: list[Message]) -> list[str]:
    """Each message has the answers that its recipients call for. Returns the queue ids."""
    exchanges = list(courier.carry(iter(messages)))
    courier.close()
    assert [exchange.message.row_id for exchange in exchanges] == [message.row_id for message in messages]
    for exchange in exchanges:
        refused = [recipient.startswith("refused@") for recipient in exchange.message.recipients]
        assert [reply is not None and reply.kind == 5 for reply in exchange.rcpt] == refused
        assert bool(exchange.end) != all(refused)
    return [queue_id(exchange.end) for exchange in exchanges if exchange.end]


@WINDOW
def test_postfix_refuses_recipients_in_the_midst_of_messages_taken_ahead(relay: Postfix, window: int) -> None:
    def delivered() -> list[bytes]:
        return [message for message in relay.messages() if b"Delivered-To: w%d@" % window in message]

    courier = courier_to(relay.port, window=window)
    ids = agrees(courier, with_refusals(f"w{window}@example.test", "refused@example.test"))
    wait_until(lambda: len(delivered()) == 32, "delivery of 32 messages")
    assert len(set(ids)) == 32
    numbers = sorted(int(message.partition(b"Subject: letter ")[2].split()[0]) for message in delivered())
    assert numbers == [number for number in range(101, 141) if number % 5]
    assert all(message.endswith(b"\n\nhello\n.\n..two\n") for message in delivered())


@WINDOW
def test_postfix_takes_large_messages_ahead_through_tls(relay: Postfix, authority: Authority, window: int) -> None:
    contents = [b"Subject: large%d-%d\r\n\r\n" % (window, n) + b".line\r\n" * (n * 20_000) for n in range(1, 5)]
    courier = courier_to(
        relay.port, host="localhost", security="starttls", ca_file=str(authority.ca_file), window=window
    )
    exchanges = list(courier.carry(letter(n, "user@example.test", content=c) for n, c in enumerate(contents, 1)))
    courier.close()
    assert [exchange.end and exchange.end.code for exchange in exchanges] == [250] * 4
    for number, content in enumerate(contents, 1):
        body = relay.wait_for(b"Subject: large%d-%d\n" % (window, number)).partition(b"\n\n")[2]
        assert body == content.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


def test_postfix_takes_smtputf8(relay: Postfix) -> None:
    courier = courier_to(relay.port)
    (exchange,) = courier.carry(iter([replace(letter(21, "d\u00f6r@example.test"), smtputf8=True)]))
    courier.close()
    assert exchange.end is not None
    assert exchange.end.kind == 2
    assert "Delivered-To: d\u00f6r@example.test".encode() in relay.wait_for(b"Subject: letter 21\n")


def test_a_message_beyond_the_size_postfix_announces_is_not_begun(relay: Postfix) -> None:
    courier = courier_to(relay.port)
    (exchange,) = courier.carry(iter([letter(1, "user@example.test", content=b"x" * 2_000_001)]))
    courier.close()
    assert exchange.lacking == "SIZE: the message has 2,000,001 bytes, the relay takes at most 2,000,000"


def test_smtp_sink_takes_a_thousand_messages_on_one_session() -> None:
    if reason := sink.available():
        pytest.skip(reason)
    with Sink() as server:
        courier = courier_to(server.port)
        assert sum(exchange.end is not None for exchange in courier.carry(letters(1000))) == 1000
        courier.close()


def test_smtp_sink_keeps_what_it_took() -> None:
    if reason := sink.available():
        pytest.skip(reason)
    with Sink(dump=True) as server:
        courier = courier_to(server.port)
        list(courier.carry(letters(2)))
        courier.close()
        dumped = server.messages()
    assert len(dumped) == 2
    assert all(b"X-Mail-Args: <a@a.test>" in message for message in dumped)


def test_exim_takes_messages_byte_for_byte_and_refuses_and_defers_recipients() -> None:
    if reason := exim.available():
        pytest.skip(reason)
    with Exim() as server:
        courier = courier_to(server.port)
        taken, none, after = courier.carry(
            iter([letter(1, "user@b.test", "refused@b.test", "grey@b.test"), letter(2, "refused@b.test"), letter(3)])
        )
        courier.close()
        assert [reply.code for reply in taken.rcpt if reply] == [250, 550, 451]
        assert [queue_id(reply) in server.log_text() for reply in (taken.end, after.end) if reply] == [True, True]
        assert none.data is not None
        assert none.data.kind == 5
        assert server.messages() == [b"hello\n.\n..two\n"] * 2


@WINDOW
def test_exim_refuses_recipients_in_the_midst_of_messages_taken_ahead(window: int) -> None:
    """It keeps a transaction whose chunk it refused, and takes the next content for that one, were there no RSET."""
    if reason := exim.available():
        pytest.skip(reason)
    with Exim() as server:
        ids = agrees(courier_to(server.port, window=window), with_refusals("user@b.test", "refused@b.test"))
        assert len(set(ids)) == 32
        assert all(name in server.log_text() for name in ids)
        assert server.messages() == [b"hello\n.\n..two\n"] * 32


def test_opensmtpd_which_has_no_pipelining_takes_messages_byte_for_byte_and_refuses_recipients() -> None:
    if reason := opensmtpd.available():
        pytest.skip(reason)
    with OpenSmtpd() as server:
        courier = courier_to(server.port)
        taken, none, after = courier.carry(
            iter([letter(1, "user@b.test", "refused@example.test"), letter(2, "refused@example.test"), letter(3)])
        )
        courier.close()
        assert [reply.code for reply in taken.rcpt if reply] == [250, 550]
        assert [queue_id(reply) in server.log_text() for reply in (taken.end, after.end) if reply] == [True, True]
        assert (none.data, none.end) == (None, None)
        assert [message.partition(b"\n\n")[2] for message in server.messages()] == [b"hello\n.\n..two\n"] * 2
