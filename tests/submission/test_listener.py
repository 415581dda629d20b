"""The listener, spoken to by smtplib and by hand."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from databases import free_port
from servers import certs
from servers.processes import wait_until

from poller.outbox.database import connect, transaction
from poller.outbox.settings import DatabaseSettings
from poller.outbox.tables import outbox
from poller.submission.settings import UserSettings
from poller.units import Misfit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from poller.outbox import Engine
    from poller.submission.listener import Listener

    Listening = Callable[..., Listener]

RAW = b"From: jo@x.test\r\nMessage-ID: <1@x.test>\r\nSubject: Hi\r\n\r\n.dot\r\n\r\n"
ON_SQLITE = pytest.mark.parametrize("kind", ["sqlite"])
USERS = {"users": {"jo": UserSettings(password="correct horse")}}


def client_of(listener: Listener) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", listener.port, timeout=20)
    client.ehlo("test")
    return client


def rows(engine: Engine) -> list[Any]:
    return transaction(engine, lambda c: c.execute(sa.select(outbox).order_by(outbox.c.id)).all(), reading=True)


def given(client: smtplib.SMTP, raw: bytes = RAW, mail: str = "", rcpt: str = "") -> tuple[int, bytes]:
    """The last reply; the first one that is no success."""
    for command in (f"MAIL FROM:<jo@x.test>{mail}", f"RCPT TO:<a@b.test>{rcpt}"):
        code, words = client.docmd(command)
        if code != 250:
            return code, words
    return client.data(raw)


def test_a_250_names_the_row_that_is_committed(listening: Listening, engine: Engine) -> None:
    with client_of(listening()) as client:
        code, words = given(client, mail=" RET=HDRS ENVID=Ab+2B", rcpt=" NOTIFY=SUCCESS ORCPT=rfc822;A@b.test")
        (row,) = rows(engine)
        assert (code, words.decode()) == (250, f"2.0.0 Ok: queued as {row.id}")
        assert (row.raw, row.recipients, row.sender, row.envelope_from) == (RAW, "a@b.test", "jo@x.test", "jo@x.test")
        assert row.dsn == {"mail": "RET=HDRS ENVID=Ab+2B", "rcpt": {"a@b.test": "NOTIFY=SUCCESS ORCPT=rfc822;A@b.test"}}
        assert (row.status, row.message_id, row.subject) == ("queued", "<1@x.test>", "Hi")


def test_a_repeated_message_id_is_one_row_if_that_was_asked_for(listening: Listening, engine: Engine) -> None:
    with client_of(listening(dedupe=True)) as client:
        assert [given(client), given(client)] == [(250, f"2.0.0 Ok: queued as {rows(engine)[0].id}".encode())] * 2
    assert len(rows(engine)) == 1
    with client_of(listening()) as client:
        given(client)
    assert len(rows(engine)) == 2


@ON_SQLITE
def test_the_null_path_and_utf8_and_long_lines_are_taken_as_they_are(listening: Listening, engine: Engine) -> None:
    raw = RAW + b"x" * 5000 + b" \xc3\xa9\r\n"
    with client_of(listening()) as client:
        client.docmd("MAIL FROM:<> BODY=8BITMIME SMTPUTF8")
        client.sock.sendall("RCPT TO:<jürgen@b.test>\r\n".encode())
        assert client.getreply()[0] == 250
        assert client.data(raw)[0] == 250
    assert [(row.envelope_from, row.recipients, row.raw) for row in rows(engine)] == [("", "jürgen@b.test", raw)]


@ON_SQLITE
def test_a_line_feed_alone_never_ends_a_message(listening: Listening, engine: Engine) -> None:
    """CVE-2023-51764: what follows would be commands of somebody who is not there."""
    with client_of(listening()) as client:
        client.docmd("MAIL FROM:<jo@x.test>")
        client.docmd("RCPT TO:<a@b.test>")
        client.docmd("DATA")
        client.sock.sendall(RAW + b"a\n.\nMAIL FROM:<evil@x.test>\r\n.\r\n")
        assert client.getreply()[0] == 250
    (row,) = rows(engine)
    assert row.raw.endswith(b"a\n.\nMAIL FROM:<evil@x.test>\r\n")


@ON_SQLITE
@pytest.mark.parametrize(
    ("raw", "mail", "rcpt", "expected"),
    [
        (b"X: 1\r\n\r\n\0\r\n", "", "", "554 5.6.0 raw: a NUL byte at position 8; no relay takes one"),
        (RAW, " SIZE=100001", "", "552 Error: message size exceeds fixed maximum message size"),
        (b"x" * 200 * 1000, "", "", "552 Error: Too much mail data"),
        (RAW, " RET=ALL", "", "501 5.5.4 a DSN parameter is not as RFC 3461 has it"),
        (RAW, "", " NOTIFY=NEVER,DELAY", "501 5.5.4 a DSN parameter is not as RFC 3461 has it"),
        (RAW, " FOO=1", "", "555 MAIL FROM parameters not recognized or not implemented"),
    ],
)
def test_what_could_never_be_sent_is_refused_with_its_reason(
    listening: Listening, engine: Engine, *, raw: bytes, mail: str, rcpt: str, expected: str
) -> None:
    with client_of(listening()) as client:
        code, words = given(client, raw, mail, rcpt)
    assert f"{code} {words.decode()}".startswith(expected)
    assert rows(engine) == []


@ON_SQLITE
def test_while_the_database_is_away_the_client_keeps_its_message(listening: Listening) -> None:
    away = DatabaseSettings(url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with client_of(listening(elsewhere=away)) as client:
        assert given(client) == (451, b"4.3.0 the outbox can't be written now; try again later")


@ON_SQLITE
def test_with_users_nobody_submits_without_a_login_and_three_wrong_ones_end_it(
    listening: Listening, engine: Engine
) -> None:
    listener = listening(**USERS)
    with client_of(listener) as client:
        assert given(client) == (530, b"5.7.0 log in first")
        for mechanism in ("PLAIN", "LOGIN"):
            client.user, client.password = "jo", "wrong"
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
        assert client.login("jo", "correct horse")[0] == 235
        assert given(client)[0] == 250
    with client_of(listener) as client:
        codes = [client.docmd("AUTH PLAIN AGpvAHdyb25n")[0] for _ in range(3)]
        assert (codes, client.sock.recv(1)) == ([535, 535, 421], b"")
    assert len(rows(engine)) == 1


@ON_SQLITE
@pytest.mark.skipif(bool(certs.available()), reason=certs.available())
def test_starttls_is_offered_with_a_certificate(listening: Listening, engine: Engine, tmp_path: Path) -> None:
    authority = certs.Authority(tmp_path)
    server = authority.issue("localhost")
    listener = listening(certificate_file=str(server.certificate), key_file=str(server.key), **USERS)
    with smtplib.SMTP("localhost", listener.port, timeout=20) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(authority.ca_file)))
        client.login("jo", "correct horse")
        assert given(client)[0] == 250
    assert len(rows(engine)) == 1


@ON_SQLITE
@pytest.mark.skipif(bool(certs.available()), reason=certs.available())
def test_beyond_loopback_no_password_is_taken_in_clear_text(listening: Listening, tmp_path: Path) -> None:
    server = certs.Authority(tmp_path).issue("localhost")
    keys = {"certificate_file": str(server.certificate), "key_file": str(server.key)}
    with client_of(listening(listen="0.0.0.0:0", **keys, **USERS)) as client:
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH PLAIN AGpvAGNvcnJlY3QgaG9yc2U=")[0] == 538
        assert given(client) == (530, b"5.7.0 log in first")


def test_another_address_than_loopback_wants_logins_and_a_certificate(listening: Listening) -> None:
    for settings in ({}, USERS, {"certificate_file": "x"}):
        with pytest.raises(Misfit):
            listening(listen="0.0.0.0:0", **settings)


@ON_SQLITE
def test_nobody_is_offered_a_login_where_there_are_no_users(listening: Listening) -> None:
    with client_of(listening()) as client:
        assert {"dsn", "size", "8bitmime", "smtputf8"} <= client.esmtp_features.keys()
        assert "auth" not in client.esmtp_features


@ON_SQLITE
def test_beyond_so_many_connections_it_says_421(listening: Listening) -> None:
    listener = listening(max_connections=1)
    with client_of(listener), socket.create_connection(("127.0.0.1", listener.port), timeout=20) as second:
        assert second.makefile("rb").read() == b"421 4.3.2 too many connections; try again later\r\n"


@ON_SQLITE
def test_a_stop_says_421_to_who_is_idle_and_finishes_what_is_being_committed(
    listening: Listening, database: DatabaseSettings, engine: Engine
) -> None:
    listener = listening()
    locker = connect(database)
    with client_of(listener) as idle, client_of(listener) as busy:
        with locker.begin() as connection:  # SQLite has one lock for all
            connection.execute(sa.text("DELETE FROM outbox"))
            busy.docmd("MAIL FROM:<jo@x.test>")
            busy.docmd("RCPT TO:<a@b.test>")
            busy.docmd("DATA")
            busy.sock.sendall(RAW.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            wait_until(lambda: any(line.is_committing for line in list(listener.lines)), "the commit")
            stopping = threading.Thread(target=listener.stop)
            stopping.start()
            assert idle.getreply() == (421, b"4.3.2 the service is stopping; try again later")
        assert busy.getreply()[0] == 250
        stopping.join()
    locker.dispose()
    assert len(rows(engine)) == 1
