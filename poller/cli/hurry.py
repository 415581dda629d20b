"""`poller retry --now`: what waits for another try goes now, and what holds it back ends: a pause, a relay's rest.

What an application has written for later, and nobody has tried, stays for later. The switch of the whole outbox, the
sending hours and the limits hold as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from poller.cli.choosing import selection_of
from poller.cli.screen import say
from poller.cli.session import Stop, agree, configuration, database, operator
from poller.domains import compared
from poller.outbox.operate import change, count, preview
from poller.outbox.orders import end_pauses, pauses, rouse
from poller.pacing.gate import ScopeKey
from poller.smtp.relays import relays_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from poller.config.load import Config

SHOWN = 5
"""Rows of a preview."""


def retry_now(context: click.Context, *, yes: bool, name: str | None, **chosen: Any) -> None:
    """See above."""
    config = configuration(context)
    engine = database(config)
    every = not any(chosen.values())
    selection = selection_of(config, engine, every=every, **chosen)
    relays = _relays(config, chosen["relay"], every=every)
    scopes = None if every else frozenset(_scopes(config, chosen["relay"], chosen["domain"]))
    total = sum(count(engine, selection, "retry-now").values())
    pausing = pauses(engine, scopes)
    if not (total or pausing or relays):
        raise Stop("no row among those chosen waits for another try")
    if total:
        say(f"{rows_in_words(total)} waiting for another try will be due now", err=True)
    show_some(preview(engine, selection, "retry-now", most=SHOWN), total)
    for words in (*(f"the pause of {key}" for key in pausing), *(f"the rest of relay {relay}" for relay in relays)):
        say(f"ends {words}", err=True)
    agree("Go on?", yes=yes, touched=max(1, total))
    changed = change(engine, selection, "retry-now", by=operator(name))
    ended = end_pauses(engine, scopes)
    if relays:
        rouse(engine, relays)
    say(f"{rows_in_words(changed.rows)} due now" + "".join(f"; the pause of {key} has ended" for key in ended))


def _relays(config: Config, named: str | None, *, every: bool) -> Collection[str]:
    known = relays_of(config.smtp, config.relays)
    if named is not None and named not in known:
        raise click.UsageError(f"there is no relay {named!r}; there are: {', '.join(known)}")
    return tuple(known) if every else (named,) if named is not None else ()


def _scopes(config: Config, relay: str | None, domain: str | None) -> Iterator[ScopeKey]:
    """Whose pause is meant."""
    if relay is not None:
        yield ScopeKey("relay", relay)
    if domain is not None:
        yield ScopeKey("domain", compared(domain))
        if (provider := config.throttle.known_providers.provider_of(compared(domain))) is not None:
            yield ScopeKey("provider", provider)


def rows_in_words(number: int) -> str:
    """How many."""
    return "1 row" if number == 1 else f"{number} rows"


def show_some(rows: Sequence[Mapping[str, Any]], total: int) -> None:
    """The first rows of those that will be touched."""
    for row in rows:
        to = ", ".join(filter(None, (row["recipients"], row["cc"], row["bcc"])))
        why = f": {row['error']}" if row["error"] else ""
        say(f"  {row['id']}  {row['status']}  to {to}  {row['subject'] or row['template'] or ''}{why}", err=True)
    if total > len(rows) > 0:
        say(f"  and {total - len(rows)} more", err=True)
