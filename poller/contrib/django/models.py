"""The outbox as Django sees it: views, to be read. They hold no bodies, no variables of templates and no files.

The tables are made by `poller migrate`; Django makes, changes and tests nothing there.
"""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models


class ReadOnly(models.Model):
    """Rows that nobody saves or deletes here."""

    class Meta:
        abstract = True

    def save(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        raise TypeError("the outbox is read here; write with send_mail, EmailMessage.send or poller.Outbox")

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        """Refused."""
        raise TypeError("the outbox is read here; delete rows as docs/operating.md says")


class Row(ReadOnly):
    """One mail."""

    id = models.BigIntegerField(primary_key=True)
    status = models.TextField()
    priority = models.SmallIntegerField()
    due_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    recipients = models.TextField(null=True)
    cc = models.TextField(null=True)
    bcc = models.TextField(null=True)
    sender = models.TextField(null=True)
    reply_to = models.TextField(null=True)
    envelope_from = models.TextField(null=True)
    subject = models.TextField(null=True)
    template = models.TextField(null=True)
    locale = models.TextField(null=True)
    headers = models.JSONField(null=True)
    message_id = models.TextField(null=True)
    batch = models.TextField(null=True)
    dedupe_key = models.TextField(null=True)
    on_doubt = models.TextField(null=True)
    max_attempts = models.IntegerField(null=True)
    relay = models.TextField(null=True)
    created_at = models.DateTimeField()
    domain = models.TextField(null=True)
    attempts = models.IntegerField()
    doubts = models.IntegerField()
    setbacks = models.IntegerField()
    first_attempt_at = models.DateTimeField(null=True)
    claimed_by = models.TextField(null=True)
    claimed_at = models.DateTimeField(null=True)
    reply_code = models.SmallIntegerField(null=True)
    reply_status = models.TextField(null=True)
    reply_text = models.TextField(null=True)
    queue_id = models.TextField(null=True)
    error = models.TextField(null=True)
    sent_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "outbox_rows"
        verbose_name = "mail"
        verbose_name_plural = "mails"

    def __str__(self) -> str:
        return f"{self.id} {self.status}"


class Recipient(ReadOnly):
    """One recipient of a mail that has several: the state of each."""

    pk = models.CompositePrimaryKey("outbox_id", "address")
    outbox_id = models.BigIntegerField()
    address = models.TextField()
    status = models.TextField()
    attempts = models.IntegerField()
    reply_code = models.SmallIntegerField(null=True)
    reply_status = models.TextField(null=True)
    reply_text = models.TextField(null=True)
    error = models.TextField(null=True)
    sent_at = models.DateTimeField(null=True)

    class Meta:
        managed = False
        db_table = "outbox_recipients"

    def __str__(self) -> str:
        return f"{self.address} {self.status}"


class Attempt(ReadOnly):
    """What did not simply succeed, and what operators did."""

    id = models.BigIntegerField(primary_key=True)
    outbox_id = models.BigIntegerField()
    at = models.DateTimeField()
    worker = models.TextField()
    recipient = models.TextField(null=True)
    outcome = models.TextField()
    relay = models.TextField(null=True)
    reply_code = models.SmallIntegerField(null=True)
    reply_status = models.TextField(null=True)
    reply_text = models.TextField(null=True)
    error = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = "outbox_attempts"

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.outcome}"


class File(ReadOnly):
    """The name and type of a file that travels with a mail."""

    id = models.BigIntegerField(primary_key=True)
    outbox_id = models.BigIntegerField()
    name = models.TextField()
    content_type = models.TextField()

    class Meta:
        managed = False
        db_table = "outbox_files"

    def __str__(self) -> str:
        return str(self.name)
