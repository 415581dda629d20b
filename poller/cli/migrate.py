"""`poller migrate`: bring the schema up to date, or print what would be run."""

from __future__ import annotations

import click

from poller.cli.screen import say
from poller.cli.session import configuration, in_words
from poller.outbox.database import connect
from poller.outbox.listen import install
from poller.outbox.migrate import apply, migrations, missing_file, pending, place_of, refused_trigger


@click.command()
@click.option("--sql", is_flag=True, help="Print what would be run, and run nothing.")
@click.pass_context
@in_words
def migrate(context: click.Context, *, sql: bool) -> None:
    """Create or upgrade the outbox tables. Safe to repeat, and to run twice at once."""
    config = configuration(context)
    engine = connect(config.database)
    if sql:
        for migration in migrations("sqlite") if missing_file(engine) else pending(engine):
            click.echo(f"-- {migration.name}.sql\n{migration.sql}")
        return
    applied = apply(engine, config.database.schema)
    if config.poll.listen and install(engine):
        applied.append("listen.sql")
    for name in applied:
        say(f"applied {name}")
    if why := refused_trigger(engine):
        say(f"not applied: sql/mysql/cancelled.sql: {why}")
        say("Rows that plain SQL cancels keep an empty finished_at until a user with that right applies it.")
    say(f"the outbox {place_of(engine)} is up to date")
