"""Which provider takes a domain's mail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.judgement.providers import SHIPPED, Group, Providers, claimed_twice

KNOWN = Providers.of({})


@pytest.mark.parametrize(
    ("domain", "provider"),
    [
        ("gmail.com", "google"),
        ("GoogleMail.com.", "google"),
        ("outlook.com", "outlook"),
        ("hotmail.co.uk", "outlook"),
        ("live.nl", "outlook"),
        ("live.com.au", "outlook"),
        ("live.example.com", None),
        ("outlook.acme.museum.org", None),
        ("nothotmail.com", None),
        ("hotmail", None),
        ("mail.hotmail.com", None),
        ("yahoo.fr", "yahoo"),
        ("yahoo.com.br", "yahoo"),
        ("yahoo.co.jp", "yahoo_japan"),
        ("aol.com", "yahoo"),
        ("me.com", "apple"),
        ("comcast.net", "comcast"),
        ("gmx.at", "gmx"),
        ("web.de", "gmx"),
        ("example.com", None),
        ("", None),
    ],
)
def test_a_domain_is_known_by_its_name(domain: str, provider: str | None) -> None:
    assert KNOWN.provider_of(domain) == provider


@pytest.mark.parametrize(
    ("hosts", "provider"),
    [
        (["aspmx.l.google.com", "alt1.aspmx.l.google.com"], "google"),
        (["ASPMX3.GoogleMail.com."], "google"),
        (["example-com.mail.protection.outlook.com"], "microsoft365"),
        (["hotmail-com.olc.protection.outlook.com"], "outlook"),
        (["example-com.j-v1.mx.microsoft"], "microsoft365"),
        (["mx-eu.mail.am0.yahoodns.net"], "yahoo"),
        (["mx01.mail.icloud.com"], "apple"),
        (["mx.notgoogle.com"], None),
        (["mx.example.com", "aspmx.l.google.com"], None),
        ([], None),
    ],
)
def test_any_other_domain_is_known_by_its_first_mail_exchanger(hosts: list[str], provider: str | None) -> None:
    assert KNOWN.provider_of("example.com", hosts) == provider


def test_the_name_comes_before_the_mail_exchanger() -> None:
    assert KNOWN.provider_of("gmail.com", ["mx.yahoodns.net"]) == "google"


def test_what_an_operator_claims_the_shipped_groups_give_up() -> None:
    mine = Providers.of({"mine": Group(domains=("gmail.com",), mx=(".l.google.com",))})
    assert [mine.provider_of(domain) for domain in ("gmail.com", "googlemail.com")] == ["mine", "google"]
    assert mine.provider_of("example.com", ["aspmx.l.google.com"]) == "mine"


def test_groups_that_claim_the_same_are_found() -> None:
    groups = {
        "a": Group(domains=("x.test", "x.test"), mx=("mx.test",)),
        "b": Group(domains=("y.test",)),
        "c": Group(domains=("x.test",), mx=(".mx.test.",)),
    }
    assert claimed_twice(groups) == [("x.test", "a", "c"), (".mx.test", "a", "c")]


def test_a_domain_and_a_suffix_of_the_same_name_are_different_claims() -> None:
    assert claimed_twice({"a": Group(domains=("web.test",)), "b": Group(mx=("web.test",))}) == []


def test_no_shipped_groups_claim_the_same() -> None:
    assert claimed_twice(SHIPPED) == []


def test_the_shipped_groups_are_written_as_they_are_looked_up() -> None:
    claims = [claim for group in SHIPPED.values() for claim in (*group.domains, *group.mx)]
    assert [claim for claim in claims if claim != claim.lower().strip(".")] == []


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=2))
def test_no_name_breaks_the_look_up(domain: str, hosts: list[str]) -> None:
    assert KNOWN.provider_of(domain, hosts) in {None, *SHIPPED}
