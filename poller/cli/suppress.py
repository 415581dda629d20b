"""`poller suppress | suppressions | unsuppress`: who is sent no mail, or none of one list.

A worker looks at the list before each message: what is said here holds for rows that wait already. Rows that ended
`suppressed` stay so; `poller retry` starts them again.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from poller.cli.screen import say, say_table
from poller.cli.send import When
from poller.cli.session import Duration, Misused, Stop, agree, as_json, configuration, database, in_words
from poller.outbox.suppression import enter, lines, remove
from poller.visible import moment

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from poller.config.load import Config
    from poller.outbox.suppression import Line

_LIST = click.option("--list", "list_name", help="Only mail of this list.")


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS|@DOMAIN...")
@_LIST
@click.option("--reason", default="", help="Why, for anyone who looks.")
@click.option("--for", "seconds", type=Duration(), help="For so long, such as 90d.")
@click.option("--until", type=When(), help="Until then, such as 2027-01-31.")
@click.pass_context
@in_words
def suppress(
    context: click.Context,
    *,
    addresses: tuple[str, ...],
    list_name: str | None,
    reason: str,
    seconds: float | None,
    until: datetime | None,
) -> None:
    """Send somebody no more mail, or none of one list, for good or for a time."""
    if seconds is not None and until is not None:
        raise click.UsageError("say --for or --until, not both")
    config = configuration(context)
    _require_list(config, list_name)
    engine = database(config)
    for address in addresses:
        try:
            end = enter(engine, address, list_name=list_name or "", reason=reason, end=_end(seconds, until))
        except ValueError as error:
            raise Misused(f"{address}: {error}") from None
        say(f"{address} gets {_mail(list_name)}{f' until {moment(end)} UTC' if end else ''}")


@click.command()
@click.argument("address", required=False)
@_LIST
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Lines.")
@click.option("--json", "json_", is_flag=True, help="For programs.")
@click.pass_context
@in_words
def suppressions(
    context: click.Context, *, address: str | None, list_name: str | None, limit: int, json_: bool
) -> None:
    """Who is on the suppression list, or what it says of one address, its domain included."""
    found = lines(database(configuration(context)), address=address, list_name=list_name, most=limit + 1)
    if json_:
        click.echo(as_json([_told(line) for line in found[:limit]]))
        return
    if not found:
        say(f"nothing about {address}" if address else "nobody is on the suppression list")
        return
    say_table([("address", "list", "source", "since", "until", "reason"), *map(_shown, found[:limit])])
    if len(found) > limit:
        say("and more: --limit", err=True)


@click.command()
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS|@DOMAIN...")
@click.option("--list", "list_name", help="Only what is said about this list; '' is what is said about all mail.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@in_words
def unsuppress(context: click.Context, *, addresses: tuple[str, ...], list_name: str | None, yes: bool) -> None:
    """Take somebody off the suppression list: all that is said about just this address or @domain."""
    engine = database(configuration(context))
    found = [
        line for a in addresses for line in lines(engine, address=a, list_name=list_name) if line.address == a.lower()
    ]
    if not found:
        raise Stop("nothing is said about that; look with: poller suppressions ADDRESS")
    say_table(map(_shown, found))
    left = sum(line.source == "unsubscribe" for line in found)
    unasked = f"{left} of them unsubscribed; go on?" if left else "Go on?"
    agree(unasked, yes=yes, touched=len(found) if not left else None)
    number = sum(remove(engine, address, list_name=list_name) for address in addresses)
    say(f"{number} taken off")


def _end(seconds: float | None, until: datetime | None) -> Callable[[datetime], datetime] | None:
    if seconds is not None:
        return lambda now: now + timedelta(seconds=seconds)
    return None if until is None else lambda now: _later(until, now)


def _later(until: datetime, now: datetime) -> datetime:
    if until <= now:
        raise ValueError(f"{moment(until)} UTC is past; name a time to come")
    return until


def _require_list(config: Config, name: str | None) -> None:
    """A line about a list that is not there would do nothing."""
    if name is not None and name not in config.lists:
        known = ", ".join(sorted(config.lists)) or "none is configured"
        raise Misused(f"there is no list {name!r}; lists: {known}")


def _mail(list_name: str | None) -> str:
    return f"no mail of the list {list_name}" if list_name else "no mail"


def _shown(line: Line) -> tuple[str, ...]:
    until = f"{moment(line.expires_at)}{' (over)' if line.has_ended else ''}" if line.expires_at else "for good"
    return line.address, line.list or "(all mail)", line.source, moment(line.created_at), until, line.reason


def _told(line: Line) -> dict[str, object]:
    return {name: getattr(line, name) for name in line.__dataclass_fields__}
