"""django-post_office on one connection, by one process with one thread; as it comes, or as fast as it goes.

As fast as it goes, it writes down what became of the messages when all are sent: a crash sends all of them again.
"""

from __future__ import annotations

import os

import shop

FASTEST = {
    "BATCH_SIZE": 1_000_000,  # it opens a connection for each batch
    "LOG_LEVEL": 1,  # failures only: a log row for each success costs it a third
}

shop.setup_django(
    "post_office",
    EMAIL_BACKEND="post_office.EmailBackend",
    POST_OFFICE={
        "BACKENDS": {"default": "django.core.mail.backends.smtp.EmailBackend"},
        "THREADS_PER_PROCESS": 1,
        "BATCH_DELIVERY_TIMEOUT": 600,
        **({} if os.environ["BENCH_AS_IT_COMES"] else FASTEST),
    },
)

from django.core.management import call_command  # noqa: E402 - after Django is set up
from post_office import mail  # noqa: E402


def fill(count: int) -> None:
    """Its tables, and rows ready to be sent."""
    call_command("migrate", verbosity=0)
    text, html = shop.bodies()
    mail.send_many(
        [
            {
                "recipients": shop.address(n),
                "sender": shop.SENDER,
                "subject": shop.subject(n),
                "message": text,
                "html_message": html,
            }
            for n in range(count)
        ]
    )


def send() -> None:
    """Everything, a batch at a time."""
    total, sent = 0, 1
    while sent:
        sent, failed, requeued = mail.send_queued(processes=1)
        assert not failed
        assert not requeued
        total += sent
    assert total


if __name__ == "__main__":
    shop.call(fill, send)
