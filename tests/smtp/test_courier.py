"""The courier: one exchange per message taken, none taken in vain, sessions begun and ended as promised."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from servers.fault import Faults, FaultServer, HangUp, Heard
from servers.processes import wait_until
from smtp.letters import courier_to, letter, letters, settings

from poller.exchange import Exchange, Message, Phase, RelayTrouble
from poller.smtp.courier import Courier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIPELINING = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "lockstep"])


def codes(exchanges: list[Exchange]) -> list[int]:
    """The final reply of each; 0 where there was none."""
    return [exchange.end.code if exchange.end else 0 for exchange in exchanges]


def numbers(relay: FaultServer) -> list[int]:
    """Which letters the relay took, by subject."""
    return [int(taken.content.partition(b"letter ")[2].split()[0]) for taken in relay.messages]


def carry_all(courier: Courier, messages: Iterator[Message]) -> list[list[Exchange]]:
    """Open and carry until nothing is left; one list per call of carry that took something."""
    runs: list[list[Exchange]] = []
    while not runs or runs[-1]:
        courier.open()
        runs.append(list(courier.carry(messages)))
    return runs[:-1]


@pytest.mark.parametrize("more", [{}, {"table": "relays.backup"}])
def test_a_remedy_names_the_table_where_the_settings_are_written(more: dict[str, str]) -> None:
    with FaultServer(Faults(users={"shop": "another"})) as relay:
        courier = Courier(settings(relay.port, username="shop", password="wrong"), **more)
        with pytest.raises(RelayTrouble) as caught:
            courier.open()
    assert f"check [{more.get('table', 'smtp')}] username and password" in caught.value.reason
    assert caught.value.reply is not None


@PIPELINING
def test_what_is_carried_arrives_byte_for_byte_once_and_in_order(*, pipelining: bool) -> None:
    with FaultServer(Faults(pipelining=pipelining)) as relay:
        courier = courier_to(relay.port)
        exchanges = list(courier.carry(letters(50)))
        courier.close()
    assert codes(exchanges) == [250] * 50
    assert [exchange.message.row_id for exchange in exchanges] == list(range(1, 51))
    assert [taken.content for taken in relay.messages] == [message.content for message in letters(50)]
    assert relay.sessions == 1
    assert all(exchange.seconds > 0 for exchange in exchanges)


@pytest.mark.parametrize(
    ("pipelining", "expected"), [(False, [0, 1, 2, 3, 4]), (True, [0, 0, 1, 2, 3])], ids=["lockstep", "pipelined"]
)
def test_with_pipelining_one_message_is_taken_before_the_one_in_hand_is_answered(
    *, pipelining: bool, expected: list[int]
) -> None:
    def source() -> Iterator[Message]:
        for message in letters(5):
            taken_by_relay.append(len(relay.messages))
            yield message

    taken_by_relay: list[int] = []
    with FaultServer(Faults(pipelining=pipelining)) as relay:
        courier = courier_to(relay.port)
        list(courier.carry(source()))
        courier.close()
    assert taken_by_relay == expected


def test_the_hook_comes_before_the_end_of_data_has_left() -> None:
    seen: list[tuple[int, int]] = []
    with FaultServer() as relay:
        courier = Courier(settings(relay.port))
        courier.open()
        list(courier.carry(letters(3), committing=lambda m, _: seen.append((m.row_id, len(relay.messages)))))
        courier.close()
    assert seen == [(1, 0), (2, 1), (3, 2)]


def test_what_the_hook_raises_comes_out_and_the_message_is_not_delivered() -> None:
    def committing(_: Message, __: object) -> None:
        raise OSError("disk full")

    with FaultServer() as relay:
        courier = Courier(settings(relay.port))
        courier.open()
        with pytest.raises(OSError, match="disk full"):
            next(courier.carry(letters(1), committing=committing))
        assert not courier.is_open
    assert relay.messages == []


@pytest.mark.parametrize(
    ("faults", "window"),
    [(Faults(pipelining=False), 1), (Faults(), 1), (Faults(chunking=True), 4)],
    ids=["lockstep", "pipelined", "window"],
)
def test_what_fails_while_the_relay_answers_comes_out_behind_the_answers(faults: Faults, window: int) -> None:
    def meanwhile() -> None:
        calls.append(len(calls))
        if len(calls) == 5:
            raise OSError("an accident")

    calls: list[int] = []
    with FaultServer(faults) as relay:
        courier = Courier(settings(relay.port, window=window))
        courier.open()
        messages, came = letters(20), list[Exchange]()
        with pytest.raises(OSError, match="an accident"):
            came.extend(courier.carry(messages, meanwhile=meanwhile))  # what came before it is raised is kept
        assert courier.is_open
        came.extend(courier.carry(messages))
        courier.close()
    assert codes(came) == [250] * 20
    assert numbers(relay) == [*range(1, 21)]
    assert relay.sessions == 1


def test_a_wait_for_the_replies_to_an_envelope_is_made_use_of_too() -> None:
    calls: list[int] = []
    with FaultServer(Faults(pipelining=False)) as relay:
        courier = Courier(settings(relay.port))
        courier.open()
        list(courier.carry(letters(1), meanwhile=lambda: calls.append(len(relay.messages))))
        courier.close()
    assert calls[:3] == [0, 0, 0]  # MAIL, RCPT, DATA


@PIPELINING
@pytest.mark.parametrize(
    ("verb", "phase", "doubt"),
    [
        ("MAIL", Phase.MAIL, False),
        ("RCPT", Phase.RCPT, False),
        ("DATA", Phase.DATA, False),
        (".", Phase.END, True),
    ],
)
def test_a_line_dropped_in_a_phase_is_a_loss_there(verb: str, phase: Phase, *, doubt: bool, pipelining: bool) -> None:
    def answer(heard: Heard) -> bytes | None:
        if heard.verb == verb:
            raise HangUp
        return None

    messages = letters(2)
    with FaultServer(Faults(answer=answer, pipelining=pipelining)) as relay:
        courier = courier_to(relay.port)
        exchange, *ahead = courier.carry(messages)
        assert not courier.is_open
    assert exchange.loss is not None
    assert exchange.end_of_data_sent == doubt
    assert [message.row_id for message in messages] == [] if ahead else [2]
    assert [taken.unanswered for taken in ahead] == ([True] if pipelining and doubt else [])
    # A group's replies go out together, so a server that hangs up within it has said none of them.
    assert exchange.phase is (Phase.MAIL if pipelining and not doubt else phase)


def test_a_line_dropped_within_the_content_delivered_nothing() -> None:
    big = letter(1, content=b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000_000)
    with FaultServer(Faults(drop_within_content=100_000)) as relay:
        (exchange,) = courier_to(relay.port).carry(iter([big]))
    assert exchange.loss is not None
    assert (exchange.phase, exchange.loss.phase, exchange.end_of_data_sent) == (Phase.CONTENT, Phase.CONTENT, False)
    assert relay.messages == []


def test_a_relay_that_refuses_within_the_content_and_hangs_up_is_heard() -> None:
    def answer(heard: Heard) -> bytes | None:
        if heard.verb == "DATA":
            raise HangUp(b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n552 5.3.4 too big\r\n")
        return None

    big = letter(1, content=b"Subject: big\r\n\r\n" + b"0123456789abcdef\r\n" * 1_000_000)
    with FaultServer(Faults(answer=answer)) as relay:
        (exchange,) = courier_to(relay.port).carry(iter([big]))
    assert exchange.end is not None
    assert exchange.end.status == "5.3.4"
    assert not exchange.end_of_data_sent


def test_a_taken_message_without_answer_is_the_only_one_in_doubt() -> None:
    with FaultServer(Faults(drop_unanswered=frozenset({3}))) as relay:
        courier = courier_to(relay.port)
        runs = carry_all(courier, letters(5))
        courier.close()
    assert [codes(run) for run in runs] == [[250, 250, 0, 0], [250]]
    assert [exchange.message.row_id for run in runs for exchange in run if exchange.unanswered] == [4]
    doubts = [
        exchange.message.row_id for run in runs for exchange in run if exchange.end_of_data_sent and not exchange.end
    ]
    assert doubts == [3]
    assert numbers(relay) == [1, 2, 3, 5]


@pytest.mark.parametrize("fault", ["close_after", "drop_after", "close_at_once_after"])
def test_a_relay_that_takes_three_messages_a_session_gets_all_of_them_once(fault: str) -> None:
    limits: dict[str, Any] = {fault: 3}
    with FaultServer(Faults(**limits)) as relay:
        courier, rows, accepted = courier_to(relay.port), list(letters(10)), 0
        while rows:
            courier.open()
            taken = list(courier.carry(iter(rows)))
            done = [exchange.message for exchange in taken if exchange.end and exchange.end.kind == 2]
            rows = [row for row in rows if row not in done]
            accepted += len(done)
        courier.close()
    assert accepted == 10
    assert sorted(numbers(relay)) == list(range(1, 11))


def test_a_421_is_a_fact_and_ends_carrying_without_another_message_taken() -> None:
    messages = letters(5)
    with FaultServer(Faults(close_after=2)) as relay:
        courier = courier_to(relay.port)
        exchanges = list(courier.carry(messages))
        assert not courier.is_open
    assert [str(exchange.mail) for exchange in exchanges[2:]] == ["421 4.7.0 that was enough for one session"]
    assert [message.row_id for message in messages] == [4, 5]


def test_a_session_that_the_relay_closed_while_idle_costs_no_message() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    messages = letters(2)
    with FaultServer(Faults(close_at_once_after=1, pipelining=False)) as relay:
        courier = Courier(settings(relay.port), session_events=lambda *event: events.append(event))
        courier.open()
        carried = courier.carry(messages)
        assert codes([next(carried)]) == [250]
        wait_until(lambda: not relay.connections, "the relay's farewell")
        assert next(carried, None) is None
        assert not courier.is_open
        assert next(messages).row_id == 2
    assert [name for name, _ in events] == ["session.opened", "session.closed"]
    assert "421 4.7.0 that was enough" in events[1][1]["reason"]


def test_without_a_session_nothing_is_taken() -> None:
    messages = letters(1)
    assert list(Courier(settings(25)).carry(messages)) == []
    assert len(list(messages)) == 1


@PIPELINING
def test_each_recipient_has_its_own_answer_and_the_next_message_a_clean_state(*, pipelining: bool) -> None:
    faults = Faults(pipelining=pipelining, refuse=frozenset({"no@b.test"}), defer_first={"grey@b.test": 1})
    with FaultServer(faults) as relay:
        courier = courier_to(relay.port)
        mixed, none, after = courier.carry(
            iter([letter(1, "no@b.test", "b@b.test", "grey@b.test"), letter(2, "no@b.test"), letter(3, "grey@b.test")])
        )
        courier.close()
    assert [reply and str(reply) for reply in mixed.rcpt] == [
        "550 5.1.1 no such user",
        "250 2.1.5 ok",
        "451 4.7.1 greylisted, come back later",
    ]
    assert codes([mixed, none, after]) == [250, 0, 250]
    assert [taken.recipients for taken in relay.messages] == [("b@b.test",), ("grey@b.test",)]
    assert relay.commands.count(b"RSET") == 1
    assert relay.sessions == 1


def test_too_many_recipients_is_said_of_those_beyond() -> None:
    with FaultServer(Faults(max_recipients=2)) as relay:
        courier = courier_to(relay.port)
        (exchange,) = courier.carry(iter([letter(1, "a@b.test", "b@b.test", "c@b.test")]))
        courier.close()
    assert [reply.code for reply in exchange.rcpt if reply] == [250, 250, 452]
    assert relay.messages[0].recipients == ("a@b.test", "b@b.test")


def test_garbage_instead_of_a_reply_is_a_loss() -> None:
    def answer(heard: Heard) -> bytes | None:
        return b"<html>\r\n" if heard.verb == "." else None

    with FaultServer(Faults(answer=answer)) as relay:
        courier = courier_to(relay.port)
        exchange, ahead = courier.carry(letters(2))
    assert ahead.unanswered
    assert exchange.loss is not None
    assert exchange.loss.reason == 'no SMTP reply: "<html>"'
    assert exchange.end_of_data_sent


def test_a_message_the_relay_cannot_take_is_not_begun_and_the_session_goes_on() -> None:
    odd = replace(letter(1, "d\u00f6r@b.test"), smtputf8=True)
    with FaultServer(Faults(smtputf8=False, size=1000)) as relay:
        courier = courier_to(relay.port)
        exchanges = list(courier.carry(iter([odd, letter(2, content=b"x" * 2000), letter(3)])))
        courier.close()
    assert [exchange.lacking.partition(":")[0] for exchange in exchanges] == ["SMTPUTF8", "SIZE", ""]
    assert numbers(relay) == [3]


def test_smtputf8_addresses_go_as_utf8() -> None:
    with FaultServer() as relay:
        courier = courier_to(relay.port)
        list(courier.carry(iter([replace(letter(1, "d\u00f6r@b.test"), smtputf8=True)])))
        courier.close()
    assert relay.messages[0].recipients == ("d\u00f6r@b.test",)
    assert "SMTPUTF8" in relay.messages[0].parameters


# Sessions -------------------------------------------------------------------------------------------------------------


def test_a_session_is_replaced_after_its_share_of_messages() -> None:
    with FaultServer() as relay:
        courier = courier_to(relay.port, max_messages_per_connection=4)
        assert len(list(courier.carry(letters(10)))) == 10
        courier.close()
    assert [taken.session for taken in relay.messages] == [1] * 4 + [2] * 4 + [3] * 2
    assert relay.commands.count(b"QUIT") == 3


def test_a_session_is_replaced_when_it_is_too_old() -> None:
    now = [0.0]
    with FaultServer() as relay:
        courier = Courier(settings(relay.port, max_connection_age=10.0), clock=lambda: now[0])
        courier.open()
        for _ in courier.carry(letters(4)):
            now[0] += 6.0
        courier.close()
    assert [taken.session for taken in relay.messages] == [1, 1, 1, 2]  # the third was taken ahead in time


def test_a_planned_replacement_that_fails_takes_no_message() -> None:
    messages = letters(5)
    with FaultServer(Faults(answer=greet_once())) as relay:
        courier = courier_to(relay.port, max_messages_per_connection=2)
        carried = courier.carry(messages)
        assert codes([next(carried), next(carried)]) == [250, 250]
        with pytest.raises(RelayTrouble, match="451 not again"):
            next(carried)
        assert not courier.is_open
    assert next(messages).row_id == 3


def greet_once() -> Callable[[Heard], bytes | None]:
    return lambda heard: b"451 not again\r\n" if heard.verb == "EHLO" and heard.session > 1 else None


def test_an_idle_session_is_closed_after_idle_close() -> None:
    now = [0.0]
    with FaultServer() as relay:
        courier = Courier(settings(relay.port, idle_close=2.0), clock=lambda: now[0])
        courier.close_if_idle()
        courier.open()
        list(courier.carry(letters(1)))
        now[0] = 1.9
        courier.close_if_idle()
        assert (courier.is_open, courier.idle_seconds) == (True, 1.9)
        now[0] = 2.0
        courier.close_if_idle()
        assert (courier.is_open, courier.idle_seconds) == (False, 0.0)
    assert relay.commands[-1] == b"QUIT"


def test_open_keeps_a_session_that_is_good_and_replaces_one_that_is_gone() -> None:
    with FaultServer(Faults(drop_after=1)) as relay:
        courier = courier_to(relay.port)
        courier.open()
        assert relay.sessions == 1
        list(courier.carry(letters(2)))
        courier.open()
        assert relay.sessions == 2
        courier.close()


def test_closing_never_raises_even_when_the_relay_is_silent_or_gone() -> None:
    with FaultServer(Faults(answer=lambda heard: hang_up() if heard.verb == "QUIT" else None)) as relay:
        courier = courier_to(relay.port)
        courier.close()
        courier.close()
        assert not courier.is_open
        courier.open()
    courier.close()
    assert not courier.is_open


def hang_up() -> bytes:
    raise HangUp(reset=True)


def test_sessions_are_announced_with_their_reasons() -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    with FaultServer() as relay:
        courier = Courier(settings(relay.port), session_events=lambda *event: events.append(event), clock=lambda: 0.0)
        courier.open()
        list(courier.carry(letters(2)))
        courier.close()
    about = {"relay": f"127.0.0.1:{relay.port}"}
    assert events == [
        (
            "session.opened",
            about | {"tls": "", "authenticated": False, "banner": "fault.test ESMTP", "pipelining": "overlap"},
        ),
        ("session.closed", about | {"reason": "closed by us", "messages": 2, "seconds": 0.0}),
    ]


def test_sent_content_is_not_held_on_to() -> None:
    with FaultServer() as relay:
        courier = courier_to(relay.port)
        carried = courier.carry(replace(message, claim_seq=4242) for message in letters(3))
        for ahead in ([2], [3], []):
            next(carried)
            gc.collect()
            held = [o.row_id for o in gc.get_objects() if isinstance(o, Message) and o.claim_seq == 4242]
            assert held == ahead
        courier.close()


def test_a_large_message_comes_out_without_its_content() -> None:
    large, small = letter(1, content=b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 20_000), letter(2)
    with FaultServer() as relay:
        courier = courier_to(relay.port)
        came_out = [exchange.message for exchange in courier.carry(iter([large, small]))]
        courier.close()
    assert [taken.content for taken in relay.messages] == [large.content, small.content]
    assert came_out == [replace(large, content=b""), small]
