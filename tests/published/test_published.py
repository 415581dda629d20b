"""What domains publish, asked of a real name server, and what receivers make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.rcode
import keys
import pytest
from servers.names import NameServer

from poller.message.dkim import DkimSigner
from poller.message.keys import read_key
from poller.published.dmarc import is_aligned, walk
from poller.published.findings import examine
from poller.published.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer() as server:
        yield server


def asking(names: NameServer) -> Records:
    return Records(servers=("127.0.0.1",), port=names.port)


def lines(names: NameServer, author: str = "a.test", signer: str | None = "a.test", about: str = "") -> list[str]:
    """What is found of a domain in From, as `LEVEL words`."""
    found = examine([], [(author, signer)], asking(names).texts)
    return [f"{finding.level} {finding.words}" for finding in found if about in finding.about]


# ---- keys

AT = "s2026._domainkey.a.test"


@pytest.fixture
def signer(tmp_path: Path) -> DkimSigner:
    return DkimSigner(domain="a.test", selector="s2026", key=read_key(keys.key_file(tmp_path, "rsa")))


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (["{own}"], "good : the key that signs"),
        (["k=rsa; p={p}"], "good : the key that signs"),
        (["v=DKIM1;h=sha1:sha256; s=email;n=a note; p = {split} ;"], "good : the key that signs"),
        (["v=DKIM1; t=s:y; p={p}"], "warn : the key that signs, but t=y: receivers only test it; take t=y out"),
        ([], "bad : no record; publish it"),
        (["{own}", "v=DKIM1; p="], "bad : 2 records, of which receivers take any; leave one"),
        (["v=DKIM1; p="], "bad : the key is revoked (p= is empty); publish it again, or sign with another"),
        (["{other}"], "bad : another key than key_file holds; publish this one"),
        (["v=DKIM1; k=ed25519; p={p}"], "bad : another key than key_file holds; publish this one"),
        (["k=rsa; v=DKIM1; p={p}"], "bad : a record that is none of DKIM's: v=DKIM1 must come first"),
        (["v=spf1 -all"], "bad : a record that is none of DKIM's: v=DKIM1 must come first"),
        (["v=DKIM1; k=rsa"], "bad : a record without a key (p=); publish this one"),
        (["v=DKIM1; h=sha1; p={p}"], "bad : h=sha1 keeps sha256 out; take h= out of the record"),
        (["v=DKIM1; s=tlsrpt; p={p}"], "bad : s=tlsrpt keeps mail out; take s= out of the record"),
    ],
)
def test_a_key_in_the_dns_is_the_one_that_signs_or_it_is_said_why_not(
    names: NameServer, signer: DkimSigner, tmp_path: Path, records: list[str], expected: str
) -> None:
    other = read_key(keys.key_file(tmp_path, "rsa", 1))
    public = signer.key.public
    parts = {"own": signer.key.record, "other": other.record, "p": public, "split": f"{public[:99]} {public[99:]}"}
    if records:
        names.says(AT, *(record.format(**parts) for record in records))
    (finding,) = examine([signer], [], asking(names).texts)
    level, _, words = expected.partition(" ")
    assert (finding.level, finding.about) == (level, "dkim")
    assert finding.words.startswith(f"{AT} (RSA 2048){words}")
    assert finding.level != "bad" or finding.words.endswith("; shown by: poller dkim --domain a.test")


# ---- SPF


def chain(names: NameServer, length: int) -> None:
    for number in range(length):
        names.says(f"i{number}.test", f"v=spf1 include:i{number + 1}.test ~all")
    names.says(f"i{length}.test", "v=spf1 ip4:192.0.2.0/24 ~all")


ALIGNED = "; aligned where the envelope's domain is that of From"


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (
            ["v=spf1 include:i1.test -all", "something else"],
            f"good a.test: one record, -all, 10 of 10 look-ups{ALIGNED}",
        ),
        (["V=SPF1 ip4:192.0.2.1 a mx:b.test ~ALL"], f"good a.test: one record, ~all, 2 of 10 look-ups{ALIGNED}"),
        (["v=spf1 redirect=i10.test"], f"good a.test: one record, ~all, 1 of 10 look-ups{ALIGNED}"),
        (["v=spf1 -all redirect=gone.test"], f"good a.test: one record, -all, 0 of 10 look-ups{ALIGNED}"),
        (["v=spf1 exists:%{i}.b.test x=y -all"], f"good a.test: one record, -all, 1 of 10 look-ups{ALIGNED}"),
        ([], 'warn a.test: no record; publish a.test TXT "v=spf1 include:YOUR-RELAY -all", '),
        (["v=spf1 a ?all"], "warn a.test: says nothing of other senders; end the record with -all or ~all"),
        (["v=spf1 a"], "warn a.test: says nothing of other senders; end the record with -all or ~all"),
        (["v=spf1 -all", "v=spf1 a -all"], "bad a.test: a.test has 2 SPF records; merge them into one"),
        (["v=spf1 a all"], "bad a.test: +all lets everybody send in its name; end the record with -all or ~all"),
        (["v=spf1 include:open.test -all"], "bad a.test: open.test, which it includes, lets everybody send (+all)"),
        (["v=spf1 include:gone.test -all"], "bad a.test: gone.test has no SPF record; take it out"),
        (["v=spf1 ip4=192.0.2.1 ipv4:192.0.2.1 -all"], "bad a.test: the record of a.test has a term that nobody can"),
        (["v=spf1 include:i0.test -all"], "bad a.test: more than 10 look-ups, so receivers stop reading; "),
        (["v=spf1 include:a.test -all"], "bad a.test: more than 10 look-ups, so receivers stop reading; "),
        (["v=spf1 include:broken.test -all"], "warn not looked up: broken.test: "),
    ],
)
def test_spf_is_one_record_that_receivers_can_read_to_its_end(
    names: NameServer, records: list[str], expected: str
) -> None:
    chain(names, 10)
    names.says("open.test", "v=spf1 +all")
    names.fails("broken.test")
    if records:
        names.says("a.test", *records)
    (line,) = lines(names, about="spf")
    assert line.startswith(expected)


# ---- DMARC

LONG = "a.b.c.d.e.f.g.h.i.test"


def test_the_walk_asks_for_the_domain_and_then_for_each_above_eight_times_at_most(names: NameServer) -> None:
    walk(LONG, asking(names).texts)
    walk("a.b.test", asking(names).texts)
    cut = [f"_dmarc.{LONG[at:]}" for at in (0, 6, 8, 10, 12, 14, 16, 18)]
    assert names.asked == [*cut, "_dmarc.a.b.test", "_dmarc.b.test", "_dmarc.test"]


@pytest.mark.parametrize(
    ("records", "domain", "found", "organization"),
    [
        ({}, "a.b.test", "", "a.b.test"),
        ({"b.test": "p=reject"}, "a.b.test", "b.test", "b.test"),
        ({"a.b.test": "p=none", "b.test": "p=reject"}, "a.b.test", "a.b.test", "b.test"),
        ({"a.b.test": "p=none; psd=n", "b.test": "p=reject"}, "a.b.test", "a.b.test", "a.b.test"),
        ({"test": "p=reject; psd=y"}, "a.b.test", "test", "b.test"),
        ({"a.b.test": "p=none", "test": "p=reject; psd=y"}, "a.b.test", "a.b.test", "b.test"),
        ({"b.test": "p=none", "test": "p=reject; psd=y"}, "a.b.test", "b.test", "b.test"),
        ({"b.test": "p=none; psd=y"}, "b.test", "b.test", "b.test"),
        ({"b.test": "p=bad"}, "a.b.test", "", "a.b.test"),
        ({"b.test": "p=reject; np=bad"}, "a.b.test", "", "a.b.test"),
        ({"b.test": "rua=mailto:d@b.test"}, "a.b.test", "b.test", "b.test"),
        (
            {"c.d.e.f.g.h.i.test": "p=none", "d.e.f.g.h.i.test": "p=reject"},
            LONG,
            "d.e.f.g.h.i.test",
            "d.e.f.g.h.i.test",
        ),
    ],
)
def test_the_record_and_the_organization_are_those_of_the_tree_walk(
    names: NameServer, records: dict[str, str], domain: str, found: str, organization: str
) -> None:
    for name, tags in records.items():
        names.says(f"_dmarc.{name}", f"v=DMARC1; {tags}", "no record of DMARC")
    walked = walk(domain, asking(names).texts)
    assert (walked.policy.domain if walked.policy else "", walked.organization) == (found, organization)


@pytest.mark.parametrize(
    ("records", "author", "signer", "expected"),
    [
        ({}, "a.test", "a.test", True),
        ({}, "mail.a.test", "a.test", False),
        ({"a.test": "p=none"}, "mail.a.test", "a.test", True),
        ({"a.test": "p=none; adkim=s"}, "mail.a.test", "a.test", False),
        ({"a.test": "p=none; adkim=s"}, "a.test", "a.test", True),
        ({"mail.a.test": "p=none; psd=n", "a.test": "p=none"}, "mail.a.test", "a.test", False),
        ({"test": "p=none; psd=y"}, "mail.a.test", "a.test", True),
        ({"test": "p=none; psd=y"}, "a.test", "b.test", False),
    ],
)
def test_a_domain_above_is_aligned_if_its_organization_is_the_same_and_nobody_asks_for_more(
    names: NameServer, records: dict[str, str], author: str, signer: str, *, expected: bool
) -> None:
    for name, tags in records.items():
        names.says(f"_dmarc.{name}", f"v=DMARC1; {tags}")
    asked = asking(names).texts
    assert is_aligned(signer, walk(author, asked), asked) is expected


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ['warn a.test: no record here or above; publish _dmarc.a.test TXT "v=DMARC1; p=none; rua=mailto:YOU"']),
        (["v=DMARC1; p=reject; sp=no; rua=mailto:d@a.test"], ["good a.test: p=none (_dmarc.a.test)"]),
        (["v=DMARC1; p=none"], ["good a.test: p=none (_dmarc.a.test)"]),
        (["v=DMARC1;p=reject;t=y"], ["good a.test: p=reject, one step milder while t=y (_dmarc.a.test)"]),
        (["v=DMARC1; p=none", "v=DMARC1; p=reject"], ["bad _dmarc.a.test: 2 records; leave one"]),
        (["v=DMARC1; p=never"], ["bad _dmarc.a.test: a record that can't be used; it needs p=none, "]),
    ],
)
def test_dmarc_is_there_and_can_be_used_or_it_is_said_what_to_publish(
    names: NameServer, records: list[str], expected: list[str]
) -> None:
    if records:
        names.says("_dmarc.a.test", *records)
    found = lines(names, about="dmarc")
    wanted = [*expected, *(["good a.test: aligned, signed by a.test"] if expected[0].startswith("good") else [])]
    assert [line[: len(want)] for line, want in zip(found, wanted, strict=True)] == wanted


def test_a_domain_below_is_told_its_policy_and_that_a_strict_one_wants_a_table_of_its_own(names: NameServer) -> None:
    names.says("_dmarc.a.test", "v=DMARC1; p=none; sp=reject; adkim=s")
    assert lines(names, "mail.a.test", "a.test", "dmarc") == [
        "good mail.a.test: p=reject (_dmarc.a.test)",
        (
            "bad mail.a.test: not aligned with a.test, which signs: adkim=s wants the very same domain; "
            'add [dkim."mail.a.test"]'
        ),
    ]


def test_a_record_that_is_missing_is_to_be_published_where_the_signature_is_aligned(names: NameServer) -> None:
    (line,) = lines(names, "mail.a.test", "a.test", "dmarc")
    assert line.startswith("warn mail.a.test: no record here or above; publish _dmarc.a.test TXT ")


def test_a_domain_that_nobody_signs_for_is_named(names: NameServer) -> None:
    remedy = 'mail from it is not signed here; unless a relay signs it, add [dkim."a.test"]'
    assert lines(names, signer=None, about="dkim") == [f"warn a.test: {remedy}"]


# ---- a DNS that does not answer


def test_a_dns_that_fails_leads_to_warnings_and_is_asked_once_for_each_name(names: NameServer) -> None:
    for name in ("a.test", "_dmarc.a.test"):
        names.fails(name, dns.rcode.REFUSED)
    assert [line.split(":")[0] for line in lines(names)] == ["warn not looked up"] * 2
    assert sorted({*names.asked}) == ["_dmarc.a.test", "a.test"]


def test_when_the_time_is_over_nothing_more_is_asked(names: NameServer) -> None:
    now = iter(range(0, 10_000, 31))
    asked = Records(servers=("127.0.0.1",), port=names.port, clock=lambda: float(next(now)))
    found = [finding.words for finding in examine([], [("a.test", "a.test")], asked.texts)]
    assert len([line for line in found if "no record" in line]) == 1
    assert [line for line in found if "too slow" in line] == [
        "not looked up: _dmarc.a.test: the DNS was too slow to be asked for everything; try again"
    ]
    assert names.asked == ["a.test"]
