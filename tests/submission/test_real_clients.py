"""Programs of others hand mail over, and what a relay gets of it in the end, byte by byte where it is signed.

Each is skipped where it is not installed: swaks, bsd-mailx, libphp-phpmailer with php-cli (what WordPress sends with),
libmail-java with ecj (what Jenkins sends with), cron, and openssl for S/MIME.
"""

from __future__ import annotations

import email
import email.policy
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import keys
import pytest
from databases import free_port
from servers import certs
from servers.fault import FaultServer
from servers.processes import greets, wait_until
from service import zygote

from poller.message.dkim import DkimSigner
from poller.message.keys import read_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.bench import Bench

PHPMAILER = Path("/usr/share/php/libphp-phpmailer/autoload.php")
JARS = [Path("/usr/share/java") / name for name in ("javax.mail.jar", "javax.activation.jar")]
pytestmark = [
    pytest.mark.parametrize("kind", ["sqlite"]),
    pytest.mark.skipif(bool(certs.available()), reason=certs.available()),
]
LETTER = (
    b"From: Jo <jo@example.com>\nTo: a@b.test\nSubject: signed\nDate: Mon, 1 Jan 2026 00:00:00 +0000\n"
    b"Message-ID: <own@example.com>\n"
)
TEXT = "Grüße\n.\n.dot\nFrom here\n\ttab  \nend"
PHP = """<?php
require '%(library)s';
$mail = new PHPMailer\\PHPMailer\\PHPMailer(true);
$mail->CharSet = 'UTF-8'; $mail->Encoding = '8bit'; $mail->SMTPAutoTLS = false;
[$me, $how, $where, $signed, $cert, $key] = $argv;
if ($how == 'smtp') { $mail->isSMTP(); $mail->Host = '127.0.0.1'; $mail->Port = (int)$where; }
if ($how == 'sendmail') { $mail->isSendmail(); $mail->Sendmail = $where; }
if ($how == 'mail') { $mail->isMail(); }
$mail->setFrom('jo@example.com', 'Jö'); $mail->addAddress('a@b.test'); $mail->addBCC('blind@b.test');
$mail->Subject = 'Grüße aus PHP'; $mail->Body = file_get_contents('php://stdin');
if ($signed == 'smime') { $mail->sign($cert, $key, ''); }
if ($signed == 'dkim') {
    $mail->DKIM_domain = 'example.com'; $mail->DKIM_selector = 'rsa0'; $mail->DKIM_private = $key;
}
$mail->send();
"""
JAVA = """
import java.io.*; import java.util.*; import javax.mail.*; import javax.mail.internet.*;
public class Send { public static void main(String[] a) throws Exception {
    Properties p = new Properties();
    p.put("mail.smtp.host", "127.0.0.1"); p.put("mail.smtp.port", a[0]);
    p.put("mail.smtp.dsn.notify", "SUCCESS,FAILURE"); p.put("mail.smtp.dsn.ret", "HDRS");
    Session s = Session.getInstance(p);
    MimeMessage m;
    if (a.length > 1) { m = new MimeMessage(s, new FileInputStream(a[1])); }
    else {
        m = new MimeMessage(s); m.setFrom("jo@example.com");
        m.setRecipients(Message.RecipientType.TO, "a@b.test");
        m.setSubject("Gr\\u00fc\\u00dfe aus Java", "UTF-8");
        m.setText("Build #1: gr\\u00fcn", "UTF-8"); m.saveChanges();
    }
    Transport t = s.getTransport("smtp"); t.connect();
    t.sendMessage(m, new Address[] {new InternetAddress("a@b.test")}); t.close();
} }
"""


def needs(*paths: Path | str) -> pytest.MarkDecorator:
    missing = [str(path) for path in paths if not (path.exists() if isinstance(path, Path) else shutil.which(path))]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A service that listens and sends on to `relay`; `sendmail` is the drop-in as a program."""

    port: int
    sendmail: Path
    relay: FaultServer
    bench: Bench
    authority: certs.Authority
    signer: certs.Certificate

    def run(self, *command: str | Path, stdin: bytes = b"", **environment: str) -> None:
        done = subprocess.run(
            list(map(str, command)),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=90,
            env={**zygote.environment(), **environment},
        )
        assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])

    def arrived(self) -> bytes:
        """The one message that the relay was given."""
        wait_until(lambda: self.relay.messages, "the message at the relay", seconds=30)
        (message,) = self.relay.messages
        return message.content

    def smime(self, letter: bytes = LETTER) -> bytes:
        """A letter that openssl has signed, with CRLF."""
        command = ["openssl", "smime", "-sign", "-signer", self.signer.certificate, "-inkey", self.signer.key, "-text"]
        done = subprocess.run(command, input=TEXT.encode(), capture_output=True, check=True)
        return (letter + done.stdout).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")

    def verify(self, message: bytes) -> None:
        command = ["openssl", "smime", "-verify", "-CAfile", self.authority.ca_file, "-purpose", "any"]
        done = subprocess.run(command, input=message, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def scene(bench: Bench, tmp_path: Path) -> Iterator[Scene]:
    authority = certs.Authority(tmp_path)
    port = free_port()
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port, submission={"listen": f"127.0.0.1:{port}"})
        sendmail = tmp_path / "sendmail"
        sendmail.write_text(
            f'#!/bin/sh\nPYTHONPATH={Path.cwd()} exec {sys.executable} -m poller --config {config} sendmail "$@"\n'
        )
        sendmail.chmod(0o755)
        with bench.running(config):
            wait_until(lambda: greets(port), "the greeting", seconds=30)
            yield Scene(
                port=port,
                sendmail=sendmail,
                relay=relay,
                bench=bench,
                authority=authority,
                signer=authority.issue("localhost"),
            )


def read(message: bytes) -> email.message.EmailMessage:
    return email.message_from_bytes(message, policy=email.policy.default)  # type: ignore[return-value]


@needs("swaks")
def test_what_swaks_hands_over_signed_arrives_byte_by_byte(scene: Scene, tmp_path: Path) -> None:
    signed, file = scene.smime(), tmp_path / "letter.eml"
    file.write_bytes(signed)
    scene.run(
        "swaks",
        "--server",
        f"127.0.0.1:{scene.port}",
        "--from",
        "jo@example.com",
        "--to",
        "a@b.test",
        "--data",
        f"@{file}",
    )
    arrived = scene.arrived()
    assert arrived.rstrip(b"\r\n") == signed.rstrip(b"\r\n")  # swaks ends each message with an empty line of its own
    scene.verify(arrived)


@pytest.mark.parametrize("with_crlf", [True, False])
def test_what_the_drop_in_takes_signed_arrives_byte_by_byte(scene: Scene, *, with_crlf: bool) -> None:
    signed = scene.smime()
    scene.run(scene.sendmail, "-t", "-oi", stdin=signed if with_crlf else signed.replace(b"\r\n", b"\n"))
    assert scene.arrived() == signed
    scene.verify(scene.arrived())


@needs("mail")
def test_mailx_sends_through_the_drop_in(scene: Scene, tmp_path: Path) -> None:
    rc = tmp_path / "mailrc"
    rc.write_text(f"set sendmail={scene.sendmail}\n")
    text = b"Hello\n.dot\n\nend\n"
    scene.run("mail", "-s", "from mailx", "-c", "c@b.test", "a@b.test", stdin=text, MAILRC=str(rc))
    arrived = read(scene.arrived())
    said = (arrived["Subject"], arrived["To"], arrived["From"])
    assert said == ("from mailx", "a@b.test", "Shop <shop@example.com>")
    assert arrived.get_content().replace("\r\n", "\n").encode() == text
    assert set(scene.relay.messages[0].recipients) == {"a@b.test", "c@b.test"}


@needs("php", PHPMAILER)
@pytest.mark.parametrize("how", ["smtp", "sendmail", "mail"])
@pytest.mark.parametrize("signed", ["no", "smime", "dkim"])
def test_phpmailer_as_wordpress_has_it_is_understood_and_its_signatures_hold(
    scene: Scene, tmp_path: Path, how: str, signed: str
) -> None:
    script = tmp_path / "send.php"
    script.write_text(PHP % {"library": PHPMAILER})
    key = keys.key_file(tmp_path, "rsa") if signed == "dkim" else scene.signer.key
    where = str(scene.port) if how == "smtp" else str(scene.sendmail)
    ini = ["-d", f"sendmail_path={scene.sendmail} -t -i"]
    scene.run("php", *ini, script, how, where, signed, scene.signer.certificate, key, stdin=TEXT.encode())
    arrived = scene.arrived()
    message = read(arrived)
    assert (message["Subject"], message["From"], message["Bcc"]) == ("Grüße aus PHP", "Jö <jo@example.com>", None)
    assert set(scene.relay.messages[0].recipients) == {"a@b.test", "blind@b.test"}
    if signed == "smime":
        scene.verify(arrived)
    elif signed == "dkim":
        signer = DkimSigner(domain="example.com", selector="rsa0", key=read_key(str(key)))
        assert keys.verdicts(arrived, [signer]) == [True]
    else:
        assert message.get_content().replace("\r\n", "\n").rstrip("\n") == TEXT


@needs("java", "ecj", *JARS)
@pytest.mark.parametrize("signed", [False, True])
def test_javamail_as_jenkins_has_it_is_understood_and_its_dsn_parameters_are_kept(
    scene: Scene, tmp_path: Path, *, signed: bool
) -> None:
    source = tmp_path / "Send.java"
    source.write_text(JAVA)
    jars = ":".join(map(str, JARS))
    scene.run("ecj", "-proc:none", "-cp", jars, "-source", "11", "-target", "11", "-d", tmp_path, source)
    letter = tmp_path / "letter.eml"
    letter.write_bytes(scene.smime())
    scene.run("java", "-cp", f"{jars}:{tmp_path}", "Send", str(scene.port), *([letter] if signed else []))
    arrived = scene.arrived()
    if signed:
        assert arrived == letter.read_bytes()
        scene.verify(arrived)
    else:
        message = read(arrived)
        assert (message["Subject"], message.get_content().strip()) == ("Grüße aus Java", "Build #1: grün")
    (row,) = scene.bench.rows()
    assert row.dsn == {"mail": "RET=HDRS", "rcpt": {"a@b.test": "NOTIFY=SUCCESS,FAILURE"}}


CRON = """#!/bin/sh
set -e
mount --bind {directory}/sendmail /usr/sbin/sendmail
mount --bind {directory}/crontab /etc/crontab
mount -t tmpfs none /run
mount -t tmpfs none /etc/cron.d
exec cron -f
"""
CRONTAB = "MAILTO={to}\n@reboot root printf 'ready\\n.\\nGr\\303\\274n\\n'\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="cron needs root")
@needs("cron", "unshare", Path("/usr/sbin/sendmail"))
@pytest.mark.parametrize(("to", "recipient"), [("ops@b.test", "ops@b.test"), ("root", "root@example.com")])
def test_what_a_real_cron_mails_to_mailto_goes_out(scene: Scene, tmp_path: Path, to: str, recipient: str) -> None:
    (tmp_path / "crontab").write_text(CRONTAB.format(to=to))
    script = tmp_path / "cron.sh"
    script.write_text(CRON.format(directory=tmp_path))
    cron = subprocess.Popen(["unshare", "-m", "sh", str(script)], env=zygote.environment())
    try:
        arrived = scene.arrived()
    finally:
        cron.terminate()
        cron.wait(10)
    message = read(arrived)
    assert message["To"] == recipient
    assert b"\r\nFrom: root@example.com (Cron Daemon)\r\n" in b"\r\n" + arrived
    assert arrived.partition(b"\r\n\r\n")[2] == "ready\r\n.\r\nGrün\r\n".encode()
    assert scene.relay.messages[0].recipients == (recipient,)
