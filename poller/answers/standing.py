"""What `status`, `explain` and `plan` have to say of limits: how they stand, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from poller.forecast import Standing, Waiting, in_force, paced_in_words, used_of
from poller.message.addresses import parse_list, parse_one
from poller.outbox.waiting import Sides, WaitingRows, throttles, waiting_rows
from poller.pacing.hours import closes_at, opens_at
from poller.pacing.mx import Within, resolver_of_this_machine
from poller.pacing.words import words_of_limit
from poller.smtp.relays import relays_of
from poller.visible import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from poller.config.load import Config
    from poller.forecast import Paced
    from poller.outbox import Engine
    from poller.outbox.report import Overview
    from poller.pacing.gate import ScopeKey

LOOKUPS_S = 3.0
"""For all mail exchangers that a command may want to know."""
MOST_LINES = 10
"""Of limits on a screen; the table has them all."""


def standing_of(config: Config, engine: Engine, now: datetime) -> Standing:
    """Every limit that is configured or written down, as it stands. `now` is the database's."""
    records = throttles(engine)
    return in_force(
        config.throttle,
        relays_of(config.smtp, config.relays),
        records,
        now,
        mail_exchangers=_exchangers_of(config, records).of,
    )


def _exchangers_of(config: Config, records: Iterable[ScopeKey]) -> Within:
    """They matter only where a provider has a limit, or has complained."""
    matter = bool(config.throttle.providers) or any(key.kind == "provider" for key in records)
    return Within(resolver_of_this_machine() if matter and config.throttle.look_up_mx else None, LOOKUPS_S)


def waiting_of(config: Config, engine: Engine, standing: Standing, batch: str | None = None) -> list[Waiting]:
    """What waits, by all that a limit looks at; by relay and sender even if none does, to find what names no relay."""
    sides = replace(_looked_at(standing), lanes=True)
    return [_waiting(config, group) for group in waiting_rows(engine, sides, batch)]


def due_of(config: Config, engine: Engine, standing: Standing, seen: Overview) -> list[Waiting]:
    """What is due now; looked at more closely only where a limit does."""
    sides = _looked_at(standing)
    if sides == Sides():
        return [Waiting(messages=seen.due)] if seen.due else []
    groups = (_waiting(config, group) for group in waiting_rows(engine, sides))
    return [group for group in groups if group.first_due is None or group.first_due <= seen.at]


def _looked_at(standing: Standing) -> Sides:
    """Which sides of a message some limit looks at."""
    kinds = {key.kind for key in standing.scopes if standing.holds(key)}
    relays = standing.relays.values()
    return Sides(
        domains=bool(kinds & {"domain", "provider"}) or any(relay.domains for relay in relays),
        lanes="sender" in kinds or len(relays) > 1,
        recipients=any(paced.limit.counts == "recipients" for paced in standing.scopes.values()),
    )


def _waiting(config: Config, group: WaitingRows) -> Waiting:
    return Waiting(
        messages=group.messages,
        domain=group.domain,
        relay=group.relay,
        sender=group.sender or address_of(config.message.sender),
        recipients=group.recipients,
        first_due=group.first_due,
        last_due=group.last_due,
    )


def address_of(sender: str | None) -> str | None:
    """The bare address of a sender; None if there is none that can be read."""
    try:
        return parse_one(sender).wire.lower() if sender else None
    except ValueError:
        return None


def domains_of(row: Mapping[str, Any], recipients: Iterable[Mapping[str, Any]]) -> list[str]:
    """The domain of each recipient to whom a row is still to go; of one that can't be read, what the database found."""
    still_open = [one["address"] for one in recipients if one["status"] == "queued"]
    lists = still_open or [row[name] for name in ("recipients", "cc", "bcc") if row[name]]
    try:
        return [mailbox.domain for text in lists for mailbox in parse_list(text)]
    except ValueError:
        return [row["domain"]] if row["domain"] else []


def until_open(standing: Standing) -> datetime | None:
    """When the sending hours begin, if mail may not go now."""
    opens = opens_at(standing.throttle.hours, standing.now)
    return opens if opens > standing.now else None


def remarkable(standing: Standing) -> list[tuple[ScopeKey, Paced]]:
    """The scopes that something is to be said of: those paused or slow first, then those with a limit."""
    found = [(key, paced) for key, paced in standing.scopes.items() if _rank(standing, key, paced) < _SILENT]
    return sorted(found, key=lambda item: (_rank(standing, *item), item[0]))


_SILENT = 3


def _rank(standing: Standing, key: ScopeKey, paced: Paced) -> int:
    if standing.pause_of(key):
        return 0
    if paced.state.pace < 1:
        return 1
    return 2 if words_of_limit(paced.limit) or paced.overridden_by or _learnt(paced) else _SILENT


def _learnt(paced: Paced) -> bool:
    return bool(paced.session_limit or paced.recipient_limit or paced.pipelining)


def screen_lines(standing: Standing) -> Iterator[tuple[str, str]]:
    """For `status`: a word, and what is to be said."""
    opens = until_open(standing)
    closes = closes_at(standing.throttle.hours, standing.now)
    if opens:
        yield "closed", f"until {moment(opens)} UTC: the sending hours"
    elif closes:
        yield "open", f"until {moment(closes)} UTC: the sending hours"
    found = remarkable(standing)
    for key, paced in found[:MOST_LINES]:
        yield _word(standing, key, paced), _line(standing, key, paced)
    if len(found) > MOST_LINES:
        yield "", f"and {len(found) - MOST_LINES} more: SELECT * FROM outbox_throttle"


def _word(standing: Standing, key: ScopeKey, paced: Paced) -> str:
    if standing.pause_of(key):
        return "paused"
    return "slow" if paced.state.pace < 1 else "override" if paced.overridden_by else "limit"


def _line(standing: Standing, key: ScopeKey, paced: Paced) -> str:
    slow = replace(paced, state=replace(paced.state, paused_until=None))
    parts = [paced_in_words(slow, standing.now)]
    parts += [f"{used} of {quota} used" for quota, used, _ in used_of(paced, standing.now)]
    if standing.pause_of(key):
        parts.append(f"until {moment(paced.state.paused_until)} UTC")
    if paced.state.reason and (standing.pause_of(key) or paced.state.pace < 1):
        parts.append(paced.state.reason)
    if paced.session_limit:
        parts.append(f"at most {paced.session_limit} messages on a connection, as learnt")
    if paced.recipient_limit:
        parts.append(f"at most {paced.recipient_limit} recipients in a transaction, as learnt")
    if paced.pipelining:
        parts.append(gear_in_words(paced))
    return f"{_named(key)}: {'; '.join(part for part in parts if part)}"


def gear_in_words(paced: Paced) -> str:
    """What a relay was found to bear, and by what."""
    why = f" ({paced.pipelining_reason})" if paced.pipelining_reason else ""
    return f"pipelining {paced.pipelining}, as learnt{why}; NULL in outbox_throttle.pipelining lets it be tried again"


def _named(key: ScopeKey) -> str:
    return "the whole outbox" if key.kind == "outbox" else str(key)


def as_values(standing: Standing) -> dict[str, Any]:
    """For `status --json`."""
    return {
        "closed_until": until_open(standing),
        "throttles": [
            {
                "kind": key.kind,
                "name": key.name,
                "limits": words_of_limit(paced.limit) or None,
                "overridden_by": paced.overridden_by,
                "configured": words_of_limit(paced.configured) or None,
                "pace": paced.state.pace,
                "paused_until": paced.state.paused_until if standing.pause_of(key) else None,
                "reason": paced.state.reason or None,
                "session_limit": paced.session_limit,
                "recipient_limit": paced.recipient_limit,
                "pipelining": paced.pipelining,
                "pipelining_reason": paced.pipelining_reason,
                "quotas": [
                    {"quota": quota, "used": used, "of": count} for quota, used, count in used_of(paced, standing.now)
                ],
            }
            for key, paced in remarkable(standing)
        ],
    }
