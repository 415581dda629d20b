"""What replies ask for: as providers word them, and as configurations may."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judgement.test_corpus import CORPUS
from pydantic import TypeAdapter, ValidationError

from poller.exchange import Phase, Reply
from poller.judgement.advice import SHIPPED, Advice, ReplyPattern, advise, retry_after, without_addresses

_STATUS = re.compile(r"([45]\.\d{1,3}\.\d{1,3}) ")


def reply(said: str) -> Reply:
    code, text = int(said[:3]), said[4:]
    status = _STATUS.match(text)
    return Reply(code=code, status=status[1] if status else "", text=text[status.end() :] if status else text)


def advice(said: str, provider: str | None = None, phase: Phase = Phase.RCPT) -> Advice | None:
    answer = reply(said)
    return advise(answer, phase, provider, SHIPPED, without_addresses(answer.text))


KNOWN = [
    # ---- Google
    ("421 4.7.0 Our system has detected an unusual rate of unsolicited mail originating from your IP address.",
     None, "slow_down", "destination", 600),
    ("421 4.7.28 Gmail has detected an unusual rate of mail originating from your DKIM domain", None,
     "slow_down", "destination", 600),
    ("421 4.7.32 Your email has been rate limited because the From: header is not aligned", "google",
     "slow_down", "destination", 600),
    ("450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages", None,
     "defer", "recipient", 600),
    ("450 4.2.1 The user you are trying to contact is receiving email too quickly.", None, "defer", "recipient", 600),
    ("450 4.2.1 Peak SMTP relay limit exceeded for customer. This is a temporary error.", None,
     "slow_down", "relay", 300),
    ("550 5.4.5 Daily user sending quota exceeded. - gsmtp", None, "pause", "relay", 3600),
    ("550 5.7.1 Daily SMTP relay limit exceeded for customer.", None, "pause", "relay", 3600),
    ("421 4.7.0 Try again later, closing connection. x18-20020a05 - gsmtp", None, "slow_down", "relay", 300),
    # ---- Microsoft
    ("421 RP-001 (SNT0-MC2-F19) Unfortunately, some messages from 192.0.2.1 weren't sent. Please try again.", None,
     "slow_down", "destination", 600),
    ("451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)", None,
     "slow_down", "destination", 1800),
    (("550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider "
      "since part of their network is on our block list (S3150)."), None, "pause", "destination", 14_400),
    ("554 5.2.121 Recipient's per hour message receive limit from specific sender exceeded.", None,
     "defer", "recipient", 3600),
    ("432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded", None, "defer", "recipient", 60),
    ("432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending", None,
     "slow_down", "relay", 60),
    ("421 4.3.2 The maximum number of concurrent server connections has exceeded a limit, closing transmission channel",
     None, "slow_down", "relay", 60),
    ("550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients", None,
     "pause", "relay", 3600),
    ("554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message", None,
     "pause", "relay", 3600),
    ("550 5.7.705 Access denied, tenant has exceeded threshold", None, "pause", "relay", 14_400),
    ("451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714)", None,
     "slow_down", "destination", 600),
    ("451 4.7.550 Access denied, please try again later", None, "slow_down", "destination", 600),
    # ---- Yahoo, AOL
    ("421 4.7.0 [TSS05] Messages from 192.0.2.1 temporarily deferred due to user complaints", None,
     "slow_down", "destination", 14_400),
    (("421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - "
      "4.16.55.1; see https://postmaster.yahooinc.com/error-codes"), None, "slow_down", "destination", 7200),
    ("421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred", None,
     "slow_down", "destination", 14_400),
    ("421 4.7.0 [TS02] Messages from 192.0.2.1 temporarily deferred", None, "slow_down", "destination", 1800),
    ("553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list", None,
     "pause", "destination", 14_400),
    ("451 4.3.2 Resources temporarily not available - Please try again later", None, "slow_down", "destination", 600),
    ("553 Mail from 192.0.2.1 not allowed - VS98-IP0 deferred", None, "slow_down", "destination", 3600),
    ("421 4.7.1 : (DYN:T1) http://postmaster.info.aol.com/errors/421dynt1.html", None,
     "slow_down", "destination", 1800),
    ("554 5.7.1 (RTR:BL) http://postmaster.info.aol.com/errors/554rtrbl.html", None, "pause", "destination", 14_400),
    ("421 4.16.51 Messages from 192.0.2.1 temporarily deferred", None, "slow_down", "destination", 5400),
    # ---- Apple, Comcast, GMX and Web.de, Orange, Free, QQ
    ("421 4.7.1 Messages to jane@icloud.com deferred due to excessive volume. Try again later", "apple",
     "defer", "recipient", 1800),
    ("451 4.7.1 Service unavailable - try again later", "apple", "slow_down", "destination", 600),
    ("451 4.2.0 Throttled - https://postmaster.comcast.net/smtp-error-codes.php#RL000010", None,
     "pause", "destination", 300),
    ("421 4.1.0 192.0.2.1 Throttled - try again later. Please see https://postmaster.comcast.net/#RL000003", None,
     "slow_down", "destination", 600),
    ("421 Too many sessions opened", None, "slow_down", "destination", 300),
    (("421 web.de (mxweb113) Nemesis ESMTP Service not available Reject due to policy restrictions Too many messages "
      "have been received in a short period of time. Please try again in a few hours and reduce the sending rate."),
     None, "slow_down", "destination", 10_800),
    ("450 gmx.net (mxgmx014) Reject due to policy violations.", None, "slow_down", "destination", 10_800),
    ("554 gmx.net (mxgmx104) Nemesis ESMTP Service not available No SMTP service IP address is block listed.", None,
     "pause", "destination", 14_400),
    (("421 mwinf5c63 ME Trop de connexions, veuillez verifier votre configuration. Too many connections, slow down. "
      "OFR005_104 [104]"), None, "slow_down", "destination", 300),
    ("421 mwinf5c04 ME Service refuse. Veuillez essayer plus tard. OFR_999 [999]", None,
     "slow_down", "destination", 3600),
    ("451 too many errors from your ip (192.0.2.1), please visit http://postmaster.free.fr/", None,
     "slow_down", "destination", 3600),
    ("550 Ip frequency limited. http://service.mail.qq.com/cgi-bin/help?id=20022", None,
     "slow_down", "destination", 3600),
    ("451 4.7.1 <smtp.example.jp[192.0.2.3]>: Client host rejected: Please try again slower", None,
     "slow_down", "destination", 300),
    # ---- relays that send for us
    ("454 Throttling failure: Maximum sending rate exceeded.", None, "slow_down", "relay", 10),
    ("454 Throttling failure: Daily message quota exceeded.", None, "pause", "relay", 3600),
    ("454 4.7.0 Throttling failure: please slow your requests", None, "slow_down", "relay", 60),
    ("451 Authentication failed: Maximum credits exceeded", None, "pause", "relay", 3600),
    ("450 too frequent connects from 192.0.2.1, please try again later.", None, "slow_down", "relay", 300),
    (("554 Your account is on probation and domains are limited to 100 messages / hour. Account will be enabled in 341 "
      "seconds"), None, "pause", "relay", 341),
    ("421 Domain mg.example.com is not allowed to send: recipient limit exceeded, try again after Mon, 25 Aug", None,
     "pause", "relay", 900),
    ("550 Domain example.com has exceeded the max emails per hour (125/100 (125%)) allowed. Message discarded.", None,
     "pause", "relay", 900),
    ("450 4.7.1 Error: too much mail from 192.0.2.1", None, "slow_down", "relay", 60),
    ("421 4.7.0 mx.example.com Error: too many connections from 192.0.2.1", None, "slow_down", "relay", 60),
    ("421 4.7.0 mx.example.com Error: too many errors", None, "slow_down", "relay", 300),
    ("452 4.3.2 Connection rate limit exceeded.", None, "slow_down", "relay", 60),
    ("421 4.3.2 Too many open connections.", None, "slow_down", "relay", 60),
    ("451 Sender rate overlimit - 21.4 / 1h", None, "slow_down", "relay", 300),
    ("421 Too many concurrent SMTP connections; please try again later.", None, "slow_down", "relay", 60),
    # ---- greylisting
    ("450 4.2.0 <b@example.com>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/", None,
     "defer", "recipient", 300),
    ("450 4.2.0 Greylisted for 5 minutes", None, "defer", "recipient", 300),
    ("451 4.7.1 Greylisting in action, please come back in 00:04:59", None, "defer", "recipient", 299),
    ("451 4.7.1 Service unavailable - try again later", None, "defer", "recipient", 300),
    # ---- in general
    ("451 4.7.0 Rate limit exceeded", None, "slow_down", "destination", None),
    ("421 4.7.0 Too many messages, try again later", None, "slow_down", "destination", None),
    ("550 Too many messages. Try again in 92 seconds.", None, "slow_down", "destination", 92),
    ("451 Temporary failure, please retry in 2 minutes", None, "defer", "recipient", 120),
]  # fmt: skip


@pytest.mark.parametrize(("said", "provider", "action", "about", "wait"), KNOWN, ids=lambda part: str(part)[:40])
def test_what_a_provider_says_is_understood(
    said: str, provider: str | None, action: str, about: str, wait: float | None
) -> None:
    found = advice(said, provider)
    assert found is not None
    assert (found.action, found.about, found.wait) == (action, about, wait)


def test_every_line_of_the_table_is_reached_and_names_its_source() -> None:
    reached = set()
    known = [*((said, provider) for said, provider, *_ in KNOWN), *((said, None) for _, _, said in CORPUS)]
    for (said, provider), phase in itertools.product(known, (Phase.RCPT, Phase.END)):
        answer = reply(said)
        words = without_addresses(answer.text)
        lines = enumerate(SHIPPED)
        reached.add(next((i for i, line in lines if line.matches(answer, phase, provider, words)), -1))
    assert [SHIPPED[i] for i in range(len(SHIPPED)) if i not in reached] == []
    assert [line for line in SHIPPED if not line.source or not line.reason] == []


@pytest.mark.parametrize(
    "said",
    [
        "550 5.1.1 <jane@example.com>: Recipient address rejected: User unknown in local recipient table",
        "550 5.1.1 The email account that you tried to reach does not exist. Please try double-checking",
        "550 5.4.1 Recipient address rejected: Access denied. AS(201806281) [AM1.prod.outlook.com]",
        "552 5.2.2 The email account that you tried to reach is over quota",
        "452 4.2.2 Mailbox full",
        "452 4.5.3 Error: too many recipients",
        "552 5.3.4 Message size exceeds fixed limit",
        "550 5.7.26 This mail has been blocked because the sender is unauthenticated",
        "554 5.7.1 Message rejected as spam",
        "554 5.7.1 <a@b.test>: Relay access denied",
        "535 5.7.8 Authentication failed",
        "550 5.7.1 [CS01] Message rejected due to local policy.",
        "451 4.3.0 Mail server temporarily rejected message.",
        "421 4.4.2 mx.example.com Error: timeout exceeded",
        "450 4.1.2 <a@b.test>: Recipient address rejected: Domain not found",
        "550 Too many invalid recipients",
        "554 5.7.1 <throttled@example.com>: Recipient address rejected: try again later <rate-limited@example.com>",
        "250 2.0.0 Ok: queued, rate limited, try again in 5 minutes",
    ],
)
def test_what_is_no_throttle_follows_its_class(said: str) -> None:
    assert advice(said) is None


def test_the_lines_of_the_operator_come_first() -> None:
    mine = ReplyPattern(action="refuse", codes=(450,), text="greylisted for 5", reason="never lets us in")
    assert advise(
        reply("450 Greylisted for 5 minutes"), Phase.RCPT, None, (mine, *SHIPPED), "Greylisted for 5 minutes"
    ) == Advice(action="refuse", about="destination", category="other", reason="never lets us in", wait=300)


def test_every_criterion_must_match() -> None:
    line = ReplyPattern(
        action="defer", codes=(45, 421), status=r"4\.7\.\d", text="busy", provider="acme", phases=("rcpt", "end")
    )
    hits = [
        line.matches(Reply(code=code, status=status, text=text), phase, provider, text)
        for code, status, text, provider, phase in (
            (450, "4.7.1", "Busy now", "acme", Phase.RCPT),
            (421, "4.7.1", "busy", "acme", Phase.END),
            (422, "4.7.1", "busy", "acme", Phase.RCPT),
            (450, "4.7.12", "busy", "acme", Phase.RCPT),
            (450, "4.7.1", "away", "acme", Phase.RCPT),
            (450, "4.7.1", "busy", None, Phase.RCPT),
            (450, "4.7.1", "busy", "acme", Phase.MAIL),
        )
    ]
    assert hits == [True, True, False, False, False, False, False]


# ---- "try again in N"


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("450 Greylisted, please try again in 59 seconds", 59),
        ("451 Try again in at least 300 sec", 300),
        ("450 please retry in 5 minutes", 300),
        ("421 come back in 1 hour", 3600),
        ("421 Please wait 10 minutes and try again", 600),
        ("450 try again later (in 2 min)", 120),
        ("450 blocked for 600s", 600),
        ("451 Come back in 00:02:00", 120),
        ("451 retry in an hour", 3600),
        ("550 Retry-After: 120", 120),
        ("450 try again in 90 days", 86_400),
        ("450 try again in 0 seconds", None),
        ("450 try again later", None),
        ("450 try again in a few hours", None),
        ("450 we allow 100 messages per 60 minutes; try again later", None),
        ("450 try again later. The limit is 100 messages in 60 minutes", None),
        ("450 try again after Mon, 25 Aug 2025 07:00:31 UTC", None),
        ("250 try again in 5 minutes", None),
    ],
)
def test_a_time_to_wait_is_read_from_the_words(said: str, seconds: float | None) -> None:
    assert retry_after(reply(said), reply(said).text) == seconds


@given(st.text(max_size=1000), st.sampled_from([421, 450, 550]))
def test_no_text_breaks_the_reading(text: str, code: int) -> None:
    said = Reply(code=code, text=text)
    seconds = retry_after(said, said.text)
    assert seconds is None or 0 < seconds <= 86_400
    advise(said, Phase.END, "google", SHIPPED, said.text)


# ---- lines that can't be meant


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"action": "defer"}, "would match every reply"),
        ({"action": "defer", "text": ""}, "would match every reply"),
        ({"action": "defer", "text": ".*"}, "would match every reply"),
        ({"action": "defer", "text": "."}, "would match every reply"),
        ({"action": "defer", "text": "(busy)?"}, "would match every reply"),
        ({"action": "defer", "status": ".*"}, "would match every reply"),
        ({"action": "defer", "status": ".*", "provider": "acme"}, "would match every reply"),
        ({"action": "pause", "text": "busy"}, "a pause needs its time"),
        ({"action": "defer", "text": "(busy"}, "not a regular expression: missing \\)"),
        ({"action": "defer", "status": "4.[7"}, "not a regular expression: unterminated"),
        ({"action": "defer", "codes": [250]}, "not the code of a refusal"),
        ({"action": "defer", "codes": [6]}, "not the code of a refusal"),
        ({"action": "defer", "codes": [4500]}, "not the code of a refusal"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused(line: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(ReplyPattern).validate_python(line)


def test_a_code_alone_is_enough() -> None:
    assert TypeAdapter(ReplyPattern).validate_python({"action": "defer", "codes": [4]}).codes == (4,)
