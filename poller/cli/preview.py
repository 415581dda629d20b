"""`poller preview`: rows as the messages that they would become, for a person to look at. Nothing is sent or changed.

One row is shown on the terminal: who gets it, its header, its text. With `--to DIR` each row is written as ID.eml, the
very bytes, for a mail program, and as ID.html for a browser: images that travel with it are in the page, a policy in it
keeps scripts and forms from working, and pictures from elsewhere from being fetched.

Exit codes: 0; 1 if a row can't become a message; 2 for a row or a batch that does not exist.
"""

from __future__ import annotations

import base64
import html
import re
import sys
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from poller.answers.letter import composer_to_show, made_now
from poller.cli.screen import say
from poller.cli.session import FAILED, ROW_ID, Misused, Stop, configuration, database, in_words
from poller.message.draft import Unsendable
from poller.outbox.content import content_of
from poller.outbox.drafts import rows_of_batch, written
from poller.worker.wiring import files_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from email.message import EmailMessage

    from poller.delivery.files import Files
    from poller.message.composer import Composer
    from poller.outbox import Engine

PORTION: Final = 100
MOST: Final = 100
"""Rows of a batch, unless --limit says otherwise: two files each."""
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'"
_CID: Final = re.compile(r"""cid:([^"'\\s)>]+)""")
_FIELDS: Final = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "List-Unsubscribe")


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, type=ROW_ID)
@click.option("--batch", help="The rows of this batch that have not ended, the oldest first.")
@click.option("--limit", type=click.IntRange(1), default=MOST, show_default=True, help="Of a batch, this many.")
@click.option(
    "--to", "directory", type=click.Path(file_okay=False, path_type=Path), help="Write ID.eml and ID.html files there."
)
@click.pass_context
@in_words
def preview(
    context: click.Context, ids: tuple[int, ...], batch: str | None, limit: int, directory: Path | None
) -> None:
    """Show rows as the messages that they would become now. Nothing is sent."""
    if bool(ids) == (batch is not None):
        raise Misused("say which rows: ids, or --batch")
    config = configuration(context)
    engine = database(config)
    chosen = list(ids) if batch is None else _of_batch(engine, batch, limit)
    composer, unsigned = composer_to_show(config)
    for problem in unsigned:
        say(f"shown without its DKIM signature: {problem}", err=True)
    if directory is not None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is in it is for few eyes
    failed = written_files = 0
    for row_id, content in _messages(engine, chosen, composer, files_of(config, engine)):
        if isinstance(content, Unsendable):
            failed += 1
            say(f"row {row_id} can't become a message: {content}", err=True)
        elif directory is None:
            _show(row_id, content, apart=len(chosen) > 1)
        else:
            written_files += _write(directory, row_id, content)
    if directory is not None:
        say(f"{written_files:,} files in {directory}")
    if failed:
        sys.exit(FAILED)


def _of_batch(engine: Engine, batch: str, limit: int) -> list[int]:
    found = rows_of_batch(engine, batch)
    if not found.ids:
        raise Misused(f"there is no batch {batch!r} with rows that have not ended")
    if len(found.ids) > limit:
        say(f"the first {limit:,} of {len(found.ids):,} rows; more with --limit", err=True)
    return found.ids[:limit].tolist()


def _messages(
    engine: Engine, ids: Sequence[int], composer: Composer, files: Files
) -> Iterator[tuple[int, bytes | Unsendable]]:
    for begin in range(0, len(ids), PORTION):
        portion = ids[begin : begin + PORTION]
        rows = {found.row["id"]: found.row for found in written(engine, portion)}
        if missing := [str(row_id) for row_id in portion if row_id not in rows]:
            raise Misused(f"there is no row {', '.join(missing)}")
        for row_id in portion:
            try:
                yield row_id, made_now(composer, files, engine, rows[row_id], content_of(engine, row_id))[0]
            except Unsendable as error:
                yield row_id, error


def _read(content: bytes) -> EmailMessage:
    message: Any = message_from_bytes(content, policy=default)
    return message  # type: ignore[no-any-return]


def _show(row_id: int, content: bytes, *, apart: bool) -> None:
    """On the terminal: what a person reads first."""
    message = _read(content)
    if apart:
        say((f"--- row {row_id}", "cyan"))
    for name in _FIELDS:
        if message[name]:
            say(f"{name}: {message[name]}")
    files = [part.get_filename() or "without a name" for part in message.iter_attachments()]
    if files:
        say(f"Files: {', '.join(files)}")
    say(f"Size: {len(content):,} bytes")
    say("")
    body = message.get_body(("plain",))
    for line in (body.get_content() if body else "").splitlines():
        say(line)
    if message.get_body(("html",)):
        say("(it has an HTML part too: see it with --to DIR)", err=True)


def _write(directory: Path, row_id: int, content: bytes) -> int:
    """The files of one row; how many there are."""
    message = _read(content)
    body = message.get_body(("html",))
    pages = {f"{row_id}.eml": content}
    if body is not None:
        pages[f"{row_id}.html"] = page(message, body.get_content()).encode("utf-8", "replace")
    for name, text in pages.items():
        try:
            (directory / name).write_bytes(text)
        except OSError as error:
            raise Stop(f"{directory / name} can't be written: {error.strerror}") from None
    return len(pages)


def page(message: EmailMessage, body: str) -> str:
    """The HTML part by itself: with its images, and with nothing that acts."""
    images = {
        str(part["Content-ID"]).strip("<>"): f"data:{part.get_content_type()};base64,{_base64(part)}"
        for part in message.walk()
        if part["Content-ID"] and part.get_content_maintype() == "image"
    }
    shown = _CID.sub(lambda found: images.get(found[1], found[0]), body)
    title = html.escape(str(message["Subject"] or ""))
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{title}</title>'
    return f"<!DOCTYPE html>{head}\n{shown}"


def _base64(part: Any) -> str:
    return base64.b64encode(part.get_payload(decode=True) or b"").decode()
