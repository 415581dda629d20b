"""Mail transactions without a socket: what is said, and which facts come of each answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.exchange import Exchange, Loss, Message, Phase, Reply
from poller.smtp.actions import Await, Committing, LineLost, Send, StartTls, Talk, Unasked
from poller.smtp.commands import stuffed
from poller.smtp.conversation import next_exchange
from poller.smtp.replies import Features, RawReply, ReplyReader
from poller.smtp.transaction import LAST_PIECE, Session

T = TypeVar("T")
MESSAGE = Message(
    row_id=1,
    claim_seq=1,
    message_id="<1@a.test>",
    mail_from="a@a.test",
    recipients=("b@b.test", "c@c.test"),
    content=b"Subject: x\r\n\r\nhello\r\n",
)
PLAIN = Features()
PIPELINED = Features(pipelining=True)
BOTH = pytest.mark.parametrize("features", [PLAIN, PIPELINED], ids=["lockstep", "pipelined"])


@dataclass
class Script:
    """Answers in order: bytes of one reply, or a Phase at which the line is lost while writing."""

    answers: list[bytes]
    lost_writing: Phase | None = None
    said: bytes = b""
    """What the relay had said when the line broke while writing; it can still be read."""
    heard: list[bytes] = field(default_factory=list)
    committed_at: int = -1
    """How many bytes had been sent before Committing."""


def parse(data: bytes) -> RawReply:
    reader = ReplyReader()
    reader.feed(data)
    reply = reader.take()
    assert reply is not None
    assert reader.is_empty
    return reply


def drive(talk: Talk[T], script: Script) -> T:
    """Hold the conversation with the script; running out of answers is the line lost."""
    try:
        action = next(talk)
        while True:
            try:
                action = talk.send(answer_to(action, script))
            except LineLost as lost:
                action = talk.throw(lost)
    except StopIteration as end:
        result: T = end.value
        return result


def answer_to(action: object, script: Script) -> Any:
    match action:
        case Send():
            if action.phase is script.lost_writing:
                script.answers[:] = [script.said] if script.said else []
                raise LineLost(Loss(phase=action.phase, reason="lost"))
            script.heard.append(bytes(action.data))
        case Await():
            if not script.answers:
                raise LineLost(Loss(phase=action.phase, reason="lost"))
            return parse(script.answers.pop(0))
        case Unasked():
            return None
        case Committing():
            script.committed_at = len(b"".join(script.heard))
        case StartTls():
            return "TLSv1.3 X"
    return None


def run(
    answers: list[bytes], features: Features, message: Message = MESSAGE, **lost: Any
) -> tuple[Exchange, Session, Script]:
    session, script = Session(features=features), Script(list(answers), **lost)
    return carry(session, script, message), session, script


def carry(session: Session, script: Script, message: Message = MESSAGE) -> Exchange:
    """One message, and none ahead."""
    session.begin(message, 0.0)
    exchange = drive(next_exchange(session, clock=lambda: 0.0), script)
    assert exchange is not None
    assert not session.flight
    return exchange


def reply(line: bytes) -> Reply:
    return parse(line).reply


OK, GO, NOT_NOW, NO = b"250 2.0.0 ok\r\n", b"354 go\r\n", b"451 4.3.0 not now\r\n", b"550 5.1.1 no\r\n"
BYE, ODD = b"421 4.7.0 bye\r\n", b"354 odd\r\n"
NOBODY = b"554 5.5.1 no valid recipients\r\n"
OKR, GOR = reply(OK), reply(GO)


def exchange(phase: Phase, *slots: bytes | None, lost: str = "", sent: bool = False) -> Exchange:
    """`slots`: mail, two rcpt, data, end."""
    mail, first, second, data, end = (reply(s) if s else None for s in [*slots, *[None] * (5 - len(slots))])
    return Exchange(
        message=MESSAGE,
        phase=phase,
        mail=mail,
        rcpt=(first, second),
        data=data,
        end=end,
        loss=Loss(phase=phase, reason=lost) if lost else None,
        end_of_data_sent=sent,
    )


FITS_NOT = "a reply that does not fit: 354 odd"
FITS_NOT_2 = "a reply that does not fit: 250 2.0.0 ok"

# answers -> (exchange, the session is over). The same for lock-step and pipelined.
SAME = {
    "all accepted": ([OK, OK, OK, GO, OK], exchange(Phase.END, OK, OK, OK, GO, OK, sent=True), False),
    "one refused": ([OK, OK, NO, GO, OK], exchange(Phase.END, OK, OK, NO, GO, OK, sent=True), False),
    "first deferred": ([OK, NOT_NOW, OK, GO, OK], exchange(Phase.END, OK, NOT_NOW, OK, GO, OK, sent=True), False),
    "data deferred": ([OK, OK, OK, NOT_NOW], exchange(Phase.DATA, OK, OK, OK, NOT_NOW), False),
    "data refused": ([OK, OK, OK, NO], exchange(Phase.DATA, OK, OK, OK, NO), False),
    "end deferred": ([OK, OK, OK, GO, NOT_NOW], exchange(Phase.END, OK, OK, OK, GO, NOT_NOW, sent=True), False),
    "end refused": ([OK, OK, OK, GO, NO], exchange(Phase.END, OK, OK, OK, GO, NO, sent=True), False),
    "421 at mail": ([BYE], exchange(Phase.MAIL, BYE), True),
    "421 at first rcpt": ([OK, BYE], exchange(Phase.RCPT, OK, BYE), True),
    "421 at second rcpt": ([OK, OK, BYE], exchange(Phase.RCPT, OK, OK, BYE), True),
    "421 at data": ([OK, OK, OK, BYE], exchange(Phase.DATA, OK, OK, OK, BYE), True),
    "421 at end": ([OK, OK, OK, GO, BYE], exchange(Phase.END, OK, OK, OK, GO, BYE, sent=True), True),
    "3xx to mail": ([ODD], exchange(Phase.MAIL, ODD, lost=FITS_NOT), True),
    "3xx to rcpt": ([OK, OK, ODD], exchange(Phase.RCPT, OK, OK, ODD, lost=FITS_NOT), True),
    "2xx to data": ([OK, OK, OK, OK], exchange(Phase.DATA, OK, OK, OK, OK, lost=FITS_NOT_2), True),
    "3xx to the end": ([OK, OK, OK, GO, ODD], exchange(Phase.END, OK, OK, OK, GO, ODD, lost=FITS_NOT, sent=True), True),
    "lost at mail": ([], exchange(Phase.MAIL, lost="lost"), True),
    "lost at rcpt": ([OK, OK], exchange(Phase.RCPT, OK, OK, lost="lost"), True),
    "lost at data": ([OK, OK, OK], exchange(Phase.DATA, OK, OK, OK, lost="lost"), True),
    "lost at the end": ([OK, OK, OK, GO], exchange(Phase.END, OK, OK, OK, GO, lost="lost", sent=True), True),
}
STEPS = {
    "mail deferred": ([NOT_NOW], exchange(Phase.MAIL, NOT_NOW), False),
    "mail refused": ([NO], exchange(Phase.MAIL, NO), False),
    "all refused": ([OK, NO, NOT_NOW], exchange(Phase.RCPT, OK, NO, NOT_NOW), False),
}
GROUP = {
    "mail deferred": ([NOT_NOW, NO, NO, NO], exchange(Phase.DATA, NOT_NOW, NO, NO, NO), False),
    "mail refused": ([NO, NO, NO, NO], exchange(Phase.DATA, NO, NO, NO, NO), False),
    "all refused": ([OK, NO, NOT_NOW, NOBODY], exchange(Phase.DATA, OK, NO, NOT_NOW, NOBODY), False),
    "all refused, yet 354": ([OK, NO, NO, GO, NOBODY], exchange(Phase.DATA, OK, NO, NO, GO), False),
    "all refused, yet 354, then 421": ([OK, NO, NO, GO, BYE], exchange(Phase.DATA, OK, NO, NO, GO), True),
    "all refused, yet a message for nobody is taken": (
        [OK, NO, NO, GO, OK],
        exchange(Phase.DATA, OK, NO, NO, GO, lost="the relay took a message for nobody: 250 2.0.0 ok"),
        True,
    ),
    "mail refused, the rest taken": (
        [NO, OK, OK, GO],
        exchange(Phase.DATA, NO, OK, OK, GO, lost="the relay refused MAIL and then took DATA"),
        True,
    ),
}
TABLE = [
    *[pytest.param(f, *row, id=f"{f.pipelining}-{name}") for f in (PLAIN, PIPELINED) for name, row in SAME.items()],
    *[pytest.param(PLAIN, *row, id=f"lockstep-{name}") for name, row in STEPS.items()],
    *[pytest.param(PIPELINED, *row, id=f"pipelined-{name}") for name, row in GROUP.items()],
]


@pytest.mark.parametrize(("features", "answers", "expected", "over"), TABLE)
def test_each_answer_has_its_facts(features: Features, answers: list[bytes], expected: Exchange, over: bool) -> None:  # noqa: FBT001 - a column of the table
    seen, session, _ = run(answers, features)
    assert seen == expected
    assert bool(session.over) == over
    done = expected.end is not None and expected.end.kind == 2
    assert session.reset_due != done


@pytest.mark.parametrize(("features", "answers", "expected", "over"), TABLE)
def test_content_goes_out_only_for_an_accepted_recipient(
    features: Features,
    answers: list[bytes],
    expected: Exchange,
    over: bool,  # noqa: FBT001 - a column of the table
) -> None:
    _, _, script = run(answers, features)
    assert (b"hello" in b"".join(script.heard)) == expected.end_of_data_sent
    assert (script.committed_at >= 0) == expected.end_of_data_sent
    assert isinstance(over, bool)


@BOTH
def test_a_line_lost_while_the_last_bytes_are_written_delivered_nothing(features: Features) -> None:
    seen, session, _ = run([OK, OK, OK, GO], features, lost_writing=Phase.CONTENT)
    assert seen == exchange(Phase.CONTENT, OK, OK, OK, GO, lost="lost")
    assert session.over


def test_a_refusal_within_the_content_is_the_answer_to_it() -> None:
    seen, _, _ = run([OK, OK, OK, GO], PIPELINED, lost_writing=Phase.CONTENT, said=NO)
    assert seen == exchange(Phase.CONTENT, OK, OK, OK, GO, NO, lost="lost")


def test_a_2xx_within_the_content_is_no_delivery() -> None:
    seen, _, _ = run([OK, OK, OK, GO], PIPELINED, lost_writing=Phase.CONTENT, said=OK)
    assert seen == exchange(Phase.CONTENT, OK, OK, OK, GO, lost="lost, after saying: 250 2.0.0 ok")


def test_the_envelope_is_one_write_with_pipelining_and_steps_without() -> None:
    envelope = [b"MAIL FROM:<a@a.test>\r\n", b"RCPT TO:<b@b.test>\r\n", b"RCPT TO:<c@c.test>\r\n", b"DATA\r\n"]
    content = b"Subject: x\r\n\r\nhello\r\n.\r\n"
    answers = [OK, OK, OK, GO, OK]
    assert run(answers, PLAIN)[2].heard == [*envelope, content]
    assert run(answers, PIPELINED)[2].heard == [b"".join(envelope), content]


def test_the_answer_that_nobody_is_to_get_content_is_a_lone_dot() -> None:
    assert run([OK, NO, NO, GO, NOBODY], PIPELINED)[2].heard[1:] == [b".\r\n"]


@BOTH
@pytest.mark.parametrize("first", [[NO, NO, NO, NO], [OK, NO, NO, NOBODY], [OK, OK, OK, NO], [OK, OK, OK, GO, NO]])
def test_after_a_transaction_without_250_the_next_begins_with_rset(first: list[bytes], features: Features) -> None:
    session = Session(features=features)
    carry(session, Script(list(first)))
    script = Script([OK, OK, OK, OK, GO, OK])
    assert carry(session, script).end == OKR
    assert script.heard[0].startswith(b"RSET\r\n")
    script = Script([OK, OK, OK, GO, OK])
    carry(session, script)
    assert script.heard[0].startswith(b"MAIL ")


@BOTH
@pytest.mark.parametrize("answer", [NO, ODD])
def test_without_a_clean_state_no_transaction_begins(answer: bytes, features: Features) -> None:
    session, script = Session(features=features, reset_due=True), Script([answer, OK, OK, OK, GO])
    seen = carry(session, script)
    reason = f"the relay did not accept RSET: {reply(answer)}"
    assert seen == exchange(Phase.RSET, lost=reason)
    assert session.over == reason


WITH_DSN = replace(MESSAGE, dsn={"": "RET=HDRS", "b@b.test": "NOTIFY=NEVER"})
EIGHT_BIT = replace(MESSAGE, content=b"Subject: x\r\n\r\ncaf\xc3\xa9\r\n")
UTF8 = replace(MESSAGE, recipients=("d\u00f6r@b.test",), smtputf8=True)
ALL = Features(pipelining=True, size=True, size_limit=1000, eight_bit_mime=True, smtputf8=True)


@pytest.mark.parametrize(
    ("message", "features", "expected"),
    [
        (MESSAGE, ALL, b"MAIL FROM:<a@a.test> SIZE=21"),
        (MESSAGE, PLAIN, b"MAIL FROM:<a@a.test>"),
        (replace(MESSAGE, mail_from=""), PLAIN, b"MAIL FROM:<>"),
        (EIGHT_BIT, ALL, b"MAIL FROM:<a@a.test> SIZE=21 BODY=8BITMIME"),
        (WITH_DSN, Features(dsn=True), b"MAIL FROM:<a@a.test> RET=HDRS"),
        (WITH_DSN, PLAIN, b"MAIL FROM:<a@a.test>"),
        (UTF8, ALL, b"MAIL FROM:<a@a.test> SIZE=21 BODY=8BITMIME SMTPUTF8"),
        (replace(UTF8, smtputf8=False), ALL, b"MAIL FROM:<a@a.test> SIZE=21 BODY=8BITMIME SMTPUTF8"),
    ],
)
def test_mail_names_what_the_message_needs_and_the_relay_knows(
    message: Message, features: Features, expected: bytes
) -> None:
    script = run([OK] * 3 + [GO, OK], features, message)[2]
    assert b"".join(script.heard).split(b"\r\n")[0] == expected


def test_a_recipient_has_its_own_dsn_parameters_at_a_relay_that_takes_them() -> None:
    script = run([OK] * 3 + [GO, OK], Features(dsn=True), WITH_DSN)[2]
    assert b"".join(script.heard).split(b"\r\n")[1:3] == [b"RCPT TO:<b@b.test> NOTIFY=NEVER", b"RCPT TO:<c@c.test>"]


@pytest.mark.parametrize(
    ("message", "features", "words"),
    [
        (
            UTF8,
            replace(ALL, smtputf8=False),
            "SMTPUTF8: an address or header is not ASCII, and the relay takes only ASCII",
        ),
        (EIGHT_BIT, PLAIN, "8BITMIME: the message holds bytes that are not ASCII, and the relay takes only ASCII"),
        (
            replace(MESSAGE, content=b"x" * 1001),
            ALL,
            "SIZE: the message has 1,001 bytes, the relay takes at most 1,000",
        ),
        (replace(MESSAGE, recipients=("b@b.test>\r\nDATA",)), ALL, "an address without control characters"),
        (replace(MESSAGE, mail_from="\udcff@b.test"), ALL, "an address without control characters"),
    ],
)
def test_a_message_that_needs_what_the_relay_lacks_is_not_begun(
    message: Message, features: Features, words: str
) -> None:
    seen, session, script = run([], features, message)
    nothing = (None,) * len(message.recipients)
    assert seen == Exchange(message=message, phase=Phase.MAIL, rcpt=nothing, lacking=words)
    assert script.heard == []
    assert not session.over
    assert not session.reset_due


@pytest.mark.parametrize("size", [0, 1, LAST_PIECE - 5, LAST_PIECE, LAST_PIECE + 1, 3 * LAST_PIECE])
def test_committing_comes_immediately_before_the_piece_with_the_end(size: int) -> None:
    message = replace(MESSAGE, content=b"x" * size + b"\r\n")
    seen, _, script = run([OK, OK, OK, GO, OK], PIPELINED, message)
    assert seen.end_of_data_sent
    assert script.heard[-1].endswith(b"\r\n.\r\n")
    assert len(script.heard[-1]) <= LAST_PIECE
    assert script.committed_at == len(b"".join(script.heard[:-1]))
    assert b"".join(script.heard[1:]) == message.content + b".\r\n"


def unstuffed(data: bytes) -> bytes:
    """As a server reads it (RFC 5321 section 4.5.2), up to the first end of data."""
    content, end, rest = (b"\r\n" + data).partition(b"\r\n.\r\n")
    assert end
    assert rest == b""
    lines = (content + b"\r\n").split(b"\r\n")[1:]
    return b"\r\n".join(line.removeprefix(b".") for line in lines)


@given(st.lists(st.text(alphabet=".ab\u00e9", max_size=4).map(str.encode)))
def test_what_a_relay_reads_is_the_content(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    assert unstuffed(stuffed(content)) == content


@given(st.text(alphabet=".\r\na"))
def test_no_content_ends_itself_not_even_for_a_relay_that_takes_bare_lf(text: str) -> None:
    sent = stuffed(text.encode())
    assert sent.endswith(b".\r\n")
    body = b"\n" + sent[: -len(b".\r\n")]
    assert b"\n.\r\n" not in body
    assert b"\n.\n" not in body


def test_421_to_rset_is_a_421() -> None:
    session = Session(features=PIPELINED, reset_due=True)
    session.begin(MESSAGE, 0.0)
    exchange = drive(next_exchange(session), Script([b"421 4.3.2 going down\r\n"]))
    assert exchange is not None
    assert exchange.mail == Reply(code=421, status="4.3.2", text="going down")
    assert exchange.loss is None
    assert session.over
