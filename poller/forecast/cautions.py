"""Pure: settings that are valid and will not do what somebody meant by them.

`warnings` looks at them together, and at what waits. It is said once for each, by the keys it is about, with the
remedy. What is refused when the configuration is read (`poller.config.load`) is not looked at again.

What the providers of relays demand of their customers: Exchange Online,
https://learn.microsoft.com/office365/servicedescriptions/exchange-online-service-description/exchange-online-limits;
Gmail, https://support.google.com/a/answer/166852; SES, https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas.html

Raises nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from poller.pacing.hours import closes_at, is_open, opens_at
from poller.pacing.limits import per_second
from poller.smtp.relays import FirstRelaySettings
from poller.units import Rate, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from poller.forecast.scopes import Standing
    from poller.judgement.retry import RetrySettings
    from poller.pacing.hours import Hours
    from poller.pacing.limits import Limit
    from poller.settings import PollSettings
    from poller.smtp.relays import RelaySettings

DAY_S: Final = 86400
FINE_ENOUGH: Final = 10
"""Of a rate's count: rounding costs a tenth at most."""
LONG_BATCH_S: Final = 600.0
"""Seconds. A batch that takes longer than this is one that nobody had in mind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Demand:
    """What a provider of a relay demands of those who send through it."""

    host: re.Pattern[str]
    who: str
    rates: tuple[Rate, ...]
    words: str
    connections: int | None = None
    recipients: int | None = None
    """Of one message."""


_DEMANDS: Final = (
    _Demand(
        host=re.compile(r"smtp(?:-legacy)?\.office365\.com|smtp\.outlook\.com"),
        who="Exchange Online",
        rates=(Rate(60, 30), Rate(DAY_S, 10_000)),
        words="30 messages a minute, 10,000 recipients a day",
        connections=3,
    ),
    _Demand(
        host=re.compile(r"smtp(?:-relay)?\.gmail\.com"),
        who="Gmail",
        rates=(Rate(DAY_S, 2_000),),
        words="2,000 messages a day",
        recipients=100,
    ),
    _Demand(
        host=re.compile(r"email-smtp(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?"),
        who="SES",
        rates=(),
        words="so many a second and in 24 hours as your account's quotas say",
    ),
)


def warnings(
    standing: Standing, poll: PollSettings, retry: RetrySettings, *, messages: int | None = None, workers: int = 1
) -> tuple[str, ...]:
    """What somebody should look at, in words. `messages` wait; None: say also what matters for some queues only."""
    return (
        *_about_limits(standing, messages),
        *_about_batches(standing, poll),
        *_about_giving_up(standing, retry),
        *_about_hours(standing, messages),
        *_about_providers(standing, workers),
    )


def _limits(standing: Standing) -> Iterator[tuple[str, Limit]]:
    """Each limit that is configured, with the table that it stands in."""
    throttle = standing.throttle
    yield "[throttle]", throttle
    for name, relay in standing.relays.items():
        yield _table_of(name, relay), relay
    for kind in ("providers", "domains", "senders"):
        for name, limit in getattr(throttle, kind).items():
            yield f"[throttle.{kind}.{name}]" if kind == "providers" else f'[throttle.{kind}."{name}"]', limit


def _table_of(name: str, relay: RelaySettings) -> str:
    return "[smtp]" if isinstance(relay, FirstRelaySettings) else f"[relays.{name}]"


# ---- rates that do not fit each other


def _about_limits(standing: Standing, messages: int | None) -> Iterator[str]:
    throttle = standing.throttle
    daily = _open_a_day(throttle.hours, standing.now) if throttle.windows or throttle.quiet else DAY_S
    for table, limit in _limits(standing):
        rates = sorted(limit.rates)
        for shorter, longer in pairwise(rates):
            most = shorter.count * longer.period // shorter.period
            if longer.count >= most:
                yield f"{table} {longer} is never reached: {shorter} lets at most {most} through in that time"
                continue
            used_up = longer.count / per_second(shorter)
            if longer.period >= DAY_S and used_up > daily * longer.period / DAY_S:
                continue  # `_about_hours` tells
            if used_up < longer.period / 2 and (messages is None or messages > longer.count):
                even = _even(longer)
                yield (
                    f"{table} {shorter} uses up {longer} in {format_duration(used_up)}; then it stands still for"
                    f" {format_duration(longer.period - used_up)}; {even} would spread it evenly"
                )
        if limit.pace and limit.gap and limit.gap > 1 / per_second(limit.pace):
            yield f"{table} {limit.pace} is never reached: a gap of {format_duration(limit.gap)} lets less through"


def _even(quota: Rate) -> Rate:
    """A short rate that uses a quota up just in time."""
    for period in (1, 60, 3600):
        count = quota.count * period // quota.period
        if count >= FINE_ENOUGH and period < quota.period:
            return Rate(period, count)
    return Rate(max(1, math.ceil(quota.period / quota.count)), 1)


def _about_batches(standing: Standing, poll: PollSettings) -> Iterator[str]:
    limit = standing.throttle
    size, pause = poll.batch_size, poll.batch_pause
    if pause and limit.pace and size / pause < per_second(limit.pace):
        yield (
            f"[throttle] {limit.pace} is never reached by one worker: [poll] batch_size {size} and batch_pause"
            f" {format_duration(pause)} let at most {60 * size / pause:.3g} a minute through"
        )
    spacing = max(limit.gap, 1 / per_second(limit.pace) if limit.pace else 0.0)
    takes = (size - limit.burst) * spacing
    if pause and takes > LONG_BATCH_S:
        yield (
            f"[poll] batch_size {size} takes {format_duration(takes)} at the pace of [throttle], and batch_pause"
            f" {format_duration(pause)} comes on top; with a rate, leave batch_pause out"
        )


# ---- waits that outlast a message


def _about_giving_up(standing: Standing, retry: RetrySettings) -> Iterator[str]:
    give_up = retry.give_up_after
    longest = standing.throttle.longest_pause
    if give_up < longest:
        yield (
            f"[retry] give_up_after {format_duration(give_up)} ends before a pause of [throttle] longest_pause"
            f" {format_duration(longest)} does: its messages would be given up without another try"
        )
    for key, paced in sorted(standing.scopes.items()):
        until = paced.state.paused_until
        if until is not None and (until - standing.now).total_seconds() > give_up:
            yield (
                f"{key} is paused until {until:%Y-%m-%d %H:%M} UTC, which is longer than [retry] give_up_after"
                f" {format_duration(give_up)}: messages that were tried before are given up then"
            )
        if paced.fault:
            yield f"outbox_throttle, {key}: {paced.fault}"


# ---- hours


def _about_hours(standing: Standing, messages: int | None) -> Iterator[str]:
    throttle = standing.throttle
    if not (throttle.windows or throttle.quiet):
        return
    daily = _open_a_day(throttle.hours, standing.now)
    if not throttle.pace or daily >= DAY_S:
        return
    through_it = int(daily * per_second(throttle.pace))
    rest = f"the sending hours are {format_duration(daily)} a day, in which {throttle.pace} lets {through_it} through"
    for quota in throttle.quotas:
        if quota.period == DAY_S and quota.count >= through_it:
            yield f"[throttle] {quota} is never reached: {rest}"
    if messages is not None and messages > through_it:
        yield f"{messages} messages need {math.ceil(messages / max(1, through_it))} days: {rest}"


def _open_a_day(hours: Hours, now: datetime) -> float:
    """Seconds for each day of a week on average."""
    seconds, moment = 0.0, opens_at(hours, now)
    while (moment - now).total_seconds() < 7 * DAY_S:
        if not is_open(hours, moment):
            moment = opens_at(hours, moment)
            continue
        closes = closes_at(hours, moment)
        if closes is None:
            return float(DAY_S)
        seconds += (closes - moment).total_seconds()
        moment = closes
    return min(seconds / 7, float(DAY_S))


# ---- what providers of relays demand


def _about_providers(standing: Standing, workers: int) -> Iterator[str]:
    for name, relay in standing.relays.items():
        demand = next((one for one in _DEMANDS if one.host.fullmatch(relay.host.lower().rstrip("."))), None)
        if demand is not None:
            yield from _demanded(_table_of(name, relay), relay, demand, workers)


def _demanded(table: str, relay: RelaySettings, demand: _Demand, workers: int) -> Iterator[str]:
    if not relay.rates:
        wanted = ", ".join(f'"{rate}"' for rate in demand.rates)
        remedy = f"set rates = [{wanted}]" if wanted else "set rates to them"
        yield f"{table} {relay.host} has no limit, and {demand.who} takes {demand.words}; {remedy}"
    else:
        for rate in demand.rates:
            most = _most_in(relay, rate.period)
            if most > rate.count:
                yield (
                    f"{table} lets {most} through in {format_duration(rate.period)}, and {demand.who} takes"
                    f" {demand.words}; set {rate}"
                )
    if demand.connections and (relay.max_connections or workers) > demand.connections:
        yield (
            f"{table} allows {relay.max_connections or workers} connections, and {demand.who} {demand.connections};"
            f" set max_connections = {demand.connections}"
        )
    if demand.recipients and relay.max_recipients_per_message > demand.recipients:
        yield (
            f"{table} max_recipients_per_message is {relay.max_recipients_per_message}, and {demand.who} takes"
            f" {demand.recipients}; set it to that"
        )


def _most_in(limit: Limit, period: int) -> int:
    """How many it lets through in so many seconds, after a rest that filled its burst; about a quota's part more."""
    return min(math.floor(rate.count * max(1.0, period / rate.period)) for rate in limit.rates)
