"""Real replies, each with what it must mean: `corpus.tsv` has verdict, source and reply, tab between them.

The texts are facts, collected from zone-mta's config/bounces.txt, sisimai's Rhost modules and set-of-emails, and from
reports; the verdicts are ours, looked at one by one. All are judged as answers to RCPT. A verdict says what becomes of
the row and whose doing it is, and what is done about it beyond the row.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from poller.exchange import Exchange, Message, Phase, Reply
from poller.judgement.advice import without_addresses
from poller.judgement.outcome import Deferred, Failed, judge

CORPUS = [line.split("\t") for line in Path(__file__).with_name("corpus.tsv").read_text("utf-8").splitlines()]
_STATUS = re.compile(r"#?([45]\.\d{1,3}\.\d{1,3})[ :]+")


def as_reply(said: str) -> Reply:
    code, text = int(said[:3]), said[4:].strip()
    status = _STATUS.match(text)
    return Reply(code=code, status=status[1] if status else "", text=(text[status.end() :] if status else text)[:1000])


def verdict(said: str, recipient: str = "you@example.com", phase: Phase = Phase.RCPT) -> str:
    message = Message(
        row_id=1, claim_seq=1, message_id="<a@b>", mail_from="me@shop.example", recipients=(recipient,), content=b""
    )
    answer = as_reply(said)
    at_rcpt = Exchange(message=message, phase=Phase.RCPT, mail=Reply(code=250), rcpt=(answer,))
    at_end = Exchange(
        message=message,
        phase=Phase.END,
        mail=Reply(code=250),
        rcpt=(Reply(code=250),),
        data=Reply(code=354),
        end=answer,
        end_of_data_sent=True,
    )
    (outcome,) = judge(at_rcpt if phase is Phase.RCPT else at_end).outcomes
    assert isinstance(outcome, Deferred | Failed)
    heard = outcome.heard if isinstance(outcome, Deferred) else None
    short = f"{type(outcome).__name__.lower()} {outcome.blame.name.lower()}"
    return f"{short} {heard.about} {heard.action}" if heard else short


@pytest.mark.parametrize(("expected", "source", "said"), CORPUS, ids=[said[:60] for _, _, said in CORPUS])
def test_a_real_reply_means_what_it_means(expected: str, source: str, said: str) -> None:
    assert source
    assert verdict(said) == expected


def test_the_corpus_is_large_and_of_all_kinds() -> None:
    assert len(CORPUS) >= 300
    assert len(Counter(expected for expected, _, _ in CORPUS)) >= 8


CHOSEN = [
    '"x> 24-hour sending limit y"@example.test',
    "wait-1-day@example.test",
    "try-again-in-1-day@example.test",
    '"relay access denied"@example.test',
    "a@retry-in-20-hours.example",
    '"blocked using zen.spamhaus.org"@example.test',
    '"too many recipients"@example.test',
    "rate.limited@throttled.example",
]
ECHOES = [
    "550 5.1.1 <{address}>: Recipient address rejected: User unknown",
    "550 5.1.1 <{bare}>: Recipient address rejected: User unknown",
    "550 5.1.1 {bare}: no such user",
    "550 5.1.1 User {local} unknown",
    "550 5.1.2 {domain}: no such domain here",
    "450 4.2.0 {bare} has a full mailbox",
    "450 4.2.0 {local} has a full mailbox",
]


@pytest.mark.parametrize("phase", [Phase.RCPT, Phase.END])
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("address", CHOSEN)
def test_an_address_never_decides_how_the_reply_that_repeats_it_is_judged(
    address: str, echo: str, phase: Phase
) -> None:
    local, _, domain = address.rpartition("@")
    bare = local.strip('"')
    said = echo.format(address=address, bare=f"{bare}@{domain}", local=bare, domain=domain)
    plain = echo.format(address="jane@example.org", bare="jane@example.org", local="jane", domain="example.org")
    assert verdict(said, address, phase) == verdict(plain, "jane@example.org", phase)


def test_a_word_that_happens_to_be_an_address_stays_a_word() -> None:
    assert verdict("554 5.7.1 <relay@example.com>: Relay access denied", "relay@example.com") == "deferred session"
    assert without_addresses("User unknown", ["user@example.com"]) == "User unknown"
