"""The loop that everybody writes first: SELECT … FOR UPDATE SKIP LOCKED, smtplib, and a commit for each hundred."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage

import psycopg
import shop

BATCH = 100


def fill(count: int) -> None:
    """A table, and rows ready to be sent."""
    text, html = shop.bodies()
    with psycopg.connect(shop.URL) as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE mail (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " status text NOT NULL DEFAULT 'queued', recipient text, subject text, body_text text, body_html text)"
        )
        cursor.execute("CREATE INDEX mail_queued ON mail (id) WHERE status = 'queued'")
        cursor.executemany(
            "INSERT INTO mail (recipient, subject, body_text, body_html) VALUES (%s, %s, %s, %s)",
            [(shop.address(n), shop.subject(n), text, html) for n in range(count)],
        )


def send() -> None:
    """Everything."""
    with psycopg.connect(shop.URL) as connection, smtplib.SMTP("127.0.0.1", shop.PORT) as relay:
        while rows := connection.execute(
            "SELECT id, recipient, subject, body_text, body_html FROM mail WHERE status = 'queued'"
            f" ORDER BY id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
        ).fetchall():
            for row_id, recipient, subject, text, html in rows:
                message = EmailMessage()
                message["From"], message["To"], message["Subject"] = shop.SENDER, recipient, subject
                message.set_content(text)
                message.add_alternative(html, subtype="html")
                relay.send_message(message)
                connection.execute("UPDATE mail SET status = 'sent' WHERE id = %s", [row_id])
            connection.commit()


if __name__ == "__main__":
    shop.call(fill, send)
