"""What an exchange means: a table of phases, replies and losses, each with whose fault it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poller.exchange import Exchange, Loss, Message, Phase, RelayTrouble, Reply
from poller.judgement.advice import ReplyPattern
from poller.judgement.outcome import (
    DEFAULT,
    Blame,
    Deferred,
    Expired,
    Failed,
    InDoubt,
    Outcome,
    Rulebook,
    Sent,
    Suppressed,
    Verdict,
    heard_at_the_door,
    in_doubt_after_crash,
    judge,
    queue_id,
    signature,
)
from poller.smtp.replies import RawReply

OK = Reply(code=250, status="2.1.0", text="Ok")
GO_ON = Reply(code=354, text="End data with <CR><LF>.<CR><LF>")
TAKEN = Reply(code=250, status="2.0.0", text="Ok: queued as 4F1A2B3C4D")
BEHIND = Reply(code=503, status="5.5.1", text="Error: need MAIL command")
NOBODY = Reply(code=554, status="5.5.1", text="Error: no valid recipients")


def said(line: str) -> Reply:
    """The reply as it comes off the wire."""
    return RawReply(int(line[:3]), (line[4:].encode(),)).reply


def message(recipients: int = 1) -> Message:
    addresses = tuple(f"r{number}@example.com" for number in range(1, recipients + 1))
    return Message(
        row_id=7, claim_seq=1, message_id="<7@x>", mail_from="s@example.org", recipients=addresses, content=b"\r\n"
    )


def answered(phase: Phase, reply: Reply) -> Exchange:
    """A pipelined transaction of one recipient in which all goes well until `reply` at `phase`."""
    match phase:
        case Phase.MAIL:
            return Exchange(message=message(), phase=Phase.DATA, mail=reply, rcpt=(BEHIND,), data=BEHIND)
        case Phase.RCPT:
            return Exchange(message=message(), phase=Phase.DATA, mail=OK, rcpt=(reply,), data=NOBODY)
        case Phase.DATA:
            return Exchange(message=message(), phase=Phase.DATA, mail=OK, rcpt=(OK,), data=reply)
        case _:
            return Exchange(
                message=message(),
                phase=Phase.END,
                mail=OK,
                rcpt=(OK,),
                data=GO_ON,
                end=reply,
                end_of_data_sent=True,
            )


def in_short(outcome: Outcome) -> str:
    match outcome:
        case Sent() | Suppressed() | Expired():
            return type(outcome).__name__.lower()
        case Deferred(at_once=True):
            return f"deferred {outcome.blame} at once"
        case Deferred() | Failed() | InDoubt():
            return f"{type(outcome).__name__.lower()} {outcome.blame}"


def shorts(exchange: Exchange) -> list[str]:
    return [in_short(outcome) for outcome in judge(exchange).outcomes]


# Every phase and every class of reply.

TABLE = {
    (Phase.MAIL, 354): "deferred session",
    (Phase.MAIL, 421): "deferred session",
    (Phase.MAIL, 451): "deferred message",
    (Phase.MAIL, 550): "failed message",
    (Phase.RCPT, 250): "sent",
    (Phase.RCPT, 251): "sent",
    (Phase.RCPT, 252): "sent",
    (Phase.RCPT, 354): "deferred session",
    (Phase.RCPT, 421): "deferred session",
    (Phase.RCPT, 451): "deferred recipient",
    (Phase.RCPT, 550): "failed recipient",
    (Phase.DATA, 250): "deferred session",
    (Phase.DATA, 421): "deferred session",
    (Phase.DATA, 451): "deferred message",
    (Phase.DATA, 550): "failed message",
    (Phase.END, 250): "sent",
    (Phase.END, 354): "indoubt message",
    (Phase.END, 421): "deferred session",
    (Phase.END, 451): "deferred message",
    (Phase.END, 550): "failed message",
}


@pytest.mark.parametrize(("phase", "code"), TABLE)
def test_a_class_of_reply_means_one_thing_in_each_phase(phase: Phase, code: int) -> None:
    exchange = answered(phase, Reply(code=code, text="words"))
    if phase is Phase.RCPT and code // 100 == 2:
        exchange = Exchange(
            message=message(),
            phase=Phase.END,
            mail=OK,
            rcpt=(Reply(code=code),),
            data=GO_ON,
            end=TAKEN,
            end_of_data_sent=True,
        )
    assert shorts(exchange) == [TABLE[phase, code]]


LINES = [
    # Login (RFC 4954), wherever it is said
    (Phase.MAIL, "530 5.7.0 Must issue a STARTTLS command first", "deferred session"),
    (Phase.MAIL, "530 5.7.57 Client not authenticated to send mail", "deferred session"),
    (Phase.RCPT, "530 5.7.0 Authentication required", "deferred session"),
    (Phase.MAIL, "534 5.7.9 Authentication mechanism is too weak", "deferred session"),
    (Phase.MAIL, "535 5.7.8 Error: authentication failed", "deferred session"),
    (Phase.MAIL, "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect", "deferred session"),
    (Phase.MAIL, "538 5.7.11 Encryption required for requested authentication mechanism", "deferred session"),
    (Phase.MAIL, "454 4.7.0 Temporary authentication failure", "deferred session"),
    (Phase.MAIL, "550 5.7.30 Basic authentication is not supported for Client Submission", "deferred session"),
    (Phase.RCPT, "550 5.7.1 Authentication required", "deferred session"),
    (Phase.RCPT, "550 SMTP AUTH is required for message submission on port 587", "deferred session"),
    (Phase.MAIL, "550 Unauthenticated senders not allowed", "deferred session"),
    # Relaying
    (Phase.RCPT, "554 5.7.1 <r1@example.com>: Relay access denied", "deferred session"),
    (Phase.RCPT, "454 4.7.1 <r1@example.com>: Relay access denied", "deferred session"),
    (Phase.RCPT, "553 sorry, relaying denied from your location [192.0.2.1] (#5.7.1)", "deferred session"),
    (Phase.RCPT, "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", "deferred session"),
    (Phase.RCPT, "550 5.7.1 <r1@example.com>... Relaying denied", "deferred session"),
    (Phase.RCPT, "550 5.7.1 Relaying to <r1@example.com> denied (authentication required)", "deferred session"),
    (Phase.RCPT, "550 relay not permitted", "deferred session"),
    (Phase.RCPT, "550 host is not permitted to relay through this server without authentication", "deferred session"),
    (Phase.RCPT, "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", "deferred session"),
    (Phase.RCPT, "550 5.7.64 TenantAttribution; Relay Access Denied", "deferred session"),
    (Phase.RCPT, "550 5.7.0 Mail relay denied [192.0.2.1]", "deferred session"),
    (Phase.RCPT, "550 5.7.1 No relaying allowed", "deferred session"),
    # Our host
    (Phase.RCPT, "554 5.7.1 <c.example[192.0.2.1]>: Client host rejected: Access denied", "deferred session"),
    (Phase.RCPT, "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", "deferred session"),
    (
        Phase.RCPT,
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
        "deferred destination",
    ),
    (
        Phase.RCPT,
        "550 5.7.1 Recipient not authorized, your IP has been found on a block list",
        "deferred destination",
    ),
    (Phase.MAIL, "550 5.7.606 Access denied, banned sending IP [192.0.2.1]", "deferred session"),
    (Phase.MAIL, "550 5.7.649 Access denied", "deferred session"),
    (
        Phase.MAIL,
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Part of their network is on our block list",
        "deferred session",
    ),
    (Phase.RCPT, "550 rejected because 192.0.2.1 is in a black list at zen.spamhaus.org", "deferred destination"),
    (Phase.RCPT, "504 5.5.2 <box>: Helo command rejected: need fully-qualified hostname", "deferred session"),
    (Phase.END, "550 5.7.25 The IP address sending this message does not have a PTR record", "deferred session"),
    (Phase.RCPT, "554 5.7.1 <r1@example.com>: Recipient address rejected: Access denied", "failed recipient"),
    (Phase.RCPT, "554 5.7.1 <s@example.org>: Sender address rejected: Access denied", "deferred session"),
    (Phase.RCPT, "454 4.7.1 <r1@example.com>: Recipient address rejected: Access denied", "deferred recipient"),
    # Our sender rights
    (
        Phase.RCPT,
        "553 5.7.1 <s@example.org>: Sender address rejected: not owned by user joe",
        "deferred session",
    ),
    (Phase.RCPT, "553 5.7.1 <s@example.org>: Sender address rejected: not logged in", "deferred session"),
    (
        Phase.END,
        "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
        "deferred session",
    ),
    (Phase.END, "550 5.7.1 Client does not have permissions to send as this sender", "deferred session"),
    (Phase.END, "554 5.2.252 SendAsDenied; s@example.org not allowed to send as", "deferred session"),
    (Phase.END, "550 5.1.8 Access denied, bad outbound sender", "deferred session"),
    (Phase.END, "554 Access denied: User arn:x is not authorized to perform ses:SendRawEmail", "deferred session"),
    (Phase.END, "550 The from address does not match a verified Sender Identity.", "deferred session"),
    # Our limits
    (Phase.MAIL, "432 4.3.2 Concurrent connections limit exceeded", "deferred session"),
    (Phase.END, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", "deferred session"),
    (Phase.END, "550 5.4.5 Daily user sending limit exceeded.", "deferred session"),
    (Phase.MAIL, "450 4.7.1 Error: too much mail from 192.0.2.1", "deferred session"),
    (Phase.RCPT, "450 4.7.1 Error: too many recipients from 192.0.2.1", "deferred session"),
    (Phase.END, "454 Throttling failure: Maximum sending rate exceeded.", "deferred session"),
    (Phase.RCPT, "550 Domain example.org has exceeded the max emails per hour (500/500 (100%))", "deferred session"),
    (Phase.MAIL, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]", "deferred session"),
    (Phase.END, "550 5.1.90 Your message can't be sent because you've reached your daily limit", "deferred session"),
    (Phase.MAIL, "550 5.7.233 Your tenant exceeded its daily limit for external recipients", "deferred session"),
    # The relay's own trouble
    (Phase.MAIL, "452 4.3.1 Insufficient system storage", "deferred session"),
    (Phase.END, "452 4.3.1 Insufficient system resources", "deferred session"),
    (Phase.RCPT, "451 4.3.5 Server configuration error", "deferred session"),
    (Phase.END, "451 4.3.0 Error: queue file write error", "deferred session"),
    (Phase.MAIL, "453 4.3.2 System not accepting network messages", "deferred session"),
    # Out of step
    (Phase.MAIL, "503 5.5.1 Error: nested MAIL command", "deferred session"),
    (Phase.DATA, "503 5.5.0 <DATA>: Data command rejected: Improper use of pipelining", "deferred session"),
    (Phase.MAIL, "502 5.5.2 Error: command not recognized", "deferred session"),
    # 421, whatever it answers, unless it is known for another's
    (Phase.MAIL, "421 4.7.0 Too many errors", "deferred session"),
    (Phase.MAIL, "421 4.7.28 Our system has detected an unusual rate of mail", "deferred session"),
    (Phase.RCPT, "421 4.7.28 Our system has detected an unusual rate of mail", "deferred destination"),
    (Phase.END, "421 4.7.28 Our system has detected an unusual rate of mail", "deferred destination"),
    (Phase.RCPT, "421 4.7.1 Messages to r1@example.com deferred due to excessive volume", "deferred recipient"),
    (Phase.RCPT, "421 4.4.2 Error: try again in 5 minutes", "deferred session"),
    # The destination, though the words speak of us: somebody passes them on
    (
        Phase.RCPT,
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Part of their network is on our block list",
        "deferred destination",
    ),
    (Phase.END, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]", "deferred destination"),
    (Phase.RCPT, "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1", "deferred destination"),
    (Phase.RCPT, "450 4.7.1 <c.example[192.0.2.1]>: Client host rejected: Greylisted", "deferred recipient"),
    # This recipient
    (Phase.RCPT, "550 5.1.1 <r1@example.com>: Recipient address rejected: User unknown", "failed recipient"),
    (Phase.RCPT, "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)", "failed recipient"),
    (Phase.RCPT, "554 5.7.1 <r1@example.com>: Recipient address rejected: moved away", "failed recipient"),
    (Phase.RCPT, "450 4.2.0 <r1@example.com>: Recipient address rejected: Greylisted", "deferred recipient"),
    (Phase.RCPT, "451 4.7.1 Greylisting in action, please come back later", "deferred recipient"),
    (Phase.RCPT, "452 4.2.2 The recipient's inbox is out of storage space", "deferred recipient"),
    (Phase.RCPT, "552 5.2.2 Mailbox full, quota exceeded", "failed recipient"),
    (Phase.RCPT, "450 4.2.1 The user you are trying to contact is receiving mail at a rate", "deferred recipient"),
    (Phase.RCPT, "550 5.7.1 Message rejected under suspicion of SPAM", "failed recipient"),
    (Phase.RCPT, "554 5.7.1 Message rejected as spam", "failed recipient"),
    (Phase.RCPT, "451 4.3.0 <r1@example.com>: Temporary lookup failure", "deferred recipient"),
    (Phase.RCPT, "452 4.5.3 Error: too many recipients", "deferred recipient"),
    (Phase.RCPT, "550 5.1.1 <relay access denied@example.com>: User unknown", "failed recipient"),
    (Phase.RCPT, "550 5.1.1 No such user relay-denied@example.com", "failed recipient"),
    # The message, its content and its sender
    (Phase.MAIL, "552 5.3.4 Message size exceeds fixed limit", "failed message"),
    (Phase.MAIL, "501 5.1.7 Bad sender address syntax", "failed message"),
    (Phase.MAIL, "550 5.1.8 <s@example.org>: Sender domain not found", "failed message"),
    (Phase.RCPT, "550 5.1.8 <s@example.org>: Sender address rejected: Domain not found", "failed message"),
    (Phase.RCPT, "450 4.1.8 <s@example.org>: Sender address rejected: Domain not found", "deferred message"),
    (Phase.RCPT, "554 5.7.1 Service unavailable; Sender address [s@example.org] blocked", "failed message"),
    (Phase.RCPT, "550 5.7.23 <r1@example.com>: Message rejected due to: SPF fail", "failed message"),
    (Phase.END, "550 5.7.26 Unauthenticated email from example.org is not accepted due to DMARC", "deferred session"),
    (Phase.END, "550 5.7.515 Access denied, sending domain example.org does not meet the level", "deferred session"),
    (Phase.END, "554 5.7.1 Access denied", "failed message"),
    (Phase.END, "554 5.7.1 Message rejected as spam", "failed message"),
    (Phase.END, "550 5.7.1 Your message talks of relay access denied", "failed message"),
    (Phase.END, "554 5.7.1 Blacklisted URL in message", "failed message"),
    (Phase.END, "552 5.3.4 Message too big", "failed message"),
    (Phase.END, "451 4.7.1 Service unavailable - try again later", "deferred message"),
    (Phase.END, "432 4.3.0 STOREDRV.Deliver; recipient thread limit exceeded", "deferred message"),
    (Phase.END, "452 4.5.3 Too many recipients", "deferred message"),
]


@pytest.mark.parametrize(("phase", "line", "expected"), LINES, ids=[f"{p}-{line[:60]}" for p, line, _ in LINES])
def test_a_reply_that_speaks_of_us_is_never_the_rows_fault_and_one_about_the_mail_never_ours(
    phase: Phase, line: str, expected: str
) -> None:
    assert shorts(answered(phase, said(line))) == [expected]


@pytest.mark.parametrize("code", [250, 354, 421, 450, 550])
def test_the_reply_that_decided_is_kept_and_told_in_the_reason(code: int) -> None:
    reply = Reply(code=code, status="", text="in these words")
    [outcome] = judge(answered(Phase.END, reply)).outcomes
    assert outcome.reply == (None if code == 354 else reply)
    if not isinstance(outcome, Sent):
        assert outcome.reason.endswith(f"at the end of data: {code} in these words")


# Losses


LOST = Loss(phase=Phase.MAIL, reason="timed out after 300s")


@pytest.mark.parametrize(
    "exchange",
    [
        Exchange(message=message(2), phase=Phase.RSET, rcpt=(None, None), loss=LOST),
        Exchange(message=message(2), phase=Phase.MAIL, rcpt=(None, None), loss=LOST),
        Exchange(message=message(2), phase=Phase.MAIL, loss=LOST),
        Exchange(message=message(2), phase=Phase.RCPT, mail=OK, rcpt=(OK, None), loss=LOST),
        Exchange(message=message(2), phase=Phase.DATA, mail=OK, rcpt=(OK, OK), loss=LOST),
        Exchange(message=message(2), phase=Phase.CONTENT, mail=OK, rcpt=(OK, OK), data=GO_ON, loss=LOST),
        Exchange(message=message(2), phase=Phase.CONTENT, mail=OK, rcpt=(OK, OK), data=GO_ON),
    ],
    ids=["rset", "mail", "nothing-asked", "rcpt", "data", "content", "content-without-a-loss"],
)
def test_a_line_lost_before_the_end_of_data_is_the_sessions_fault_and_no_doubt(exchange: Exchange) -> None:
    assert shorts(exchange) == ["deferred session", "deferred session"]


@pytest.mark.parametrize("loss", [LOST, None])
def test_a_line_lost_after_the_end_of_data_is_a_doubt_for_those_who_were_accepted_only(loss: Loss | None) -> None:
    unknown = said("550 5.1.1 no such user")
    exchange = Exchange(
        message=message(2),
        phase=Phase.END,
        mail=OK,
        rcpt=(OK, unknown),
        data=GO_ON,
        loss=loss,
        end_of_data_sent=True,
    )
    assert shorts(exchange) == ["indoubt message", "failed recipient"]


def test_nonsense_before_the_end_of_data_is_a_doubt_if_the_data_is_out_all_the_same() -> None:
    exchange = Exchange(
        message=message(2), phase=Phase.END, mail=OK, rcpt=(OK, GO_ON), loss=LOST, end_of_data_sent=True
    )
    assert shorts(exchange) == ["indoubt message", "indoubt message"]


def test_a_refusal_in_the_midst_of_the_content_is_an_answer_and_no_loss() -> None:
    refused = said("552 5.3.4 too much")
    exchange = Exchange(message=message(), phase=Phase.CONTENT, mail=OK, rcpt=(OK,), data=GO_ON, end=refused, loss=LOST)
    assert shorts(exchange) == ["failed message"]


def test_an_orphan_of_which_nothing_is_known_is_in_doubt_by_the_workers_fault() -> None:
    assert in_doubt_after_crash("killed") == InDoubt(blame=Blame.WORKER, reason="killed")


# Several recipients


NOT_NOW, UNKNOWN, FULL = said("450 4.2.0 Greylisted"), said("550 5.1.1 unknown"), said("452 4.5.3 Too many recipients")
NO_RELAY = said("554 5.7.1 <r2@example.com>: Relay access denied")
CLOSING = said("421 4.3.2 closing")

MIXTURES = [
    # rcpt, data, end, expected
    ((OK, NOT_NOW, UNKNOWN), GO_ON, TAKEN, ["sent", "deferred recipient", "failed recipient"]),
    ((OK, NOT_NOW, UNKNOWN), GO_ON, said("451 no"), ["deferred message", "deferred recipient", "failed recipient"]),
    ((OK, NOT_NOW, UNKNOWN), GO_ON, said("554 no"), ["failed message", "deferred recipient", "failed recipient"]),
    ((OK, NOT_NOW, UNKNOWN), said("451 no"), None, ["deferred message", "deferred recipient", "failed recipient"]),
    ((UNKNOWN, NOT_NOW), NOBODY, None, ["failed recipient", "deferred recipient"]),
    ((UNKNOWN, NOT_NOW), BEHIND, None, ["failed recipient", "deferred recipient"]),
    ((OK, NO_RELAY), GO_ON, TAKEN, ["sent", "deferred session"]),
    ((UNKNOWN, CLOSING, None), None, None, ["failed recipient", "deferred session", "deferred session"]),
    ((OK, CLOSING, None), None, None, ["deferred session", "deferred session", "deferred session"]),
    ((OK, FULL), GO_ON, TAKEN, ["sent", "deferred recipient at once"]),
    ((OK, said("552 Too many recipients")), GO_ON, TAKEN, ["sent", "deferred recipient at once"]),
    ((OK, said("550 5.5.3 Too many recipients")), GO_ON, TAKEN, ["sent", "deferred recipient at once"]),
    ((OK, said("452 Requested action not taken")), GO_ON, TAKEN, ["sent", "deferred recipient"]),
    ((OK, FULL), GO_ON, said("451 no"), ["deferred message", "deferred recipient"]),
    ((OK, FULL), GO_ON, None, ["indoubt message", "deferred recipient"]),
    ((FULL, FULL), NOBODY, None, ["deferred recipient", "deferred recipient"]),
]


@pytest.mark.parametrize(("rcpt", "data", "end", "expected"), MIXTURES)
def test_each_recipient_has_an_outcome_of_its_own(
    rcpt: tuple[Reply | None, ...], data: Reply | None, end: Reply | None, expected: list[str]
) -> None:
    exchange = Exchange(
        message=message(len(rcpt)),
        phase=Phase.END,
        mail=OK,
        rcpt=rcpt,
        data=data,
        end=end,
        end_of_data_sent=data == GO_ON,
    )
    assert shorts(exchange) == expected


def test_replies_pipelined_behind_a_refused_mail_mean_nothing() -> None:
    exchange = Exchange(
        message=message(2), phase=Phase.DATA, mail=said("451 4.7.1 later"), rcpt=(BEHIND, UNKNOWN), data=BEHIND
    )
    assert shorts(exchange) == ["deferred message", "deferred message"]


def test_what_the_relay_lacks_fails_the_message_in_words() -> None:
    exchange = Exchange(message=message(2), phase=Phase.MAIL, rcpt=(None, None), lacking="SMTPUTF8")
    refusal = Failed(blame=Blame.MESSAGE, reason="not sent: SMTPUTF8")
    assert judge(exchange).outcomes == (refusal, refusal)


# The verdict on the session


@pytest.mark.parametrize(
    ("exchange", "slow_down", "blames_session", "delivered"),
    [
        (answered(Phase.END, TAKEN), False, False, True),
        (answered(Phase.END, said("550 spam")), False, False, False),
        (answered(Phase.MAIL, said("535 5.7.8 no")), False, True, False),
        (answered(Phase.MAIL, CLOSING), True, True, False),
        (answered(Phase.RCPT, CLOSING), True, True, False),
        (answered(Phase.DATA, CLOSING), True, True, False),
        (answered(Phase.END, CLOSING), True, True, False),
        (answered(Phase.END, said("354 what")), False, False, False),
    ],
)
def test_a_verdict_says_what_the_session_is_good_for(
    exchange: Exchange, *, slow_down: bool, blames_session: bool, delivered: bool
) -> None:
    verdict = judge(exchange)
    found = (verdict.slow_down, verdict.blames_session, verdict.delivered)
    assert found == (slow_down, blames_session, delivered)
    assert (verdict.message, verdict.phase) == (exchange.message, exchange.phase)


def test_one_accepted_recipient_makes_a_delivery_even_if_another_blames_the_session() -> None:
    outcomes = (Sent(reply=TAKEN), Deferred(blame=Blame.SESSION, reason="no relaying"))
    verdict = Verdict(message=message(2), phase=Phase.END, outcomes=outcomes)
    assert (verdict.delivered, verdict.blames_session) == (True, True)


# Queue ids


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("250 2.0.0 Ok: queued as 4F1A2B3C4D", "4F1A2B3C4D"),  # Postfix
        ("250 2.0.0 Ok: queued as 4Xy9zA1bcdz5pQ", "4Xy9zA1bcdz5pQ"),  # Postfix, enable_long_queue_ids
        ("250 OK id=1tABcD-000000001Yz-0AbC", "1tABcD-000000001Yz-0AbC"),  # Exim
        ("250 2.0.0 48NBcDeF012345 Message accepted for delivery", "48NBcDeF012345"),  # Sendmail
        ("250 2.0.0 1a2b3c4d Message accepted for delivery", "1a2b3c4d"),  # OpenSMTPD
        (
            "250 2.6.0 <7@x> [InternalId=1234567890123, Hostname=A.example] 1810 bytes Queued mail for delivery",
            "1234567890123",
        ),  # Exchange
        ("250 2.0.0 OK  1700000000 a1-20020a05sor1234567wmb.7 - gsmtp", "a1-20020a05sor1234567wmb.7"),  # Gmail
        ("250 Ok 0102018c0a1b2c3d-01234567-89ab-cdef-0123-456789abcdef-000000", None),  # Amazon SES
        ("250 Message Queued (B5E2F1A0-1234-4321-ABCD-0123456789AB.1)", "B5E2F1A0-1234-4321-ABCD-0123456789AB.1"),
        ("250 ok 1700000000 qp 12345", "12345"),  # qmail
        ("250 Ok: queued as aBcDeF_-1234", "aBcDeF_-1234"),  # SendGrid
        ("250 2.0.0 Message queued with id 1a2b3c4d.", "1a2b3c4d"),  # Stalwart
        ("250 OK ids=d7ef132b5d7711d1", "d7ef132b5d7711d1"),  # KumoMTA
        ("250 Requested mail action okay, completed: id=0MhQ5d-1abc", "0MhQ5d-1abc"),  # GMX
        ("250 ok:  Message 123456789 accepted", "123456789"),  # Cisco IronPort
        ("250 2.0.0 Ok: queued on mail-1.example as 1700000000-AbCdEf", "1700000000-AbCdEf"),  # Yandex
        ("250 2.0.0 AbC1dEf2 mail accepted for delivery", "AbC1dEf2"),  # Comcast
        ("250 Queued (0.123 seconds)", ""),  # hMailServer names none
        ("250 Great success", ""),
        ("250 Message accepted for delivery", ""),
        ("250 Ok Message accepted for delivery", ""),
        ("250", ""),
        ("250 Ok: queued as " + "A" * 192, ""),  # more than the column holds
    ],
)
def test_the_relays_own_queue_id_is_read_from_its_250(line: str, expected: str | None) -> None:
    reply = said(line)
    wanted = reply.text.removeprefix("Ok ") if expected is None else expected
    assert queue_id(reply) == wanted
    assert judge(answered(Phase.END, reply)).outcomes == (Sent(reply=reply, queue_id=wanted),)


# What makes two refusals identical


def sign(line: str, recipient: str) -> str:
    return signature(Failed(blame=Blame.RECIPIENT, reason="", reply=said(line)), recipient)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("550 5.1.1 <a@x.example>: User unknown", "550 5.1.1 <b@y.example>: User unknown"),
        ("550 5.1.1 User a unknown", "550 5.1.1 User b unknown"),
        ("550 5.7.1 rejected, ref 1234-abc", "550 5.7.1 rejected, ref 5678-def"),
        ("550 5.7.1 spam a1-20020a5wmb.7 - gsmtp", "550 5.7.1 spam z9-20020c7plk.3 - gsmtp"),
        ("550 5.7.1 No", "550 5.7.1 no"),
    ],
)
def test_refusals_that_differ_in_the_recipient_or_in_numbers_are_identical(one: str, other: str) -> None:
    assert sign(one, "a@x.example") == sign(other, "b@y.example")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("550 5.1.1 no", "551 5.1.1 no"),
        ("550 5.1.1 no", "550 5.1.2 no"),
        ("550 5.1.1 no such user", "550 5.1.1 mailbox disabled"),
    ],
)
def test_refusals_that_differ_in_code_status_or_words_are_not(one: str, other: str) -> None:
    assert sign(one, "a@x.example") != sign(other, "a@x.example")


def test_a_recipient_without_a_domain_has_a_signature_too() -> None:
    assert sign("550 5.1.1 <postmaster> unknown", "postmaster") == "550 5.1.1 … unknown"


def test_only_a_refusal_by_the_relay_has_a_signature() -> None:
    unsaid = Failed(blame=Blame.MESSAGE, reason="too large")
    assert [signature(outcome, "a@x") for outcome in (Sent(reply=TAKEN), unsaid, Expired(reason=""))] == ["", "", ""]


# ---- replies that ask for patience (Rule 7)


@pytest.mark.parametrize(
    ("code", "status", "text", "blame", "wait"),
    [
        (450, "4.7.1", "Greylisted, please try again in 120 seconds", Blame.RECIPIENT, 120),
        (451, "4.7.1", "Greylisting in action", Blame.RECIPIENT, 0),
        (550, "5.2.1", "The user you are trying to contact is receiving mail at a rate that", Blame.RECIPIENT, 600),
        (550, "5.7.1", "Mail rejected: unfortunately, messages from 192.0.2.1 are on our block list", None, 4 * 3600),
        (451, "4.4.2", "Please try again in 5 minutes", Blame.RECIPIENT, 300),
        (454, "", "Throttling failure: Maximum sending rate exceeded.", Blame.SESSION, 10),
        (550, "5.4.5", "Daily user sending limit exceeded", Blame.SESSION, 3600),
    ],
)
def test_a_reply_that_asks_for_patience_gets_it_whatever_its_class(
    code: int, status: str, text: str, blame: Blame | None, wait: float
) -> None:
    (outcome,) = judge(
        Exchange(message=message(), phase=Phase.DATA, mail=OK, rcpt=(Reply(code=code, status=status, text=text),))
    ).outcomes
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.wait) == (blame or outcome.blame, wait)


def test_a_plain_refusal_is_not_taken_for_a_wish() -> None:
    said = Reply(code=550, status="5.1.1", text="user unknown")
    (outcome,) = judge(Exchange(message=message(), phase=Phase.DATA, mail=OK, rcpt=(said,))).outcomes
    assert isinstance(outcome, Failed)


# ---- what replies ask for beyond their message (Rule 8)

TOO_FAST = said("451 4.7.0 Rate limit exceeded")
GOOGLES = said("421 4.7.28 Our system has detected an unusual rate of mail")
PACED = Rulebook(paced=True)


def to(*addresses: str) -> Message:
    return replace(message(), recipients=addresses)


def at_rcpt(carried: Message, *replies: Reply) -> Exchange:
    taken = any(reply.kind == 2 for reply in replies)
    return Exchange(
        message=carried,
        phase=Phase.END if taken else Phase.DATA,
        mail=OK,
        rcpt=replies,
        data=GO_ON if taken else NOBODY,
        end=TAKEN if taken else None,
        end_of_data_sent=taken,
    )


def at_end(carried: Message, reply: Reply) -> Exchange:
    everyone = (OK,) * len(carried.recipients)
    return Exchange(
        message=carried, phase=Phase.END, mail=OK, rcpt=everyone, data=GO_ON, end=reply, end_of_data_sent=True
    )


def wishes(exchange: Exchange, rulebook: Rulebook = DEFAULT) -> list[tuple[str, str, str, float | None, str]]:
    return [(h.about, h.domain, h.action, h.wait, h.category) for h in judge(exchange, rulebook).heard]


def test_a_destination_that_asks_for_less_is_heard_once_and_blamed() -> None:
    exchange = at_rcpt(to("a@Example.com", "b@example.com"), TOO_FAST, TOO_FAST)
    assert wishes(exchange) == [("destination", "example.com", "slow_down", None, "rate")]
    assert shorts(exchange) == ["deferred destination"] * 2
    assert judge(exchange).outcomes[0].reason == (
        "the destination example.com limits our rate: at RCPT: 451 4.7.0 Rate limit exceeded"
    )


def test_each_destination_is_heard_for_itself_beside_acceptances() -> None:
    pause = said("553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1")
    exchange = at_rcpt(to("a@one.example", "b@two.example", "c@three.example"), TOO_FAST, OK, pause)
    assert shorts(exchange) == ["deferred destination", "sent", "deferred destination"]
    assert wishes(exchange) == [
        ("destination", "one.example", "slow_down", None, "rate"),
        ("destination", "three.example", "pause", 14_400, "block"),
    ]


def test_of_several_wishes_of_a_destination_the_one_that_asks_for_most_is_heard() -> None:
    longer = said("451 4.7.0 Rate limit exceeded, try again in 2 hours")
    exchange = at_rcpt(to("a@x.example", "b@x.example", "c@x.example"), TOO_FAST, longer, TOO_FAST)
    assert wishes(exchange) == [("destination", "x.example", "slow_down", 7200, "rate")]


def test_a_reply_to_a_message_for_one_provider_is_about_it_and_one_for_several_destinations_names_none() -> None:
    one = at_end(to("a@gmail.com", "b@googlemail.com"), TOO_FAST)
    several = at_end(to("a@gmail.com", "b@example.com"), TOO_FAST)
    assert wishes(one) == [("destination", "gmail.com", "slow_down", None, "rate")]
    assert wishes(several) == []
    assert shorts(several) == ["deferred destination"] * 2
    assert not any(isinstance(o, Deferred) and o.paced for o in judge(several, PACED).outcomes)


def test_before_a_recipient_was_named_it_is_the_relay_that_asks() -> None:
    exchange = answered(Phase.MAIL, TOO_FAST)
    assert wishes(exchange) == [("relay", "", "slow_down", None, "rate")]
    assert shorts(exchange) == ["deferred session"]


@pytest.mark.parametrize(
    ("line", "heard"),
    [
        ("454 Throttling failure: Maximum sending rate exceeded.", ("relay", "", "slow_down", 10, "rate")),
        ("550 5.4.5 Daily user sending limit exceeded", ("relay", "", "pause", 3600, "quota")),
        ("450 4.7.1 Error: too much mail from 192.0.2.1", ("relay", "", "slow_down", 60, "rate")),
        ("421 4.7.0 mx.example.com Error: too many errors", ("relay", "", "slow_down", 300, "capacity")),
    ],
)
def test_a_relay_that_asks_for_less_of_us_is_heard(line: str, heard: tuple[str, str, str, float, str]) -> None:
    assert wishes(answered(Phase.RCPT, said(line))) == [heard]
    assert shorts(answered(Phase.RCPT, said(line))) == ["deferred session"]


@pytest.mark.parametrize(
    "line",
    [
        "250 2.1.5 Ok",
        "550 5.1.1 user unknown",
        "450 4.2.0 Greylisted, try again in 300 seconds",
        "421 4.7.1 Messages to r1@example.com deferred due to excessive volume",
        "451 4.4.2 Please try again in 5 minutes",
        "421 4.4.2 Error: timeout exceeded",
        "554 5.7.1 Relay access denied",
        "452 4.5.3 Error: too many recipients",
    ],
)
def test_what_concerns_the_recipient_alone_or_is_not_known_asks_for_nothing(line: str) -> None:
    assert wishes(answered(Phase.RCPT, said(line))) == []


def test_a_421_that_is_known_for_the_destinations_does_not_slow_the_relay() -> None:
    verdict = judge(answered(Phase.RCPT, GOOGLES))
    assert (verdict.slow_down, verdict.ended, verdict.blames_session) == (False, False, False)
    assert judge(answered(Phase.MAIL, GOOGLES)).slow_down


def test_what_is_heard_holds_a_row_back_elsewhere_only_where_somebody_writes_it_down() -> None:
    (here,) = judge(answered(Phase.RCPT, GOOGLES)).outcomes
    (elsewhere,) = judge(answered(Phase.RCPT, GOOGLES), PACED).outcomes
    assert isinstance(here, Deferred)
    assert (here.wait, here.paced) == (600, False)
    assert elsewhere == replace(here, paced=True)


def test_an_operators_line_defers_for_its_destination_without_asking_for_more() -> None:
    line = ReplyPattern(action="defer", about="destination", text="busy", wait=90.0)
    exchange = answered(Phase.RCPT, said("451 busy"))
    (outcome,) = judge(exchange, Rulebook(table=(line,), paced=True)).outcomes
    assert wishes(exchange, Rulebook(table=(line,), paced=True)) == []
    assert isinstance(outcome, Deferred)
    assert (outcome.blame, outcome.wait, outcome.paced) == (Blame.DESTINATION, 90, False)


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.RCPT, Phase.END])
def test_an_operators_refusal_comes_before_everything(phase: Phase) -> None:
    line = ReplyPattern(action="refuse", about="relay", text="client host rejected")
    exchange = answered(phase, said("450 4.7.1 Client host rejected: no"))
    assert [type(outcome) for outcome in judge(exchange, Rulebook(table=(line,))).outcomes] == [Failed]


def test_a_line_for_a_provider_counts_for_the_domains_that_the_rulebook_finds_behind_it() -> None:
    line = ReplyPattern(action="pause", provider="acme", text="busy", wait=90.0)
    behind = {"example.com": "acme"}
    exchange = answered(Phase.RCPT, said("451 busy"))
    assert wishes(exchange, Rulebook(table=(line,), provider_of=behind.get))[0][2] == "pause"
    assert wishes(exchange, Rulebook(table=(line,))) == []


def test_a_destination_is_named_by_its_provider_or_its_domain() -> None:
    assert DEFAULT.destination_of("jane@Gmail.com") == "provider google"
    assert DEFAULT.destination_of("example.com") == "domain example.com"
    assert DEFAULT.destination(["a@gmail.com", "b@googlemail.com"]) == "provider google"
    assert DEFAULT.destination(["a@gmail.com", "b@example.com"]) == ""


@pytest.mark.parametrize(
    ("exchange", "ended"),
    [
        (answered(Phase.RCPT, CLOSING), True),
        (answered(Phase.DATA, CLOSING), True),
        (answered(Phase.MAIL, CLOSING), False),
        (answered(Phase.END, CLOSING), False),
        (answered(Phase.RCPT, said("550 5.1.1 unknown")), False),
        (Exchange(message=message(), phase=Phase.RCPT, mail=OK, loss=Loss(phase=Phase.RCPT, reason="reset")), True),
        (Exchange(message=message(), phase=Phase.CONTENT, mail=OK, loss=Loss(phase=Phase.CONTENT, reason="")), True),
        (Exchange(message=message(), phase=Phase.MAIL, loss=Loss(phase=Phase.MAIL, reason="reset")), False),
    ],
)
def test_a_session_that_ends_in_the_midst_of_an_envelope_names_nobody(exchange: Exchange, *, ended: bool) -> None:
    assert judge(exchange).ended == ended


def test_what_is_said_at_the_door_is_about_the_relay() -> None:
    trouble = RelayTrouble(Phase.GREETING, "it said 421", said("421 Too many sessions opened"))
    heard = heard_at_the_door(trouble)
    assert heard is not None
    assert (heard.about, heard.domain, heard.action, heard.wait) == ("relay", "", "slow_down", 300)
    assert heard.reason == "the relay takes no more sessions from us: at greeting: 421 Too many sessions opened"
    assert heard_at_the_door(RelayTrouble(Phase.CONNECT, "refused")) is None
    assert heard_at_the_door(RelayTrouble(Phase.AUTH, "no", said("535 5.7.8 no"))) is None


TOO_MANY = [
    ("554 Transaction failed: Recipient count exceeds 50.", 60, 50),  # Amazon SES
    ("554 Transaction failed: Recipient count exceeds 50.", 130, 50),
    ("552 5.5.3 Too many recipients (130, at most 100)", 130, 100),
    ("452 4.5.3 Too many recipients", 10, 5),
    ("554 5.5.3 Too many recipients", 2, 1),
]


@pytest.mark.parametrize(("line", "recipients", "most"), TOO_MANY)
@pytest.mark.parametrize("phase", [Phase.DATA, Phase.END])
def test_a_message_refused_for_the_number_of_its_recipients_is_divided_and_nobody_is_charged(
    phase: Phase, line: str, recipients: int, most: int
) -> None:
    reply = said(line)
    exchange = Exchange(message=message(recipients), phase=phase, mail=OK, rcpt=(OK,) * recipients, data=GO_ON)
    replies = {"data": reply} if phase is Phase.DATA else {"end": reply, "end_of_data_sent": True}
    verdict = judge(replace(exchange, **replies))
    assert verdict.most_recipients == most
    assert {(o.blame, o.at_once) for o in verdict.outcomes if isinstance(o, Deferred)} == {(Blame.SESSION, True)}
    assert len(verdict.outcomes) == recipients


def test_a_message_to_one_recipient_cannot_be_divided() -> None:
    verdict = judge(answered(Phase.END, said("554 5.5.3 Too many recipients")))
    assert verdict.most_recipients is None
    assert [type(outcome) for outcome in verdict.outcomes] == [Failed]
