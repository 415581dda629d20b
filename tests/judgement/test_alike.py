"""Reasons that differ in addresses, numbers and ids alone are one reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.judgement.alike import LONGEST, reason_of

ALIKE = [
    (
        "550 5.1.1 <anna@example.com>: Recipient address rejected: User unknown in local recipient table",
        "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown in local recipient table",
    ),
    (
        "550-5.1.1 The account does not exist. https://support.example/?p=NoSuchUser a1-20020a05600c",
        "550-5.1.1 The account does not exist. https://support.example/?p=Other zz-40040b05600d",
    ),
    ("blocked [192.0.2.17], see ticket 4711001", "blocked [198.51.100.3], see ticket 4711002"),
    (
        "recipients: 'bob@@example.com': nothing stands after the @",
        "recipients: 'eve@@example.com': nothing stands after the @",
    ),
    ("4.2.2 mailbox full (queue id 4dF1xk3nRZz9v)", "4.2.2 mailbox  full (queue id 4dF1xm4oSAa0w)"),
]
DIFFERENT = [
    ("550 5.1.1 user unknown", "550 5.7.1 user unknown"),
    ("mailbox full", "mailbox disabled"),
    ("message size exceeds 10 MB", "message size exceeds 25 MB"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_what_is_one_messages_own_does_not_count(one: str, other: str) -> None:
    assert reason_of(one) == reason_of(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_a_server_means_does(one: str, other: str) -> None:
    assert reason_of(one) != reason_of(other)


@given(st.text(max_size=400))
def test_a_reason_gives_itself_and_is_short(words: str) -> None:
    reason = reason_of(words)
    assert reason_of(reason) == reason
    assert len(reason) <= LONGEST


def test_of_nothing_there_is_no_reason() -> None:
    assert (reason_of(None), reason_of(" \n ")) == ("", "")
