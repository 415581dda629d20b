"""The admin: mails and their stories, to be read. What an operator does is done by `poller`, or `manage.py poller`.

Counting stops at MOST: a table of ten millions must not be walked to draw a page.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from poller.contrib.django import place
from poller.contrib.django.models import Attempt, File, Recipient, Row
from poller.statuses import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from django.db.models import QuerySet
    from django.http import HttpRequest

MOST = 10_000  # rows that are counted
SHOWN = 100  # recipients, attempts and files of one mail
_COLUMNS = tuple(field.name for field in Row._meta.fields)  # noqa: SLF001 - public, for all its name


class Paged(Paginator):
    """Pages of what may be large."""

    @cached_property
    def count(self) -> int:
        """How many there are, up to MOST."""
        return int(self.object_list[: MOST + 1].count())


class ByStatus(admin.SimpleListFilter):
    """The statuses by their list: asking the table for its distinct ones would walk it."""

    title = parameter_name = "status"

    def lookups(self, *_: Any) -> list[tuple[str, str]]:
        """All that there can be."""
        return [(name, name) for name in NAMES]

    def queryset(self, _: HttpRequest, rows: QuerySet) -> QuerySet:
        """Those of the chosen one."""
        return rows.filter(status=self.value()) if self.value() else rows


@admin.register(Row)
class RowAdmin(admin.ModelAdmin):
    """A mail and what became of it."""

    list_display = (
        "id",
        "status",
        "short_recipients",
        "short_subject",
        "batch",
        "created_at",
        "attempts",
        "reply_code",
    )
    list_filter = (ByStatus,)
    search_fields = ("=id", "=dedupe_key", "=batch", "=message_id", "=queue_id")
    search_help_text = "an id, or a whole dedupe key, batch, Message-ID or queue id"
    ordering = ("-id",)
    paginator = Paged
    show_full_result_count = False
    actions = None
    fieldsets = (
        (None, {"fields": ("id", "status", "error", "recipients", "cc", "bcc", "sender", "subject", "story")}),
        ("Files", {"fields": ("files",)}),
        ("All columns", {"fields": _COLUMNS, "classes": ("collapse",)}),
    )
    readonly_fields = (*_COLUMNS, "story", "files")

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        """From the outbox's database."""
        return super().get_queryset(request).using(place.alias())

    def has_add_permission(self, *_: Any) -> bool:
        """Nobody."""
        return False

    has_change_permission = has_delete_permission = has_add_permission

    @admin.display(description="recipients")
    def short_recipients(self, row: Row) -> str:
        """The beginning of them."""
        return _short(row.recipients or row.cc or row.bcc or "")

    @admin.display(description="subject")
    def short_subject(self, row: Row) -> str:
        """The beginning of it."""
        return _short(row.subject or row.template or "")

    @admin.display
    def story(self, row: Row) -> SafeString:
        """What happened: attempts in their order, and each recipient."""
        attempts = [
            (f"{one.at:%Y-%m-%d %H:%M:%S}", one.outcome, one.recipient, one.relay, _reply(one), one.error, one.worker)
            for one in _of(row, Attempt).order_by("id")[:SHOWN]
        ]
        recipients = [
            (one.address, one.status, one.attempts, _reply(one), one.error, one.sent_at)
            for one in _of(row, Recipient).order_by("address")[:SHOWN]
        ]
        last = [(row.status, row.attempts, row.doubts, _reply(row), row.queue_id, row.sent_at, row.finished_at)]
        return format_html(
            "{}{}{}",
            _table(("attempt", "outcome", "recipient", "relay", "reply", "error", "worker"), attempts),
            _table(("recipient", "status", "attempts", "reply", "error", "sent"), recipients),
            _table(("now", "attempts", "doubts", "last reply", "queue id", "sent", "ended"), last),
        )

    @admin.display
    def files(self, row: Row) -> SafeString:
        """Their names and types."""
        return _table(("name", "type"), [(one.name, one.content_type) for one in _of(row, File).order_by("id")[:SHOWN]])


def _of(row: Row, model: Any) -> QuerySet:
    found: QuerySet = model.objects.using(place.alias()).filter(outbox_id=row.id)
    return found


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _reply(told: Any) -> str:
    return " ".join(str(part) for part in (told.reply_code, told.reply_status, told.reply_text) if part)


def _table(names: Sequence[str], lines: Iterable[Sequence[Any]]) -> SafeString:
    shown = [[("" if cell is None else cell,) for cell in line] for line in lines]
    if not shown:
        return SafeString()
    head = format_html_join("", "<th>{}</th>", ((name,) for name in names))
    rows = format_html_join("", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", line),) for line in shown))
    return format_html("<table><tr>{}</tr>{}</table>", head, rows)
