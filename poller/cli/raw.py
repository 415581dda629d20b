"""`poller show ID --raw`: the message that a row makes today, with today's templates, keys and settings."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from poller.cli.screen import say
from poller.cli.session import Stop, moment
from poller.message.draft import Attachment, Draft, Unsendable
from poller.outbox.report import attachments_of
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.outbox.report import Story


def show_raw(config: Config, engine: Engine, told: Story) -> None:
    """Print the bytes. Raises Stop where there can be none, in the words of the row's own error."""
    row = told.row
    composer = composer_of(config)
    if problems := composer.signing.problems:
        for problem in problems:
            say(f"shown without its DKIM signature: {problem}", err=True)
        composer = composer_of(replace(config, dkim={}))
    files = tuple(Attachment(**file) for file in attachments_of(engine, row["id"]))
    names = Draft.__dataclass_fields__.keys() - {"id", "message_id", "date", "attachments"}
    draft = Draft(
        id=row["id"],
        message_id=row["message_id"] or f"<given-at-the-first-claim@{composer.message_id_domain}>",
        date=(row["first_attempt_at"] or row["created_at"]).replace(microsecond=0),
        attachments=files,
        **{name: row[name] for name in names},
    )
    try:
        content = composer.compose(draft).content
    except Unsendable as error:
        raise Stop(f"this row can't become a message: {error}") from None
    if words := _what_it_is_not(told):
        say(words, err=True)
    sys.stdout.buffer.write(content)


def _what_it_is_not(told: Story) -> str:
    """What went out is not kept: a template, a setting or the row may be another since then."""
    accepted = [line["at"] for line in told.attempts if line["outcome"] in {"sent", "partial", "accepted"}]
    if accepted or told.row["sent_at"]:
        when = max([*accepted, *filter(None, [told.row["sent_at"]])])
        return f"not what was sent at {moment(when)} UTC, which is not kept: what the row would become now"
    if told.row["first_attempt_at"]:
        return "not what was tried before, which is not kept: what the row would become now"
    return ""
