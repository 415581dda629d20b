"""One message after another, from a mailbox into the outbox.

Rule 1. A message is done with when what it says is written down, or is nobody's: then it leaves the mailbox. While the
        database is away it stays.
Rule 2. A hard bounce says that there is no such mailbox; a policy, a full mailbox or a message that is too large is
        none (HARD). Only a hard bounce and a complaint suppress, and only if `[bounces] suppress` says so.
Rule 3. Nothing that comes in here is executed, rendered or sent on; and a message that can't be read, or that the
        database refuses, harms no other.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from poller.bounces.match import match
from poller.bounces.read import returned
from poller.log import shortened
from poller.message.return_path import fingerprint
from poller.outbox.returned import News, write
from poller.outbox.trouble import DatabaseRefusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poller.bounces.read import Report, Returned
    from poller.log import Logger
    from poller.message.bounce_settings import BounceSettings
    from poller.message.return_path import ReturnPaths
    from poller.outbox import Engine

HARD: Final = re.compile(r"5\.1\.(?:1|2|3|6|10)|5\.2\.1")
"""RFC 3463 and the IANA registry: no such mailbox, no such system, bad syntax, moved, null MX; mailbox disabled."""
_OUTCOMES = {"failed": "bounced", "delayed": "delayed", "delivered": "delivered"}


@dataclass(kw_only=True, slots=True)
class Post:
    """Takes messages in. `counts` says what became of them, in the words of `take`."""

    engine: Engine
    settings: BounceSettings
    paths: ReturnPaths
    log: Logger
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, raw: bytes) -> str:
        """Write down what a message says, and return that in a word.

        bounced, complained, delayed, delivered; known (it was written before); auto_reply, unknown, unmatched, forged;
        refused (by the database, for what it says). Raises DatabaseUnavailable: then it is to be brought again.
        """
        try:
            word = self._take(returned(raw))
        except DatabaseRefusal as why:
            self.log.warning("bounce.refused", reason=str(why))
            word = "refused"
        self.counts[word] += 1
        return word

    def take_all(self, messages: Iterable[bytes]) -> None:
        """One after another."""
        for raw in messages:
            self.take(raw)

    def _take(self, said: Returned) -> str:
        if said.kind in {"auto_reply", "unknown"} or not said.reports:
            self.log.info("bounce.ignored", kind=said.kind, reason=said.reason or None)
            return said.kind if said.kind == "auto_reply" else "unknown"
        found = match(said, self.paths)
        if found.forged:
            self.log.warning("bounce.forged", reason=found.forged)
            return "forged"
        news = [self._news(said, report) for report in said.reports]
        if found.marked is not None:
            marked = found.marked
            written = write(
                self.engine,
                news,
                row_id=marked.row_id,
                fits=lambda message_id: fingerprint(message_id) == marked.fingerprint,
                suppress_for=self.settings.suppress_for,
            )
        else:
            written = write(self.engine, news, message_ids=found.message_ids, suppress_for=self.settings.suppress_for)
        if written.row_id is None:
            self.log.warning("bounce.unmatched", kind=said.kind)
            return "unmatched"
        for one in written.new:
            facts = {"outcome": one.outcome, "status": one.status or None, "reason": one.text or None}
            suppressed = True if one.suppress else None
            self.log.warning(
                "bounce.told", id=written.row_id, to=shortened(one.address), suppressed=suppressed, **facts
            )
        return written.new[0].outcome if written.new else "known"

    def _news(self, said: Returned, report: Report) -> News:
        if said.kind == "complaint":
            return News(
                address=report.address,
                outcome="complained",
                text=report.text,
                suppress="complaint" if "complaint" in self.settings.suppress else None,
            )
        is_hard = report.action == "failed" and HARD.fullmatch(report.status) is not None
        return News(
            address=report.address,
            outcome=_OUTCOMES[report.action],
            status=report.status,
            text=report.text,
            suppress="bounce" if is_hard and "bounce" in self.settings.suppress else None,
        )
