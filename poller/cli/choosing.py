"""The options by which commands choose rows, shared by all that do: one meaning everywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.selection import Selection
from poller.smtp.relays import relays_of
from poller.statuses import NAMES
from poller.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.config.load import Config
    from poller.outbox import Engine


class Moment(click.ParamType[timedelta | datetime]):
    """A time on the command line: so long ago, or a date, or a time in ISO format; UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | datetime:
        """How long ago, or an aware time."""
        if isinstance(value, timedelta | datetime):
            return value
        try:
            return timedelta(seconds=parse_duration(value))
        except ValueError:
            pass
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail('no time; write it like "1d" (ago), "2026-11-28" or "2026-11-28T09:30"', param, ctx)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


_OPTIONS = (
    click.option("--batch", help="Rows of this batch."),
    click.option("--status", type=click.Choice(NAMES), help="Rows with this status."),
    click.option("--domain", help="Rows to this domain."),
    click.option("--since", type=Moment(), help='Ended (else written) then or later: "1d" ago, or a time, UTC.'),
    click.option("--until", type=Moment(), help="Ended (else written) then or before."),
    click.option("--code", help="With this reply: 550, 5 for all such codes, or 4.2.2."),
    click.option("--reason", help="With these words in the error or the reply."),
    click.option("--relay", help="That name this relay, or were tried by it."),
    click.option("--template", help="Made with this template."),
    click.option("--limit", type=click.IntRange(1), help="So many at most, the first by id."),
)


def choosing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options. Their values are for `selection_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def selection_of(config: Config, engine: Engine, *, every: bool = False, **chosen: Any) -> Selection:
    """What is chosen, by the database's clock. Raises click.UsageError."""
    times = {name: chosen[name] for name in ("since", "until") if isinstance(chosen.get(name), timedelta)}
    if times:
        now = transaction(engine, now_of, reading=True)
        chosen |= {name: now - ago for name, ago in times.items()}
    relay = relays_of(config.smtp, config.relays).get(chosen.get("relay") or "")
    try:
        return Selection(**chosen, at=f"{relay.host}:{relay.port}" if relay else None, every=every)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
