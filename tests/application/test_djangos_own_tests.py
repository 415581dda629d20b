"""Django's own tests of e-mail backends, against ours: what it wrote is sent by the real service to a real SMTP server.

They come with Django's source, not with its wheel: tests/application/fetch_django.sh fetches them. Of 5.2 it is the
class BaseEmailBackendTests, of 6.1 SharedEmailBackendTests. Which of them fail, and why, is the table FAIL.
"""

from __future__ import annotations

import re
import sys
import unittest
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import django
import pytest
from application import django_site
from servers.aiosmtp import Aiosmtpd
from service.bench import Bench

from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poller.outbox.settings import DatabaseSettings

django_site.configure()

from django.test import SimpleTestCase  # noqa: E402 - the site comes first

from poller.contrib.django import EmailBackend  # noqa: E402

SOURCE = Path(__file__).parents[2] / ".cache" / "django" / f"django-{django.__version__}" / "tests"

_NO_AT = "no @ where one belongs"
_LINE_END = r"'Content\\n' != 'Content'"
FAIL = {
    "test_recipient_without_domain": _NO_AT,
    "test_lazy_addresses": _NO_AT,
    "test_html_send_mail": _LINE_END,
    "test_html_mail_managers": _LINE_END,
    "test_html_mail_admins": _LINE_END,
    "test_message_cc_header": 'Missing headers:.*charset="utf-8".*Actual headers:.*charset="us-ascii"',
    "test_send_long_lines": "Missing headers:.*quoted-printable.*Actual headers:.*base64",
}
"""The tests that fail, and how: an address has an @ here; the text of a part ends with its line; ASCII is called so;
what is shorter in base64 goes in base64. docs/django.md tells it."""


def own_tests() -> type[Any]:
    """The class of Django's that every backend has to pass."""
    sys.path.insert(0, str(SOURCE))
    try:
        module = import_module(
            "mail.test_backends" if (SOURCE / "mail" / "test_backends.py").exists() else "mail.tests"
        )
    finally:
        sys.path.remove(str(SOURCE))
    found: type[Any] = getattr(module, "SharedEmailBackendTests", None) or module.BaseEmailBackendTests
    return found


def against(bench: Bench, relay: Aiosmtpd) -> type[unittest.TestCase]:
    """Django's class, with a mailbox that the service fills."""
    theirs = own_tests()
    parsed = import_module(theirs.__module__).message_from_bytes

    class OutboxBackendTests(theirs, SimpleTestCase):  # type: ignore[misc, valid-type] # Django's has no types
        email_backend = f"{django_site.CONTRIB}.EmailBackend"
        backend_class = EmailBackend
        databases: ClassVar[set[str]] = {"default"}

        def setUp(self) -> None:
            super().setUp()
            self.flush_mailbox()

        def flush_mailbox(self) -> None:
            with bench.engine.begin() as connection:
                connection.execute(outbox.delete())
            for file in relay.taken.glob("*"):
                file.unlink()

        def get_mailbox_content(self) -> list[Any]:
            assert bench.run(bench.configure(relay.host, relay.port), "--once") == 0
            files = sorted(relay.taken.iterdir(), key=lambda file: file.stat().st_mtime_ns)
            return [parsed(_as_sent(file.read_bytes())) for file in files]

    return OutboxBackendTests


def _as_sent(content: bytes) -> bytes:
    """Without what aiosmtpd adds; until 6.0 without the last line end: as Django's own SMTP tests read it."""
    lines = content.replace(b"\r\n", b"\n").split(b"\n")
    text = b"\n".join(line for line in lines if not line.startswith((b"X-Peer:", b"X-MailFrom:", b"X-RcptTo:")))
    return text.rstrip() if django.VERSION < (6, 0) else text


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.fixture
def results(database: DatabaseSettings, tmp_path: Path) -> Iterator[unittest.TestResult]:
    if not SOURCE.exists():
        pytest.skip(f"Django's own tests are not in {SOURCE}: tests/application/fetch_django.sh fetches them")
    bench = Bench(database=database, directory=tmp_path)
    result = unittest.TestResult()
    with django_site.database(database.url), Aiosmtpd() as relay:
        unittest.defaultTestLoader.loadTestsFromTestCase(against(bench, relay)).run(result)
    yield result
    bench.close()


def test_all_pass_but_those_whose_reason_is_known(results: unittest.TestResult) -> None:
    failed = {str(test).split(" ")[0]: text for test, text in [*results.failures, *results.errors]}
    known = {name: reason for name, reason in FAIL.items() if hasattr(own_tests(), name)}
    assert results.testsRun > 10
    assert [text for name, text in failed.items() if name not in known] == []
    assert [name for name, reason in known.items() if not re.search(reason, failed.get(name, ""), re.DOTALL)] == []
