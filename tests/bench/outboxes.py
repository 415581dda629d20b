"""Outboxes to measure on: rows made by the database itself, a million in one statement, and the configuration file.

The message of these benchmarks is 1.5 KB of text and HTML together, as a shop's notice would be.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import databases
import sqlalchemy as sa

from poller.outbox.database import connect
from poller.outbox.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sqlalchemy.engine import Engine

TEXT = "Dear customer,\n\n" + "Your order was packed today and should arrive soon.\n" * 9 + "\nThe shop\n"
HTML = (
    "<html><body><p>Dear customer,</p>\n"
    + "<p>Your order was <b>packed</b> today and should arrive soon, says the shop.</p>\n" * 12
    + "</body></html>\n"
)
SENDER = "Shop <shop@example.com>"
THOUSAND = 1000
A_DAY = {"postgresql": "now() + interval '1 day'", "mysql": "UTC_TIMESTAMP(6) + INTERVAL 1 DAY"}
A_DAY_LITE = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+1 day')"
NOW = {"postgresql": "now()", "mysql": "UTC_TIMESTAMP(6)"}
NOW_LITE = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@dataclass(frozen=True, kw_only=True)
class Outbox:
    """One empty outbox, and where its worker may keep files."""

    kind: str
    url: str
    engine: Engine
    directory: Path

    def configure(self, port: int, **settings: Mapping[str, Any]) -> Path:
        """A configuration file with the defaults, but for what must be said; returns its path."""
        sections: dict[str, dict[str, Any]] = {
            "database": {"url": self.url},
            "smtp": {"host": "127.0.0.1", "port": port, "security": "none"},
            "message": {"sender": SENDER},
            "worker": {"name": "bench", "state_dir": str(self.directory / "state")},
            "log": {"format": "json"},
            "throttle": {"look_up_mx": False},
        }
        for name, values in settings.items():
            sections.setdefault(name, {}).update(values)
        path = self.directory / "config.toml"
        path.write_text("".join(_section(name, values) for name, values in sections.items()))
        return path

    def scalar(self, query: str) -> Any:
        """The first value of a query."""
        with self.engine.connect() as connection:
            return connection.execute(sa.text(query)).scalar()

    def run(self, *statements: str) -> None:
        """Statements by hand, each by itself; not on SQLite, where the engine begins a transaction for everything."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def settle(self) -> None:
        """What the database's housekeeping does sooner or later: it is not to fall into a measurement."""
        match self.kind:
            case "postgresql":
                # No CHECKPOINT: after one, each page is written whole when it is first touched: not the usual case.
                self.run("VACUUM ANALYZE outbox")
            case "mariadb":
                self.run("ANALYZE TABLE outbox")
            case _:
                with contextlib.closing(self.engine.raw_connection()) as connection:
                    connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- rows ---

    def fill(self, count: int, **columns: Any) -> None:
        """`count` rows due now, with the usual message, unless `columns` say otherwise."""
        self._insert(count, {"body_text": TEXT, "body_html": HTML, **columns})

    def fill_scheduled(self, count: int) -> None:
        """Rows for tomorrow, at priority 0."""
        due = sa.literal_column(A_DAY.get(self.engine.dialect.name, A_DAY_LITE))
        self._insert(count, {"body_text": "Hello", "priority": 0, "due_at": due})

    def fill_paused(self, count: int) -> None:
        """Rows that an operator holds, due before all others."""
        self._insert(count, {"body_text": "Hello", "priority": 0, "status": "paused"})

    def fill_sent(self, count: int) -> None:
        """Rows that are done."""
        now = sa.literal_column(NOW.get(self.engine.dialect.name, NOW_LITE))
        done = {"status": "sent", "attempts": 1, "claim_seq": 1, "claimed_by": "bench", "reply_code": 250}
        times = dict.fromkeys(("claimed_at", "first_attempt_at", "sent_at", "finished_at", "updated_at"), now)
        message_id = sa.literal("<") + sa.cast(number(), sa.String(20)) + sa.literal("@example.com>")
        self._insert(count, {"body_text": "Hello", "message_id": message_id, **done, **times})

    def _insert(self, count: int, columns: dict[str, Any]) -> None:
        place = number()
        text = sa.cast(place, sa.String(20))
        values = {
            "recipients": sa.literal("user") + text + sa.literal("@example.com"),
            "subject": sa.literal("Your order ") + text,
            **columns,
        }
        chosen = [
            value if isinstance(value, sa.ColumnElement) else sa.literal(value, outbox.c[name].type)
            for name, value in values.items()
        ]
        query = sa.select(*chosen).select_from(_COUNTING[0].join(_COUNTING[1], sa.true())).where(place < count)
        with self.engine.begin() as connection:
            connection.execute(sa.insert(outbox).from_select(list(values), query, include_defaults=False))

    # --- what became of them ---

    def drained(self) -> tuple[int, float]:
        """How many rows were sent, and the seconds from the first claim to the last acceptance."""
        query = sa.select(sa.func.count(), sa.func.min(outbox.c.claimed_at), sa.func.max(outbox.c.sent_at))
        with self.engine.connect() as connection:
            count, first, last = connection.execute(query.where(outbox.c.status == "sent")).one()
        return int(count), (last - first).total_seconds() if count else 0.0


def _thousand(name: str) -> sa.CTE:
    """0 … 999."""
    counting = sa.select(sa.literal(0).label("n")).cte(name, recursive=True)
    return counting.union_all(sa.select(counting.c.n + 1).where(counting.c.n < THOUSAND - 1))


_COUNTING = (_thousand("thousands"), _thousand("ones"))
"""Joined, a million; `fill` in portions for more."""


def number() -> sa.ColumnElement[int]:
    return _COUNTING[0].c.n * THOUSAND + _COUNTING[1].c.n


def _section(name: str, values: Mapping[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()) + "\n"


@contextlib.contextmanager
def fresh(kind: str, directory: Path) -> Iterator[Outbox]:
    """An empty outbox on this kind of database, removed afterwards. Raises databases.Missing."""
    place = directory / kind
    place.mkdir(exist_ok=True)
    with databases.database(kind, place) as settings:
        engine = connect(settings)
        try:
            yield Outbox(kind=kind, url=settings.url, engine=engine, directory=place)
        finally:
            engine.dispose()
