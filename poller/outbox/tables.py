"""The tables as SQLAlchemy sees them.

The truth is in `sql/`; this is its mirror, and a test holds the two together on every dialect. CHECKs, comments and
views live in SQL alone.

`Utc` is the only way a time crosses the border: aware UTC in, aware UTC out, on every dialect.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

SQLITE_TIME = "%Y-%m-%d %H:%M:%S.%f"


class Utc(sa.TypeDecorator[datetime]):
    """A time with zone on PostgreSQL, DATETIME(6) on MariaDB, sortable text on SQLite; always UTC."""

    impl = sa.TIMESTAMP
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The column type of each dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.TIMESTAMP(timezone=True))
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.Text())
        return dialect.type_descriptor(_own("mysql").DATETIME(fsp=6))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Aware in; a naive time is a bug of ours and raises ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone")
        if dialect.name == "postgresql":
            return value
        utc = value.astimezone(UTC).replace(tzinfo=None)
        return utc.strftime(SQLITE_TIME) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Aware UTC out."""
        if value is None:
            return None
        moment: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _own(dialect: str) -> Any:
    """The module of a dialect's own types. Only the one that is used is imported: they take a while."""
    return import_module(f"sqlalchemy.dialects.{dialect}")


class _Json(sa.TypeDecorator[Any]):
    """JSONB on PostgreSQL."""

    impl = sa.JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The column type of each dialect."""
        own = _own("postgresql").JSONB if dialect.name == "postgresql" else sa.JSON
        return dialect.type_descriptor(own(none_as_null=True))


class _Blob(sa.TypeDecorator[bytes]):
    """LONGBLOB on MariaDB."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The column type of each dialect."""
        is_mysql = dialect.name in {"mysql", "mariadb"}
        return dialect.type_descriptor(_own("mysql").LONGBLOB() if is_mysql else sa.LargeBinary())


def _big() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _reply_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("reply_code", sa.SmallInteger),
        sa.Column("reply_status", sa.Text),
        sa.Column("reply_text", sa.Text),
        sa.Column("queue_id", sa.Text),
        sa.Column("error", sa.Text),
    ]


metadata = sa.MetaData()

meta = sa.Table(
    "outbox_meta",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("updated_at", Utc, nullable=False, server_default=sa.FetchedValue()),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", _big(), primary_key=True),
    sa.Column("status", sa.Text, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("priority", sa.SmallInteger, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("due_at", Utc, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("expires_at", Utc),
    sa.Column("recipients", sa.Text),
    sa.Column("cc", sa.Text),
    sa.Column("bcc", sa.Text),
    sa.Column("sender", sa.Text),
    sa.Column("reply_to", sa.Text),
    sa.Column("envelope_from", sa.Text),
    sa.Column("subject", sa.Text),
    sa.Column("body_text", sa.Text),
    sa.Column("body_html", sa.Text),
    sa.Column("template", sa.Text),
    sa.Column("context", _Json()),
    sa.Column("locale", sa.Text),
    sa.Column("headers", _Json()),
    sa.Column("raw", _Blob()),
    sa.Column("dsn", _Json()),
    sa.Column("list", sa.Text),
    sa.Column("message_id", sa.Text),
    sa.Column("batch", sa.Text),
    sa.Column("dedupe_key", sa.Text, unique=True),
    sa.Column("on_doubt", sa.Text),
    sa.Column("max_attempts", sa.Integer),
    sa.Column("relay", sa.Text),
    sa.Column("created_at", Utc, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("created_by", sa.Text, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("domain", sa.Text, server_default=sa.FetchedValue()),
    sa.Column("lane", sa.Text, server_default=sa.FetchedValue()),
    sa.Column("flow", sa.Text, server_default=sa.FetchedValue()),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("doubts", sa.Integer, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("setbacks", sa.Integer, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("first_attempt_at", Utc),
    sa.Column("claim_seq", _big(), nullable=False, server_default=sa.FetchedValue()),
    sa.Column("claimed_by", sa.Text),
    sa.Column("claimed_at", Utc),
    *_reply_columns(),
    sa.Column("sent_at", Utc),
    sa.Column("finished_at", Utc),
    sa.Column("updated_at", Utc),
)

recipient = sa.Table(
    "outbox_recipient",
    metadata,
    sa.Column("outbox_id", _big(), sa.ForeignKey("outbox.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("doubts", sa.Integer, nullable=False, server_default=sa.FetchedValue()),
    *_reply_columns(),
    sa.Column("sent_at", Utc),
    sa.Column("updated_at", Utc, nullable=False),
)

blob = sa.Table(
    "outbox_blob",
    metadata,
    sa.Column("sha256", sa.Text, primary_key=True),
    sa.Column("content", _Blob(), nullable=False),
    sa.Column("created_at", Utc, nullable=False, server_default=sa.FetchedValue()),
)

attachment = sa.Table(
    "outbox_attachment",
    metadata,
    sa.Column("id", _big(), primary_key=True),
    sa.Column("outbox_id", _big(), sa.ForeignKey("outbox.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("content", _Blob()),
    sa.Column("content_id", sa.Text),
    sa.Column("blob_sha256", sa.Text, sa.ForeignKey("outbox_blob.sha256")),
    sa.Column("path", sa.Text),
    sa.Column("part", sa.Text, nullable=False, server_default=sa.FetchedValue()),
)

content = sa.Table(
    "outbox_content",
    metadata,
    sa.Column("outbox_id", _big(), sa.ForeignKey("outbox.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("rendered", _Blob()),
    sa.Column("made_of", sa.Text),
    sa.Column("sha256", sa.Text),
    sa.Column("message", _Blob()),
    sa.Column("kept_at", Utc, nullable=False),
)

attempt = sa.Table(
    "outbox_attempt",
    metadata,
    sa.Column("id", _big(), primary_key=True),
    sa.Column("outbox_id", _big(), nullable=False),
    sa.Column("claim_seq", _big(), nullable=False),
    sa.Column("at", Utc, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("recipient", sa.Text),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("blame", sa.Text),
    sa.Column("phase", sa.Text),
    sa.Column("relay", sa.Text),
    *_reply_columns(),
)

suppression = sa.Table(
    "outbox_suppression",
    metadata,
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("list", sa.Text, primary_key=True, server_default=sa.FetchedValue()),
    sa.Column("source", sa.Text, primary_key=True, server_default=sa.FetchedValue()),
    sa.Column("reason", sa.Text, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("created_at", Utc, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("created_by", sa.Text, primary_key=True, server_default=sa.FetchedValue()),
    sa.Column("expires_at", Utc),
)

unsubscribed = sa.Table(
    "outbox_unsubscribed",
    sa.MetaData(),
    sa.Column("address", sa.Text, primary_key=True),
    sa.Column("list", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text),
    sa.Column("expires_at", Utc),
)
"""A view: what an application has entered, and may enter."""

worker = sa.Table(
    "outbox_worker",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("incarnation", sa.Integer, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", Utc, nullable=False),
    sa.Column("heartbeat_at", Utc, nullable=False),
    sa.Column("lease_until", Utc, nullable=False),
    sa.Column("silent_from", Utc),
    sa.Column("stopped_at", Utc),
    sa.Column("trouble", sa.Text),
    sa.Column("journal_applied", _big(), nullable=False, server_default=sa.FetchedValue()),
    sa.Column("connected_to", sa.Text),
)

throttle = sa.Table(
    "outbox_throttle",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("limits", sa.Text),
    sa.Column("limit_override", sa.Text),
    sa.Column("overridden_by", sa.Text),
    sa.Column("pace", sa.Double, nullable=False, server_default=sa.FetchedValue()),
    sa.Column("paused_until", Utc),
    sa.Column("reason", sa.Text),
    sa.Column("session_limit", sa.Integer),
    sa.Column("recipient_limit", sa.Integer),
    sa.Column("pipelining", sa.Text),
    sa.Column("pipelining_reason", sa.Text),
    sa.Column("roused_at", Utc),
    sa.Column("slots", sa.Text),
    sa.Column("updated_at", Utc, nullable=False, server_default=sa.FetchedValue()),
)

batches = sa.Table(
    "outbox_batch",
    metadata,
    sa.Column("batch", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False, server_default=sa.FetchedValue()),
    *(
        sa.Column(name, _big(), nullable=False, server_default=sa.FetchedValue())
        for name in ("messages", "open", "sent", "not_sent", "held")
    ),
    sa.Column("first_attempt_at", Utc),
    sa.Column("last_finished_at", Utc),
    sa.Column("looked_at", Utc, nullable=False),
    sa.Column("done_at", Utc),
    sa.Column("taken_until", Utc),
    sa.Column("verdict", sa.Text),
    sa.Column("version", _big(), nullable=False, server_default=sa.FetchedValue()),
)
