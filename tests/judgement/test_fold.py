"""The row's status from its recipients': the whole table, and what holds for any number of them."""

from __future__ import annotations

import itertools
import random  # noqa: TC003 - hypothesis reads the annotation

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.judgement.retry import fold

STATUSES = ("queued", "in_doubt", "sent", "failed", "expired", "suppressed")

# Which statuses occur, by initial, and what the row's is. Every combination stands here, once.
TABLE = {
    "q": "queued",
    "i": "in_doubt",
    "s": "sent",
    "f": "failed",
    "e": "expired",
    "u": "suppressed",
    "qi": "queued",
    "qs": "queued",
    "qf": "queued",
    "qe": "queued",
    "qu": "queued",
    "is": "in_doubt",
    "if": "in_doubt",
    "ie": "in_doubt",
    "iu": "in_doubt",
    "sf": "partial",
    "se": "partial",
    "su": "partial",
    "fe": "failed",
    "fu": "failed",
    "eu": "expired",
    "qis": "queued",
    "qif": "queued",
    "qie": "queued",
    "qiu": "queued",
    "qsf": "queued",
    "qse": "queued",
    "qsu": "queued",
    "qfe": "queued",
    "qfu": "queued",
    "qeu": "queued",
    "isf": "in_doubt",
    "ise": "in_doubt",
    "isu": "in_doubt",
    "ife": "in_doubt",
    "ifu": "in_doubt",
    "ieu": "in_doubt",
    "sfe": "partial",
    "sfu": "partial",
    "seu": "partial",
    "feu": "failed",
    "qisf": "queued",
    "qise": "queued",
    "qisu": "queued",
    "qife": "queued",
    "qifu": "queued",
    "qieu": "queued",
    "qsfe": "queued",
    "qsfu": "queued",
    "qseu": "queued",
    "qfeu": "queued",
    "isfe": "in_doubt",
    "isfu": "in_doubt",
    "iseu": "in_doubt",
    "ifeu": "in_doubt",
    "sfeu": "partial",
    "qisfe": "queued",
    "qisfu": "queued",
    "qiseu": "queued",
    "qifeu": "queued",
    "qsfeu": "queued",
    "isfeu": "in_doubt",
    "qisfeu": "queued",
}
INITIALS = dict(zip("qisfeu", STATUSES, strict=True))
SEVERAL = st.lists(st.sampled_from(STATUSES), min_size=1, max_size=8)


def test_the_table_is_whole() -> None:
    sizes = range(1, len(INITIALS) + 1)
    every = {"".join(some) for size in sizes for some in itertools.combinations(INITIALS, size)}
    assert set(TABLE) == every


@pytest.mark.parametrize(("initials", "status"), TABLE.items())
def test_recipients_fold_into_one_status(initials: str, status: str) -> None:
    assert fold(INITIALS[initial] for initial in initials) == status


@pytest.mark.parametrize("number", [1, 2, 3])
def test_only_which_statuses_occur_matters_for_any_recipients(number: int) -> None:
    for statuses in itertools.product(STATUSES, repeat=number):
        present = "".join(initial for initial, status in INITIALS.items() if status in statuses)
        assert (statuses, fold(statuses)) == (statuses, TABLE[present])


@given(SEVERAL, st.randoms(use_true_random=False))
def test_the_order_of_recipients_never_matters(statuses: list[str], chance: random.Random) -> None:
    shuffled = list(statuses)
    chance.shuffle(shuffled)
    assert fold(shuffled) == fold(statuses)


@given(SEVERAL)
def test_an_open_recipient_keeps_the_row_open(statuses: list[str]) -> None:
    assert fold([*statuses, "queued"]) == "queued"


@given(SEVERAL)
def test_a_row_is_sent_only_when_everyone_accepted(statuses: list[str]) -> None:
    assert (fold(statuses) == "sent") == all(status == "sent" for status in statuses)


@given(SEVERAL)
def test_one_more_of_the_same_changes_nothing(statuses: list[str]) -> None:
    assert fold([*statuses, statuses[0]]) == fold(statuses)


@given(st.lists(st.sampled_from(["failed", "expired", "suppressed"]), min_size=1))
def test_one_accepted_recipient_makes_a_refused_row_partial(statuses: list[str]) -> None:
    assert fold(statuses) in {"failed", "expired", "suppressed"}
    assert fold([*statuses, "sent"]) == "partial"


@pytest.mark.parametrize("statuses", [[], ["sending"], ["sent", "partial"], ["queued", "paused"]])
def test_what_is_no_recipients_status_is_refused(statuses: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^cannot fold \["):
        fold(statuses)
