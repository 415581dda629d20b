"""The line: TLS and whom it trusts, login, timeouts, deadlocks, interruption; every trouble in words with a remedy."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import fault
from servers.fault import Faults, FaultServer, HangUp, Heard
from smtp.letters import courier_to, letter, letters, settings

from poller.exchange import Phase, RelayTrouble
from poller.smtp.courier import Courier
from poller.smtp.opening import Line, open_session

if TYPE_CHECKING:
    from servers.certs import Authority, Certificate


def trouble_with(relay: FaultServer | int, **more: Any) -> RelayTrouble:
    """What `open` raises."""
    courier = Courier(settings(relay if isinstance(relay, int) else relay.port, **more))
    with pytest.raises(RelayTrouble) as caught:
        courier.open()
    assert not courier.is_open
    assert f":{courier.relay.rpartition(':')[2]}" in caught.value.reason
    return caught.value


def offering(security: str, certificate: Certificate) -> Faults:
    """TLS, in one way or the other."""
    context = certificate.server_context()
    return Faults(tls=context) if security == "tls" else Faults(starttls=context)


def nobody_listens() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# TLS ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_mail_goes_through_verified_tls(authority: Authority, certificate: Certificate, security: str) -> None:
    with FaultServer(offering(security, certificate)) as relay:
        courier = courier_to(relay.port, host="localhost", security=security, ca_file=str(authority.ca_file))
        assert courier.handshake is not None
        assert courier.handshake.tls.startswith("TLSv1.")
        assert [exchange.end is not None for exchange in courier.carry(letters(3))] == [True] * 3
        courier.close()
    assert len(relay.messages) == 3
    assert relay.commands[-1] == b"QUIT"


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_large_content_goes_through_tls(authority: Authority, certificate: Certificate, security: str) -> None:
    big = letter(1, content=b"Subject: big\r\n\r\n" + b".0123456789abcdef\r\n" * 100_000)
    with FaultServer(offering(security, certificate)) as relay:
        courier = courier_to(relay.port, host="localhost", security=security, ca_file=str(authority.ca_file))
        assert next(courier.carry(iter([big]))).end is not None
        courier.close()
    assert relay.messages[0].content == big.content


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize(
    ("name", "days", "with_ca", "words"),
    [
        ("localhost", 2, False, r"is not trusted .* ca_file"),
        ("other.test", 2, True, r"for another name .*other|for another name .* set \[smtp\] host"),
        ("localhost", -1, True, r"has expired"),
    ],
)
def test_a_certificate_that_does_not_verify_is_refused_with_the_remedy(
    authority: Authority, security: str, name: str, days: int, *, with_ca: bool, words: str
) -> None:
    ca_file = str(authority.ca_file) if with_ca else None
    with FaultServer(offering(security, authority.issue(name, days=days))) as relay:
        trouble = trouble_with(relay, host="localhost", security=security, ca_file=ca_file)
    assert trouble.phase is (Phase.CONNECT if security == "tls" else Phase.STARTTLS)
    with pytest.raises(RelayTrouble, match=words):
        raise trouble


def test_a_ca_file_that_cannot_be_read_is_named(certificate: Certificate, tmp_path: Path) -> None:
    with FaultServer(Faults(starttls=certificate.server_context())) as relay:
        courier = Courier(settings(relay.port, security="starttls", ca_file=str(tmp_path / "none.pem")))
        with pytest.raises(RelayTrouble, match=r"ca_file .*none\.pem"):
            courier.open()


def test_a_relay_that_does_not_offer_starttls_gets_no_mail() -> None:
    with FaultServer() as relay:
        trouble = trouble_with(relay, security="starttls")
    assert trouble.phase is Phase.STARTTLS
    assert 'security = "tls"' in trouble.reason


def test_plain_text_behind_starttls_ends_the_session(authority: Authority, certificate: Certificate) -> None:
    faults = Faults(starttls=certificate.server_context(), behind_starttls=b"250 injected\r\n")
    with FaultServer(faults) as relay:
        trouble = trouble_with(relay, host="localhost", security="starttls", ca_file=str(authority.ca_file))
    assert trouble.phase is Phase.STARTTLS
    assert "plain text was waiting" in trouble.reason


def test_features_offered_before_tls_are_forgotten(authority: Authority, certificate: Certificate) -> None:
    def answer(heard: Heard) -> bytes | None:
        first = heard.verb == "EHLO" and not seen
        seen.append(heard.verb)
        return b"250-x\r\n250-AUTH PLAIN\r\n250-SIZE 1\r\n250 STARTTLS\r\n" if first else None

    seen: list[str] = []
    with FaultServer(Faults(starttls=certificate.server_context(), answer=answer)) as relay:
        courier = courier_to(relay.port, host="localhost", security="starttls", ca_file=str(authority.ca_file))
        assert courier.features is not None
        assert (courier.features.auth, courier.features.size_limit, courier.features.starttls) == (
            frozenset(),
            0,
            False,
        )
        courier.close()


def test_plain_text_where_tls_was_expected_is_said_so() -> None:
    with FaultServer() as relay:
        assert 'security = "starttls"' in trouble_with(relay, security="tls").reason


# Login ----------------------------------------------------------------------------------------------------------------

PASSWORD = "p\u00e4ss\u2603 w\u00f6rd"


@pytest.mark.parametrize(("mechanisms", "old"), [(("PLAIN", "LOGIN"), False), (("LOGIN",), False), (("LOGIN",), True)])
def test_any_unicode_password_logs_in(mechanisms: tuple[str, ...], *, old: bool) -> None:
    faults = Faults(users={"j\u00fcrgen": PASSWORD}, mechanisms=mechanisms, old_auth_form=old)
    with FaultServer(faults) as relay:
        courier = courier_to(relay.port, username="j\u00fcrgen", password=PASSWORD)
        assert courier.handshake is not None
        assert courier.handshake.authenticated
        courier.close()
    assert any(command.startswith(b"AUTH " + mechanisms[0].encode()) for command in relay.commands)


def test_a_password_too_long_for_one_line_logs_in() -> None:
    with FaultServer(Faults(users={"u": "x" * 600})) as relay:
        courier_to(relay.port, username="u", password="x" * 600).close()
    assert b"AUTH PLAIN" in relay.commands


def test_a_refused_login_is_the_relays_trouble_and_names_no_secret() -> None:
    with FaultServer(Faults(users={"u": "right"})) as relay:
        trouble = trouble_with(relay, username="u", password="wrong-secret")
    assert trouble.phase is Phase.AUTH
    assert trouble.reply is not None
    assert trouble.reply.code == 535
    assert "wrong-secret" not in trouble.reason


@pytest.mark.parametrize(
    ("faults", "more", "words"),
    [
        (Faults(), {"password": "p"}, "offers no login"),
        (Faults(users={"u": "p"}, mechanisms=("GSSAPI",)), {"password": "p"}, "offers only GSSAPI"),
        (Faults(users={"u": "p"}), {"password": "p", "auth": "cram-md5"}, "not AUTH CRAM-MD5"),
        (Faults(users={"u": "p"}), {}, "no password"),
        (Faults(users={"u": "p"}), {"password": "a\0b"}, "NUL"),
    ],
)
def test_a_login_that_cannot_be_had_says_why(faults: Faults, more: dict[str, Any], words: str) -> None:
    with FaultServer(faults) as relay:
        assert words in trouble_with(relay, username="u", **more).reason


def test_a_mechanism_that_the_relay_offers_and_does_not_take_is_followed_by_the_next() -> None:
    def answer(heard: Heard) -> bytes | None:
        return b"504 5.5.4 unrecognized authentication type\r\n" if b"AUTH PLAIN" in heard.line else None

    with FaultServer(Faults(users={"u": "a-secret"}, answer=answer)) as relay:
        courier_to(relay.port, username="u", password="a-secret").close()
    assert [command.split()[1] for command in relay.commands if command.startswith(b"AUTH")] == [b"PLAIN", b"LOGIN"]


def test_a_refused_password_is_not_tried_again_by_another_mechanism() -> None:
    with FaultServer(Faults(users={"u": "right"})) as relay:
        trouble_with(relay, username="u", password="wrong-secret")
    assert len([command for command in relay.commands if command.startswith(b"AUTH")]) == 1


def test_cram_md5_is_used_where_nothing_else_is_offered() -> None:
    """The challenge and the answer are those of RFC 2195 section 3."""

    def answer(heard: Heard) -> bytes | None:
        if heard.line.startswith(b"AUTH CRAM-MD5"):
            return b"334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\r\n"
        return b"235 welcome\r\n" if heard.line == expected else None

    expected = b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
    with FaultServer(Faults(users={"tim": "x"}, mechanisms=("CRAM-MD5", "GSSAPI"), answer=answer)) as relay:
        courier_to(relay.port, username="tim", password="tanstaaftanstaaf").close()
    assert expected in relay.commands


@pytest.mark.parametrize("said", [b"535 %s is wrong", b'500 unknown command: "%s"', b"535 cannot decode %s, sorry"])
def test_a_relay_that_repeats_our_login_gets_the_secret_into_no_log(said: bytes) -> None:
    def answer(heard: Heard) -> bytes | None:
        return said % heard.line + b"\r\n" if heard.line.startswith(b"AUTH") else None

    with FaultServer(Faults(users={"u": "p"}, mechanisms=("PLAIN",), answer=answer)) as relay:
        trouble = trouble_with(relay, username="user", password="a-secret-word")
    encoded = relay.commands[-1].split()[-1].decode()
    assert encoded not in trouble.reason
    assert encoded not in str(trouble.reply)
    assert "(hidden)" in trouble.reason


def test_a_trailing_dot_of_the_host_is_no_part_of_the_name_in_the_certificate() -> None:
    assert settings(465, host="mx.example.test.").name_in_certificate == "mx.example.test"


def test_a_name_that_is_only_in_the_cn_of_a_certificate_does_not_count(authority: Authority) -> None:
    certificate = authority.issue("localhost", alternative=None)
    with FaultServer(Faults(tls=certificate.server_context())) as relay:
        trouble = trouble_with(relay, host="localhost", security="tls", ca_file=str(authority.ca_file))
    assert "only in the CN" in trouble.reason


def test_no_login_in_clear_text_to_another_machine() -> None:
    line = Line(relay="mx.test:25", our_name="client.test", is_loopback=False)
    with pytest.raises(RelayTrouble, match="clear text"):
        next(open_session(settings(25, host="mx.test", username="u", password="p"), line))


# Reaching and greeting ------------------------------------------------------------------------------------------------


def test_a_port_where_nobody_listens_is_named() -> None:
    trouble = trouble_with(nobody_listens())
    assert trouble.phase is Phase.CONNECT
    assert "connection refused" in trouble.reason


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 300])
def test_a_name_without_address_is_named(host: str) -> None:
    courier = Courier(settings(25, host=host))
    with pytest.raises(RelayTrouble, match=r"has no address: .*check"):
        courier.open()


@pytest.mark.parametrize(
    ("faults", "phase", "words"),
    [
        (Faults(close_before_greeting=1), Phase.GREETING, "closed the connection"),
        (Faults(refuse_greeting=1), Phase.GREETING, "554 5.3.2"),
        (Faults(banner=b"HTTP/1.1 400 Bad Request\r\n"), Phase.GREETING, "no SMTP reply"),
        (Faults(banner=b"421 4.3.2 busy\r\n"), Phase.GREETING, "421 4.3.2 busy"),
        (Faults(banner=b""), Phase.GREETING, "silent for 200ms"),
        (Faults(answer=lambda heard: b"451 later\r\n" if heard.verb == "EHLO" else None), Phase.EHLO, "451 later"),
    ],
)
def test_a_greeting_that_fails_is_the_relays_trouble(faults: Faults, phase: Phase, words: str) -> None:
    with FaultServer(faults) as relay:
        trouble = trouble_with(relay, reply_timeout=0.2)
    assert trouble.phase is phase
    assert words in trouble.reason


def test_a_relay_that_knows_no_ehlo_is_greeted_with_helo() -> None:
    with FaultServer(Faults(helo_only=True)) as relay:
        courier = courier_to(relay.port)
        assert next(courier.carry(letters(1))).end is not None
        courier.close()
    assert relay.commands[:3] == [b"EHLO client.test", b"HELO client.test", b"MAIL FROM:<a@a.test>"]


def test_without_a_name_of_our_own_we_give_our_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: "localhost")
    with FaultServer() as relay:
        courier_to(relay.port, ehlo_name=None).close()
    assert relay.commands[0] == b"EHLO [127.0.0.1]"


# Both sides writing, slowness, interruption ---------------------------------------------------------------------------


def test_replies_in_single_bytes_are_read() -> None:
    with FaultServer(Faults(one_byte_replies=True)) as relay:
        courier = courier_to(relay.port)
        assert len(list(courier.carry(letters(2)))) == 2
        courier.close()


def test_two_sides_that_both_write_do_not_block_each_other() -> None:
    """8 MB of recipients against 3 MB of replies, and a relay that reads nothing while its replies are not taken."""
    many = letter(1, *(f"{'r' * 900}{number}@d.test" for number in range(8000)))
    faults = Faults(
        answer=lambda heard: b"250 %s\r\n" % (b"x" * 400) if heard.verb == "RCPT" else None,
        eager=True,
        buffer=4096,
    )
    with FaultServer(faults) as relay:
        courier = courier_to(relay.port, block_timeout=2.0)
        exchange = next(courier.carry(iter([many])))
        courier.close()
    assert {reply and reply.code for reply in exchange.rcpt} == {250}


def test_a_relay_that_stops_reading_is_given_up_after_the_block_timeout() -> None:
    big = letter(1, content=b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000_000)
    with FaultServer(Faults(bytes_per_second=1000)) as relay:
        courier = courier_to(relay.port, block_timeout=0.3)
        exchange = next(courier.carry(iter([big])))
    assert exchange.loss is not None
    assert (exchange.phase, exchange.end_of_data_sent) == (Phase.CONTENT, False)
    assert exchange.loss.reason == "the relay was silent for 300ms"
    assert not courier.is_open


@pytest.mark.parametrize(("verb", "doubt"), [("MAIL", False), (".", True)])
def test_another_thread_ends_a_wait_at_once(verb: str, *, doubt: bool) -> None:
    reached = threading.Event()

    def answer(heard: Heard) -> bytes | None:
        if heard.verb != verb:
            return None
        reached.set()
        return b""

    with FaultServer(Faults(answer=answer, pipelining=False)) as relay:
        courier = courier_to(relay.port, reply_timeout=60.0, end_timeout=60.0)

        def stop() -> None:
            reached.wait(10)
            courier.interrupt()

        thread = threading.Thread(target=stop)
        thread.start()
        exchange = next(courier.carry(letters(1)))
        thread.join()
        assert exchange.loss is not None
        assert exchange.loss.reason == "the service is stopping"
        assert exchange.end_of_data_sent == doubt
        with pytest.raises(RelayTrouble, match="the service is stopping"):
            courier.open()


def test_a_final_reply_that_has_come_is_read_though_the_bell_has_rung() -> None:
    with FaultServer() as relay:

        def meanwhile() -> None:
            if not committed:
                return  # it is the envelope that is to be answered
            deadline = time.monotonic() + 10
            while not relay.messages and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)  # for the reply to come
            courier.interrupt()

        committed: list[int] = []
        courier = Courier(settings(relay.port))
        courier.open()
        exchange = next(
            courier.carry(
                letters(1), meanwhile=meanwhile, committing=lambda message, _: committed.append(message.row_id)
            )
        )
        courier.close()
    assert exchange.is_accepted


def test_a_reset_of_the_line_is_a_loss() -> None:
    def answer(heard: Heard) -> bytes | None:
        if heard.verb == "DATA":
            raise HangUp(reset=True)
        return None

    with FaultServer(Faults(answer=answer, pipelining=False)) as relay:
        exchange = next(courier_to(relay.port).carry(letters(1)))
    assert exchange.loss is not None
    assert (exchange.phase, exchange.loss.phase, exchange.end_of_data_sent) == (Phase.DATA, Phase.DATA, False)


def test_the_fault_server_runs_as_a_process_with_a_ledger(tmp_path: Path) -> None:
    program = Path(fault.__file__)
    ledger = tmp_path / "ledger"
    command = [sys.executable, str(program), "--ledger", str(ledger), "--close-after", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        courier = courier_to(int(process.stdout.readline()))
        exchanges = list(courier.carry(letters(3)))
        process.terminate()
    assert process.returncode == 0
    assert [exchange.mail and exchange.mail.code for exchange in exchanges] == [250, 250, 421]
    assert [json.loads(line)["mail_from"] for line in ledger.read_text().splitlines()] == ["a@a.test"] * 2
