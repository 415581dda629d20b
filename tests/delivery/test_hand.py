"""Rows in hand: nobody loses a slot behind those that need none, and nobody is forgotten."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from poller.delivery.hand import Pending
from poller.outbox.rows import ClaimedRow
from poller.pacing.gate import Grant

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def row(number: int, *, at: float | None = None, until: float | None = None, relay: str = "smtp") -> ClaimedRow:
    """`at` and `until` in seconds from NOW."""
    moment = {
        name: None if value is None else NOW + timedelta(seconds=value)
        for name, value in (("at", at), ("until", until))
    }
    return ClaimedRow(
        id=number,
        claim_seq=1,
        message_id=f"<{number}@example.com>",
        holder="w1",
        status="sending",
        attempts=0,
        doubts=0,
        setbacks=0,
        first_attempt_at=NOW,
        claimed_at=NOW,
        expires_at=None,
        max_attempts=None,
        on_doubt=None,
        relay=None,
        batch=None,
        domain="example.com",
        content={},
        grant=Grant(relay=relay, **moment),
    )


def pending(*rows: ClaimedRow) -> Pending:
    found = Pending(relay_of=lambda one: one.grant.relay)
    found.add(rows)
    return found


def order(rows: Pending, now: datetime, relay: str = "smtp") -> list[int]:
    """Of all that are taken at this time."""
    taken = []
    while (first := rows.first(relay, now)) is not None:
        rows.take(relay, first)
        taken.append(first.id)
    return taken


def test_a_slot_that_has_come_goes_before_those_that_need_none() -> None:
    rows = pending(row(1), row(2, at=-1, until=1), row(3, at=5, until=6), row(4))
    assert order(rows, NOW) == [2, 1, 4, 3]


def test_a_slot_that_is_now_and_not_for_long_is_one() -> None:
    assert order(pending(row(1), row(2, until=1)), NOW) == [2, 1]


def test_what_came_back_from_a_session_goes_first_in_its_order() -> None:
    rows = pending(row(1, at=-1, until=1), row(2))
    rows.put_back("smtp", 0, row(3))
    rows.put_back("smtp", 1, row(4))
    assert order(rows, NOW) == [3, 4, 1, 2]


def test_the_relay_with_the_earliest_slot_comes_first() -> None:
    rows = pending(row(1, at=2, relay="a"), row(2, at=1, relay="b"), row(3, relay="c"))
    assert rows.relays() == ["c", "b", "a"]


SOME = st.lists(
    st.tuples(st.none() | st.integers(-5, 5), st.sampled_from("ab")).map(
        lambda drawn: {"at": drawn[0], "until": None if drawn[0] is None else drawn[0] + 1, "relay": drawn[1]}
    ),
    max_size=20,
)


@given(drawn=SOME, gone=st.sets(st.integers(0, 19)))
def test_no_row_is_forgotten_and_none_comes_twice(drawn: list[dict[str, object]], gone: set[int]) -> None:
    rows = pending(*(row(number, **known) for number, known in enumerate(drawn)))  # type: ignore[arg-type] - as drawn
    assert len(rows) == len([*rows]) == len(drawn)
    removed = {one.id for one in rows.remove(lambda one, _: one.id in gone)}
    taken = [*order(rows, NOW, "a"), *order(rows, NOW, "b")]
    assert removed == gone & set(range(len(drawn)))
    assert sorted([*taken, *removed]) == [*range(len(drawn))]
    assert not rows
    assert rows.clear() == []
