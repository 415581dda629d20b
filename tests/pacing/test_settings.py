"""What is paced, as it is written: and what only shows between tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from poller.judgement.advice import SHIPPED as SHIPPED_REPLIES
from poller.judgement.providers import SHIPPED as SHIPPED_PROVIDERS
from poller.pacing.hours import is_open
from poller.pacing.limits import Limit
from poller.pacing.settings import ThrottleSettings, check_provider, contradictions
from poller.smtp.relays import (
    FirstRelaySettings,
    RelaySettings,
    name_trouble,
    names_in_trouble,
    relays_of,
)
from poller.smtp.relays import (
    contradictions as relay_contradictions,
)
from poller.units import Misfit, Rate


def settings(**values: Any) -> ThrottleSettings:
    return TypeAdapter(ThrottleSettings).validate_python(values)


def test_by_default_nothing_is_limited_and_every_known_reply_is_heard() -> None:
    assert (settings().rates, settings().gap, settings().table) == ((), 0.0, SHIPPED_REPLIES)
    assert list(contradictions(settings())) == []
    assert settings().known_providers.provider_of("gmail.com") == "google"


def test_hours_are_those_of_the_named_zone() -> None:
    hours = settings(windows=["08:00-18:00"], quiet=["12:00-13:00"], time_zone="Europe/Berlin").hours
    assert [is_open(hours, datetime(2026, 11, 20, hour, tzinfo=UTC)) for hour in (6, 7, 11, 17)] == [
        False,
        True,
        False,
        False,
    ]


def test_a_limit_for_a_shipped_provider_keeps_its_domains() -> None:
    limited = settings(providers={"google": {"rates": ["30/m"]}})
    assert limited.known_providers.provider_of("gmail.com") == "google"
    assert [str(rate) for rate in limited.providers["google"].rates] == ["30/m"]


def test_the_replies_of_the_operator_come_first() -> None:
    mine = settings(replies=[{"action": "refuse", "codes": [421]}])
    assert mine.table == (*mine.replies, *SHIPPED_REPLIES)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rates": ["0/m"]}, "a rate of zero would send nothing"),
        ({"rates": ["-5/m"]}, "not a rate; write it like"),
        ({"rates": ["5/m", "6/m"]}, "two rates for the same period, /m"),
        ({"rates": ["1/h"], "burst": 9000}, "a burst of 9000 is more than 1/h lets through in a year"),
        ({"burst": 0}, "too small; at least 1"),
        ({"gap": "-1s"}, "not a duration"),
        ({"counts": "bytes"}, "Input should be 'messages' or 'recipients'"),
        ({"windows": ["8-18"]}, "not hours; write them like"),
        ({"time_zone": "Mars/Base"}, "not a time zone that is known here"),
        ({"domains": {"Example.com": {}}}, "not a domain; write it in lower case"),
        ({"domains": {"münchen.test": {}}}, "not a domain; write it in lower case"),
        ({"domains": {"a@example.com": {}}}, "not a domain; write it in lower case"),
        ({"domains": {".".join(["a" * 63] * 4): {}}}, "not a domain; write it in lower case"),
        ({"senders": {"example.com": {}}}, "not a sender; write it like"),
        ({"senders": {"a" * 65 + "@example.com": {}}}, "not a sender; write it like"),
        ({"providers": {"my own": {}}}, "a provider's name has letters"),
        ({"first_pause": "0s"}, "too small; at least 1ms"),
        ({"raise_after": 0}, "too small; at least 1"),
        ({"providers": {"a": {"domains": ["*.com"]}}}, "not a domain; write it in lower case"),
        ({"providers": {"a": {"mx": ["*.com"]}}}, "not a domain; write it in lower case"),
        ({"replies": [{"action": "defer", "text": "("}]}, "not a regular expression"),
        ({"replies": [{"action": "defer", "text": ".*"}]}, "would match every reply"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**values)


def test_what_can_be_meant_is_taken() -> None:
    taken = settings(
        domains={"xn--mnchen-3ya.test": {"rates": ["1/s"]}, "localhost": {}},
        senders={"a@example.com": {}, "@example.com": {}},
        providers={"mine": {"domains": ["mine.*", "b.test"], "mx": [".mine.test", "mx.other.test"]}},
    )
    assert taken.known_providers.provider_of("mine.co.uk") == "mine"


def test_a_burst_that_no_year_holds_says_which_key_is_to_change() -> None:
    with pytest.raises(Misfit) as caught:
        Limit(rates=(Rate(count=1, period=3600),), burst=8800)
    assert caught.value.key == "burst"


def test_a_longest_scope_fits_into_its_row() -> None:
    longest_domain = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    longest_sender = "a" * 64 + "@" + longest_domain
    assert list(settings(senders={longest_sender: {}}).senders) == [longest_sender]
    assert list(settings(senders={"News@Example.COM": {}}).senders) == ["news@example.com"]
    assert len(longest_sender) <= 512  # VARCHAR(512), in sql/mysql


@pytest.mark.parametrize("name", SHIPPED_PROVIDERS)
def test_a_shipped_provider_has_a_name_that_an_operator_could_give(name: str) -> None:
    assert check_provider(name) == name


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        (
            {"windows": ["08:00-18:00"], "quiet": ["00:00-24:00"]},
            ("windows",),
            "these windows and quiet hours never open",
        ),
        ({"quiet": ["00:00-24:00"]}, ("quiet",), "these windows and quiet hours never open"),
        (
            {"providers": {"a": {"domains": ["x.test"]}, "b": {"domains": ["y.test", "x.test"]}}},
            ("providers", "b", "domains"),
            "item 2 is claimed by [throttle.providers.a] too",
        ),
        (
            {"providers": {"a": {"mx": ["x.test"]}, "b": {"mx": [".x.test"]}}},
            ("providers", "b", "mx"),
            "item 1 is claimed by [throttle.providers.a] too",
        ),
        ({"providers": {"gogle": {"rates": ["1/s"]}}}, ("providers", "gogle"), "names neither domains nor mx"),
        (
            {"replies": [{"action": "defer", "codes": [4], "provider": "gogle"}]},
            ("replies", 0, "provider"),
            "no such provider; give it a table, [throttle.providers.NAME]",
        ),
    ],
)
def test_tables_that_contradict_each_other_are_told(values: dict[str, Any], key: tuple[Any, ...], words: str) -> None:
    ((found, message),) = contradictions(settings(**values))
    assert (found, message[: len(words)]) == (key, words)


# ---- relays


def test_a_relay_has_every_key_of_the_first_and_its_own_limit() -> None:
    relay = TypeAdapter(RelaySettings).validate_python({"host": "b.test", "rates": ["30/m"], "order": 2})
    assert (relay.host, relay.port, str(relay.pace), relay.order, relay.weight) == ("b.test", 587, "30/m", 2, 1)
    assert FirstRelaySettings().name == "smtp"
    assert "hunter2" not in repr(RelaySettings(password="hunter2"))


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("backup", ""),
        ("west-1.eu_b", ""),
        ("SMTP", "another relay has this name"),
        ("", "a relay's name has letters"),
        ("a b", "a relay's name has letters"),
        ("-a", "a relay's name has letters"),
        ("a" * 65, "a relay's name has letters"),
    ],
)
def test_a_relay_is_told_from_the_others_by_its_name(name: str, trouble: str) -> None:
    found = name_trouble(name, ["smtp"])
    assert found.startswith(trouble)
    assert bool(found) == bool(trouble)


def test_all_relays_are_told_by_name_the_first_one_first() -> None:
    first, backup = FirstRelaySettings(name="main", order=2), RelaySettings(host="b.test")
    assert list(relays_of(first, {"backup": backup}).items()) == [("main", first), ("backup", backup)]


def test_names_in_trouble_are_told_by_the_key_that_gives_them() -> None:
    assert list(names_in_trouble(FirstRelaySettings(), ["backup", "smtp2"])) == []
    found = names_in_trouble(FirstRelaySettings(name="a b"), ["b", "A B", "B"])
    assert [key for key, _ in found] == [("smtp", "name"), ("relays", "A B"), ("relays", "B")]


@pytest.mark.parametrize(
    ("values", "keys", "message"),
    [
        ({"username": "u"}, ("username", "password"), "needs here.password beside it, or [here.oauth2]"),
        ({"password": "p"}, ("password", "username"), "needs here.username beside it"),
        (
            {"username": "u", "password": "p", "security": "none", "host": "127.0.0.1.example.com"},
            ("security", "username", "host"),
            "would send the password in clear text; only a relay on this machine may do without TLS",
        ),
        (
            {"rest_first": 2.0, "rest_longest": 1.0},
            ("rest_longest", "rest_first"),
            "the rests would shrink; here.rest_longest must be at least here.rest_first",
        ),
    ],
)
def test_keys_of_a_relay_that_contradict_each_other_are_told(
    values: dict[str, Any], keys: tuple[str, ...], message: str
) -> None:
    assert list(relay_contradictions(RelaySettings(**values), "here")) == [(keys, message)]
