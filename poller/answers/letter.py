"""The message that a row makes today, with today's templates and settings. What went out is not kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from poller.frozen import dataclass
from poller.message.draft import Attachment, Draft
from poller.outbox.report import attachments_of
from poller.visible import moment
from poller.worker.wiring import composer_of

if TYPE_CHECKING:
    from poller.config.load import Config
    from poller.outbox import Engine
    from poller.outbox.report import Story


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """The bytes, and in words what they are not; "" where nothing went out yet."""

    content: bytes
    caution: str
    unsigned: tuple[str, ...] = ()
    """Why it is shown without its DKIM signature, if it is."""


def letter_of(config: Config, engine: Engine, told: Story) -> Letter:
    """Raises Unsendable where there can be none, in the words of the row's own error."""
    row = told.row
    composer = composer_of(config)
    unsigned = tuple(composer.signing.problems)
    if unsigned:
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
    return Letter(content=composer.compose(draft).content, caution=_what_it_is_not(told), unsigned=unsigned)


def _what_it_is_not(told: Story) -> str:
    """What went out is not kept: a template, a setting or the row may be another since then."""
    accepted = [line["at"] for line in told.attempts if line["outcome"] in {"sent", "partial", "accepted"}]
    if accepted or told.row["sent_at"]:
        when = max([*accepted, *filter(None, [told.row["sent_at"]])])
        return f"not what was sent at {moment(when)} UTC, which is not kept: what the row would become now"
    if told.row["first_attempt_at"]:
        return "not what was tried before, which is not kept: what the row would become now"
    return ""
