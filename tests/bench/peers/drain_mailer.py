"""django-mailer with one connection kept open: as it comes, it opens one for each message."""

from __future__ import annotations

import shop

shop.setup_django(
    "mailer", MAILER_EMAIL_BACKEND="mailer_backend.Persistent", MAILER_USE_FILE_LOCK=False, MAILER_EMPTY_QUEUE_SLEEP=0
)

from django.core.mail import EmailMultiAlternatives  # noqa: E402 - after Django is set up
from django.core.management import call_command  # noqa: E402
from mailer import models  # noqa: E402
from mailer.engine import send_all  # noqa: E402


def fill(count: int) -> None:
    """Its tables, and rows ready to be sent."""
    call_command("migrate", verbosity=0)
    text, html = shop.bodies()
    messages = []
    for n in range(count):
        email = EmailMultiAlternatives(shop.subject(n), text, shop.SENDER, [shop.address(n)])
        email.attach_alternative(html, "text/html")
        message = models.Message(priority=models.PRIORITY_MEDIUM)
        message.email = email
        messages.append(message)
    models.Message.objects.bulk_create(messages)


def send() -> None:
    """Everything."""
    send_all()
    assert not models.Message.objects.exists()


if __name__ == "__main__":
    shop.call(fill, send)
