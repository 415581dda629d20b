"""`poller sendmail`: in the place of /usr/sbin/sendmail. A message on standard input becomes a row.

Exit codes are those of sysexits.h; 0 only after COMMIT. It is started anew for each message, and imports little.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from poller.config.partly import Part, load_part, part_of
from poller.message import addresses
from poller.message.draft import Unsendable
from poller.outbox.plain import CommitUnknown, NotPlain, insert
from poller.submission.arguments import Arguments, Mode, read, until_dot
from poller.submission.entry import Envelope, columns_of, completed, domain_of, recipients_of
from poller.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence


UNREAD: Final = ("smtp", "relays", "alerts", "submission")
"""Whose secrets it needs not: who calls it may read no more than the database's."""


class Exit(IntEnum):
    """sysexits.h."""

    OK = 0
    USAGE = 64
    DATAERR = 65
    NOINPUT = 66
    NOUSER = 67
    UNAVAILABLE = 69
    SOFTWARE = 70
    TEMPFAIL = 75
    NOPERM = 77
    CONFIG = 78


class _Ended(Exception):  # noqa: N818 - not always an error
    def __init__(self, code: Exit, words: str) -> None:
        super().__init__(words)
        self.code = code


@click.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def sendmail(context: click.Context, words: tuple[str, ...]) -> None:
    """Take a message from standard input, as /usr/sbin/sendmail does (-t -i -f -F -N -R -V, recipients)."""
    sys.exit(run(words, context.find_root().obj))


def main() -> NoReturn:
    """`poller-sendmail`: the same under a name that takes no command before its flags."""
    called = Path(sys.argv[0]).name
    by_name = {"mailq": ["-bp"], "newaliases": ["-bi"]}.get(called, [])
    sys.exit(run([*by_name, *sys.argv[1:]], None))


def run(words: Sequence[str], config: str | None) -> int:
    """The exit code; what went wrong is on standard error."""
    try:
        _submit(words, config)
    except _Ended as ended:
        if str(ended):
            print("\n".join(f"sendmail: {visible(line)}" for line in str(ended).split("\n")), file=sys.stderr)  # noqa: T201
        return ended.code
    return Exit.OK


def _submit(words: Sequence[str], named: str | None) -> None:
    arguments = _read(words)
    match arguments.mode:
        case Mode.NOTHING:
            return
        case Mode.QUEUE:
            raise _Ended(Exit.OK, "the queue is the outbox; see: poller status")
        case Mode.SUBMIT:
            pass
    config = _configuration(named)
    columns = _columns(arguments, _message(arguments, config.message.max_size), config)
    _insert(config, columns)


def _read(words: Sequence[str]) -> Arguments:
    try:
        return read(words)
    except ValueError as error:
        raise _Ended(Exit.USAGE, str(error)) from None


def _configuration(named: str | None) -> Part:
    path = Path(named) if named else None
    if part := load_part(path, os.environ):
        return part
    from poller.config.load import ConfigError, load  # noqa: PLC0415 - takes a while

    try:
        return part_of(load(path, os.environ, unread=UNREAD))
    except ConfigError as error:
        raise _Ended(Exit.NOPERM if "Permission denied" in str(error) else Exit.CONFIG, str(error)) from None


def _message(arguments: Arguments, most: int) -> bytes:
    try:
        message = sys.stdin.buffer.read(most + 1) if sys.stdin else b""
    except OSError as error:
        raise _Ended(Exit.NOINPUT, f"standard input: {error.strerror}") from None
    return until_dot(message) if arguments.dot_ends else message


def _columns(arguments: Arguments, message: bytes, config: Part) -> dict[str, Any]:
    domain = domain_of(config.submission, config.message.sender, socket.gethostname())
    try:
        told = [completed(address, domain) for address in arguments.recipients]
        recipients = [mailbox.wire for address in told for mailbox in addresses.parse_list(address)]
    except ValueError as error:
        raise _Ended(Exit.NOUSER, str(error)) from None
    try:
        if arguments.from_header:
            recipients += [to for to in recipients_of(message, domain) if to not in recipients]
        if not recipients:
            raise _Ended(Exit.USAGE, "no recipient; name one, or use -t and write To, Cc or Bcc")
        return columns_of(
            message,
            _envelope(arguments, recipients),
            domain=domain,
            max_size=config.message.max_size,
            dedupe=config.submission.dedupe,
            sender=_sender(arguments, config.message.sender, domain),
        )
    except (Unsendable, ValueError) as error:
        raise _Ended(Exit.DATAERR, str(error)) from None


def _envelope(arguments: Arguments, recipients: list[str]) -> Envelope:
    mail = " ".join(
        f"{name}={value}" for name, value in (("RET", arguments.ret.upper()), ("ENVID", arguments.envid)) if value
    )
    notify = f"NOTIFY={arguments.notify.upper().replace(' ', '')}" if arguments.notify else ""
    return Envelope(
        mail_from=arguments.sender,
        recipients=recipients,
        mail_parameters=mail,
        rcpt_parameters=dict.fromkeys(recipients, notify),
    )


def _sender(arguments: Arguments, default: str | None, domain: str) -> str | None:
    """For a message without From; None: [message] sender."""
    if not arguments.sender and not arguments.full_name and default:
        return None
    address = arguments.sender or (addresses.parse_one(default).wire if default else f"{_login()}@{domain}")
    return f"{addresses.quoted(arguments.full_name)} <{address}>" if arguments.full_name else address


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number that no name belongs to
        return f"uid{os.getuid()}"


def _insert(config: Part, columns: dict[str, Any]) -> None:
    try:
        insert(config.database, columns)
    except CommitUnknown as error:
        raise _Ended(Exit.TEMPFAIL, f"the database did not confirm the row, which may be there: {error}") from None
    except NotPlain:
        _insert_the_long_way(config, columns)


def _insert_the_long_way(config: Part, columns: dict[str, Any]) -> None:
    from poller.outbox.database import DatabaseRefused, DatabaseUnavailable, connect  # noqa: PLC0415 - takes a while
    from poller.outbox.enqueue import RowRefused, enqueue_once  # noqa: PLC0415

    try:
        engine = connect(config.database)
        enqueue_once(engine, **columns)
        engine.dispose()
    except DatabaseRefused as error:
        raise _Ended(Exit.CONFIG, str(error)) from None
    except RowRefused as error:
        raise _Ended(Exit.TEMPFAIL, str(error)) from None
    except DatabaseUnavailable as error:
        raise _Ended(Exit.TEMPFAIL, f"the database is not available: {error}; {error.remedy}") from None
