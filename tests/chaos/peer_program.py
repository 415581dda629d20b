"""Other mailers behind one command line; runs in a virtual environment of their own, never in ours.

    peer_program.py PEER setup | insert COUNT | work | say

PEER is post_office, mailer or naive. Where to find the database and the relay, and settings of the peer, come as JSON
in $PEER. `insert` commits rows to p0@example.com, p1@… ; `work` sends until nothing is queued; `say` prints a JSON
object of statuses by recipient: queued, sent or failed.
"""

# ruff: noqa: PLC0415 - each peer imports only itself
from __future__ import annotations

import json
import os
import smtplib
import sys
from email.message import EmailMessage
from typing import Any

HERE = json.loads(os.environ["PEER"])
SENDER = "shop@example.com"


def recipient(number: int) -> str:
    return f"p{number}@example.com"


class Django:
    app = ""
    extra: dict[str, Any] = {}  # noqa: RUF012 - constants

    def __init__(self) -> None:
        import django
        from django.conf import settings

        settings.configure(
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": HERE["database"],
                    "USER": HERE["user"],
                    "HOST": HERE["host"],
                    "PORT": HERE["port"],
                }
            },
            INSTALLED_APPS=["django.contrib.contenttypes", self.app],
            EMAIL_HOST="127.0.0.1",
            EMAIL_PORT=HERE["smtp"],
            TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
            USE_TZ=True,
            **self.extra | HERE["settings"],
        )
        django.setup()

    def setup(self) -> None:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)


class PostOffice(Django):
    app = "post_office"

    def insert(self, count: int) -> None:
        from post_office import mail

        mail.send_many(
            [
                {"sender": SENDER, "recipients": [recipient(n)], "subject": f"Message {n}", "message": f"Hello {n}\n"}
                for n in range(count)
            ]
        )

    def work(self) -> None:
        from django.core.management import call_command

        call_command("send_queued_mail", lockfile=os.path.abspath("post_office"))  # noqa: PTH100 - as its own default

    def say(self) -> dict[str, str]:
        from post_office.models import Email

        words = {0: "sent", 1: "failed"}
        return {to[0]: words.get(status, "queued") for to, status in Email.objects.values_list("to", "status")}


class Mailer(Django):
    app = "mailer"
    extra = {"EMAIL_BACKEND": "mailer.backend.DbBackend"}  # noqa: RUF012

    def insert(self, count: int) -> None:
        from django.db import transaction
        from mailer import send_mail

        with transaction.atomic():
            for n in range(count):
                send_mail(f"Message {n}", f"Hello {n}\n", SENDER, [recipient(n)])

    def work(self) -> None:
        from django.core.management import call_command

        call_command("send_mail")

    def say(self) -> dict[str, str]:
        from mailer.models import Message, MessageLog

        said = {to: "sent" for log in MessageLog.objects.filter(result="1") for to in log.to_addresses}
        return said | {to: "queued" for message in Message.objects.all() for to in message.to_addresses}


class Naive:
    """What one writes in an afternoon: claim a hundred, send them, mark them, commit."""

    def __init__(self) -> None:
        import psycopg

        self.connection = psycopg.connect(
            host=HERE["host"], port=HERE["port"], user=HERE["user"], dbname=HERE["database"]
        )

    def setup(self) -> None:
        self.connection.execute(
            "CREATE TABLE mail (id bigserial PRIMARY KEY, recipient text, status text DEFAULT 'queued')"
        )
        self.connection.commit()

    def insert(self, count: int) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany("INSERT INTO mail (recipient) VALUES (%s)", [(recipient(n),) for n in range(count)])
        self.connection.commit()

    def work(self) -> None:
        query = "SELECT id, recipient FROM mail WHERE status = 'queued' ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED"
        with smtplib.SMTP("127.0.0.1", HERE["smtp"]) as relay:
            while rows := self.connection.execute(query).fetchall():
                for row_id, to in rows:
                    message = EmailMessage()
                    message["From"], message["To"], message["Subject"] = SENDER, to, f"Message {row_id}"
                    message["Message-ID"] = f"<{os.urandom(8).hex()}@example.com>"
                    message.set_content(f"Hello {row_id}\n")
                    relay.send_message(message)
                    self.connection.execute("UPDATE mail SET status = 'sent' WHERE id = %s", [row_id])
                self.connection.commit()

    def say(self) -> dict[str, str]:
        return dict(self.connection.execute("SELECT recipient, status FROM mail").fetchall())


PEERS = {"post_office": PostOffice, "mailer": Mailer, "naive": Naive}


def main(peer: str, order: str, *values: str) -> None:
    program = PEERS[peer]()
    if order == "say":
        print(json.dumps(program.say()))  # noqa: T201 - the answer
    else:
        getattr(program, order)(*map(int, values))


if __name__ == "__main__":
    main(*sys.argv[1:])
