"""The command line. Each command's own file says what it shows; here is what they share.

Exit codes: 0 done, 1 the work failed, 2 usage or configuration (click's own code for usage).

Rule 1. Whatever a person got wrong is answered in words that name it and the remedy, never with a traceback.
Rule 2. Results go to stdout, everything said on the way to stderr.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

from poller import __version__
from poller.cli.screen import bear_any_text

COMMANDS = {
    "demo": ("demo", "demo_command", "Show everything at work on this machine, with nothing to set up."),
    "migrate": ("migrate", "migrate", "Create or upgrade the outbox tables."),
    "check": ("check", "check", "Check configuration, database, relay, login; with --batch a batch of rows."),
    "dkim": ("dkim", "dkim", "The DNS records that receivers need to check our signatures."),
    "run": ("run", "run", "Poll the outbox and send what is due, until SIGTERM or Ctrl-C."),
    "serve": ("serve", "serve", "The page, health and numbers, without a worker."),
    "status": ("look", "status", "Queue, rates, workers, limits, batches with progress and time left."),
    "plan": ("plan", "plan", "When the queue, or a batch, will be done, and what takes so long."),
    "batch": ("batch", "batch", "How far the batches are, or one of them; its rate, and when it will be done."),
    "show": ("look", "show", "A row's whole story; with --raw the message as it would go out now."),
    "preview": ("preview", "preview", "Rows as the messages they would become: on the terminal, or as files."),
    "find": ("find", "find", "Rows by address, Message-ID, queue id, batch or dedupe key, or by filters."),
    "failures": ("failures", "failures", "Who did not get it, and why, counted by reason, code or destination."),
    "explain": ("look", "explain", "Why a row is or is not going out."),
    "send": ("send", "send", "Put one message into the outbox, and print its id."),
    "sendmail": ("sendmail", "sendmail", "Take a message from standard input, as /usr/sbin/sendmail does."),
    "listen": ("listen", "listen", "Take mail over SMTP, for programs that know no other way."),
    "retry": ("operate", "retry", "Start rows again that ended without being sent; or hurry what waits."),
    "pause": ("operate", "pause", "Hold rows back, or with --all the whole outbox."),
    "resume": ("operate", "resume", "Let paused rows go, or with --all the whole outbox."),
    "cancel": ("operate", "cancel", "Give rows up."),
    "limit": ("limit", "limit", "What may go: show it, or change it live for all workers, up or down."),
    "resolve": ("operate", "resolve", "Settle rows that may have been delivered, or list them."),
    "bounces": ("bounces", "bounces", "Write what came back into the history of its rows."),
    "alerts": ("alerts", "alerts", "Look once for what [alerts] names, and tell."),
    "login": ("login", "login", "Have a person agree to logins with tokens: google or microsoft365."),
    "suppress": ("suppress", "suppress", "Send somebody no more mail, or none of one list."),
    "suppressions": ("suppress", "suppressions", "Who is sent no mail, why and until when."),
    "unsuppress": ("suppress", "unsuppress", "Take somebody off the suppression list."),
    "purge": ("purge", "purge", "Delete what ended longer ago than [retention] keeps it."),
    "adopt": ("adopt", "adopt", "Let an outbox work that was copied, moved or restored from a backup."),
}
"""Each command's module, function and line in the list. Only the one that is asked for is imported, and for the list
none: the libraries take a while."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        if sys.platform == "win32":
            raise click.UsageError(
                "poller runs on Linux and macOS; on Windows run it in WSL. An application on Windows may INSERT rows"
            )
        module, function, _ = COMMANDS[cmd_name]
        command = getattr(import_module(f"poller.cli.{module}"), function)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above says so
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


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
