"""`poller adopt`: an outbox that was copied, moved or restored may work here."""

from __future__ import annotations

import click

from poller.cli.screen import say
from poller.cli.session import agree, configuration, database, in_words
from poller.outbox.guard import adopt as adopt_outbox
from poller.outbox.guard import home_of, stranger


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@in_words
def adopt(context: click.Context, *, yes: bool) -> None:
    """Let an outbox work that was copied, moved or restored from a backup.

    Look first at what is waiting in it (`poller status`): what the original has sent or will send goes out from here
    as well.
    """
    config = configuration(context)
    engine = database(config)
    home = home_of(config.database, engine)
    why = stranger(engine, home)
    if why:
        say(why, err=True)
    agree(f"Let it work at {home}?", yes=yes, touched=None)
    done = adopt_outbox(engine, home)
    say(f"the outbox is at home at {home}" + ("" if done.is_new else ", as it was before"))
    if done.switched_on:
        say("it is switched on again")
    if done.still_off:
        say(f"it is still switched off: {done.still_off}; switch it on with: poller resume --all")
