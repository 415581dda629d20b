"""The command line. Each command's own file says what it shows; here is what they share.

Exit codes: 0 done, 1 the work failed, 2 usage or configuration (click's own code for usage).

Rule 1. Whatever a person got wrong is answered in words that name it and the remedy, never with a traceback.
Rule 2. Results go to stdout, everything said on the way to stderr.
"""

from __future__ import annotations

from importlib import import_module

import click

from poller import __version__
from poller.cli.screen import bear_any_text

COMMANDS = {
    "demo": ("demo", "demo_command"),
    "migrate": ("migrate", "migrate"),
    "check": ("check", "check"),
    "run": ("run", "run"),
    "status": ("look", "status"),
    "plan": ("plan", "plan"),
    "show": ("look", "show"),
    "explain": ("look", "explain"),
    "send": ("send", "send"),
    "retry": ("operate", "retry"),
    "pause": ("operate", "pause"),
    "resume": ("operate", "resume"),
    "cancel": ("operate", "cancel"),
    "resolve": ("operate", "resolve"),
    "adopt": ("adopt", "adopt"),
}
"""Each command's module and function. Only the one that is asked for is imported: the libraries take a while."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name]
        command = getattr(import_module(f"poller.cli.{module}"), function)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above says so
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
    bear_any_text()
    context.obj = config
