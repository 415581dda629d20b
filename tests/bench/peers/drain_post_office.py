"""django-post_office as fast as it goes on one connection: one process, one thread, one batch for everything."""

from __future__ import annotations

import shop

shop.setup_django(
    "post_office",
    EMAIL_BACKEND="post_office.EmailBackend",
    POST_OFFICE={
        "BACKENDS": {"default": "django.core.mail.backends.smtp.EmailBackend"},
        "BATCH_SIZE": 1_000_000,  # it opens a connection for each batch
        "THREADS_PER_PROCESS": 1,
        "BATCH_DELIVERY_TIMEOUT": 600,
        "LOG_LEVEL": 1,  # failures only: a log row for each success costs it a third
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
    """Everything."""
    sent, failed, requeued = mail.send_queued(processes=1)
    assert sent, (sent, failed, requeued)
    assert not failed
    assert not requeued


if __name__ == "__main__":
    shop.call(fill, send)
