"""Messages taken ahead, over real sockets, overlapped and in a window: what comes out, when, and what is left."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from servers.fault import Faults, FaultServer, HangUp, Heard
from smtp.letters import courier_to, letter, letters, settings

from poller.exchange import Exchange, Message, Phase
from poller.smtp.courier import Courier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers.certs import Authority, Certificate

AHEAD = pytest.mark.parametrize("window", [1, 4, 16], ids=["overlap", "window-4", "window-16"])
BIG = b"Subject: big\r\n\r\n" + b".0123456789abcdef\r\n" * 20_000


def rows(exchanges: list[Exchange]) -> list[int]:
    return [exchange.message.row_id for exchange in exchanges]


def in_doubt(exchanges: list[Exchange]) -> list[int]:
    return rows([exchange for exchange in exchanges if exchange.end_of_data_sent and not exchange.end])


def unanswered(exchanges: list[Exchange]) -> list[int]:
    return rows([exchange for exchange in exchanges if exchange.unanswered])


def taken_by(relay: FaultServer) -> list[int]:
    return [int(taken.content.partition(b"letter ")[2].split()[0]) for taken in relay.messages]


@AHEAD
def test_what_is_carried_arrives_byte_for_byte_once_and_in_order(window: int) -> None:
    with FaultServer() as relay:
        courier = courier_to(relay.port, window=window)
        exchanges = list(courier.carry(letters(60)))
        courier.close()
    assert rows(exchanges) == list(range(1, 61))
    assert {exchange.end.code for exchange in exchanges if exchange.end} == {250}
    assert [taken.content for taken in relay.messages] == [message.content for message in letters(60)]
    assert (b"BDAT" in b"".join(relay.commands)) == (window > 1)
    assert relay.sessions == 1
    assert all(exchange.seconds > 0 for exchange in exchanges)


@pytest.mark.parametrize("offer", [{"chunking": False}, {"pipelining": False}], ids=["no chunking", "no pipelining"])
def test_a_window_needs_a_relay_that_offers_both(offer: dict[str, bool]) -> None:
    with FaultServer(Faults(**offer)) as relay:  # type: ignore[arg-type] # switches only
        courier = courier_to(relay.port, window=16)
        assert len(list(courier.carry(letters(5)))) == 5
        courier.close()
    assert taken_by(relay) == [1, 2, 3, 4, 5]
    assert b"BDAT" not in b"".join(relay.commands)


def test_a_window_is_never_more_than_so_many_unanswered_messages() -> None:
    def source() -> Iterator[Message]:
        for message in letters(20):
            open_now.append(message.row_id - len(out))
            yield message

    open_now: list[int] = []
    out: list[Exchange] = []
    with FaultServer() as relay:
        courier = courier_to(relay.port, window=4)
        for exchange in courier.carry(source()):
            out.append(exchange)  # noqa: PERF402 - what the source looks at
        courier.close()
    assert max(open_now) == 4
    assert len(out) == 20


@AHEAD
def test_bodies_larger_than_every_buffer_do_not_block_either_side(window: int) -> None:
    faults = Faults(eager=True, buffer=4096)
    with FaultServer(faults) as relay:
        courier = courier_to(relay.port, window=window, block_timeout=5.0)
        exchanges = list(courier.carry(letter(number, content=BIG) for number in range(1, 7)))
        courier.close()
    assert in_doubt(exchanges) == []
    assert [taken.content for taken in relay.messages] == [BIG] * 6


@AHEAD
def test_messages_taken_ahead_go_through_tls(window: int, authority: Authority, certificate: Certificate) -> None:
    contents = [b"Subject: x\r\n\r\n" + b"x" * size + b"\r\n" for size in (10, 40_000, 16_384, 3, 200_000, 1)]
    with FaultServer(Faults(starttls=certificate.server_context())) as relay:
        courier = courier_to(
            relay.port, host="localhost", security="starttls", ca_file=str(authority.ca_file), window=window
        )
        exchanges = list(courier.carry(letter(n, content=content) for n, content in enumerate(contents, 1)))
        courier.close()
    assert len([exchange.end for exchange in exchanges]) == 6
    assert [taken.content for taken in relay.messages] == contents


@AHEAD
def test_each_recipient_has_its_own_answer_and_refusals_harm_nobody_else(window: int) -> None:
    faults = Faults(refuse=frozenset({"no@b.test"}), defer_first={"grey@b.test": 1})
    messages = [letter(1, "no@b.test", "b@b.test", "grey@b.test"), letter(2, "no@b.test"), letter(3, "grey@b.test")]
    with FaultServer(faults) as relay:
        courier = courier_to(relay.port, window=window)
        mixed, none, after = courier.carry(iter(messages))
        courier.close()
    assert [reply and reply.code for reply in mixed.rcpt] == [550, 250, 451]
    assert (none.data and none.data.code, none.end) == (554, None)
    assert [exchange.end and exchange.end.code for exchange in (mixed, after)] == [250, 250]
    assert [taken.recipients for taken in relay.messages] == [("b@b.test",), ("grey@b.test",)]
    assert relay.sessions == 1


def test_no_message_is_taken_ahead_of_a_session_that_has_served_its_time() -> None:
    with FaultServer() as relay:
        courier = courier_to(relay.port, max_messages_per_connection=4, window=3)
        assert rows(list(courier.carry(letters(10)))) == list(range(1, 11))
        courier.close()
    assert [taken.session for taken in relay.messages] == [1] * 4 + [2] * 4 + [3] * 2


# The session ends -----------------------------------------------------------------------------------------------------


def test_a_line_lost_at_an_end_of_data_leaves_one_doubt_and_the_next_unanswered() -> None:
    with FaultServer(Faults(drop_unanswered=frozenset({2}))) as relay:
        courier = courier_to(relay.port)
        exchanges = list(courier.carry(letters(9)))
    assert rows(exchanges) == [1, 2, 3]
    assert (in_doubt(exchanges), unanswered(exchanges)) == ([2], [3])


def test_a_line_lost_in_a_window_leaves_in_doubt_what_was_in_flight() -> None:
    sent = threading.Event()

    def answer(heard: Heard) -> bytes | None:
        if heard.verb == "." and heard.taken == 1:
            sent.wait(10)
            raise HangUp
        return None

    def source() -> Iterator[Message]:
        for message in letters(9):
            if message.row_id == 6:
                sent.set()
                return
            yield message

    with FaultServer(Faults(answer=answer)) as relay:
        courier = courier_to(relay.port, window=5)
        exchanges = list(courier.carry(source()))
        assert not courier.is_open
    assert rows(exchanges) == [1, 2, 3, 4, 5]
    assert (in_doubt(exchanges), unanswered(exchanges)) == ([2, 3, 4, 5], [])


@pytest.mark.parametrize(("fault", "answered"), [("drop_unanswered", False), ("drop_after", True)])
def test_a_line_lost_behind_an_end_of_data_that_had_left_is_told_from_one_before_it(
    fault: str, *, answered: bool
) -> None:
    """The next envelope is larger than every buffer, so the write fails in the midst of it."""
    knob: dict[str, Any] = {fault: frozenset({1}) if fault == "drop_unanswered" else 1}
    huge = letter(2, *(f"{'r' * 900}{number}@d.test" for number in range(8000)))
    with FaultServer(Faults(**knob, buffer=4096)) as relay:
        exchanges = list(courier_to(relay.port).carry(iter([letter(1), huge])))
    assert taken_by(relay) == [1]
    assert exchanges[0].end_of_data_sent
    assert bool(exchanges[0].end) == answered
    assert unanswered(exchanges) == [2]


def test_a_chunk_that_did_not_leave_is_no_doubt() -> None:
    sent = threading.Event()

    def answer(heard: Heard) -> bytes | None:
        if heard.verb == ".":
            sent.wait(10)
            raise HangUp(reset=True)
        return None

    def source() -> Iterator[Message]:
        yield from letters(2)
        sent.set()
        yield letter(3, content=b"Subject: letter 3\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000_000)

    with FaultServer(Faults(answer=answer, buffer=4096)) as relay:
        exchanges = list(courier_to(relay.port, window=4).carry(source()))
    assert in_doubt(exchanges) == [1, 2]
    assert unanswered(exchanges) == [3]


def test_a_reply_that_does_not_fit_ends_all_belief() -> None:
    def answer(heard: Heard) -> bytes | None:
        return b"354 what?\r\n" if heard.verb == "RCPT" and heard.taken == 1 else None

    with FaultServer(Faults(answer=answer)) as relay:
        exchanges = list(courier_to(relay.port, window=3).carry(letters(9)))
    assert rows(exchanges) == [1, 2, 3, 4]
    assert in_doubt(exchanges) == [2, 3, 4]
    assert [exchange.phase for exchange in exchanges] == [Phase.END] * 4


# Hooks, iterators, ends by us -----------------------------------------------------------------------------------------


def raising_at(row: int, error: type[BaseException]) -> Any:
    def committing(message: Message, _: object) -> None:
        if message.row_id == row:
            raise error("disk full")

    return committing


@AHEAD
def test_what_the_hook_raises_comes_out_behind_what_was_committed_before(window: int) -> None:
    with FaultServer() as relay:
        courier = Courier(settings(relay.port, window=window))
        courier.open()
        carried = courier.carry(letters(9), committing=raising_at(3, OSError))
        assert [next(carried).message.row_id for _ in range(2)] == [1, 2]
        with pytest.raises(OSError, match="disk full"):
            next(carried)
        assert not courier.is_open
        assert list(courier.carry(iter(()))) == []
    assert taken_by(relay) == [1, 2]


@pytest.mark.parametrize(("window", "expected"), [(1, []), (16, [1, 2])])
def test_what_else_is_raised_comes_out_at_once_and_the_doubts_of_it_next(window: int, expected: list[int]) -> None:
    with FaultServer() as relay:
        courier = Courier(settings(relay.port, window=window))
        courier.open()
        out: list[Exchange] = []
        with pytest.raises(KeyboardInterrupt):
            out.extend(courier.carry(letters(9), committing=raising_at(3, KeyboardInterrupt)))
        assert not courier.is_open
        left = list(courier.carry(iter(())))
    assert in_doubt(left) == expected
    assert rows(left) == expected


@pytest.mark.parametrize("window", [1, 2, 16])
@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lockstep"])
def test_what_the_iterator_raises_comes_out_behind_what_was_taken_before(window: int, *, pipelining: bool) -> None:
    def source() -> Iterator[Message]:
        yield from letters(3)
        raise OSError("the database is away")

    with FaultServer(Faults(pipelining=pipelining)) as relay:
        courier = courier_to(relay.port, window=window)
        carried = courier.carry(source())
        out = [next(carried) for _ in range(3)]
        with pytest.raises(OSError, match="the database is away"):
            next(carried)
        assert rows(out) == [1, 2, 3]
        assert courier.is_open
        assert rows(list(courier.carry(letters(1)))) == [1]
        courier.close()
    assert taken_by(relay) == [1, 2, 3, 1]
    assert relay.sessions == 1


@pytest.mark.parametrize(("window", "taken", "in_vain"), [(1, [1], [2]), (4, [1, 2, 3, 4], [])])
def test_closing_within_a_carry_waits_for_what_is_committed_and_gives_up_the_rest(
    window: int, taken: list[int], in_vain: list[int]
) -> None:
    with FaultServer() as relay:
        courier = courier_to(relay.port, window=window)
        messages = letters(9)
        carried = courier.carry(messages)
        first = next(carried)
        courier.close()
        assert not courier.is_open
        rest = list(carried)
    assert taken_by(relay) == taken
    assert rows([first, *rest]) == [*taken, *in_vain]
    assert (unanswered(rest), in_doubt(rest)) == (in_vain, [])
    assert next(messages).row_id == len(taken) + len(in_vain) + 1


def test_a_message_the_relay_cannot_take_keeps_its_place_in_the_order() -> None:
    messages = [letter(1), letter(2, content=b"x" * 2000), letter(3)]
    for window in (1, 8):
        with FaultServer(Faults(size=1000)) as relay:
            courier = courier_to(relay.port, window=window)
            exchanges = list(courier.carry(iter(messages)))
            courier.close()
        assert [exchange.lacking.partition(":")[0] for exchange in exchanges] == ["", "SIZE", ""]
        assert taken_by(relay) == [1, 3]


def test_in_a_window_the_hook_hears_of_no_replies_and_overlapped_of_all() -> None:
    for window, expected in ((1, [[250], [250]]), (4, [[None], [None]])):
        heard: list[list[int | None]] = []

        def committing(_: Message, replies: tuple[Any, ...], heard: list[list[int | None]] = heard) -> None:
            heard.append([reply and reply.code for reply in replies])

        with FaultServer() as relay:
            courier = Courier(settings(relay.port, window=window))
            courier.open()
            list(courier.carry(letters(2), committing=committing))
            courier.close()
        assert heard == expected
