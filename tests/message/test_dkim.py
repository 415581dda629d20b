"""DKIM: dkimpy verifies what goes out, on every way a message may be made; what others may change, and what not."""

from __future__ import annotations

import hashlib
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keys
import pytest
from dkim.canonicalization import Relaxed
from dkim.util import parse_tag_value
from hypothesis import given
from hypothesis import strategies as st
from message.rows import any_text, assert_well_formed, attempted, draft, few, many, printable

from poller.message.composer import Composer
from poller.message.dkim import relaxed_hash
from poller.message.draft import Attachment, Composed
from poller.message.settings import DkimSettings, MessageSettings, TemplateSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE_CLICK = {
    "List-Unsubscribe": "<https://example.com/u/1>, <mailto:u@example.com>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
}
FILES = (
    Attachment(name="ü.bin", content_type="application/pdf", content=bytes(range(256)) * 700),
    Attachment(name="logo.png", content_type="image/png", content=b"png", content_id="logo"),
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def both(directory: Path) -> Composer:
    return signing({"example.com": keys.table(directory, "rsa", "ed25519")})


def signing(tables: Mapping[str, DkimSettings]) -> Composer:
    return Composer(MessageSettings(), TemplateSettings(), tables)


def verdicts(message: bytes, by: Composer) -> list[bool]:
    return keys.verdicts(message, [it for domain in by.signing.domains for it in by.signing.keys_of(domain)])


def changed(made: Composed, before: bytes, after: bytes) -> bytes:
    """The message with something below its signatures replaced."""
    signatures, date, rest = made.content.partition(b"Date: ")
    assert before in date + rest
    return signatures + (date + rest).replace(before, after)


# ---- a verifier that nobody here wrote


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"subject": "ü" * 200, "cc": "c@d.test", "reply_to": "Ü <r@example.com>", "headers": ONE_CLICK},
        {"body_text": ""},
        {"body_text": "\n\n \n\t\n"},
        {"body_text": "a  b\t\tc \t\n.\n..\nFrom me\n\n\n"},
        {"body_text": "ü" * 5000, "body_html": "<p>ü  \t" * 3000},
        {"body_html": "<img src='cid:logo'>", "attachments": FILES},
        {"recipients": "jürgen@b.test", "sender": "søren@example.com"},
        {"sender": "s@deep.mail.example.com", "envelope_from": "", "recipients": None, "bcc": "x@y.test"},
        {"headers": {"References": ["<a@b>", "<c@d>"], "Feedback-ID": ["a:b", "c:d"], "X-A": ""}},
    ],
    ids=str,
)
def test_every_kind_of_message_is_verified_by_both_keys(both: Composer, columns: dict[str, Any]) -> None:
    message = both.compose(draft(**columns)).content
    assert verdicts(message, both) == [True, True]
    assert_well_formed(message, ascii_only="jürgen" not in str(columns))
    signatures = message.partition(b"\r\nDate: ")[0]
    assert max(map(len, signatures.split(b"\r\n"))) < 78


@many
@given(text=any_text, subject=printable, header=printable)
def test_any_text_that_can_be_sent_is_verified(both: Composer, text: str, subject: str, header: str) -> None:
    made = attempted(both, draft(body_text=text, subject=subject, headers={"X-Any": header}))
    assert not isinstance(made, Composed) or verdicts(made.content, both) == [True, True]


@few
@given(body=st.text(" \t\r\na", max_size=60), cuts=st.lists(st.integers(0, 120), max_size=4))
def test_a_body_may_come_in_pieces_that_are_cut_anywhere(body: str, cuts: list[int]) -> None:
    whole = re.sub("\r\n|\r|\n", "\r\n", body + "\r\n").encode()
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[start:end] for start, end in itertools.pairwise(edges)]
    assert relaxed_hash(pieces) == hashlib.sha256(Relaxed.canonicalize_body(whole)).digest()


# ---- what the signature covers


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        (b"Subject: Hello world", b"subject:  Hello\r\n world ", True),
        (b"To: ", b"X-Passed: 1\r\nTo: ", True),
        (b"body\r\n", b"body  \r\n\r\n\r\n", True),
        (b"body\r\n", b"body\r\nmore\r\n", False),
        (b"Subject: Hello world", b"Subject: Hello worlds", False),
        (b"One-Click\r\n", b"Two-Clicks\r\n", False),
        (b"<https://example.com/u/1>", b"<https://example.org/u/1>", False),
        *[(b"MIME-Version", name + b": <x@y.test>\r\nMIME-Version", False) for name in (b"From", b"Cc", b"Reply-To")],
        *[(b"MIME-Version", name + b": x\r\nMIME-Version", False) for name in (b"Subject", b"Content-Type")],
        (b"MIME-Version", b"List-Unsubscribe: <https://y.test>\r\nMIME-Version", False),
        (b"MIME-Version", b"List-Unsubscribe-Post: x\r\nMIME-Version", False),
        (b"MIME-Version", b"List-Archive: <https://y.test>\r\nMIME-Version", True),
    ],
)
def test_on_the_way_spaces_and_folds_may_change_and_nothing_that_counts_be_changed_or_added(
    both: Composer, before: bytes, after: bytes, *, holds: bool
) -> None:
    row = draft(subject="Hello world", body_text="body\n", headers=ONE_CLICK)
    assert verdicts(changed(both.compose(row), before, after), both) == [holds, holds]


def test_a_list_may_add_its_fields_to_a_message_that_has_none(both: Composer) -> None:
    message = changed(both.compose(draft()), b"MIME-Version", b"List-Unsubscribe: <x:y>\r\nMIME-Version")
    assert verdicts(message, both) == [True, True]


def test_the_message_is_the_same_with_and_without_a_signature_and_for_ever(both: Composer, directory: Path) -> None:
    row = draft(headers=ONE_CLICK)
    signed = both.compose(row).content
    assert signed.endswith(signing({}).compose(row).content)
    assert signing({"example.com": keys.table(directory, "rsa", "ed25519")}).compose(row).content == signed
    for field in re.findall(rb"DKIM-Signature:([^\r]*(?:\r\n [^\r]*)*)", signed):
        tags = parse_tag_value(field)
        assert set(tags) == {b"v", b"a", b"c", b"d", b"s", b"t", b"h", b"bh", b"b"}
        assert int(tags[b"t"]) == row.date.timestamp()


# ---- who signs


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("s@example.com", ["example.com"]),
        ("s@EXAMPLE.com", ["example.com"]),
        ("s@mail.example.com", ["mail.example.com"]),
        ("s@a.b.mail.example.com", ["mail.example.com"]),
        ("s@other.example.com", ["example.com"]),
        ("s@bücher.example", ["xn--bcher-kva.example"]),
        ("s@notexample.com", []),
        ("s@com", []),
        ("s@[192.0.2.1]", []),
    ],
)
def test_the_nearest_domain_signs_and_no_other(directory: Path, sender: str, expected: list[str]) -> None:
    domains = ("example.com", "mail.example.com", "xn--bcher-kva.example")
    by = signing({domain: keys.table(directory, "ed25519", number=at) for at, domain in enumerate(domains)})
    message = by.compose(draft(sender=sender)).content
    assert re.findall(r" d=([^;]+);", message.decode()) == expected
    assert verdicts(message, by) == [True] * len(expected)


# ---- keys that can't sign


def test_every_key_that_can_not_sign_is_named_with_the_remedy_before_any_mail(tmp_path: Path) -> None:
    files = {kind: keys.key_file(tmp_path, kind) for kind in ("weak", "ec", "public", "locked", "rsa")}
    open_to_all, garbage, cut = tmp_path / "open.pem", tmp_path / "garbage.pem", tmp_path / "cut.pem"
    open_to_all.write_bytes(keys.pem("rsa"))
    open_to_all.chmod(0o644)
    garbage.write_bytes(b"\0\xffselector: hunter2")
    cut.write_bytes(keys.pem("rsa")[:900] + b"\n-----END PRIVATE KEY-----\n")
    for path in (garbage, cut):
        path.chmod(0o600)
    wrong = {
        "weak": "holds an RSA key of 1024 bits, which is too weak (RFC 8301); make one of 2048",
        "ec": "holds a key of the kind EC; DKIM knows RSA and Ed25519",
        "public": "holds a public key; make one: ",
        "locked": "is locked with a passphrase; unlock it: ",
        str(open_to_all): f"is open to every user of this machine; run: chmod o= {open_to_all}",
        str(garbage): "holds no private key in PEM; make one: ",
        str(cut): "holds a private key that is damaged or of an unknown kind; make it anew",
        str(
            tmp_path / "missing.pem"
        ): "No such file or directory; the user that runs the worker must be able to read it",
        str(tmp_path): "is no file; name the file of the private key",
        "/dev/zero": "is no file; name the file of the private key",
        "a\0b": "not the name of a file; ",
    }
    by = signing(
        {
            f"d{at}.test": DkimSettings(selector="s", key_file=files.get(name, name))
            for at, name in enumerate(("rsa", *wrong))
        }
    )
    expected = [
        f'[dkim."d{at}.test"] key_file {files.get(name, name)}: {reason}'
        for at, (name, reason) in enumerate(wrong.items(), 1)
    ]
    found = by.check_settings()
    assert [problem[: len(line)] for problem, line in zip(found, expected, strict=True)] == expected
    assert "hunter2" not in str(found)
    assert "sender: its mail could not be signed" in str(attempted(by, draft(sender="s@unsigned.test")))


def test_a_key_is_read_once(tmp_path: Path) -> None:
    before = signing({"example.com": keys.table(tmp_path, "ed25519")})
    Path(keys.key_file(tmp_path, "ed25519")).unlink()
    after = signing({"example.com": keys.table(tmp_path, "ed25519")})
    assert before.compose(draft()) == after.compose(draft())


def test_a_repr_shows_no_private_key(both: Composer) -> None:
    assert "sign=" not in repr(both.signing.keys_of("example.com"))
