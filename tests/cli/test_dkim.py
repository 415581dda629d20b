"""`poller dkim`, and what `poller check` says of the DNS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.zone
import keys
import pytest
from click.testing import CliRunner
from servers.names import NameServer

from poller.cli import main
from poller.cli.check import Verdicts
from poller.cli.dkim import check_published, zone_lines
from poller.message.composer import Composer
from poller.message.settings import MessageSettings, TemplateSettings
from poller.published.records import Records

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


DOMAINS = ("example.com", "example.org")


def printed(directory: Path, text: str, *arguments: str) -> Result:
    path = directory / "config.toml"
    path.write_text(text)
    return CliRunner().invoke(main, ["--config", str(path), "dkim", *arguments])


def signing_for(directory: Path) -> str:
    text = ""
    for number, domain in enumerate(DOMAINS):
        for key in keys.table(directory, "rsa", "ed25519", number=number).keys:
            text += f'[[dkim."{domain}".keys]]\nselector = "{key.selector}"\nkey_file = "{key.key_file}"\n'
    return text


def test_what_is_printed_is_a_zone_file_with_the_record_of_each_key(tmp_path: Path) -> None:
    whole = printed(tmp_path, signing_for(tmp_path))
    assert (whole.exit_code, whole.stderr) == (0, "")
    zone = dns.zone.from_text(whole.stdout, origin=".", relativize=False, check_origin=False)
    found = {
        name.to_text(): [b"".join(r.strings).decode() for r in data] for name, data in zone.iterate_rdatasets("TXT")
    }
    tables = {name: keys.table(tmp_path, "rsa", "ed25519", number=at) for at, name in enumerate(DOMAINS)}
    signing = Composer(MessageSettings(), TemplateSettings(), tables).signing
    signers = [signer for domain in signing.domains for signer in signing.keys_of(domain)]
    assert found == {f"{it.selector}._domainkey.{it.domain}.": [it.key.record] for it in signers}
    assert all(f";   {signer.key.record}" in whole.stdout for signer in signers)
    only = printed(tmp_path, signing_for(tmp_path), "--domain", "News.Example.org")
    assert only.stderr == "mail from News.Example.org is signed by example.org\n"
    assert only.stdout.splitlines() == [
        line for signer in signing.keys_of("example.org") for line in zone_lines(signer)
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), 'nothing signs; add a table [dkim."example.com"] with selector and key_file'),
        (("--domain", "other.test"), 'nothing signs mail from other.test; add [dkim."other.test"]'),
    ],
)
def test_where_nothing_signs_it_is_said_what_to_write(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    result = printed(tmp_path, signing_for(tmp_path) if arguments else "", *arguments)
    assert (result.exit_code, result.stdout, expected in result.stderr) == (2, "", True)


def test_check_compares_each_key_and_looks_at_spf_and_dmarc_of_each_domain_mail_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {"example.com": keys.table(tmp_path, "rsa", "ed25519")}
    composer = Composer(MessageSettings(sender="s@news.example.com"), TemplateSettings(), tables)
    verdicts = Verdicts()
    with NameServer() as names:
        rsa, _ = composer.signing.keys_of("example.com")
        names.says("s2026._domainkey.example.com", rsa.key.record)
        names.says("_dmarc.example.com", "v=DMARC1; p=quarantine; rua=mailto:d@example.com")
        names.says("example.com", "v=spf1 ip4:192.0.2.1 -all")
        check_published(verdicts, composer, Records(servers=("127.0.0.1",), port=names.port))
    aligned = "aligned where the envelope's domain is that of From"
    assert capsys.readouterr().out.splitlines() == [
        "ok   dkim       s2026._domainkey.example.com (RSA 2048): the key that signs",
        (
            "FAIL dkim       s2026e._domainkey.example.com (Ed25519): no record; publish it; "
            "shown by: poller dkim --domain example.com"
        ),
        f"ok   spf        example.com: one record, -all, 0 of 10 look-ups; {aligned}",
        "ok   dmarc      example.com: p=quarantine (_dmarc.example.com)",
        "ok   dmarc      example.com: aligned, signed by example.com",
        (
            "warn spf        news.example.com: no record; publish "
            'news.example.com TXT "v=spf1 include:YOUR-RELAY -all", '
            "with what your relay tells you to include"
        ),
        "ok   dmarc      news.example.com: p=quarantine (_dmarc.example.com)",
        "ok   dmarc      news.example.com: aligned, signed by example.com",
    ]
    assert verdicts.failed == 1
    assert names.asked.count("_dmarc.example.com") == 1


def test_without_a_table_the_dns_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    check_published(Verdicts(), Composer(MessageSettings(sender="s@example.com"), TemplateSettings()))
    assert capsys.readouterr().out == ""
