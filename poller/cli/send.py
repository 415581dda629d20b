"""`poller send`: put one message into the outbox, as an application would."""

from __future__ import annotations

import json
import mimetypes
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from poller.cli.screen import say
from poller.cli.session import Misused, configuration, database, in_words
from poller.outbox.enqueue import RowRefused, enqueue_alone


class When(click.ParamType[datetime]):
    """A time such as `2026-11-22 09:30`, UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Aware UTC."""
        try:
            parsed = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                f"{value!r} is not a time; write it like 2026-11-22T09:30 (UTC) or 2026-11-22T09:30+01:00", param, ctx
            )
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object."""

    name = "json"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The parsed object."""
        try:
            parsed = value if isinstance(value, dict) else json.loads(str(value))
        except json.JSONDecodeError as error:
            self.fail(f"not JSON: {error}", param, ctx)
        if not isinstance(parsed, dict):
            self.fail('not a JSON object; write it like {"name": "value"}', param, ctx)
        return parsed


@click.command()
@click.option("--to", "recipients", help="Comma-separated addresses.")
@click.option("--cc")
@click.option("--bcc")
@click.option("--from", "sender", help="Default: [message] sender.")
@click.option("--reply-to")
@click.option("--subject")
@click.option("--text", "body_text", help="The text; - reads it from standard input.")
@click.option("--html", "body_html", help="The HTML; - reads it from standard input.")
@click.option("--template")
@click.option("--context", type=JsonObject(), help="The template's variables.")
@click.option("--locale")
@click.option("--header", "headers", type=JsonObject(), help="Extra header fields.")
@click.option("--list", help="The mailing list that it is for, of [lists].")
@click.option("--attach", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--batch")
@click.option("--priority", type=click.IntRange(0, 9))
@click.option("--due", "due_at", type=When(), help="Not before.")
@click.option("--expires", "expires_at", type=When(), help="Not after.")
@click.option("--dedupe-key")
@click.pass_context
@in_words
def send(context: click.Context, /, attach: tuple[Path, ...], **columns: Any) -> None:
    """Put one message into the outbox, and print its id. The service sends it."""
    if not any(columns[name] for name in ("recipients", "cc", "bcc")):
        raise click.UsageError("say to whom: --to, --cc or --bcc")
    for name in ("body_text", "body_html"):
        if columns[name] == "-":
            columns[name] = sys.stdin.read()
    if all(columns[name] is None for name in ("body_text", "body_html", "template")):
        raise click.UsageError("say what: --text, --html or --template")
    engine = database(configuration(context))
    try:
        say(str(enqueue_alone(engine, attachments=[_file(path) for path in attach], **columns)))
    except RowRefused as error:
        raise Misused(str(error)) from None


def _file(path: Path) -> dict[str, Any]:
    guessed = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return {"name": path.name, "content": path.read_bytes(), "content_type": guessed}
