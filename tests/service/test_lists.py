"""Mailing lists, from the row to what a real Postfix delivers: the raw fields, whose they are, and who gets none."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import keys
import pytest
import sqlalchemy as sa
from servers.fault import Faults, FaultServer, Heard
from servers.postfix import Postfix, available

from poller.message.dkim import DkimSigner
from poller.message.keys import read_key
from poller.outbox.database import transaction
from poller.outbox.suppression import enter, suppress, unsuppress
from poller.unsubscribe import Expired, Forged, keys_of, sign, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.bench import Bench

KEY = "0123456789abcdef" * 2
OCTETS = 200
ADDRESS = "anna@example.test"
TOKEN_LENGTH = len(sign("news", ADDRESS, keys=keys_of(KEY), outbox="", at=datetime.now(UTC)))
URL = "https://example.com/leave?campaign=spring&t=".ljust(OCTETS - TOKEN_LENGTH, "x") + "{token}"
LISTS: dict[str, dict[str, Any]] = {
    'lists."news"': {"id": "news.example.com", "name": "Example news", "unsubscribe_url": URL},
    "unsubscribe": {"key": KEY},
}


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    if why := available():
        pytest.skip(why)
    with Postfix() as relay:
        yield relay


def raw_fields(message: bytes, name: str) -> list[bytes]:
    """Of the header, each with its folds, as it lies in the mailbox."""
    head = message.partition(b"\n\n")[0]
    return [
        field for field in re.split(rb"\n(?![ \t])", head) if field.lower().startswith(name.lower().encode() + b":")
    ]


def whose(message: bytes) -> tuple[str, str]:
    field = raw_fields(message, "List-Unsubscribe")[0].decode()
    found = verify(
        field.removeprefix(f"List-Unsubscribe: <{URL.removesuffix('{token}')}")[:-1], keys=keys_of(KEY), outbox=""
    )
    return found.list, found.address


def test_after_postfix_and_under_dkim_the_fields_are_octet_for_octet_what_rfc_8058_wants(
    bench: Bench, postfix: Postfix
) -> None:
    key_file = keys.key_file(bench.directory, "rsa")
    signing = {'dkim."example.com"': {"selector": "s2026", "key_file": key_file}}
    (row_id,) = bench.insert(recipients=ADDRESS, list="news")
    assert bench.run(bench.configure(postfix.host, postfix.port, **LISTS, **signing), "--once") == 0
    message = postfix.wait_for(b"List-Unsubscribe")
    first = bench.row(row_id).first_attempt_at
    token = sign("news", ADDRESS, keys=keys_of(KEY), outbox="", at=first)
    link = URL.replace("{token}", token)
    assert len(link) == OCTETS
    assert raw_fields(message, "List-Unsubscribe") == [f"List-Unsubscribe: <{link}>".encode()]
    assert raw_fields(message, "List-Unsubscribe-Post") == [b"List-Unsubscribe-Post: List-Unsubscribe=One-Click"]
    assert raw_fields(message, "List-Id") == [b"List-Id: Example news <news.example.com>"]
    assert raw_fields(message, "Precedence") == [b"Precedence: bulk"]
    assert whose(message) == ("news", ADDRESS)
    signer = DkimSigner(domain="example.com", selector="s2026", key=read_key(key_file))
    whole = message.replace(b"\n", b"\r\n")
    assert keys.verdicts(whole, [signer]) == [True]
    for name in (b"List-Unsubscribe:", b"List-Unsubscribe-Post:", b"List-Id:"):
        assert keys.verdicts(whole.replace(name, name + b" x"), [signer]) == [False], name  # the signature covers it
    with pytest.raises(Expired):
        verify(token, keys=keys_of(KEY), outbox="", max_age=timedelta(days=1), now=first + timedelta(days=2))
    with pytest.raises(Forged):
        verify(sign("news", ADDRESS, keys=keys_of("f" * 32), outbox="", at=first), keys=keys_of(KEY), outbox="")


def test_each_recipient_of_a_row_gets_one_message_with_a_link_of_their_own(bench: Bench, postfix: Postfix) -> None:
    columns = {"recipients": "a@example.test, b@example.test", "bcc": "c@example.test"}
    (row_id,) = bench.insert(list="news", **columns)
    assert bench.run(bench.configure(postfix.host, postfix.port, **LISTS), "--once") == 0
    messages = [postfix.wait_for(f"Delivered-To: {name}@example.test".encode()) for name in "abc"]
    assert len(postfix.messages()) == 3
    assert [whose(message) for message in messages] == [("news", f"{name}@example.test") for name in "abc"]
    assert {field for message in messages for field in raw_fields(message, "To")} == {
        b"To: a@example.test, b@example.test"
    }
    assert [state.status for state in bench.recipients(row_id).values()] == ["sent"] * 3
    assert (bench.row(row_id).status, bench.row(row_id).attempts) == ("sent", 3)


def test_one_who_is_put_off_or_refused_holds_up_no_other(bench: Bench) -> None:
    late = ["a@example.test"]

    def answer(heard: Heard) -> bytes | None:
        if heard.verb == "RCPT" and late and late[0] in str(heard):
            late.clear()
            return b"450 4.2.0 later\r\n"
        return b"550 5.1.1 nobody\r\n" if heard.verb == "RCPT" and "b@" in str(heard) else None

    (row_id,) = bench.insert(recipients="a@example.test, b@example.test, c@example.test", list="news")
    with FaultServer(Faults(answer=answer)) as relay:
        bench.run(bench.configure(relay.host, relay.port, **LISTS), "--drain", "--for", "30s")
        assert sorted(message.recipients for message in relay.messages) == [("a@example.test",), ("c@example.test",)]
    states = {address: state.status for address, state in bench.recipients(row_id).items()}
    assert states == {"a@example.test": "sent", "b@example.test": "failed", "c@example.test": "sent"}
    assert bench.row(row_id).status == "partial"


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_destination_that_has_to_wait_holds_up_no_reader_elsewhere(bench: Bench) -> None:
    bench.insert(recipients="first@slow.test")
    config_of = {"throttle": {"look_up_mx": False}, 'throttle.domains."slow.test"': {"rates": ["1/d"]}}
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port, **LISTS, **config_of)
        bench.run(config, "--once")
        slow = ", ".join(f"a{n}@slow.test" for n in range(20))
        (row_id,) = bench.insert(recipients=f"{slow}, x@fast.test, y@other.test", list="news")
        bench.run(config, "--once")
        found = [message.recipients[0] for message in relay.messages]
    assert found == ["first@slow.test", "x@fast.test", "y@other.test"]
    states = {address for address, state in bench.recipients(row_id).items() if state.status == "sent"}
    assert states == {"x@fast.test", "y@other.test"}
    assert (bench.row(row_id).status, bench.row(row_id).attempts) == ("queued", 2)


def test_who_has_left_a_list_gets_its_mail_no_more_and_all_other_mail(bench: Bench) -> None:
    transaction(bench.engine, lambda c: suppress(c, "Anna@Example.test", list_name="news"))
    (left,) = bench.insert(recipients=ADDRESS, list="news")
    (offer,) = bench.insert(recipients=ADDRESS, list="offers")
    (order,) = bench.insert(recipients=ADDRESS)
    lists = {**LISTS, 'lists."offers"': {"id": "offers.example.com"}}
    with FaultServer(Faults()) as relay:
        config = bench.configure(relay.host, relay.port, **lists)
        bench.run(config, "--once")
        assert len(relay.messages) == 2
        assert [bench.row(row_id).status for row_id in (left, offer, order)] == ["suppressed", "sent", "sent"]
        assert bench.row(left).error == "on the suppression list of news: unsubscribed"
        transaction(bench.engine, lambda c: unsuppress(c, ADDRESS, list_name="news"))
        assert bench.poller(config, "retry", str(left), "--yes").returncode == 0
        bench.run(config, "--once")
    assert bench.row(left).status == "sent"


def test_a_suppression_holds_until_its_end_by_the_databases_clock(bench: Bench) -> None:
    for address, hours in (("past@example.test", -1), ("present@example.test", 1)):
        enter(bench.engine, address, reason="bounced", end=lambda now, hours=hours: now + timedelta(hours=hours))  # type: ignore[misc]
    past, present = (bench.insert(recipients=f"{name}@example.test")[0] for name in ("past", "present"))
    with FaultServer(Faults()) as relay:
        bench.run(bench.configure(relay.host, relay.port), "--once")
    assert [bench.row(row_id).status for row_id in (past, present)] == ["sent", "suppressed"]


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_row_of_no_list_or_of_too_many_readers_fails_alone_and_says_why(bench: Bench) -> None:
    (typo,) = bench.insert(recipients=ADDRESS, list="nwes")
    many = ", ".join(f"a{n}@example.test" for n in range(101))
    (crowd,) = bench.insert(recipients=many, list="news")
    (fine,) = bench.insert(recipients=ADDRESS, list="news")
    with FaultServer(Faults()) as relay:
        bench.run(bench.configure(relay.host, relay.port, **LISTS), "--once")
        assert len(relay.messages) == 1
    assert [bench.row(row_id).status for row_id in (typo, crowd, fine)] == ["failed", "failed", "sent"]
    assert bench.row(typo).error == "list: there is no list 'nwes'; name one of news, or none, then: poller retry"
    assert "at most 100 go in one row, so write a row for each" in bench.row(crowd).error


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_list_without_a_key_keeps_the_service_from_starting_and_nobody_from_looking(bench: Bench) -> None:
    bench.insert(recipients=ADDRESS, list="news")
    lists = {**LISTS, "unsubscribe": {"key_file": "/nowhere/key"}}
    config = bench.configure("127.0.0.1", 9, **lists)
    started = bench.poller(config, "run", "--once")
    assert (started.returncode, "unsubscribe.key_file: /nowhere/key: No such file" in started.stderr) == (2, True)
    assert bench.poller(config, "status").returncode == 0
    assert bench.poller(config, "show", "1", "--raw").returncode == 2


@pytest.mark.parametrize("kind", ["sqlite"])
def test_show_raw_has_the_link_of_the_first_recipient(bench: Bench) -> None:
    (row_id,) = bench.insert(recipients="a@example.test, b@example.test", list="news")
    shown = bench.poller(bench.configure("127.0.0.1", 9, **LISTS), "show", str(row_id), "--raw")
    assert whose(shown.stdout.replace("\r\n", "\n").encode()) == ("news", "a@example.test")
    assert (
        transaction(bench.engine, lambda c: c.execute(sa.text("SELECT count(*) FROM outbox_recipient")).scalar()) == 0
    )
