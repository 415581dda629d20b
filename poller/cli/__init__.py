"""The command line. Each command's own file says what it shows; here is what they share.

Exit codes: 0 done, 1 the work failed, 2 usage or configuration (click's own code for usage).

Rule 1. Whatever a person got wrong is answered in words that name it and the remedy, never with a traceback.
Rule 2. Results go to stdout, everything said on the way to stderr.
"""

from __future__ import annotations

import click

from poller import __version__
from poller.cli.check import check
from poller.cli.demo import demo_command
from poller.cli.look import explain, show, status
from poller.cli.migrate import migrate
from poller.cli.operate import cancel, pause, resolve, resume, retry
from poller.cli.run import run
from poller.cli.send import send


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="poller")
@click.option(
    "--config",
    "config",
    type=click.Path(dir_okay=False),
    help="Configuration file [default: $POLLER_CONFIG, ./config.toml, /etc/poller/config.toml].",
)
@click.pass_context
def main(context: click.Context, config: str | None) -> None:
    """Send what applications put into an outbox table, once and politely.

    Start with `poller demo`; then `poller migrate`, `poller check` and `poller run`.
    """
    context.obj = config


for command in (demo_command, migrate, check, run, status, show, explain, send, retry, pause, resume, cancel, resolve):
    main.add_command(command)
