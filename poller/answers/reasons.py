"""`poller explain`: why a row is or is not going, what an operator must know first said first.

Rule 1. What stops everything comes before what stops a destination, and that before a turn that will come.
Rule 2. Every limit that the row must still pass is named, that of each destination of a row with several recipients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poller.answers.foresight import why_unknown
from poller.answers.standing import address_of, domains_of, gear_in_words, standing_of, until_open
from poller.forecast import paced_in_words, senders_of
from poller.outbox.report import glance
from poller.outbox.waiting import domains_waiting, rows_before
from poller.pacing.gate import ScopeKey
from poller.units import format_duration
from poller.visible import moment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.outbox.report import Story

MOST_DOMAINS = 1000
"""Of a provider, whose rows are counted."""


class Reasons:
    """What is known of one row and of all that it depends on."""

    def __init__(self, config: Config, engine: Engine, told: Story) -> None:
        self._config, self._engine = config, engine
        self._row, self._told = told.row, told
        self._seen = glance(engine)
        self._standing = standing_of(config, engine, self._seen.at)
        self._domains = domains_of(told.row, told.recipients)
        self._sender = address_of(told.row["sender"] or config.message.sender)

    def lines(self) -> list[str]:
        """At least one."""
        if self._row["status"] != "queued":
            return [self._not_waiting()]
        found = [*self._everything(), *self._itself(), *self._the_relay(), *self._limits()]
        before = [f"last time: {self._row['error']}"] if self._row["error"] else []
        return [*(found or [self._turn()]), *before, *self._gears()]

    def _not_waiting(self) -> str:
        row = self._row
        again = f"start it again with: poller retry {row['id']}"
        ended = f"it is {row['status']}: {row['error'] or 'by an operator'}; {again}"
        return {
            "sending": f"{row['claimed_by']} has it since {moment(row['claimed_at'])} UTC",
            "paused": f"an operator holds it; let it go with: poller resume {row['id']}",
            "in_doubt": f"{row['error']}; decide with: poller resolve {row['id']} --sent | --resend | --failed",
            "sent": f"it was sent at {moment(row['sent_at'])} UTC: {row['reply_code']} {row['reply_text']}",
        }.get(row["status"], ended)

    # ---- what stops it, in order

    def _everything(self) -> Iterator[str]:
        """What keeps all mail from going."""
        reasons = list(why_unknown(self._config, self._engine, self._seen))
        yield from reasons
        yield from (w["trouble"] for w in self._seen.alive if w["trouble"] and w["trouble"] not in reasons)
        opens = until_open(self._standing)
        if opens:
            yield f"the sending hours are over until {moment(opens)} UTC"

    def _itself(self) -> Iterator[str]:
        """What is this row's own."""
        due, now = self._row["due_at"], self._seen.at
        if due > now:
            yield f"it is due in {format_duration((due - now).total_seconds())}, at {moment(due)} UTC"
        expires = self._row["expires_at"]
        if expires is not None and expires <= max(now, due):
            yield f"it expires before it is sent, at {moment(expires)} UTC"

    def _the_relay(self) -> Iterator[str]:
        if self._row["relay"] and not self._ways():
            known = ", ".join(self._standing.relays)
            yield f"it names the relay {self._row['relay']}, and there is none of that name; there are: {known}"

    def _gears(self) -> Iterator[str]:
        """Relays that are spoken to more carefully than configured: slower, but nothing waits for that."""
        for name in self._ways():
            paced = self._standing.scopes.get(ScopeKey("relay", name))
            if paced is not None and paced.pipelining:
                yield f"the relay {name}: {gear_in_words(paced)}"

    def _ways(self) -> list[str]:
        """The relays that it may take."""
        row = self._row
        return [name for name, _ in self._standing.ways_of(row["domain"], self._sender, row["relay"])]

    def _keys(self) -> list[ScopeKey]:
        relays = self._ways()
        destinations = [
            key for domain in dict.fromkeys(self._domains) for key in self._standing.destinations_of(domain)
        ]
        only = [ScopeKey("relay", relays[0])] if len(relays) == 1 else []  # of several it may take another
        keys = [*destinations, *senders_of(self._sender), *only, ScopeKey("outbox")]
        return [key for key in dict.fromkeys(keys) if self._standing.holds(key)]

    def _limits(self) -> Iterator[str]:
        """Each limit that it waits for, the longest wait first."""
        before = {key: self._before(key) for key in self._keys()}
        turns = sorted(((self._standing.turn_of(key, count), key) for key, count in before.items()), reverse=True)
        for turn, key in turns:
            if turn > self._seen.at:
                yield self._limit(key, before[key], turn)

    def _limit(self, key: ScopeKey, before: int, turn: datetime) -> str:
        paced = self._standing.scopes[key]
        name = "the whole outbox" if key.kind == "outbox" else str(key)
        why = f" ({paced.state.reason})" if paced.state.reason else ""
        until = paced.state.paused_until
        if self._standing.pause_of(key):
            words = f"{name} is paused until {moment(until)} UTC{why}"
        else:
            words = f"it waits for {name}: {paced_in_words(paced, self._seen.at)}{why}"
        slot = next(iter(self._standing.waits([key], len(self._domains) or 1)), None)
        if slot and not self._standing.pause_of(key):
            words += f"; {slot.why}, next slot at {moment(slot.at)} UTC"
        if not before or turn == until:
            return words
        return f"{words}; {before:,} rows of it are before this one, so about {moment(turn)} UTC"

    def _before(self, key: ScopeKey) -> int:
        """The rows that pass the same limit before it; of senders and relays nobody counts them."""
        if key.kind == "domain":
            return rows_before(self._engine, self._row, [key.name])
        if key.kind == "provider":
            names = domains_waiting(self._engine)
            domains = [name for name in names if key in self._standing.destinations_of(name)]
            return rows_before(self._engine, self._row, domains[:MOST_DOMAINS])
        return rows_before(self._engine, self._row) if key.kind == "outbox" else 0

    def _turn(self) -> str:
        before = rows_before(self._engine, self._row)
        behind = f"{before:,} due rows are of a better priority, or longer due" if before else "no due row is before it"
        return f"it is due, with priority {self._row['priority']}; {behind}; batches, templates and senders take turns"
