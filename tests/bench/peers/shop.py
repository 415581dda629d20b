"""What the peers' programs share: where the database and the relay are, and how they report.

A program is called `fill COUNT` or `send`. Settings come from the environment: BENCH_DATABASE (a URL), BENCH_SMTP_PORT,
BENCH_TEXT and BENCH_HTML (files). `send` prints the seconds and CPU seconds of the sending alone, as JSON: without the
interpreter's start and the imports, which favours the peers.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

SENDER = "Shop <shop@example.com>"
PORT = int(os.environ.get("BENCH_SMTP_PORT", "25"))
URL = os.environ["BENCH_DATABASE"]


def bodies() -> tuple[str, str]:
    """Text and HTML."""
    return Path(os.environ["BENCH_TEXT"]).read_text(), Path(os.environ["BENCH_HTML"]).read_text()


def subject(number: int) -> str:
    """Of the message with this number."""
    return f"Your order {number}"


def address(number: int) -> str:
    """Its one recipient."""
    return f"user{number}@example.com"


def call(fill: Callable[[int], None], send: Callable[[], None]) -> None:
    """As the command line says."""
    if sys.argv[1] == "fill":
        fill(int(sys.argv[2]))
        return
    began, cpu = time.monotonic(), _cpu_seconds()
    send()
    took = {"seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds() - cpu}
    print(json.dumps(took))  # noqa: T201 - the program's answer


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def setup_django(application: str, **settings: object) -> None:
    """Django with one application, on the database and with the relay of the environment."""
    import django  # noqa: PLC0415 - the naive loop has no need of it
    from django.conf import settings as configuration  # noqa: PLC0415

    parts = urlsplit(URL)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.strip("/"),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
    }
    configuration.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["django.contrib.contenttypes", application],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DEFAULT_FROM_EMAIL=SENDER,
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=PORT,
        USE_TZ=True,
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        **settings,
    )
    django.setup()
