"""One recipient after another is put off: when that is the destination's own wish."""

from __future__ import annotations

import pytest

from poller.exchange import Exchange, Message, Phase, Reply
from poller.judgement.deferrals import MOST_DESTINATIONS, MOST_VOICES, Deferrals, is_voice
from poller.judgement.outcome import judge

OK = Reply(code=250)


def told(*replies: Reply, domain: str = "a.example") -> bool:
    message = Message(
        row_id=1,
        claim_seq=1,
        message_id="<1@x>",
        mail_from="",
        recipients=tuple(f"r{n}@{domain}" for n, _ in enumerate(replies)),
        content=b"",
    )
    verdict = judge(Exchange(message=message, phase=Phase.RCPT, mail=OK, rcpt=replies))
    return any(map(is_voice, verdict.outcomes))


def test_several_in_a_row_are_the_destinations_wish_and_an_acceptance_begins_anew() -> None:
    deferrals = Deferrals()
    assert [deferrals.joined("a") for _ in range(MOST_VOICES - 1)] == [False] * (MOST_VOICES - 1)
    assert deferrals.joined("a")
    assert not deferrals.joined("a")
    for _ in range(MOST_VOICES - 2):
        deferrals.joined("a")
    deferrals.accepted("a")
    assert not deferrals.joined("a")


def test_each_destination_is_listened_to_alone() -> None:
    deferrals = Deferrals()
    assert not any(deferrals.joined(name) for _ in range(MOST_VOICES - 1) for name in "abc")
    assert [deferrals.joined(name) for name in "abc"] == [True] * 3


def test_who_has_complained_needs_to_say_it_but_once() -> None:
    assert Deferrals().joined("a", complains=True)


def test_not_more_than_so_many_are_remembered() -> None:
    deferrals = Deferrals()
    for number in range(MOST_DESTINATIONS + 10):
        deferrals.joined(f"d{number}")
    assert len(deferrals._voices) == MOST_DESTINATIONS


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(code=451, text="try again later"), True),
        (Reply(code=450, status="4.7.1", text="no"), True),
        (Reply(code=450, status="4.2.1", text="mailbox busy"), False),
        (Reply(code=450, status="4.1.1", text="unverified address"), False),
        (Reply(code=451, status="4.7.1", text="greylisted, please try again in 300 seconds"), False),
        (Reply(code=550, status="5.1.1", text="no such user"), False),
        (OK, False),
    ],
)
def test_only_a_deferral_without_a_known_reason_is_a_voice(reply: Reply, *, expected: bool) -> None:
    assert told(reply) is expected
