"""The service signs: what real servers pass on is verified by OpenDKIM and by dkimpy, and a retry is the same bytes."""

from __future__ import annotations

import email
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import keys
import pytest
import sqlalchemy as sa
from message.rows import assert_well_formed
from servers import opendkim, postfix
from servers.fault import Faults, FaultServer
from servers.opendkim import OpenDkim
from servers.postfix import Postfix
from servers.processes import wait_until
from service.bench import WHATEVER_THE_DATABASE

from poller.message.signing import Signing
from poller.outbox.database import transaction
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from pathlib import Path

    from service.bench import Bench

    from poller.message.dkim import DkimSigner
    from poller.message.settings import DkimSettings

MISSING = postfix.available() or opendkim.available()
REQUIRED = "OpenDKIM" in os.environ.get("POLLER_TEST_REQUIRE", "").split(",")
ROWS: list[dict[str, Any]] = [
    {"subject": "plain"},
    {"subject": "Grüße " * 30, "body_text": "Zwölf  Boxkämpfer \t\n.\n..\nFrom here\n\n\n", "body_html": "<p>ü</p>"},
    {"subject": "list", "headers": {"List-Unsubscribe": "<https://example.com/u>", "List-Unsubscribe-Post": "L=One"}},
    {"subject": "long", "body_html": f"<p>{'long line ' * 2000}</p>"},
    {"subject": "below", "sender": "Shop <s@news.example.com>", "cc": "b@example.test", "bcc": "c@example.test"},
    {"subject": "intern", "sender": "søren@example.com", "recipients": "jürgen@example.test"},
]


def tables(config: Path, **domains: DkimSettings) -> list[DkimSigner]:
    """Write `[dkim]` into the configuration; who signs then."""
    with config.open("a") as file:
        for domain, table in domains.items():
            for key in table.keys:
                file.write(f'[[dkim."{domain}".keys]]\nselector = "{key.selector}"\nkey_file = "{key.key_file}"\n')
    signing = Signing(domains)
    return [signer for domain in signing.domains for signer in signing.keys_of(domain)]


def published(signers: list[DkimSigner]) -> dict[str, str]:
    return {f"{signer.selector}._domainkey.{signer.domain}": signer.key.record for signer in signers}


@pytest.mark.skipif(bool(MISSING) and not REQUIRED, reason=MISSING)
@pytest.mark.parametrize("kind", ["sqlite"])
def test_what_a_real_postfix_passes_on_is_verified_by_opendkim_and_dkimpy_with_both_algorithms(
    bench: Bench, tmp_path: Path
) -> None:
    good = keys.table(tmp_path, "rsa", "ed25519")
    of_another = keys.table(tmp_path, "rsa", number=1)
    dns = Signing({"example.com": good, "other.test": keys.table(tmp_path, "rsa")})
    records = published([signer for domain in dns.domains for signer in dns.keys_of(domain)])
    with (
        OpenDkim(records) as verifier,
        Postfix(verifier.for_postfix) as last,
        Postfix({"virtual_mailbox_domains": "", "default_transport": f"smtp:[127.0.0.1]:{last.port}"}) as first,
    ):
        config = bench.configure(first.host, first.port)
        signers = tables(config, **{"example.com": good, "other.test": of_another})
        for columns in ROWS:
            bench.insert(1, **{"recipients": "a@example.test", **columns})
        bench.insert(recipients="a@example.test", subject="wrong", sender="s@other.test")
        bench.insert(recipients="a@example.test", subject="unsigned", sender="s@unsigned.test")
        assert bench.run(config, "--once") == 0
        wait_until(lambda: len(last.messages()) >= len(ROWS) + 4, "delivery", seconds=60)
        found = {email.message_from_bytes(message)["Subject"]: message for message in last.messages()}
    said = {subject: opendkim.results(raw) for subject, raw in found.items()}
    verdicts = {subject: [line.split(" header.d")[0] for line in lines] for subject, lines in said.items()}
    wrong, unsigned = verdicts.pop("wrong"), verdicts.pop("unsigned")
    both = ["dkim=pass (2048-bit key)", "dkim=pass", "dkim-atps=neutral"]
    assert Counter(map(tuple, verdicts.values())) == Counter({tuple(both): len(ROWS)})
    assert all("header.a=ed25519-sha256" in said[subject][1] for subject in verdicts)
    assert (wrong[0].split(" ")[0], unsigned[0].split(" ")[0]) == ("dkim=fail", "dkim=none")
    second_opinion = {subject: keys.verdicts(found[subject], signers) for subject in verdicts}
    assert second_opinion == {key: [True, True] for key in verdicts}


@WHATEVER_THE_DATABASE
def test_a_retry_and_what_is_shown_are_the_very_same_signed_bytes(bench: Bench, tmp_path: Path) -> None:
    (row_id,) = bench.insert(recipients="good@example.com, slow@example.com")
    with FaultServer(Faults(defer_first={"slow@example.com": 1})) as relay:
        config = bench.configure(relay.host, relay.port, retry={"first": "1h", "longest": "1h"})
        signers = tables(config, **{"example.com": keys.table(tmp_path, "rsa", "ed25519")})
        assert bench.run(config, "--once") == 0
        now_due = sa.update(outbox).values(due_at=datetime.now(UTC) - timedelta(minutes=1))
        transaction(bench.engine, lambda c: c.execute(now_due))
        bench.run(config, "--drain", "--for", "20s")
        first, second = relay.messages
    assert (first.recipients, second.recipients) == (("good@example.com",), ("slow@example.com",))
    assert first.content == second.content
    assert_well_formed(first.content)
    assert keys.verdicts(first.content, signers) == [True, True]
    assert bench.poller(config, "show", str(row_id), "--raw").stdout.encode() == first.content.replace(b"\r\n", b"\n")


@WHATEVER_THE_DATABASE
def test_a_key_that_can_not_be_used_is_said_at_the_start_and_nothing_is_sent(bench: Bench, tmp_path: Path) -> None:
    (row_id,) = bench.insert(sender="s@elsewhere.test")
    with FaultServer() as relay:
        config = bench.configure(relay.host, relay.port)
        weak, unlocked = keys.key_file(tmp_path, "weak"), tmp_path / "unlocked.pem"
        unlocked.write_bytes(keys.pem("rsa"))
        unlocked.chmod(0o604)
        with config.open("a") as file:
            file.write(f'[dkim."example.com"]\nselector = "a"\nkey_file = "{weak}"\n')
            file.write(f'[dkim."example.org"]\nselector = "b"\nkey_file = "{unlocked}"\n')
        reasons = [
            (
                f'[dkim."example.com"] key_file {weak}: holds an RSA key of 1024 bits, which is too weak (RFC 8301); '
                "make one of 2048"
            ),
            (
                f'[dkim."example.org"] key_file {unlocked}: is open to every user of this machine; '
                f"run: chmod o= {unlocked}"
            ),
        ]
        ran, printed, checked = (bench.poller(config, command) for command in ("run", "dkim", "check"))
        raw = bench.poller(config, "show", str(row_id), "--raw")
        assert relay.messages == []
    for result in (ran, printed):
        assert (result.returncode, [reason in result.stderr for reason in reasons]) == (2, [True, True])
    assert [f"FAIL message    {reason}" in checked.stdout for reason in reasons] == [True, True]
    assert raw.stderr == "".join(f"shown without its DKIM signature: {reason}\n" for reason in reasons)
    assert (bench.row(row_id).status, bench.row(row_id).attempts) == ("queued", 0)
