"""`poller limit`: what may go, changed live for all workers; kept over restarts, and shown as an override."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from poller.answers.standing import standing_of
from poller.cli.screen import say, say_table
from poller.cli.session import configuration, database, in_words, operator
from poller.domains import compared
from poller.outbox.clock import now_of
from poller.outbox.database import transaction
from poller.outbox.orders import at_pace, override
from poller.pacing.gate import Kind, ScopeKey
from poller.pacing.limits import Limit
from poller.pacing.words import NONE, limit_of_words, words_of_limit
from poller.smtp.relays import relays_of
from poller.units import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from poller.config.load import Config
    from poller.forecast import Paced, Standing

KINDS = get_args(Kind)


@click.group(invoke_without_command=True)
@click.pass_context
def limit(context: click.Context) -> None:
    """What may go, now: show it, or change it for all workers at once, up or down. It holds until it is cleared.

    A scope is `outbox`, or a kind and a name: `relay NAME`, `sender ADDRESS`, `domain NAME`, `provider NAME`.
    """
    if context.invoked_subcommand is None:
        context.invoke(show)


def _scope(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--as", "who", help="Who you are; else $SUDO_USER, or your login."),
        click.argument("kind", type=click.Choice(KINDS)),
    ):
        command = option(command)
    return command


@limit.command("set")
@_scope
@click.argument("words", nargs=-1, metavar="[NAME] RATE|none...")
@click.option("--burst", type=click.IntRange(1), help="So many at once, after a rest.")
@click.option("--gap", help="At least so long between two messages, such as 2s.")
@click.pass_context
@in_words
def set_(
    context: click.Context,
    /,
    *,
    kind: Kind,
    words: tuple[str, ...],
    burst: int | None,
    gap: str | None,
    who: str | None,
) -> None:
    """Allow so much instead of what is configured: poller limit set sender news@example.com 60/m 5000/d."""
    config = configuration(context)
    name, rates = ("", words) if kind == "outbox" else ("".join(words[:1]), words[1:])
    key = _key(config, kind, name)
    if not rates and gap is None:
        raise click.UsageError(f'say how much; for example 60/m, "{NONE}" for no limit, or --gap 2s')
    configured = configured_for(config, key)
    wanted = _limit(rates, burst=burst, gap=gap, counts=configured.counts)
    override(database(config), key, words_of_limit(wanted) or NONE, by=operator(who))
    say(f"{key}: {words_of_limit(wanted) or 'no limit'}; configured: {words_of_limit(configured) or NONE}")


def _limit(rates: tuple[str, ...], *, burst: int | None, gap: str | None, counts: str) -> Limit:
    parts = [" and ".join(rates) or NONE, "recipients counted" if counts == "recipients" else ""]
    parts += [f"burst {burst}" if burst else ""]
    try:
        parts += [f"gap {format_duration(parse_duration(gap))}" if gap else ""]
        return limit_of_words(", ".join(part for part in parts if part))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@limit.command()
@_scope
@click.argument("name", default="")
@click.pass_context
@in_words
def clear(context: click.Context, kind: Kind, name: str, who: str | None) -> None:
    """Let the configuration hold again."""
    config = configuration(context)
    key = _key(config, kind, name)
    override(database(config), key, None, by=operator(who))
    say(f"{key}: {words_of_limit(configured_for(config, key)) or 'no limit'}, as configured")


@limit.command()
@_scope
@click.argument("words", nargs=-1, required=True, metavar="[NAME] SHARE")
@click.pass_context
@in_words
def pace(context: click.Context, kind: Kind, words: tuple[str, ...], who: str | None) -> None:
    """Go at this share of the limit, such as 50%: what a reply that asks to slow down does. 100% ends that."""
    config = configuration(context)
    name = words[0] if len(words) > 1 else ""
    key = _key(config, kind, name)
    share = _share(words[-1])
    at_pace(database(config), key, share, by=operator(who))
    say(f"{key}: at {share:.0%} of its pace")


def _share(words: str) -> float:
    try:
        share = float(words.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not words.endswith("%") or not 0.01 <= share <= 1:  # noqa: PLR2004 - a hundredth
        raise click.UsageError(f"{words!r} is no share; write it like 50%, from 1% to 100%")
    return share


@limit.command()
@click.pass_context
@in_words
def show(context: click.Context) -> None:
    """What is allowed, by whom, and what is configured."""
    config = configuration(context)
    engine = database(config)
    standing = standing_of(config, engine, transaction(engine, now_of, reading=True))
    lines = list(_lines(standing))
    if lines:
        say_table([("scope", "allowed", "set by", "configured"), *lines])
    else:
        say("nothing is limited")


def _lines(standing: Standing) -> Iterator[tuple[str, ...]]:
    for key, paced in sorted(standing.scopes.items()):
        if paced.overridden_by or words_of_limit(paced.limit):
            yield str(key), _allowed(paced), paced.overridden_by or "", words_of_limit(_configured(paced)) or NONE


def _allowed(paced: Paced) -> str:
    slow = f", slowed to {paced.state.pace:.0%}" if paced.state.pace < 1 else ""
    return (words_of_limit(paced.limit) or "no limit") + slow


def _configured(paced: Paced) -> Limit:
    return paced.configured if paced.overridden_by else paced.limit


def _key(config: Config, kind: Kind, name: str) -> ScopeKey:
    """As workers name it. Raises click.UsageError for what no message could ever fall under."""
    if (kind == "outbox") != (not name):
        raise click.UsageError("the outbox has no name; every other kind needs one")
    if kind == "relay" and name not in (known := relays_of(config.smtp, config.relays)):
        raise click.UsageError(f"there is no relay {name!r}; there are: {', '.join(known)}")
    if kind == "domain":
        return ScopeKey(kind, compared(name))
    if kind == "sender":
        local, _, domain = name.rpartition("@")
        if not domain or "@" not in name:
            raise click.UsageError(f'{name!r} is no sender; write an address, or "@example.com" for all of a domain')
        return ScopeKey(kind, f"{local.lower()}@{compared(domain)}")
    return ScopeKey(kind, name)


def configured_for(config: Config, key: ScopeKey) -> Limit:
    """What the configuration allows there."""
    tables: dict[str, Any] = {
        "outbox": {"": config.throttle},
        "relay": relays_of(config.smtp, config.relays),
        "provider": config.throttle.providers,
        "domain": config.throttle.domains,
        "sender": config.throttle.senders,
    }
    found: Limit = tables[key.kind].get(key.name, Limit())
    return found
