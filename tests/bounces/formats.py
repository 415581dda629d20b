"""Messages that come back, in the shapes of many systems: each rewritten from what the system is known to write.

Only what a reader goes by is as it is: field names, and the few words by which a format is known.
"""

from __future__ import annotations

from typing import NamedTuple

RETURN = "bounces+{token}@shop.example"
ORIGINAL = "Message-ID: <cafe0123@shop.example>\nFrom: shop@shop.example\nTo: {to}\nSubject: Your order\n"


class Format(NamedTuple):
    """`expected` is (kind, address, action, status) of each report."""

    name: str
    text: str
    expected: tuple[tuple[str, str, str, str], ...]


def dsn(per_recipient: str, *, per_message: str = "Reporting-MTA: dns; mx.elsewhere.example", head: str = "") -> str:
    """RFC 3464, with the header of what was sent."""
    return (
        f"From: MAILER-DAEMON@mx.elsewhere.example\nTo: {RETURN}\nSubject: It did not work\n{head}"
        'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        "--b\nContent-Type: text/plain; charset=us-ascii\n\nWords for a person.\n\n"
        f"--b\nContent-Type: message/delivery-status\n\n{per_message}\n\n{per_recipient}\n\n"
        f"--b\nContent-Type: text/rfc822-headers\n\n{ORIGINAL}\n--b--\n"
    )


def block(address: str, action: str = "failed", status: str = "5.1.1", said: str = "", kind: str = "rfc822") -> str:
    """The fields of one recipient."""
    diagnostic = f"\nDiagnostic-Code: smtp; {said}" if said else ""
    return f"Final-Recipient: {kind}; {address}\nAction: {action}\nStatus: {status}{diagnostic}"


def plain(sender: str, subject: str, body: str, head: str = "") -> str:
    """No report, only text."""
    return f"From: {sender}\nTo: {RETURN}\nSubject: {subject}\n{head}\n{body}"


def complaint(fields: str) -> str:
    """RFC 5965."""
    return (
        f"From: fbl@isp.example\nTo: {RETURN}\nSubject: complaint\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\n\n'
        "--b\nContent-Type: text/plain\n\nSomebody pressed a button.\n\n"
        f"--b\nContent-Type: message/feedback-report\n\n{fields}\n\n"
        f"--b\nContent-Type: message/rfc822\n\n{ORIGINAL}\nHello\n--b--\n"
    )


GONE = "gone@there.example"
FAILED = (("bounce", GONE, "failed", "5.1.1"),)
BARE = (("bounce", GONE, "failed", ""),)

FORMATS = (
    Format("postfix", dsn(block(GONE, said="550 5.1.1 unknown user")), FAILED),
    Format(
        "exchange",
        dsn(block(GONE, status="5.1.10", said="550 5.1.10 no such recipient")),
        (("bounce", GONE, "failed", "5.1.10"),),
    ),
    Format(
        "sendmail, delayed", dsn(block(GONE, "delayed", "4.4.7", "451 later")), (("bounce", GONE, "delayed", "4.4.7"),)
    ),
    Format(
        "two recipients",
        dsn(f"{block(GONE)}\n\n{block('b@there.example', status='5.2.2')}"),
        (*FAILED, ("bounce", "b@there.example", "failed", "5.2.2")),
    ),
    Format("original recipient", dsn(f"Original-Recipient: rfc822;{GONE}\n{block('x@inside.example')}"), FAILED),
    Format("angle brackets", dsn(block(f"<{GONE}>")), FAILED),
    Format("no type", dsn(f"Final-Recipient: {GONE}\nAction: failed\nStatus: 5.1.1"), FAILED),
    Format("shouted", dsn(f"FINAL-RECIPIENT: RFC822; {GONE}\nACTION: FAILED\nSTATUS: 5.1.1"), FAILED),
    Format("status in words", dsn(block(GONE, status="5.1.1 (bad destination mailbox)")), FAILED),
    Format(
        "status only in the diagnostic",
        dsn(
            f"Final-Recipient: rfc822;{GONE}\nAction: failed\n"
            "Diagnostic-Code: smtp; 550-5.1.1 not here\n 550 5.1.1 really not"
        ),
        FAILED,
    ),
    Format("folded", dsn(f"Final-Recipient: rfc822;\n {GONE}\nAction: failed\nStatus:\n 5.1.1"), FAILED),
    Format("delivered", dsn(block(GONE, "delivered", "2.0.0")), (("bounce", GONE, "delivered", "2.0.0"),)),
    Format("relayed is no news", dsn(f"{block('r@there.example', 'relayed', '2.0.0')}\n\n{block(GONE)}"), FAILED),
    Format("without status", dsn(f"Final-Recipient: rfc822;{GONE}\nAction: failed"), BARE),
    Format("automatic, and a report", dsn(block(GONE), head="Auto-Submitted: auto-replied\n"), FAILED),
    Format(
        "qmail",
        plain(
            "MAILER-DAEMON@q.example",
            "failure notice",
            f"Hi. This is the qmail-send program at q.example.\n\n<{GONE}>:\nno mailbox of that name (#5.1.1)\n\n"
            f"--- Below this line is a copy of the message.\n\n{ORIGINAL}",
        ),
        FAILED,
    ),
    Format(
        "exim",
        plain(
            "mailer-daemon@e.example",
            "Mail delivery failed",
            "This message was created automatically.\n",
            f"X-Failed-Recipients: {GONE}\nAuto-Submitted: auto-replied\n",
        ),
        BARE,
    ),
    Format(
        "yahoo",
        f"From: mailer-daemon@yahoo.com\nTo: {RETURN}\nSubject: Failure Notice\n\n"
        f"Message from yahoo.com.\nUnable to deliver message to the following address(es).\n\n<{GONE}>:\nnot here\n\n"
        "--- Original message follows.\n",
        BARE,
    ),
    Format(
        "arf, abuse",
        complaint(f"Feedback-Type: abuse\nUser-Agent: fbl/1\nVersion: 1\nOriginal-Rcpt-To: {GONE}"),
        (("complaint", GONE, "failed", ""),),
    ),
    Format(
        "arf, brackets",
        complaint(f"Feedback-Type: abuse\nVersion: 1\nOriginal-Rcpt-To: <{GONE}>"),
        (("complaint", GONE, "failed", ""),),
    ),
    Format("arf, taken out", complaint("Feedback-Type: abuse\nVersion: 1"), ()),
    Format("vacation", plain(GONE, "Out of office", "I am away.\n", "Auto-Submitted: auto-replied\n"), ()),
    Format("vacation, older", plain(GONE, "Re: order", "I am away.\n", "X-Autoreply: yes\nPrecedence: junk\n"), ()),
    Format("challenge", plain(GONE, "confirm", "Click here.\n", "Precedence: auto_reply\n"), ()),
    Format("a person", plain(GONE, "thanks", "It came, thank you.\n"), ()),
    Format(
        "read receipt",
        f"From: {GONE}\nTo: {RETURN}\nSubject: Read\nMIME-Version: 1.0\nContent-Type: multipart/report;"
        ' report-type=disposition-notification; boundary="b"\n\n--b\nContent-Type: text/plain\n\nread\n--b\n'
        f"Content-Type: message/disposition-notification\n\nFinal-Recipient: rfc822;{GONE}\n"
        "Disposition: manual-action/MDN-sent-manually; displayed\n--b--\n",
        (),
    ),
    Format("empty", "", ()),
)

WRONG_CHARSET = (
    b"From: x@y.example\nTo: bounces@shop.example\nMIME-Version: 1.0\nContent-Type: text/plain; charset=klingon\n"
    b"Content-Transfer-Encoding: 8bit\n\n\xff\xfe\x00 not text\n"
)
NESTED = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n) for n in range(200)) + b"x"
BROKEN = b'Content-Type: multipart/report; report-type=delivery-status; boundary="never there"\n\nnothing\n'
LARGE = dsn(block(GONE)).encode().replace(b"Your order", b"Your order\nX-Pad: " + b"x" * 50_000_000)
NUL = dsn(block("a@there.example", said="550 \x1b[2J\x00 cleared")).encode()
ENDLESS_FIELDS = dsn("\n\n".join(block(f"u{n}@there.example") for n in range(20_000))).encode()
