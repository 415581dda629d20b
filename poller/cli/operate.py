"""`poller retry | pause | resume | cancel | resolve`: what an operator does to rows.

Each shows what it will touch first, and asks unless `--yes` is given. Where nobody is there to be asked, more than one
row needs `--yes`. What is said to be done is what the table said when it was done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from poller.cli.choosing import choosing, selection_of
from poller.cli.hurry import SHOWN, retry_now, rows_in_words, show_some
from poller.cli.screen import say
from poller.cli.session import ROW_ID, Stop, agree, configuration, database, in_words, operator
from poller.outbox.doubts import Doubt, doubts
from poller.outbox.operate import NotInDoubt, change, count, pause_all, preview, resume_all
from poller.outbox.operate import resolve as resolve_some
from poller.visible import moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from poller.outbox import Engine
    from poller.statuses import Action


def _selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options by which rows are chosen."""
    for option in (
        click.option("--as", "name", help="Who you are, for the history; else $SUDO_USER, or your login."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        choosing,
        click.argument("ids", nargs=-1, type=ROW_ID, metavar="[ID]..."),
    ):
        command = option(command)
    return command


def _act(
    context: click.Context, action: Action, verb: str, *, yes: bool, name: str | None = None, **chosen: Any
) -> None:
    config = configuration(context)
    engine = database(config)
    selection = selection_of(config, engine, **chosen)
    found = count(engine, selection, action)
    total = sum(found.values())
    if not total:
        raise Stop(f"no row among those chosen can be {verb}")
    by_status = ", ".join(f"{number} {status}" for status, number in sorted(found.items()))
    say(f"{rows_in_words(total)} will be {verb}: {by_status}", err=True)
    show_some(preview(engine, selection, action, most=SHOWN), total)
    agree("Go on?", yes=yes, touched=total)
    changed = change(engine, selection, action, by=operator(name))
    say(f"{rows_in_words(changed.rows - changed.in_hand)} {verb}")
    if changed.in_hand:
        say(f"{rows_in_words(changed.in_hand)} {verb} while being sent: {_IN_HAND[action]}")


_IN_HAND = {
    "pause": "one that the relay accepts becomes `sent`",
    "cancel": "one that the relay accepts becomes `sent`",
    "resume": "their worker goes on with them",
}


@click.command()
@_selecting
@click.option("--now", is_flag=True, help="Instead, what waits for another try, or for a relay or a pause: now.")
@click.pass_context
@in_words
def retry(context: click.Context, /, *, now: bool, **chosen: Any) -> None:
    """Start rows again that ended failed, partial, expired, suppressed or cancelled; or hurry what waits.

    With --now nothing starts again: rows that wait for another try are due at once, and the pause of the destination,
    or the rest of the relay, that is chosen ends. Without a choice, of all of them.
    """
    if now:
        retry_now(context, **chosen)
    else:
        _act(context, "retry", "retried", **chosen)


@click.command()
@_selecting
@click.pass_context
@in_words
def cancel(context: click.Context, /, **chosen: Any) -> None:
    """Give rows up. One that is being sent finishes; if it is accepted it becomes `sent`."""
    _act(context, "cancel", "cancelled", **chosen)


@click.command()
@_selecting
@click.option("--all", "everything", is_flag=True, help="Switch the whole outbox off, for every worker.")
@click.option("--why", default="poller pause --all", help="With --all: what to tell anyone who looks.")
@click.pass_context
@in_words
def pause(context: click.Context, /, *, everything: bool, why: str, **chosen: Any) -> None:
    """Hold rows back, or with --all the whole outbox."""
    if not everything:
        _act(context, "pause", "paused", **chosen)
        return
    pause_all(_whole_outbox(context, chosen), f"{why} ({operator(chosen['name'])})")
    say("the outbox is off; switch it on with: poller resume --all")


@click.command()
@_selecting
@click.option("--all", "everything", is_flag=True, help="Switch the whole outbox on again.")
@click.pass_context
@in_words
def resume(context: click.Context, /, *, everything: bool, **chosen: Any) -> None:
    """Let paused rows go, or with --all the whole outbox."""
    if not everything:
        _act(context, "resume", "resumed", **chosen)
        return
    was_off = resume_all(_whole_outbox(context, chosen))
    say("the outbox is on" if was_off else "the outbox was on already; rows that are `paused` stay so")


def _whole_outbox(context: click.Context, chosen: dict[str, Any]) -> Engine:
    if any(value for name, value in chosen.items() if name not in {"yes", "name"}):
        raise click.UsageError("--all is the switch for the whole outbox and takes no selection")
    return database(configuration(context))


@click.command()
@_selecting
@click.option("--sent", "action", flag_value="resolve-sent", help="They were delivered.")
@click.option("--resend", "action", flag_value="resolve-resend", help="Send them again, with the same Message-ID.")
@click.option("--failed", "action", flag_value="resolve-failed", help="They were not delivered, and shall not be.")
@click.option("--recipient", "addresses", multiple=True, metavar="ADDRESS", help="Of one row only this recipient.")
@click.pass_context
@in_words
def resolve(context: click.Context, /, *, action: Action | None, addresses: tuple[str, ...], **chosen: Any) -> None:
    """Settle rows that may have been delivered; without a decision, list them and what to look for.

    A row with several recipients can be settled for some of them: --recipient, once for each.
    """
    if addresses:
        _resolve_recipients(context, action, addresses, **chosen)
    elif action is None:
        _list_doubts(context)
    else:
        _act(context, action, _RESOLVED[action], **chosen)


_RESOLVED: dict[Action, str] = {
    "resolve-sent": "taken as sent",
    "resolve-resend": "sent again",
    "resolve-failed": "taken as failed",
}


def _resolve_recipients(
    context: click.Context,
    action: Action | None,
    addresses: tuple[str, ...],
    *,
    yes: bool,
    name: str | None,
    **chosen: Any,
) -> None:
    ids = chosen.pop("ids")
    if action is None or len(ids) != 1 or any(chosen.values()):
        raise click.UsageError("--recipient goes with one ID and one of --sent, --resend, --failed")
    engine = database(configuration(context))
    say(f"{', '.join(addresses)} of row {ids[0]} will be {_RESOLVED[action]}", err=True)
    agree("Go on?", yes=yes, touched=1)
    try:
        status = resolve_some(engine, ids[0], addresses, action, by=operator(name))
    except NotInDoubt as why:
        raise Stop(str(why)) from None
    say(f"{len(addresses)} of its recipients {_RESOLVED[action]}; row {ids[0]} is {status} now")


def _list_doubts(context: click.Context) -> None:
    found = doubts(database(configuration(context)))
    for doubt in found:
        _print_doubt(doubt)
    if not found:
        say("nothing is in doubt")
        return
    say(f"{len(found)} in doubt; decide with: poller resolve ID --sent | --resend | --failed")
    say("where one recipient is to be decided by itself, add: --recipient ADDRESS")


def _print_doubt(doubt: Doubt) -> None:
    often = "once" if doubt.doubts == 1 else f"{doubt.doubts} times"
    say(f"{doubt.id}  to {doubt.recipients}  {often} in doubt, last at {moment(doubt.at)} UTC by {doubt.worker}")
    say(f"    {doubt.error}")
    where = f"the log of {doubt.relay}" if doubt.relay else "the relay's log"
    say(f"    search {where}, about {moment(doubt.at)} UTC, for the Message-ID {doubt.message_id}")
