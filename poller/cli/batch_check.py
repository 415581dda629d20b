"""`poller check --batch B`: every row of a batch that has not ended is made into a message, and none is sent.

What would fail, and what a recipient or his provider would take ill, by kind: how many rows, and the first ten of each.
Nothing is written to the database. Exit codes: 0; 1 if any row would fail; 2 for a batch that does not exist.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click

from poller.cli.screen import say
from poller.cli.session import Misused
from poller.columns import DRAFT_COLUMNS
from poller.message.draft import Attachment, Draft, TooLarge, Unsendable
from poller.message.inspection import FAILS, KINDS, Finding, Inspected, inspect
from poller.outbox.drafts import BatchRows, Written, rows_of_batch, written
from poller.outbox.store import Store
from poller.smtp.relays import relays_of
from poller.visible import moment
from poller.worker.wiring import composer_of, files_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from poller.config.load import Config
    from poller.delivery.files import Files
    from poller.message.composer import Composer
    from poller.outbox import Engine

PORTION = 500
"""Rows that are read, and in memory, at once."""
SHOWN = 10
"""Rows of each kind."""


@dataclass(kw_only=True)
class Report:
    """What was found so far."""

    rows: int = 0
    would_fail: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    """Rows, by kind."""
    first: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, row_id: int, findings: list[Finding]) -> None:
        """One more row."""
        self.rows += 1
        self.would_fail += any(finding.kind in FAILS for finding in findings)
        for kind in dict.fromkeys(finding.kind for finding in findings):
            self.counts[kind] += 1
            if len(self.first[kind]) < SHOWN:
                words = "; ".join(finding.words for finding in findings if finding.kind == kind)
                self.first[kind].append((row_id, words))


def check_batch(config: Config, engine: Engine, batch: str) -> bool:
    """Print the report; returns whether any row would fail. Raises Misused."""
    found = rows_of_batch(engine, batch)
    if not (found.ids or found.ended):
        raise Misused(f"there is no batch {batch!r}")
    report = look_at(config, engine, found)
    gone = f"; {found.ended:,} have ended, and are not looked at" if found.ended else ""
    say(f"batch {batch}: {report.rows:,} rows that have not ended{gone}. Nothing was sent")
    for kind in KINDS:
        _say_kind(report, kind)
    if not any(report.counts.values()):
        say(("ok  ", "green"), " nothing was found")
    elif not report.would_fail:
        say(("ok  ", "green"), " no row would fail")
    return report.would_fail > 0


def look_at(config: Config, engine: Engine, found: BatchRows) -> Report:
    """Every row, portion by portion, with progress on a terminal."""
    looking = _Looking(config=config, engine=engine, at=found.at)
    report = Report()
    portions = range(0, len(found.ids), PORTION)
    hidden = not sys.stderr.isatty()
    bar: Any = click.progressbar(length=len(found.ids), label="rendering", file=sys.stderr, hidden=hidden)
    with bar:
        for begin in portions:
            ids = found.ids[begin : begin + PORTION].tolist()
            for row_id, findings in looking.findings(written(engine, ids)):
                report.add(row_id, findings)
            bar.update(len(ids))
    return report


@dataclass(kw_only=True)
class _Looking:
    """What is needed to look at row after row, and what was seen of the ones before."""

    config: Config
    engine: Engine
    at: datetime
    seen: dict[int, int] = field(default_factory=dict)
    """By a hash of the address (a million of them are 100 MB), the first row that goes there."""
    composer: Composer = field(init=False)
    store: Store = field(init=False)
    relays: set[str] = field(init=False)
    files: Files = field(init=False)

    def __post_init__(self) -> None:
        # Not signed: a signature takes longer than all the rest, and finds nothing.
        self.composer = composer_of(replace(self.config, dkim={}))
        self.store = Store(self.engine, worker="check", message_id_domain=self.composer.message_id_domain)
        self.files = files_of(self.config, self.engine)
        self.relays = set(relays_of(self.config.smtp, self.config.relays))

    def findings(self, rows: list[Written]) -> Iterator[tuple[int, list[Finding]]]:
        drafts = [_draft(row, self.composer) for row in rows]
        suppressed = self.store.suppressed(self._addresses(drafts))
        for row, draft in zip(rows, drafts, strict=True):
            sizes, wrong = self._sizes(row)
            most = self.config.message.max_size
            looked = inspect(draft, sizes, self.composer, suppressed=suppressed, max_size=most)
            yield draft.id, [*looked.findings, *wrong, *self._of_row(row.row), *self._duplicates(draft.id, looked)]

    def _sizes(self, row: Written) -> tuple[list[int], list[Finding]]:
        """Of its files; and what is wrong with them."""
        sizes: list[int] = []
        wrong: list[Finding] = []
        for file in row.files:
            try:
                sizes.append(self.files.size_of(file["path"]) if file["path"] else file["size"])
                self.files.require_size(file["name"], sizes[-1])
                self.files.require_type(file["content_type"])
            except Unsendable as error:
                kind = "oversized messages" if isinstance(error, TooLarge) else "other trouble"
                wrong.append(Finding(kind=kind, words=str(error)))
        return sizes, wrong

    def _addresses(self, drafts: list[Draft]) -> set[str]:
        addresses: set[str] = set()
        for draft in drafts:
            try:
                addresses.update(recipient.address for recipient in self.composer.recipients(draft))
            except Unsendable:  # it is a finding when the row is looked at
                continue
        return addresses

    def _of_row(self, row: Any) -> Iterator[Finding]:
        if row["relay"] is not None and row["relay"] not in self.relays:
            known = ", ".join(sorted(self.relays))
            yield Finding(kind="other trouble", words=f"relay: there is no relay {row['relay']!r}; name one of {known}")
        if row["expires_at"] is not None and row["expires_at"] <= self.at:
            yield Finding(kind="expired", words=f"at {moment(row['expires_at'])} UTC")

    def _duplicates(self, row_id: int, looked: Inspected) -> Iterator[Finding]:
        for recipient in looked.recipients:
            first = self.seen.setdefault(_digest(recipient.address), row_id)
            if first != row_id:
                yield Finding(kind="duplicate addresses", words=f"{recipient.address}: also in row {first}")


def _digest(address: str) -> int:
    """64 bits."""
    text = address.lower().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _draft(written: Written, composer: Composer) -> Draft:
    row = written.row
    return Draft(
        id=row["id"],
        message_id=row["message_id"] or f"<given-at-the-first-claim@{composer.message_id_domain}>",
        date=(row["first_attempt_at"] or row["created_at"]).replace(microsecond=0),
        attachments=tuple(
            Attachment(
                name=file["name"],
                content_type=file["content_type"],
                content_id=file["content_id"],
                content=b"",
                is_alternative=file["part"] == "alternative",
            )
            for file in written.files
        ),
        batch=row["batch"],
        raw=row["raw"],
        dsn=row["dsn"],
        **{name: row[name] for name in DRAFT_COLUMNS},
    )


def _say_kind(report: Report, kind: str) -> None:
    count = report.counts[kind]
    if not count:
        return
    verdict = ("FAIL", "red") if kind in FAILS else ("warn", "yellow")
    say(verdict, f" {kind:<22} {count:,} rows")
    for row_id, words in report.first[kind]:
        say(f"       row {row_id}: {words}")
    if count > SHOWN:
        say(f"       and {count - SHOWN:,} rows more")
