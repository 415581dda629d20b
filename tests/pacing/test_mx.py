"""Mail exchangers: asked of a real name server, never waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers.names import NameServer

from poller.delivery.claim_plan import Pacing
from poller.pacing import mx as exchangers
from poller.pacing.gate import Candidate, Record, ScopeKey
from poller.pacing.limits import Scope
from poller.pacing.mx import Found, LookupFailed, MailExchangers, Resolver, Within, resolver_of_this_machine
from poller.pacing.settings import ProviderSettings, ThrottleSettings
from poller.pacing.state_row import as_row
from poller.smtp.relays import RelaySettings
from poller.units import parse_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
GOOGLE = ("10 alt1.aspmx.l.google.com.", "1 aspmx.l.google.com.")
A_MINUTE = 60.0


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


def asking(names: NameServer) -> Resolver:
    return Resolver(servers=("127.0.0.1",), port=names.port)


def known(room: MailExchangers, domain: str) -> tuple[str, ...]:
    """What is known once it was looked up."""
    return after(lambda: room.of(domain))


def after(ask: Callable[[], Any]) -> Any:
    until = time.monotonic() + A_MINUTE
    while (answer := ask()) is None and time.monotonic() < until:
        time.sleep(0.005)
    return answer


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Book:
    """Answers out of a book, and counts."""

    def __init__(self, ttl: float = 600.0) -> None:
        self.hosts: dict[str, tuple[str, ...]] = {}
        self.ttl = ttl
        self.asked: list[str] = []
        self.held = threading.Event()
        self.held.set()

    def __call__(self, domain: str, seconds: float) -> Found:
        assert seconds > 0
        self.held.wait()
        self.asked.append(domain)
        if domain not in self.hosts:
            raise LookupFailed(domain)
        return Found(hosts=self.hosts[domain], ttl=self.ttl)


# ---- what the DNS says


@pytest.mark.parametrize(
    ("records", "hosts"),
    [
        (GOOGLE, ("aspmx.l.google.com", "alt1.aspmx.l.google.com")),
        (("10 MX.Shop.Example.",), ("mx.shop.example",)),
        ((), ("shop.example",)),
        (("0 .",), ()),
    ],
    ids=["best first", "in lower case", "without MX it is the domain itself", "a null MX is nobody"],
)
def test_the_answer_is_what_the_mx_records_say(
    names: NameServer, records: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    names.has("shop.example", *records)
    assert asking(names)("shop.example", A_MINUTE).hosts == hosts


def test_a_domain_that_does_not_exist_has_none(names: NameServer) -> None:
    assert asking(names)("nowhere.example", A_MINUTE).hosts == ()


def test_the_ttl_is_that_of_the_records(names: NameServer) -> None:
    names.has("shop.example", "10 mx.shop.example.", ttl=1234)
    assert asking(names)("shop.example", A_MINUTE).ttl == 1234


def test_an_error_and_silence_are_failures(names: NameServer) -> None:
    names.fails("broken.example")
    names.is_silent("silent.example")
    for domain, seconds in (("broken.example", A_MINUTE), ("silent.example", 0.3), ("a..b", A_MINUTE)):
        with pytest.raises(LookupFailed, match=domain):
            asking(names)(domain, seconds)


def test_a_name_that_can_be_none_is_a_failure(names: NameServer) -> None:
    with pytest.raises(LookupFailed):
        asking(names)("x" * 64 + ".example", A_MINUTE)
    assert names.asked == []


# ---- never waited for


def test_it_is_looked_up_beside_the_caller_and_known_then(names: NameServer) -> None:
    names.has("shop.example", *GOOGLE)
    room = MailExchangers(asking(names))
    assert room.of("shop.example") is None
    assert known(room, "shop.example") == ("aspmx.l.google.com", "alt1.aspmx.l.google.com")
    assert room.of("shop.example") == ("aspmx.l.google.com", "alt1.aspmx.l.google.com")
    assert names.asked == ["shop.example"]
    room.close()


def test_a_domain_is_asked_for_once_however_often_it_is_wanted_meanwhile() -> None:
    book = Book()
    book.hosts = {"a.example": ("mx.a.example",)}
    book.held.clear()
    room = MailExchangers(book)
    assert [room.of("a.example") for _ in range(100)] == [None] * 100
    book.held.set()
    assert known(room, "a.example") == ("mx.a.example",)
    assert book.asked == ["a.example"]
    room.close()


@pytest.mark.parametrize(("ttl", "holds"), [(1.0, 300.0), (1800.0, 1800.0), (10.0**9, 86400.0)])
def test_an_answer_holds_as_long_as_the_dns_says_within_bounds(ttl: float, holds: float) -> None:
    book, clock = Book(ttl), Clock()
    book.hosts = {"a.example": ("old",)}
    room = MailExchangers(book, clock=clock)
    known(room, "a.example")
    book.hosts = {"a.example": ("new",)}
    clock.seconds = holds - 1
    assert (room.of("a.example"), book.asked) == (("old",), ["a.example"])
    clock.seconds = holds
    assert room.of("a.example") in {("old",), ("new",)}  # given all the same while it is looked up
    assert after(lambda: room.of("a.example") == ("new",) or None)
    room.close()


def test_a_failure_is_remembered_and_leaves_what_was_known() -> None:
    book, clock = Book(), Clock()
    room = MailExchangers(book, clock=clock)
    assert known(room, "a.example") == ()
    clock.seconds = 299
    assert (room.of("a.example"), len(book.asked)) == ((), 1)
    book.hosts = {"a.example": ("mx",)}
    clock.seconds = 300
    room.of("a.example")
    assert after(lambda: room.of("a.example") == ("mx",) or None)
    book.hosts = {}
    clock.seconds = 1000
    room.of("a.example")
    assert after(lambda: len(book.asked) == 3 or None)
    assert room.of("a.example") == ("mx",)
    room.close()


def test_a_failing_name_server_does_not_end_the_looking_up(names: NameServer) -> None:
    names.fails("broken.example")
    names.has("shop.example", "10 mx.shop.example.")
    room = MailExchangers(asking(names))
    assert known(room, "broken.example") == ()
    assert known(room, "shop.example") == ("mx.shop.example",)
    room.close()


def test_the_domains_that_were_looked_up_longest_ago_make_room() -> None:
    book = Book()
    book.hosts = {f"{letter}.example": (letter,) for letter in "abcd"}
    room = MailExchangers(book, most_domains=3)
    assert [known(room, domain) for domain in book.hosts] == [("a",), ("b",), ("c",), ("d",)]
    assert [room.of(f"{letter}.example") for letter in "dcb"] == [("d",), ("c",), ("b",)]
    assert room.of("a.example") is None
    room.close()


def test_no_more_wait_for_it_than_may() -> None:
    book = Book()
    book.hosts = {f"{number}.example": (str(number),) for number in range(50)}
    book.held.clear()
    room = MailExchangers(book, most_wanted=2)
    assert {room.of(domain) for domain in book.hosts} == {None}
    book.held.set()
    assert [known(room, domain) for domain in book.hosts] == [(str(number),) for number in range(50)]
    assert len(book.asked) == 50
    room.close()


def test_after_the_close_nothing_is_looked_up() -> None:
    book = Book()
    book.held.clear()
    room = MailExchangers(book)
    room.of("a.example")
    room.of("b.example")
    room.close()  # while a look-up is in hand
    book.held.set()
    assert after(lambda: book.asked or None)
    for thread in threading.enumerate():
        if thread.name == "exchangers":
            thread.join()
    assert (room.of("c.example"), book.asked) == (None, ["a.example"])


@pytest.mark.parametrize("domain", ["localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "bücher.example"])
def test_what_has_no_mx_is_not_looked_up(domain: str) -> None:
    book = Book()
    assert MailExchangers(book).of(domain) == ()
    assert Within(book, 3.0).of(domain) == ()


def test_without_dnspython_nothing_is_known() -> None:
    code = (
        "from poller.pacing.mx import *\n"
        "assert resolver_of_this_machine() is None\n"
        "print(MailExchangers(resolver_of_this_machine()).of('a.example'))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(exchangers.__file__).parents[2])}
    run = [sys.executable, "-S", "-c", code]  # -S: nothing but the standard library
    assert subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout == "()\n"
    assert resolver_of_this_machine() == Resolver()


# ---- at the command line


def test_a_command_waits_so_long_in_all_and_no_longer() -> None:
    clock = Clock()

    def resolve(domain: str, seconds: float) -> Found:
        clock.seconds += 2.0
        if domain == "broken.example":
            raise LookupFailed(domain)
        return Found(hosts=(f"{seconds:.0f} left",), ttl=0)

    within = Within(resolve, 3.0, clock=clock)
    assert [within.of(f"{letter}.example") for letter in "aabc"] == [("3 left",), ("3 left",), ("1 left",), ()]
    assert Within(resolve, 3.0, clock=clock).of("broken.example") == ()
    assert Within(None, 3.0).of("a.example") == ()


# ---- what pacing makes of it


def paced(**more: Any) -> Pacing:
    return Pacing(settings=ThrottleSettings(), relays={"smtp": RelaySettings()}, **more)


def row(number: int, domain: str) -> Candidate:
    known = {"relay": None, "sender": None, "cc": None, "bcc": None, "priority": 5, "due_at": NOW}
    return Candidate(id=number, domain=domain, lane=" ", recipients=f"r{number}@{domain}", **known)


def test_a_domain_that_is_at_home_with_a_provider_is_paced_with_it(names: NameServer) -> None:
    names.has("hosted.example", *GOOGLE)
    names.has("own.example", "10 mx.own.example.")
    room = MailExchangers(asking(names))
    limit = ProviderSettings(rates=(parse_rate("1/h"),))
    settings = ThrottleSettings(providers={"google": limit})
    worker = Pacing(settings=settings, relays={"smtp": RelaySettings()}, mail_exchangers=room.of)
    for domain in ("hosted.example", "own.example"):
        known(room, domain)
        worker.scopes_of(domain)
    worker.see({}, NOW)
    gate = worker.gate(100, NOW, usable=["smtp"])
    assert "hosted.example" in gate.closed_domains
    assert "own.example" not in gate.closed_domains
    rows = [row(1, "hosted.example"), row(2, "gmail.com"), row(3, "own.example")]
    choice = worker.choose(["smtp"])(rows, {key: Record(values={}) for key in gate.scopes}, NOW)
    assert [*choice.grants] == [1, 3]
    assert worker.destination("hosted.example") == ScopeKey("provider", "google")
    assert worker.provider_of("Hosted.example") == "google"
    room.close()


def test_while_the_exchangers_are_unknown_the_domain_stands_for_itself_and_is_asked_about_again() -> None:
    answers: list[tuple[str, ...] | None] = [None, None, ("aspmx.l.google.com",)]
    worker = paced(mail_exchangers=lambda _: answers.pop(0))
    assert worker.destination("hosted.example") == ScopeKey("domain", "hosted.example")
    assert worker.destination("hosted.example") == ScopeKey("domain", "hosted.example")
    for _ in range(3):  # the answer is kept: there is none left to pop
        assert worker.destination("hosted.example") == ScopeKey("provider", "google")


def test_only_domains_that_no_group_names_are_looked_up() -> None:
    asked: list[str] = []
    worker = paced(mail_exchangers=lambda domain: asked.append(domain) or ())
    for domain in ("gmail.com", "hotmail.fr", "a.example", "a.example"):
        worker.scopes_of(domain)
    assert asked == ["a.example"]


def test_a_domain_that_moves_to_another_provider_is_paced_with_that_one_then() -> None:
    hosts: dict[str, tuple[str, ...] | None] = {"hosted.example": ("aspmx.l.google.com",)}
    worker = paced(mail_exchangers=hosts.get)
    pause = Record(values=as_row(Scope(paused_until=NOW + timedelta(hours=9), reason="it said so")))
    records = {ScopeKey("provider", "google"): pause}
    worker.scopes_of("hosted.example")
    worker.see(records, NOW)
    assert "hosted.example" in worker.gate(9, NOW, usable=["smtp"]).closed_domains
    hosts["hosted.example"] = None  # it fell out of memory: what was known holds
    worker.see(records, NOW + timedelta(minutes=2))
    assert worker.provider_of("hosted.example") == "google"
    hosts["hosted.example"] = ("mx1.mx.microsoft",)
    assert worker.provider_of("hosted.example") == "microsoft365"
    assert "hosted.example" not in worker.gate(9, NOW, usable=["smtp"]).closed_domains
    hosts["hosted.example"] = ("mx.hosted.example",)
    worker.see(records, NOW + timedelta(minutes=4))
    assert worker.provider_of("hosted.example") is None
